"""The server's own list of the files in a physical backup (``backup_manifest``), read and compared.

Here: its format and its checksum, as PostgreSQL documents them ("Backup Manifest Format"). Not here: reading files.
``pg_verifybackup`` does the same on a finished folder; here files are compared while they are written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

_ALGORITHM = "SHA256"


class BadManifest(Exception):
    """It is not what the server wrote."""


@dataclass(frozen=True)
class ListedFile:
    size: int
    sha256: str


@dataclass(frozen=True)
class WalRange:
    timeline: int
    start_lsn: str
    end_lsn: str


@dataclass(frozen=True)
class BackupManifest:
    system_identifier: str
    files: Mapping[str, ListedFile]
    wal: tuple[WalRange, ...]


def read_manifest(content: bytes) -> BackupManifest:
    """Raises ``BadManifest`` where its own checksum, or its form, is not right."""
    _verify_itself(content)
    try:
        found = json.loads(content)
        return BackupManifest(
            system_identifier=str(found.get("System-Identifier", "")),
            files={_path(file): _listed(file) for file in found["Files"]},
            wal=tuple(WalRange(int(w["Timeline"]), w["Start-LSN"], w["End-LSN"]) for w in found.get("WAL-Ranges", ())),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise BadManifest(f"its form is not known ({type(exc).__name__})") from None


def _verify_itself(content: bytes) -> None:
    """The last line holds SHA-256 over everything before it, the line break included."""
    head, separator, tail = content.rpartition(b'\n"Manifest-Checksum"')
    if not separator:
        raise BadManifest("it ends before its checksum")
    if hashlib.sha256(head + b"\n").hexdigest().encode() not in tail:
        raise BadManifest("its checksum is not that of its content")


def _path(file: Mapping[str, str]) -> str:
    return file["Path"] if "Path" in file else bytes.fromhex(file["Encoded-Path"]).decode("utf-8", "surrogateescape")


def _listed(file: Mapping[str, str]) -> ListedFile:
    if file["Checksum-Algorithm"] != _ALGORITHM:
        raise ValueError("another algorithm")
    return ListedFile(int(file["Size"]), file["Checksum"].lower())


def differences(manifest: BackupManifest, found: Mapping[str, ListedFile]) -> tuple[str, ...]:
    """What is missing, other than listed, or not listed. The log comes with the backup without being listed; it
    carries checksums of its own."""
    ignored = ("pg_wal/", "backup_manifest")
    problems = [f"{path} is missing" for path in sorted(manifest.files.keys() - found.keys())]
    for path, file in sorted(found.items()):
        if path.startswith(ignored):
            continue
        if (listed := manifest.files.get(path)) is None:
            problems.append(f"{path} is not listed")
        elif listed != file:
            problems.append(f"{path} is not as listed")
    return tuple(problems)
