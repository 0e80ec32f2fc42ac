"""The key by which Cassandra's nodes know each other: one node has one key and trusts no other.

Nodes exchange everything without passwords. Without a key of its own, every local user who can reach
the port could join the ring and read it.
"""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path

from dr_platform.databases.embedded.files import invoking_user, private_file
from dr_platform.databases.embedded.port import EngineUnavailable

VALID_DAYS = 3650


def ensure_key(folder: Path, java: Path) -> dict[str, object]:
    """Make the key where there is none, and return Cassandra's ``server_encryption_options``."""
    store, password_file = folder / "node.p12", folder / "node.password"
    if not store.exists():
        private_file(password_file, secrets.token_urlsafe(24), invoking_user())
        _make_key(store, password_file, java)
    password = password_file.read_text(encoding="utf-8")
    return {
        "internode_encryption": "all",
        "optional": False,
        "require_client_auth": True,
        "keystore": str(store),
        "keystore_password": password,
        "truststore": str(store),
        "truststore_password": password,
        "store_type": "PKCS12",
    }


def _make_key(store: Path, password_file: Path, java: Path) -> None:
    draft = store.with_suffix(".new")
    draft.unlink(missing_ok=True)
    command = [str(java.with_name("keytool")), "-genkeypair", "-alias", "node", "-dname", "CN=drp"]
    command += ["-keyalg", "EC", "-groupname", "secp256r1", "-validity", str(VALID_DAYS)]
    command += ["-storetype", "PKCS12", "-keystore", str(draft), "-storepass:file", str(password_file)]
    try:
        subprocess.run(command, capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        why = f"its Java cannot make a key ({type(error).__name__})"
        raise EngineUnavailable("Cassandra", why, "see that the disk is not full, then run `drp up` again") from error
    draft.chmod(0o600)
    draft.rename(store)
