"""Schema steps: how migration files are named, read, ordered and applied once.

A folder holds one database's steps:

- ``V<digits>(_<digits>)*__<description>.<extension>`` is a step: ``V1_2_0__add_new_column.sql``
  is version 1.2.0. Versions compare number by number, and 1.2 is the same version as 1.2.0.
- ``U…`` files take a step of the same version back, in the same format.
- ``T…`` files (``.sql`` alone) say what must hold after it: queries, each of whose values must be true.
- ``README.md`` and names that start with a dot are left alone. Anything else is refused.

Extensions say what a file contains; the adapter of the engine reads it:

- ``.sql``: PostgreSQL statements, run as one transaction, or with ``-- transactional: false`` above the
  first of them one by one outside of any, where each must be repeatable (``CREATE INDEX CONCURRENTLY``); or
  one statement in batches of rows (``batches``).
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
from dataclasses import dataclass
from pathlib import Path

from dr_platform.databases.batches import EXAMPLE, IN_BATCH, Batches, batches_of, fault_of
from dr_platform.databases.port import (
    AppliedStep,
    EditedMigration,
    ManagedDatabase,
    MissingUndo,
    NotNewest,
    OutOfOrderMigration,
    Phase,
    SchemaStep,
    Script,
    UnfinishedUndo,
)
from dr_platform.databases.sql_text import statements_of
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.verdict import Progress, silent

EXTENSIONS = (".sql", ".cql", ".json", ".redis")

_NAME = re.compile(
    r"(?P<kind>[VUT])(?P<version>\d+(?:_\d+)*)__(?P<description>[a-z0-9]+(?:_[a-z0-9]+)*)(?P<extension>\.\w+)"
)
_COMMENT = re.compile(r"\s*(?:--|//|#)\s*(?P<text>.*)")
_PHASE = re.compile(r"phase\s*:\s*(?P<phase>.*?)\s*", re.IGNORECASE)
_TRANSACTIONAL = re.compile(r"transactional\s*:\s*(?P<stated>.*?)\s*", re.IGNORECASE)
_BATCHED = re.compile(r"(?P<stated>batched\s*:.*?)\s*", re.IGNORECASE)
_EXAMPLE = "V1_2_0__add_new_column.sql"


class MalformedMigrations(PlatformError):
    """Files that are not understood, all of them at once; none was applied."""

    exit_code = ExitCode.REFUSED

    def __init__(self, folder: str, faults: tuple[tuple[str, str], ...]) -> None:
        super().__init__(folder, faults)
        self.faults = faults
        self.what = "\n".join(f"{folder}/{file}: {problem}" for file, problem in faults)
        self.untouched = "every database; the whole folder is read before a step is applied"
        self.next_step = "correct the files named above and run again"


class MigrationFailed(PlatformError):
    """The server refused a statement of a step. ``left`` says what the step leaves behind."""

    def __init__(self, name: str, version: str, where: str, reason: str, left: str) -> None:
        super().__init__(name, version, where, reason, left)
        self.what = f"{name}: migration {version} failed at {where}: {reason}"
        self.untouched = left
        self.next_step = "correct the file (it is not recorded as applied) and repeat the command"


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


@dataclass(frozen=True)
class _File:
    kind: str
    version: str
    description: str
    path: Path
    text: str
    transactional: bool
    batches: Batches | None = None

    @property
    def script(self) -> Script:
        return Script(self.path, _checksum(self.text), self.transactional)


def read_steps(folder: Path) -> tuple[SchemaStep, ...]:
    """The steps of a folder in the order in which they apply; nothing where there is no folder.

    All faults of all files are raised together as ``MalformedMigrations``.
    """
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [(path.name, _read(path)) for path in paths if not path.name.startswith(".") and path.name != "README.md"]
    faults = [(name, fault) for name, fault in found if isinstance(fault, str)]
    files = [file for _, file in found if isinstance(file, _File)]
    files.sort(key=lambda file: version_key(file.version))
    faults += _same_version(files) + _alone(files)
    phases = {file.path.name: _phase(file) for file in files if file.kind == "V"}
    faults += [(name, phase) for name, phase in phases.items() if not isinstance(phase, Phase)]
    if faults:
        raise MalformedMigrations(
            folder.name if not folder.parent.name else f"{folder.parent.name}/{folder.name}", tuple(faults)
        )
    beside = {(file.kind, version_key(file.version)): file.script for file in files}
    return tuple(
        SchemaStep(
            file.version,
            file.description,
            file.path,
            _checksum(file.text),
            Phase(phases[file.path.name]),
            file.transactional,
            beside.get(("U", version_key(file.version))),
            beside.get(("T", version_key(file.version))),
            file.batches,
        )
        for file in files
        if file.kind == "V"
    )


def _read(path: Path) -> _File | str:
    """The file, or what is wrong with it."""
    if not path.is_file():
        return "is not a file; steps lie directly in the folder"
    match = _NAME.fullmatch(path.name)
    if match is None:
        return f"is not a migration's name: write it like {_EXAMPLE} (lower case, two underscores)"
    if match["extension"] not in EXTENSIONS:
        return f"has extension {match['extension']}; known are {', '.join(EXTENSIONS)}"
    if match["kind"] == "T" and match["extension"] != ".sql":
        return "is not SQL: what must hold after a step can be said in .sql alone"
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
    transactional = _is_transactional(text, match["kind"], match["extension"])
    if isinstance(transactional, str):
        return transactional
    batches = _batches(text, match["extension"], transactional=transactional)
    if isinstance(batches, str):
        return batches
    version, description = match["version"].replace("_", "."), match["description"].replace("_", " ")
    return _File(match["kind"], version, description, path, text, transactional and batches is None, batches)


def _batches(text: str, extension: str, *, transactional: bool) -> Batches | str | None:
    """What the file states of batches, nothing, or what is wrong with it."""
    head, rest = _stated(text, _BATCHED) if extension == ".sql" else ([], [])
    if rest or len(head) > 1:
        return "states its batches more than once or below its first statement: keep one at the top"
    if not head:
        return "says in_batch(…) without a line `-- " + EXAMPLE + "` at its top" if IN_BATCH.search(text) else None
    if not transactional:
        return "states batches and that it is not transactional: leave the latter out"
    found = batches_of(head[0])
    if isinstance(found, str):
        return found
    return fault_of(found, len(statements_of(text)), text) or found


def _phase(file: _File) -> Phase | str:
    """Batches fill in data, whether the file says so or not."""
    stated = phase_of(file.text, file.path.suffix)
    if file.batches is None or (isinstance(stated, str) and not isinstance(stated, Phase)):
        return stated
    if stated not in (Phase.EXPAND, Phase.DATA):
        return "states batches, which fill in data, and another phase: leave the phase out"
    return Phase.DATA


def _is_transactional(text: str, kind: str, extension: str) -> bool | str:
    """What the file states, else true; or what is wrong with the statement."""
    head, rest = _stated(text, _TRANSACTIONAL) if extension == ".sql" else ([], [])
    if not head and not rest:
        return True
    if rest or len(head) > 1:
        return "states whether it is transactional more than once or below its first statement: keep one at the top"
    if head[0] not in ("true", "false"):
        return "states that it is transactional with another word than true or false"
    if kind == "T":
        return "changes nothing, so leave out whether it is transactional"
    return head[0] == "true"


def phase_of(text: str, extension: str) -> Phase | str:
    """The phase that a step's text states, or what is wrong with the statement. One in the wrong
    place is refused: a step that takes something away must not pass for one that adds."""
    head, rest = _stated(text, _PHASE) if extension != ".json" else (_phases_of_commands(text), [])
    if rest:
        return "states its phase below its first statement: move it to the top"
    if len(head) > 1:
        return "states its phase twice: keep one"
    if not head:
        return Phase.EXPAND
    if head[0] not in set(Phase):
        return f"states a phase that there is not: choose one of {', '.join(Phase)}"
    return Phase(head[0])


def _stated(text: str, pattern: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """What comment lines state: above the first statement, and below it."""
    above: list[str] = []
    below: list[str] = []
    place = above
    for line in text.splitlines():
        comment = _COMMENT.fullmatch(line)
        if comment is None:
            place = below if line.strip() else place
        elif found := pattern.fullmatch(comment["text"]):
            place.append(found[1])
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


def _same_version(files: Sequence[_File]) -> list[tuple[str, str]]:
    """Neighbours in version order, of one kind, that claim the same version."""
    return [
        (second.path.name, f"has the same version as {first.path.name}: give one of them its own")
        for kind in "VUT"
        for first, second in itertools.pairwise(file for file in files if file.kind == kind)
        if version_key(first.version) == version_key(second.version)
    ]


def _alone(files: Sequence[_File]) -> list[tuple[str, str]]:
    """Undo and assertion files that belong to no step of their format."""
    steps = {(version_key(file.version), file.path.suffix) for file in files if file.kind == "V"}
    return [
        (file.path.name, f"belongs to no step: there is no V file of version {file.version} in its format")
        for file in files
        if file.kind != "V" and (version_key(file.version), file.path.suffix) not in steps
    ]


def _text(content: bytes) -> str:
    """Byte order mark and line ends do not count: a checkout on another system is no edit."""
    return content.decode("utf-8-sig").replace("\r\n", "\n")


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def text_of(name: str, step: SchemaStep, extension: str, script: Script | None = None) -> str:
    """The content of a step's file, or of a ``script`` beside it, which must be what it was when the
    folder was read."""
    file = script or step
    if file.path.suffix != extension:
        problem = f"is for another engine: {name} takes {extension} files"
        raise MalformedMigrations(file.path.parent.name, ((file.path.name, problem),))
    text = _text(file.path.read_bytes())
    if _checksum(text) != file.checksum:
        raise EditedMigration(name, step.version)
    return text


def undo_of(name: str, step: SchemaStep, extension: str) -> tuple[Script, str]:
    """The undo file of a step and its content. Raises ``MissingUndo``."""
    if step.undo is None:
        raise MissingUndo(name, step.version, step.description)
    return step.undo, text_of(name, step, extension, step.undo)


def find_undoable(name: str, step: SchemaStep, applied: Sequence[AppliedStep]) -> AppliedStep | None:
    """The record of the step to take back, or ``None`` where it is not applied. Raises ``NotNewest`` and
    ``EditedMigration``: what a changed file once did cannot be known."""
    key = version_key(step.version)
    record = next((done for done in applied if version_key(done.version) == key), None)
    if record is None:
        return None
    if record.checksum != step.checksum:
        raise EditedMigration(name, step.version)
    newest = max(applied, key=lambda done: version_key(done.version))
    if newest is not record:
        raise NotNewest(name, step.version, newest.version)
    return record


def find_applied(name: str, step: SchemaStep, applied: Sequence[AppliedStep]) -> AppliedStep | None:
    """The record of a step, or ``None`` where it is the next to apply.

    Raises ``EditedMigration`` where the record has another checksum, ``OutOfOrderMigration`` where it has
    none but a newer step has, and ``UnfinishedUndo`` where it is half taken back. Records without a file
    are no fault: an older release of the catalog may look at a newer schema.
    """
    key = version_key(step.version)
    newest = max(applied, key=lambda done: version_key(done.version), default=None)
    for done in applied:
        if version_key(done.version) == key:
            if done.checksum != step.checksum:
                raise EditedMigration(name, step.version)
            if done.undoing:
                raise UnfinishedUndo(name, step.version)
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
        done.append(db.apply(step, progress))
    db.admit_application()
    db.adopt()
    return tuple(done)


def undoing(
    name: str, steps: Sequence[SchemaStep], applied: Sequence[AppliedStep], count: int
) -> tuple[SchemaStep, ...]:
    """The newest ``count`` applied steps in the order in which they are taken back. Each has its undo file
    and is unedited, or none is returned: raises ``MissingUndo``, ``EditedMigration``."""
    known = {version_key(step.version): step for step in steps}
    newest = sorted(applied, key=lambda done: version_key(done.version), reverse=True)[:count]
    chosen_steps: list[SchemaStep] = []
    for record in newest:
        step = known.get(version_key(record.version))
        if step is None or step.undo is None:
            raise MissingUndo(name, record.version, record.description)
        if step.checksum != record.checksum:
            raise EditedMigration(name, record.version)
        chosen_steps.append(step)
    return tuple(chosen_steps)


def revert(db: ManagedDatabase, steps: Sequence[SchemaStep], progress: Progress = silent) -> tuple[AppliedStep, ...]:
    """Take back what ``undoing`` chose, newest first; returns the records that are gone. ``db`` has the
    role ``admin``."""
    name = db.database.name
    gone: list[AppliedStep] = []
    for number, step in enumerate(steps, start=1):
        progress(f"{name}: taking back {step.version} {step.description} ({number} of {len(steps)})")
        if (record := db.undo(step)) is not None:
            gone.append(record)
    return tuple(gone)
