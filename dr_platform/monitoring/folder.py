"""The generated files in a folder: what would change, whose files are left alone, and the writing.

Here: texts, the plan, ownership. Not here: what the documents say (``rules``, ``prometheus``,
``dashboard``).

A file is ours while its content has a digest that our manifest names. Anything else was made or
changed by somebody and is never overwritten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dr_platform.errors import ExitCode, PlatformError
from dr_platform.monitoring.dashboard import dashboard_document
from dr_platform.monitoring.prometheus import TARGETS_FILE, Target, prometheus_document, targets_document
from dr_platform.monitoring.rules import rule_documents
from dr_platform.monitoring.scope import Scope

MANIFEST = ".drp-monitoring.json"
_HEADER = "# Generated from the catalog by `drp monitoring export`.\n"


class ForeignFiles(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, folder: Path, files: tuple[str, ...]) -> None:
        super().__init__(folder, files)
        self.what = f"{folder} has files that were not made by an export, or were changed since: {', '.join(files)}"
        self.untouched = "the whole folder"
        self.next_step = "move these files away, or name another folder with --to"


class FolderUnusable(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(folder, reason)
        self.what = f"{folder} cannot be used for the export: {reason}"
        self.untouched = "files that were there before; an interrupted export can be repeated"
        self.next_step = "name a folder that you may write with --to"


@dataclass(frozen=True)
class Plan:
    """What an export would do. Paths are relative to the folder, sorted."""

    write: tuple[str, ...]
    remove: tuple[str, ...]
    foreign: tuple[str, ...]

    @property
    def nothing(self) -> bool:
        return not (self.write or self.remove or self.foreign)


def texts(scope: Scope, targets: Iterable[Target] = ()) -> dict[str, str]:
    """Relative path to text of every file. Equal arguments give equal texts."""
    files = {f"rules/{name}": _yaml(document) for name, document in rule_documents(scope).items()}
    files["prometheus.yaml"] = _yaml(prometheus_document(scope))
    files["dashboard.json"] = _json(dashboard_document(scope))
    if scope.runtime == "local":
        files[TARGETS_FILE] = _json(targets_document(targets))
    return dict(sorted(files.items()))


def plan(wanted: Mapping[str, str], found: Mapping[str, str], ours: Mapping[str, Iterable[str]]) -> Plan:
    """Compare the wanted texts with ``found``, the digests of files that are there; ``ours`` are the
    digests of the manifest. What is there already as wanted is nobody's conflict."""
    digests = {path: digest(text) for path, text in wanted.items()}
    differing = [path for path in digests if found.get(path) != digests[path]]
    gone = [path for path in ours if path not in wanted and path in found]
    foreign = {path for path in [*differing, *gone] if path in found and found[path] not in ours.get(path, ())}
    return Plan(
        write=tuple(sorted(set(differing) - foreign)),
        remove=tuple(sorted(set(gone) - foreign)),
        foreign=tuple(sorted(foreign)),
    )


def look(folder: Path, wanted: Mapping[str, str]) -> Plan:
    """What an export into this folder would do now."""
    try:
        ours = _manifest(folder)
        paths = [path for path in {*wanted, *ours} if (folder / path).exists()]
        found = {path: digest((folder / path).read_text(encoding="utf-8", errors="replace")) for path in paths}
    except OSError as exc:
        raise FolderUnusable(folder, exc.strerror or type(exc).__name__) from exc
    return plan(wanted, found, ours)


def write(folder: Path, wanted: Mapping[str, str]) -> Plan:
    """Make the folder hold these texts, and say what that changed. Refused (``ForeignFiles``) as a
    whole while one of them would replace somebody else's file."""
    planned = look(folder, wanted)
    if planned.foreign:
        raise ForeignFiles(folder, planned.foreign)
    try:
        _carry_out(folder, wanted, planned)
    except OSError as exc:
        raise FolderUnusable(folder, exc.strerror or type(exc).__name__) from exc
    return planned


def _carry_out(folder: Path, wanted: Mapping[str, str], planned: Plan) -> None:
    before = _manifest(folder)
    after = {path: [digest(text)] for path, text in wanted.items()}
    # Both generations are ours until all is written, so that an interrupted export can be repeated.
    both = {path: [*before.get(path, ()), *after.get(path, ())] for path in {*before, *after}}
    _replace(folder / MANIFEST, _json({"files": both}))
    for path in planned.write:
        _replace(folder / path, wanted[path])
    for path in planned.remove:
        (folder / path).unlink(missing_ok=True)
    _replace(folder / MANIFEST, _json({"files": after}))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _manifest(folder: Path) -> dict[str, list[str]]:
    """Digests by path; nothing is ours where the manifest is missing or is not one of ours."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {str(path): list(map(str, digests)) for path, digests in content.items() if _is_inner(str(path))}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _is_inner(path: str) -> bool:
    """A changed manifest must not make us remove anything outside the folder."""
    return not Path(path).is_absolute() and ".." not in Path(path).parts


def _replace(path: Path, text: str) -> None:
    """In one step: Prometheus may read at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _yaml(document: Mapping[str, Any]) -> str:
    return _HEADER + yaml.safe_dump(dict(document), sort_keys=False, width=10_000, allow_unicode=True)


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, sort_keys=True) + "\n"
