"""Schema steps: how migration files are named, read, ordered and applied once.

A folder holds one database's steps:

- ``V<digits>(_<digits>)*__<description>.<extension>`` is a step: ``V1_2_0__add_new_column.sql``
  is version 1.2.0. Versions compare number by number, and 1.2 is the same version as 1.2.0.
- ``U…`` files undo a step of the same version. They are known and not applied here.
- ``README.md`` and names that start with a dot are left alone. Anything else is refused.

Extensions say what a file contains; the adapter of the engine reads it:

- ``.sql``: PostgreSQL statements, run as one transaction.
- ``.cql``: CQL statements, each of them repeatable.
- ``.json``: a list of MongoDB commands, each of them repeatable.
- ``.redis``: one Redis command a line, each of them repeatable.

A step's phase (``Phase``) is a comment line above its first statement, ``-- phase: contract`` or
``# phase: contract``. JSON has no comments: there it is ``"comment": "phase: contract"`` in the first
command, which MongoDB takes with every command. A step without one expands.

Here: files, order, the decision what is still to do, and doing it through the port. Not here: how
an engine runs a file, locks out a second runner or keeps its history.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from dr_platform.databases.port import (
    AppliedStep,
    EditedMigration,
    ManagedDatabase,
    OutOfOrderMigration,
    Phase,
    SchemaStep,
)
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.verdict import Progress, silent

EXTENSIONS = (".sql", ".cql", ".json", ".redis")

_NAME = re.compile(
    r"(?P<kind>[VU])(?P<version>\d+(?:_\d+)*)__(?P<description>[a-z0-9]+(?:_[a-z0-9]+)*)(?P<extension>\.\w+)"
)
_COMMENT = re.compile(r"\s*(?:--|//|#)\s*(?P<text>.*)")
_PHASE = re.compile(r"phase\s*:\s*(?P<phase>.*?)\s*", re.IGNORECASE)
_EXAMPLE = "V1_2_0__add_new_column.sql"


class MalformedMigrations(PlatformError):
    """Files that are not understood, all of them at once; none was applied."""

    exit_code = ExitCode.REFUSED

    def __init__(self, folder: str, faults: tuple[tuple[str, str], ...]) -> None:
        super().__init__(folder, faults)
        self.what = "\n".join(f"{folder}/{file}: {problem}" for file, problem in faults)
        self.untouched = "every database; the whole folder is read before a step is applied"
        self.next_step = "correct the files named above and run again"


class MigrationFailed(PlatformError):
    """The server refused a statement of a step. ``left`` says what the step leaves behind."""

    def __init__(self, name: str, version: str, where: str, reason: str, left: str) -> None:
        super().__init__(name, version, where, reason, left)
        self.what = f"{name}: migration {version} failed at {where}: {reason}"
        self.untouched = left
        self.next_step = "correct the file (it is not recorded as applied) and run `drp up` again"


class StepBefore(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, version: str, before: str) -> None:
        super().__init__(name, version, before)
        self.what = f"{name}: migration {version} cannot be applied while {before}, which is missing, waits"
        self.untouched = f"the schema of {name}"
        self.next_step = f"apply {before} first, or leave it to a later release under a higher version"


def version_key(version: str) -> tuple[int, ...]:
    """Orders versions by number; trailing zeros do not count."""
    numbers = [int(part) for part in version.split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def read_steps(folder: Path) -> tuple[SchemaStep, ...]:
    """The steps of a folder in the order in which they apply; nothing where there is no folder.

    All faults of all files are raised together as ``MalformedMigrations``.
    """
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    steps: list[SchemaStep] = []
    faults: list[tuple[str, str]] = []
    for path in files:
        if path.name.startswith(".") or path.name == "README.md":
            continue
        found = _read_step(path)
        if isinstance(found, str):
            faults.append((path.name, found))
        elif found is not None:
            steps.append(found)
    steps.sort(key=lambda step: version_key(step.version))
    faults += _same_version(steps)
    if faults:
        raise MalformedMigrations(
            folder.name if not folder.parent.name else f"{folder.parent.name}/{folder.name}", tuple(faults)
        )
    return tuple(steps)


def _read_step(path: Path) -> SchemaStep | str | None:
    """The step, what is wrong with the file, or ``None`` for an undo file."""
    if not path.is_file():
        return "is not a file; steps lie directly in the folder"
    match = _NAME.fullmatch(path.name)
    if match is None:
        return f"is not a migration's name: write it like {_EXAMPLE} (lower case, two underscores)"
    if match["extension"] not in EXTENSIONS:
        return f"has extension {match['extension']}; known are {', '.join(EXTENSIONS)}"
    if match["kind"] == "U":
        return None
    try:
        text = _text(path.read_bytes())
    except UnicodeDecodeError:
        return "is not UTF-8 text: save it as UTF-8"
    except OSError as exc:
        return f"cannot be read: {exc.strerror}"
    if not text.strip():
        return "is empty: write its statements, or remove it"
    if "\0" in text:
        return "contains NUL bytes: save it as UTF-8 text"
    phase = phase_of(text, match["extension"])
    if not isinstance(phase, Phase):
        return phase
    version = match["version"].replace("_", ".")
    return SchemaStep(version, match["description"].replace("_", " "), path, _checksum(text), phase)


def phase_of(text: str, extension: str) -> Phase | str:
    """The phase that a step's text states, or what is wrong with the statement. One in the wrong
    place is refused: a step that takes something away must not pass for one that adds."""
    head, rest = _stated_phases(text) if extension != ".json" else (_phases_of_commands(text), [])
    if rest:
        return "states its phase below its first statement: move it to the top"
    if len(head) > 1:
        return "states its phase twice: keep one"
    if not head:
        return Phase.EXPAND
    if head[0] not in set(Phase):
        return f"states a phase that there is not: choose one of {', '.join(Phase)}"
    return Phase(head[0])


def _stated_phases(text: str) -> tuple[list[str], list[str]]:
    """What comment lines name as phases: above the first statement, and below it."""
    above: list[str] = []
    below: list[str] = []
    place = above
    for line in text.splitlines():
        comment = _COMMENT.fullmatch(line)
        if comment is None:
            place = below if line.strip() else place
        elif found := _PHASE.fullmatch(comment["text"]):
            place.append(found["phase"])
    return above, below


def _phases_of_commands(text: str) -> list[str]:
    """The first command's comment. What is no list of commands states nothing; its adapter refuses it."""
    try:
        commands = json.loads(text)
    except ValueError:
        return []
    first = commands[0] if isinstance(commands, list) and commands else None
    comment = first.get("comment") if isinstance(first, dict) else None
    found = _PHASE.fullmatch(comment.strip()) if isinstance(comment, str) else None
    return [found["phase"]] if found else []


def _same_version(steps: Sequence[SchemaStep]) -> list[tuple[str, str]]:
    """Neighbours in version order that claim the same version."""
    return [
        (second.path.name, f"has the same version as {first.path.name}: give one of them its own")
        for first, second in itertools.pairwise(steps)
        if version_key(first.version) == version_key(second.version)
    ]


def _text(content: bytes) -> str:
    """Byte order mark and line ends do not count: a checkout on another system is no edit."""
    return content.decode("utf-8-sig").replace("\r\n", "\n")


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def text_of(name: str, step: SchemaStep, extension: str) -> str:
    """The content of a step's file, which must be what it was when the folder was read."""
    if step.path.suffix != extension:
        problem = f"is for another engine: {name} takes {extension} files"
        raise MalformedMigrations(step.path.parent.name, ((step.path.name, problem),))
    text = _text(step.path.read_bytes())
    if _checksum(text) != step.checksum:
        raise EditedMigration(name, step.version)
    return text


def find_applied(name: str, step: SchemaStep, applied: Sequence[AppliedStep]) -> AppliedStep | None:
    """The record of a step, or ``None`` where it is the next to apply.

    Raises ``EditedMigration`` where the record has another checksum and ``OutOfOrderMigration``
    where it has none but a newer step has. Records without a file are no fault: an older release
    of the catalog may look at a newer schema, because steps only ever add.
    """
    key = version_key(step.version)
    newest = max(applied, key=lambda done: version_key(done.version), default=None)
    for done in applied:
        if version_key(done.version) == key:
            if done.checksum != step.checksum:
                raise EditedMigration(name, step.version)
            return done
    if newest is not None and version_key(newest.version) > key:
        raise OutOfOrderMigration(name, step.version, newest.version)
    return None


def plan(name: str, steps: Sequence[SchemaStep], applied: Sequence[AppliedStep]) -> tuple[SchemaStep, ...]:
    """The steps still to apply, in order. Every step is compared before the first is returned."""
    return tuple(step for step in steps if find_applied(name, step, applied) is None)


def chosen(name: str, missing: Sequence[SchemaStep], only: Collection[str] | None) -> tuple[SchemaStep, ...]:
    """Of the missing steps those to apply now. A database takes its steps by version, so they must be
    the first ones; raises ``StepBefore``."""
    now = tuple(step for step in missing if only is None or step.version in only)
    for step, expected in zip(now, missing, strict=False):
        if step is not expected:
            raise StepBefore(name, step.version, expected.version)
    return now


def migrate(
    db: ManagedDatabase,
    steps: Sequence[SchemaStep],
    progress: Progress = silent,
    *,
    only: Collection[str] | None = None,
) -> tuple[AppliedStep, ...]:
    """Bring the schema up to the last step and let the application's login use it. With ``only``, a
    set of versions, the others wait: those of a later phase, until the services are deployed.

    Returns the steps that were missing; a second call returns none and changes nothing. Of two
    runners at once each step is applied by one of them. ``db`` has the role ``admin``. All steps are
    compared first, also those that wait. Raises ``StepBefore`` where one that waits has a lower version
    than one that does not.
    """
    name = db.database.name
    missing = chosen(name, plan(name, steps, db.applied()), only)
    done: list[AppliedStep] = []
    for number, step in enumerate(missing, start=1):
        progress(f"{name}: applying {step.version} {step.description} ({number} of {len(missing)})")
        done.append(db.apply(step))
    db.admit_application()
    return tuple(done)
