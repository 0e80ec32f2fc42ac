"""Opens a backup with nothing but its folder and the escrow identity. See README.md beside this file.

Needs Python 3.9 or newer with the packages ``cryptography`` and ``zstandard``, and ``pyrage`` or the program
``age``. It needs neither the platform that wrote the backup, nor its secret store, nor a network.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import zstandard
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FORMAT = "dr-backup/1"
CHUNK = (1 << 20) + 16
PREFIX = 7


class Refused(Exception):
    """What a person has to read; nothing that was opened so far may be used."""


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def read_manifest(folder: Path, signers: list[bytes]) -> dict[str, Any]:
    content = (folder / "manifest.json").read_bytes()
    manifest = json.loads(content)
    if canonical(manifest) != content:
        raise Refused("manifest.json is not byte for byte what was written")
    signature = manifest.pop("signature")
    if manifest.get("schema") != FORMAT:
        raise Refused(f"manifest.json is of another format than {FORMAT}")
    public = next((key for key in signers if hashlib.sha256(key).hexdigest() == signature["key"]), None)
    if public is None:
        raise Refused("no known key signed this backup; give the right one with --signer")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(signature["value"]), canonical(manifest))
    except InvalidSignature:
        raise Refused("the signature of manifest.json does not fit its content") from None
    if manifest["backup_id"] != folder.resolve().name:
        raise Refused(f"this manifest belongs to backup {manifest['backup_id']}")
    return manifest


def data_key(manifest: dict[str, Any], identity: Path) -> bytes:
    for sealed in manifest["data_key"]["escrow"].values():
        key = open_age(base64.b64decode(sealed), identity)
        if key is not None:
            return key
    recipients = ", ".join(manifest["data_key"]["escrow"])
    raise Refused(f"the identity does not open this backup; its recipients are: {recipients}")


def open_age(sealed: bytes, identity: Path) -> bytes | None:
    try:
        pyrage: Any = importlib.import_module("pyrage")
    except ImportError:
        done = subprocess.run(
            ["age", "--decrypt", "--identity", str(identity)], input=sealed, capture_output=True, check=False
        )
        return done.stdout if done.returncode == 0 else None
    lines = identity.read_text(encoding="utf-8").splitlines()
    keys = [pyrage.x25519.Identity.from_str(line.strip()) for line in lines if line.startswith("AGE-SECRET-KEY-")]
    try:
        return pyrage.decrypt(sealed, keys)
    except pyrage.DecryptError:
        return None


class Opening(io.RawIOBase):
    """The compressed bytes of a part, chunk by chunk, each verified before it is given."""

    def __init__(self, content: bytes, key: bytes, bound: bytes) -> None:
        super().__init__()
        self.content, self.cipher, self.bound = content, AESGCM(key), bound
        self.at, self.number, self.left, self.ended = PREFIX, 0, b"", False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self.left and not self.ended:
            self.left = self.next_chunk()
        size = min(len(buffer), len(self.left))
        buffer[:size] = self.left[:size]
        self.left = self.left[size:]
        return size

    def next_chunk(self) -> bytes:
        end = min(self.at + CHUNK, len(self.content))
        self.ended = end == len(self.content)
        nonce = self.content[:PREFIX] + self.number.to_bytes(4, "big") + (b"\1" if self.ended else b"\0")
        plain = self.cipher.decrypt(nonce, self.content[self.at : end], self.bound)
        self.at, self.number = end, self.number + 1
        return plain


def open_part(folder: Path, backup_id: str, part: dict[str, Any], key: bytes, out: BinaryIO) -> None:
    path = folder / part["path"]
    if not path.is_file():
        raise Refused(f"{part['path']} is missing")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != part["sha256"]:
        raise Refused(f"{part['path']} is not what was written")
    bound = b"\0".join(text.encode() for text in (FORMAT, backup_id, part["path"]))
    size = 0
    source = Opening(content, key, bound)
    try:
        reader = zstandard.ZstdDecompressor().stream_reader(io.BufferedReader(source, 1 << 20))
        while True:
            raw = reader.read(4 << 20)
            if not raw:
                break
            size += len(raw)
            out.write(raw)
    except (InvalidTag, zstandard.ZstdError):
        raise Refused(f"{part['path']} does not open with this key") from None
    if not source.ended or size != part["raw_bytes"]:
        raise Refused(f"{part['path']} gives {size} bytes of {part['raw_bytes']}")


def within(root: Path, name: str) -> Path:
    """Piece names come from a signed file, and still may not lead out of the folder."""
    path = (root / name).resolve()
    if root.resolve() not in path.parents:
        raise Refused("a piece has a name that leads out of the folder")
    return path


def decrypt(folder: Path, identity: Path, into: Path, signers: list[bytes]) -> dict[str, Any]:
    manifest = read_manifest(folder, signers)
    key = data_key(manifest, identity)
    into.mkdir(mode=0o700, parents=True)
    for piece in manifest["pieces"]:
        target = within(into, piece["name"])
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with target.open("xb") as out:
            for part in piece["parts"]:
                open_part(folder, manifest["backup_id"], part, key, out)
    if manifest["kind"].startswith("physical") and (into / "base").is_dir():
        merge_lanes(into)
    described = {name: manifest[name] for name in ("backup_id", "database", "kind", "parent", "started_at", "facts")}
    described["pieces"] = [{"name": piece["name"], "facts": piece["facts"]} for piece in manifest["pieces"]]
    (into / "backup.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    return manifest


def merge_lanes(folder: Path) -> None:
    """A physical backup is one tar that was read by several processes: its blocks are put in their order again."""
    lanes = sorted((folder / "base").iterdir())
    readers = [lane.open("rb") for lane in lanes]
    heads = [next_block(reader) for reader in readers]
    number = 0
    with (folder / "base.tar").open("xb") as out:
        while True:
            at = next((i for i, (found, size) in enumerate(heads) if size and found == number), None)
            if at is None:
                break
            out.write(readers[at].read(heads[at][1]))
            heads[at] = next_block(readers[at])
            number += 1
    if set(heads) != {(number, 0)}:
        raise Refused(f"block {number} of the base backup is missing")
    for reader, lane in zip(readers, lanes):  # noqa: B905 - older Pythons know no strict
        reader.close()
        lane.unlink()
    (folder / "base").rmdir()


def next_block(reader: BinaryIO) -> tuple[int, int]:
    """Number and length; a length of 0 ends a lane, and its number is how many blocks there are in all."""
    head = reader.read(16)
    return int.from_bytes(head[:8], "big"), int.from_bytes(head[8:], "big")


def known_signers(folder: Path) -> list[bytes]:
    """Public keys that lie in the bucket beside the backups: whoever can write there could have put them."""
    keys = folder.resolve().parents[1] / "recovery" / "keys"
    return [bytes.fromhex(file.read_text(encoding="ascii").strip()) for file in sorted(keys.glob("*.hex"))]


def main() -> int:
    parser = argparse.ArgumentParser(description="Opens a backup with nothing but its folder and the escrow identity.")
    parser.add_argument("backup", type=Path, help="folder of the backup, with manifest.json and parts/")
    parser.add_argument(
        "--identity", type=Path, required=True, help="file with the escrow identity (AGE-SECRET-KEY-...)"
    )
    parser.add_argument("--into", type=Path, required=True, help="folder for what is opened; must not exist")
    parser.add_argument("--signer", help="public key in hex that must have signed; else those in the bucket")
    given = parser.parse_args()
    try:
        signers = [bytes.fromhex(given.signer)] if given.signer else known_signers(given.backup)
        manifest = decrypt(given.backup, given.identity, given.into, signers)
    except (Refused, OSError, KeyError, ValueError) as exc:
        sys.stderr.write(f"not opened: {exc}\nWhat was written to {given.into} must not be used.\n")
        return 1
    if not given.signer:
        sys.stderr.write(
            "the signature was checked with a key from the bucket itself; compare it with one you wrote down\n"
        )
    counts = f"{len(manifest['pieces'])} pieces, {manifest['raw_bytes']} bytes"
    print(f"{manifest['backup_id']}: {counts}, every one verified")
    if manifest["parent"]:
        print(f"it continues {manifest['parent']['id']}; open that one too")
    return 0


if __name__ == "__main__":
    sys.exit(main())
