"""Who acts, and names for things that need one."""

from __future__ import annotations

import getpass
import os
import secrets

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base 32: no letters that read as digits


def new_id(prefix: str) -> str:
    """A short identifier such as ``inc-7k3m9q2w``: 40 random bits, readable aloud."""
    return f"{prefix}-" + "".join(secrets.choice(_ALPHABET) for _ in range(8))


def current_actor() -> str:
    """Who runs this process, for evidence: ``DRP_ACTOR`` where a gateway set it, else the login."""
    if actor := os.environ.get("DRP_ACTOR"):
        return actor
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container user without a passwd entry
        return f"uid:{os.getuid()}"
