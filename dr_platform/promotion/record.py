"""Writing down what gates rest on, each as one entry of the evidence log.

Here: the shape of the entries (``facts`` reads them) and how long a word may count. Not here: who
somebody is, or whether what is recorded suffices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from dr_platform.clock import Clock
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.evidence import Entry, EvidenceLog
from dr_platform.identity import Person
from dr_platform.promotion import facts
from dr_platform.promotion.candidate import Candidate

LONGEST_WAIVER = timedelta(days=90)
"""What stays unmet longer is not an exception any more."""


class TooLong(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, asked: timedelta, longest: timedelta) -> None:
        super().__init__(asked, longest)
        self.what = f"{asked.days} days is longer than the {longest.days} days that this may count"
        self.untouched = "everything that is recorded; nothing was added"
        self.next_step = f"choose 1 to {longest.days} days; renew it when it has ended"


@dataclass(frozen=True)
class Recorder:
    """Every method raises ``OperationsUnavailable``, and ``RefusedEvidence`` for a reason that holds
    secrets or patient data."""

    evidence: EvidenceLog
    clock: Clock

    def suite_ran(
        self, candidate: Candidate, suite: str, actor: str, *, passed: bool | None, checks: int, failed: int
    ) -> Entry:
        """``candidate.environment`` is where the suite ran."""
        body = {"suite": suite, "passed": passed, "checks": checks, "failed": failed}
        return self._about(facts.SUITE_RUN, candidate, actor, body)

    def verified(self, candidate: Candidate, actor: str) -> Entry:
        """The release runs in its environment and was watched to the end of its rollout."""
        return self._about(facts.VERIFIED, candidate, actor, {})

    def attest(self, candidate: Candidate, line: str, signer: Person, reason: str, valid_for: timedelta) -> Entry:
        """A person vouches for a line of a checklist, for exactly this release."""
        return self._word(facts.ATTESTATION, candidate, signer, {"line": line, "reason": reason}, valid_for)

    def waive(self, candidate: Candidate, row: str, by: Person, reason: str, valid_for: timedelta) -> Entry:
        """One of the two words that a waiver needs. Raises ``TooLong``."""
        if valid_for > LONGEST_WAIVER or valid_for <= timedelta(0):
            raise TooLong(valid_for, LONGEST_WAIVER)
        return self._word(facts.WAIVER, candidate, by, {"row": row, "reason": reason}, valid_for)

    def hold(self, candidate: Candidate, actor: str, reason: str) -> Entry:
        """Keep a digest out of an environment until a person lets it in again."""
        return self._about(facts.HOLD, candidate, actor, {"on": True, "reason": reason})

    def let_in(self, candidate: Candidate, actor: str, reason: str) -> Entry:
        return self._about(facts.HOLD, candidate, actor, {"on": False, "reason": reason})

    def freeze(self, environment: str, actor: str, reason: str) -> Entry:
        """Nothing may enter an environment until a person ends this."""
        return self._freeze(environment, actor, {"on": True, "reason": reason})

    def thaw(self, environment: str, actor: str, reason: str) -> Entry:
        return self._freeze(environment, actor, {"on": False, "reason": reason})

    def _freeze(self, environment: str, actor: str, body: Mapping[str, Any]) -> Entry:
        return self.evidence.append(facts.FREEZE, facts.environment_subject(environment), actor, body)

    def _word(
        self, kind: str, candidate: Candidate, person: Person, body: Mapping[str, Any], valid_for: timedelta
    ) -> Entry:
        expires = (self.clock.now() + valid_for).isoformat()
        said = {**body, "expires": expires, "identity": person.proof.value}
        return self._about(kind, candidate, person.name, said)

    def _about(self, kind: str, candidate: Candidate, actor: str, body: Mapping[str, Any]) -> Entry:
        which = {"environment": candidate.environment, "release": candidate.release, "digest": candidate.digest}
        return self.evidence.append(kind, facts.release_subject(candidate.release), actor, {**which, **body})
