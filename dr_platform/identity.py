"""Who acts, and names for things that need one."""

from __future__ import annotations

import getpass
import os
import pwd
import secrets
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

ALPHABET = "0123456789bcdfghjknpqrstvwxyz"
"""No letters that read as digits, and none that words are made of: ``fax12345``, ``aba1x983`` and
``mrn0m7wb`` read as numbers of a person, which the evidence log refuses, and with them the incident of
that name."""


def new_id(prefix: str) -> str:
    """A short identifier such as ``inc-7k3m9q2w``: 38 random bits, readable aloud."""
    return f"{prefix}-" + "".join(secrets.choice(ALPHABET) for _ in range(8))


def current_actor() -> str:
    """Who runs this process, for evidence: ``DRP_ACTOR`` where a gateway set it, else the login."""
    if actor := os.environ.get("DRP_ACTOR"):
        return actor
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container user without a passwd entry
        return f"uid:{os.getuid()}"


class Proof(StrEnum):
    """How it is known who a person is."""

    ACCOUNT = "account"
    """The kernel says whose login session this is."""
    DECLARED = "declared"
    """Somebody wrote the name; enough for rehearsals on synthetic data and for nothing else."""


@dataclass(frozen=True)
class Person:
    """Whoever agrees to something or vouches for it."""

    name: str
    proof: Proof

    @property
    def key(self) -> str:
        """Equal for two spellings of one name: letter case, width of characters, spaces."""
        return person_key(self.name)


def person_key(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


_UNSET_UID = 2**32 - 1
_NOT_A_PERSON = frozenset({0, 65534, _UNSET_UID})
"""Root is shared, and `nobody` is what the kernel shows for an account of another user namespace."""


def account_of(login_uid: int | None, real_uid: int, account_name: Callable[[int], str | None]) -> Person | None:
    """The person behind a process, or ``None`` where the account names none.

    The login uid is set once by the login session and survives ``su`` and ``sudo``, so that work as
    root still names who does it. Environment variables are not asked: whoever starts a process
    chooses them. Source: unique user identification, 45 CFR 164.312(a)(2)(i), and authentication of
    persons, 164.312(d).
    """
    uid = real_uid if login_uid in (None, _UNSET_UID) else login_uid
    if uid is None or uid in _NOT_A_PERSON:
        return None
    return Person(account_name(uid) or f"uid:{uid}", Proof.ACCOUNT)


def signed_in_person() -> Person | None:
    """Who the kernel says runs this process, see ``account_of``."""
    return account_of(_login_uid(), os.getuid(), _account_name)


def _login_uid() -> int | None:
    try:
        return int(Path("/proc/self/loginuid").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no audit in this kernel, or not Linux
        return None


def _account_name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
