"""What lies in every bucket, so that its backups can be opened when nothing else is left.

Here: putting it there. Not here: the decryptor itself (``stand_alone``), which imports nothing of ours.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from dr_platform.backups.bucket import RECOVERY, Bucket
from dr_platform.backups.keys import KeyRing, key_name
from dr_platform.objects import AlreadyExists

FOLDER = Path(__file__).parent / "stand_alone"
FILES = ("README.md", "decrypt_backup.py")


def signers(bucket: Bucket) -> tuple[str, ...]:
    """The public keys that lie in the bucket: whoever can write to it could have put one there, so a person who has
    written theirs down names it instead."""
    found = {info.key: bucket.objects.get(info.key) for info in bucket.objects.list(f"{RECOVERY}/keys")}
    return tuple(public for key, content in found.items() if (public := _named_so(key, content)))


def _named_so(key: str, content: bytes) -> str:
    """The key of a file that is named after it; empty for anything else."""
    text = content.decode("ascii", errors="replace").strip()
    try:
        return text if key.endswith(f"/{key_name(text)}.hex") else ""
    except ValueError:
        return ""


def plant(bucket: Bucket, keys: KeyRing) -> str:
    """The decryptor with its text, and the public key of today's signatures; returns their folder. Objects
    never change, so each version of the decryptor has a folder of its own."""
    contents = {name: (FOLDER / name).read_bytes() for name in FILES}
    version = hashlib.sha256(b"\0".join(contents.values())).hexdigest()[:12]
    public = keys.public_key()
    contents = {f"{RECOVERY}/{version}/{name}": content for name, content in contents.items()}
    contents[f"{RECOVERY}/keys/{key_name(public)}.hex"] = f"{public}\n".encode()
    for key, content in contents.items():
        if bucket.objects.head(key) is None:
            with suppress(AlreadyExists):  # another backup was first
                bucket.objects.put(key, content)
    return f"{RECOVERY}/{version}"
