"""The whole gate of an environment as one table: every row answered, none left out.

Here: which gates and lines an environment has, and waivers. Not here: the gates (``gates``) or where
the facts come from (``facts``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from dr_platform.approvals import Quorum
from dr_platform.catalog import Environment
from dr_platform.identity import Proof
from dr_platform.promotion import gates
from dr_platform.promotion.candidate import Candidate
from dr_platform.promotion.checklist import Attested, Line, Phase, Suites, Verified, lines_of
from dr_platform.promotion.facts import Facts, SuiteRun, Unread, VerifiedRelease
from dr_platform.promotion.gates import Answer, Standing
from dr_platform.promotion.windows import Calendar, Risk

NEVER_WAIVED = frozenset(
    {"evidence", "promotion-evidence", "holds", "freeze", "approvals", "suite:hipaa", "hipaa-tests", "hipaa-verified"}
)
"""What the word of two people cannot replace: the ground all rows stand on, other people's refusals,
and HIPAA, of which the guide demands 100 %."""


@dataclass(frozen=True)
class Row:
    name: str
    section: Literal["gate", "before", "during", "after"]
    title: str
    answer: Answer

    def as_json(self) -> dict[str, Any]:
        answer = asdict(self.answer)
        return {"name": self.name, "section": self.section, "title": self.title, "allow": self.answer.allow, **answer}


@dataclass(frozen=True)
class GateTable:
    """``rehearsal``: names that were only declared counted, on a machine with synthetic data."""

    candidate: Candidate
    source: str | None
    rehearsal: bool
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        return bool(self.rows) and all(row.answer.allow for row in self.rows)

    @property
    def unlooked(self) -> bool:
        """Nothing is known to be wrong, but something could not be looked at."""
        standings = {row.answer.standing for row in self.rows if not row.answer.allow}
        return standings == {Standing.UNKNOWN}

    @property
    def ask_again_at(self) -> datetime | None:
        """When time alone may have opened every row; ``None`` where a person must act, or nothing is shut."""
        times = [row.answer.ask_again_at for row in self.rows if not row.answer.allow]
        known = [at for at in times if at is not None]
        return max(known) if known and len(known) == len(times) else None

    def as_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            **asdict(self.candidate),
            "source": self.source,
            "rehearsal": self.rehearsal,
            "ask_again_at": self.ask_again_at,
            "rows": [row.as_json() for row in self.rows],
        }


@dataclass(frozen=True)
class _Question:
    """A row before it is answered."""

    name: str
    section: Literal["gate", "before", "during", "after"]
    title: str
    answer: Callable[[Facts], Answer]


def gate(
    candidate: Candidate,
    target: Environment,
    source: Environment | None,
    facts: Facts | Unread,
    now: datetime,
    *,
    proofs: frozenset[Proof],
    phase: Phase = Phase.BEFORE,
    risk: Risk = Risk.ORDINARY,
) -> GateTable:
    """Answer every gate and every line up to ``phase``. ``source`` is the environment before ``target``
    on the promotion path, ``None`` for the first. Equal arguments give equal tables."""
    asked = _Asked(candidate, target, source.name if source else None, now, proofs, phase, risk)
    rows = tuple(asked.row(question, facts) for question in asked.questions())
    return GateTable(candidate, asked.source, Proof.DECLARED in proofs, rows)


@dataclass(frozen=True)
class _Asked:
    candidate: Candidate
    target: Environment
    source: str | None
    now: datetime
    proofs: frozenset[Proof]
    phase: Phase
    risk: Risk

    def row(self, question: _Question, facts: Facts | Unread) -> Row:
        if isinstance(facts, Unread):
            answer = Answer(Standing.UNKNOWN, f"could not look: {facts.why}")
        else:
            answer = self._unless_waived(question.name, question.answer(facts), facts)
        return Row(question.name, question.section, question.title, answer)

    def _unless_waived(self, name: str, answer: Answer, facts: Facts) -> Answer:
        if name in NEVER_WAIVED:
            return answer
        return gates.waived(name, answer, facts.waivers, self.candidate, self.now, self.proofs)

    def questions(self) -> Iterator[_Question]:
        yield _Question("evidence", "gate", "Evidence log", lambda f: gates.evidence_gate(f.broken, f.unreadable))
        yield _Question("holds", "gate", "Holds", lambda f: gates.hold_gate(f.hold))
        calendar = Calendar.of(self.target.windows)
        yield _Question("freeze", "gate", "Freeze", lambda f: gates.freeze_gate(calendar, f.freeze, self.now))
        yield _Question("window", "gate", "Window", lambda _f: gates.window_gate(calendar, self.now, self.risk))
        yield _Question("approvals", "gate", "Approvals", self._approvals)
        if self.source is not None:
            yield from self._from_source(self.source)
        for line in lines_of(self.target, self.phase):
            yield _Question(line.id, line.phase.value, line.title, self._of_line(line))

    def _approvals(self, facts: Facts) -> Answer:
        required = Quorum(self.target.approvals.required, self.proofs)
        return gates.approvals_gate(facts.cases, self.candidate, self.now, required)

    def _from_source(self, source: str) -> Iterator[_Question]:
        def signed(facts: Facts) -> Answer:
            issued_at = facts.source.issued_at if facts.source else None
            return gates.source_gate(source, issued_at, facts.refused, self.now)

        yield _Question("promotion-evidence", "gate", f"Evidence from {source}", signed)
        yield _Question(
            "verified", "gate", f"Verified in {source}",
            lambda f: gates.verified_gate(source, _source_verified(f), self.candidate),
        )  # fmt: skip
        if self.target.entry.soak is not None:
            soak = timedelta(seconds=self.target.entry.soak)
            yield _Question(
                "soak", "gate", f"Soak time in {source}",
                lambda f: gates.soak_gate(source, _source_verified(f), self.candidate, self.now, soak),
            )  # fmt: skip
        for suite in self.target.entry.suites:
            yield _Question(f"suite:{suite}", "gate", f"Suite {suite} in {source}", self._suite_there(suite))

    def _suite_there(self, suite: str) -> Callable[[Facts], Answer]:
        """A suite that was waived is waived for the lines that rest on it, too."""

        def answer(facts: Facts) -> Answer:
            found = self._suite(suite, self.source or self.target.name, _source_runs(facts))
            return self._unless_waived(f"suite:{suite}", found, facts)

        return answer

    def _of_line(self, line: Line) -> Callable[[Facts], Answer]:
        """Before the deployment the environment before is looked at, afterwards this one."""
        match line.proof:
            case Attested():
                return lambda f: gates.attestation_gate(line.id, f.attestations, self.candidate, self.now, self.proofs)
            case Verified():
                return lambda f: gates.verified_gate(self.target.name, f.verified, self.candidate)
            case Suites(names):
                wanted = names or self.target.entry.suites
                if line.phase is Phase.BEFORE:
                    return lambda f: _worst([self._suite_there(suite)(f) for suite in wanted])
                return lambda f: _worst([self._suite(suite, self.target.name, f.suites) for suite in wanted])

    def _suite(self, suite: str, environment: str, runs: tuple[SuiteRun, ...]) -> Answer:
        fresh_for = timedelta(seconds=self.target.entry.fresh_for)
        return gates.suite_gate(suite, environment, runs, self.candidate, self.now, fresh_for)


def _worst(answers: list[Answer]) -> Answer:
    """The first that does not allow, else the first that was waived; what is hidden behind it is counted."""
    if not answers:
        return Answer(Standing.NOT_RUN, "no suite is named for it")
    telling = [a for a in answers if not a.allow] or [a for a in answers if a.standing is Standing.WAIVED]
    if telling:
        more = f" (and {len(telling) - 1} more)" if len(telling) > 1 else ""
        return Answer(telling[0].standing, telling[0].message + more, telling[0].ask_again_at)
    return answers[0] if len(answers) == 1 else Answer(Standing.PASSED, f"{len(answers)} suites passed")


def _source_runs(facts: Facts) -> tuple[SuiteRun, ...]:
    signed = facts.source
    if signed is None:
        return ()
    where: Mapping[str, str] = {
        "environment": signed.environment, "release": signed.release, "digest": signed.digest,
    }  # fmt: skip
    return tuple(SuiteRun(**vars(suite), **where) for suite in signed.suites)


def _source_verified(facts: Facts) -> tuple[VerifiedRelease, ...]:
    signed = facts.source
    if signed is None or signed.verified_at is None:
        return ()
    return (VerifiedRelease(signed.environment, signed.release, signed.digest, signed.verified_at),)
