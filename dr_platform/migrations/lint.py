"""Whether a step is written so that it harms nobody while it runs: a blocking check before the first write.

PostgreSQL's files are read by squawk; what it says about locks, about what the version before still needs, and
about what cannot run where it stands, blocks. What it says about style (``ADVICE``) is told and blocks nothing, and
its time limits are the runner's own. For every engine, what destroys data belongs into the phase ``contract``.

A finding is waived for one file, with a reason, by a comment line ``-- waive RULE: reason`` (``# …`` for Redis, and
in JSON by a command's ``"comment": "waive RULE: reason"``). A waiver without a reason, or for something that was not
found, is itself a finding.

Here: rules, waivers, judgement. Not here: running squawk (``squawk``), or what a statement does (``effects``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dr_platform.catalog import Engine
from dr_platform.databases.port import Phase, SchemaStep
from dr_platform.databases.sql_transactions import misplaced
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.migrations.effects import effects_of

ADVICE = frozenset(
    {
        "ban-char-field",
        "prefer-bigint-over-int",
        "prefer-bigint-over-smallint",
        "prefer-identity",
        "prefer-robust-stmts",
        "prefer-text-field",
        "prefer-timestamp-tz",
        "prefer-timestamptz",
        "prefer-repack",
        "require-enum-value-ordering",
        "require-table-schema",
        "require-lock-timeout",  # the runner sets it for every step
        "require-statement-timeout",
        "require-timeout-settings",
    }
)
_CONTRACTS = frozenset({"ban-drop-column", "ban-drop-table", "ban-drop-not-null"})
"""What the phase ``contract`` is for: by then nobody uses it any more."""
OUTSIDE_CONTRACT = "destroys-outside-contract"
UNREADABLE = "unreadable"
MISPLACED = "misplaced-transaction"
WAIVER = "waiver"

_WAIVER = re.compile(r"\s*(?:--|//|#)\s*waive\s+(?P<rule>[a-z0-9-]+)\s*(?::\s*(?P<reason>.*?))?\s*", re.IGNORECASE)
_WAIVED_COMMAND = re.compile(r"waive\s+(?P<rule>[a-z0-9-]+)\s*(?::\s*(?P<reason>.*))?", re.IGNORECASE)
_SILENCED = re.compile(r"--\s*squawk-ignore", re.IGNORECASE)
SHORTEST_REASON = 10
"""Letters; "ok" and "todo" are no reasons."""


@dataclass(frozen=True)
class Fault:
    """``line`` is counted from 1, and 0 for the file as a whole."""

    file: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}{f':{self.line}' if self.line else ''}: {self.rule}: {self.message}"


@dataclass(frozen=True)
class Judged:
    """``advice`` and ``waived`` block nothing."""

    faults: tuple[Fault, ...] = ()
    advice: tuple[Fault, ...] = ()
    waived: tuple[tuple[Fault, str], ...] = ()


class Squawk(Protocol):
    def __call__(self, paths: Sequence[Path], *, transactional: bool) -> Sequence[Fault]:
        """What squawk says of these files. Raises ``SquawkUnavailable`` where it could not look."""


class LintRefused(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, faults: tuple[str, ...]) -> None:
        super().__init__(name, faults)
        self.what = "\n".join(f"{name}: {fault}" for fault in faults)
        self.untouched = f"the schema of {name}; all steps are read before the first is applied"
        self.next_step = "rewrite the statements, or waive a rule in its file: `-- waive RULE: reason`"


def lint(engine: Engine, steps: Sequence[SchemaStep], texts: Mapping[Path, str], squawk: Squawk) -> Judged:
    """Judge steps by their files. Undo files are written for an emergency: only their format is judged."""
    found = [*_unreadable(engine, steps, texts), *_outside_contract(engine, steps, texts)]
    if engine is Engine.POSTGRESQL:
        found += _misplaced(steps, texts)
        for transactional in (True, False):
            paths = [step.path for step in steps if step.transactional is transactional]
            found += squawk(paths, transactional=transactional) if paths else []
    phases = {step.path.name: step.phase for step in steps}
    found = [fault for fault in found if not (fault.rule in _CONTRACTS and phases.get(fault.file) is Phase.CONTRACT)]
    return _judged(found, {step.path.name: texts[step.path] for step in steps})


def _unreadable(engine: Engine, steps: Sequence[SchemaStep], texts: Mapping[Path, str]) -> list[Fault]:
    paths = [path for step in steps for path in (step.path, *([step.undo.path] if step.undo else []))]
    found = []
    for path in paths:
        try:
            effects_of(engine, texts[path])
        except ValueError as exc:
            found.append(Fault(path.name, 0, UNREADABLE, str(exc)))
    return found


def _misplaced(steps: Sequence[SchemaStep], texts: Mapping[Path, str]) -> list[Fault]:
    """Also of undo files: one that the server refuses helps nobody."""
    found = []
    for step in steps:
        for script in (step, *([step.undo] if step.undo else [])):
            if script is step and step.batches is not None:  # batches have transactions of their own
                continue
            problem = misplaced(texts[script.path], transactional=script.transactional)
            if problem is not None:
                found.append(Fault(script.path.name, problem[0], MISPLACED, problem[1]))
    return found


def _outside_contract(engine: Engine, steps: Sequence[SchemaStep], texts: Mapping[Path, str]) -> list[Fault]:
    found = []
    for step in steps:
        if step.phase is Phase.CONTRACT:
            continue
        try:
            losses = effects_of(engine, texts[step.path]).losses
        except ValueError:
            continue  # told by ``_unreadable``
        if losses:
            message = f"destroys {', '.join(losses)}, which only the phase contract may"
            found.append(Fault(step.path.name, 0, OUTSIDE_CONTRACT, message))
    return found


def _judged(found: Sequence[Fault], texts: Mapping[str, str]) -> Judged:
    waivers = {file: waivers_of(text, Path(file).suffix) for file, text in texts.items()}
    faults: list[Fault] = []
    advice: list[Fault] = []
    waived: list[tuple[Fault, str]] = []
    used: set[tuple[str, str]] = set()
    for fault in found:
        reason = waivers.get(fault.file, {}).get(fault.rule, "")
        if fault.rule in ADVICE:
            advice.append(fault)
        elif len(reason) >= SHORTEST_REASON:
            waived.append((fault, reason))
        else:
            faults.append(fault)
        used.add((fault.file, fault.rule))
    faults += _bad_waivers(waivers, used)
    for file, text in texts.items():
        if _SILENCED.search(text):
            faults.append(Fault(file, 0, WAIVER, "silences squawk without a reason: write `-- waive RULE: reason`"))
    return Judged(tuple(faults), tuple(advice), tuple(waived))


def _bad_waivers(waivers: Mapping[str, Mapping[str, str]], used: set[tuple[str, str]]) -> list[Fault]:
    bad = []
    for file, rules in waivers.items():
        for rule, reason in rules.items():
            if len(reason) < SHORTEST_REASON:
                bad.append(Fault(file, 0, WAIVER, f"waives {rule} without a reason: say why after a colon"))
            elif (file, rule) not in used:
                bad.append(Fault(file, 0, WAIVER, f"waives {rule}, which was not found: take the waiver out"))
    return bad


def waivers_of(text: str, extension: str) -> Mapping[str, str]:
    """Rule to reason, as a file states them; the reason is empty where none is given."""
    if extension != ".json":
        matches = [_WAIVER.fullmatch(line) for line in text.splitlines()]
    else:
        matches = [_WAIVED_COMMAND.fullmatch(comment.strip()) for comment in _comments_of(text)]
    return {match["rule"].lower(): (match["reason"] or "").strip() for match in matches if match}


def _comments_of(text: str) -> list[str]:
    try:
        commands = json.loads(text)
    except ValueError:
        return []
    listed = commands if isinstance(commands, list) else []
    comments = [command.get("comment") for command in listed if isinstance(command, dict)]
    return [comment for comment in comments if isinstance(comment, str)]
