"""Whose word counts.

Here: which of the names a process may give for a person is taken. Not here: how the kernel is asked
(``identity``), or what that person may do (``judge``).
"""

from __future__ import annotations

from dr_platform.errors import ExitCode, PlatformError
from dr_platform.identity import Person, Proof

REHEARSAL = frozenset({Proof.ACCOUNT, Proof.DECLARED})
"""Where data is synthetic and runs on one machine, so that one person can play all parts."""
PROVEN = frozenset({Proof.ACCOUNT})


class UnprovenPerson(PlatformError):
    """Nobody can be held to an approval of unknown origin."""

    exit_code = ExitCode.REFUSED

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.what = f"it is not known who you are: {reason}"
        self.untouched = "every request, approval and attestation"
        self.next_step = "log in with an account of your own, without --as, and repeat"


def person_at_work(declared: str | None, signed_in: Person | None, accepted: frozenset[Proof]) -> Person:
    """Who acts. A name given with ``--as`` is taken in rehearsals only: it proves nothing."""
    if declared is not None:
        if Proof.DECLARED not in accepted:
            raise UnprovenPerson("a name given with --as counts in rehearsals on synthetic data only")
        if not declared.strip() or not declared.isprintable():
            raise UnprovenPerson("the name given with --as is empty or not printable")
        return Person(declared.strip(), Proof.DECLARED)
    if signed_in is None:
        raise UnprovenPerson(
            "root and other shared accounts name no person"
            + (", so give a name with --as in this rehearsal" if Proof.DECLARED in accepted else "")
        )
    return signed_in
