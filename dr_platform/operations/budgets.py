"""How much of its budget the remediation of a subject has spent.

Here: the state, changed by compare-and-swap. Not here: how large a budget is or what is done with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from dr_platform.errors import PlatformError
from dr_platform.operations.engine import unavailable_when_down

if TYPE_CHECKING:
    from sqlalchemy import Engine


@dataclass(frozen=True)
class Spent:
    """Attempts since the subject was last well. ``version`` is 0 for what was never stored."""

    subject: str
    version: int = 0
    attempts: int = 0
    first_attempt_at: datetime | None = None
    last_attempt_at: datetime | None = None
    escalated_at: datetime | None = None
    """A person was called; nothing is tried until the subject is well again."""

    def with_attempt(self, now: datetime) -> Spent:
        first = self.first_attempt_at or now
        return replace(self, attempts=self.attempts + 1, first_attempt_at=first, last_attempt_at=now)

    def with_escalation(self, now: datetime) -> Spent:
        return replace(self, escalated_at=now)

    def cleared(self) -> Spent:
        """The subject is well: the whole budget is there again."""
        return Spent(self.subject, self.version)


class StaleBudget(PlatformError):
    """Someone else acted on the subject. Never retried with the old state: it would be spent twice."""

    def __init__(self, subject: str) -> None:
        super().__init__(subject)
        self.what = f"{subject}: the state of its remediation was changed after it was read"
        self.untouched = f"{subject} and its remediation budget"
        self.next_step = "read it again; another run is remediating the same subject"


class RemediationBudgets:
    """Budgets in the operations database. Every method raises ``OperationsUnavailable``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read(self, subject: str) -> Spent:
        """An unspent budget with version 0 where nothing is stored."""
        from sqlalchemy import select

        from dr_platform.operations.tables import remediation_budget as t

        with unavailable_when_down(), self._engine.connect() as connection:
            row = connection.execute(select(t).where(t.c.subject == subject)).first()
        return Spent(**row._mapping) if row else Spent(subject)  # noqa: SLF001 - public name

    def write(self, spent: Spent) -> Spent:
        """Store it in place of the version that was read, else raise ``StaleBudget``. Save before
        acting: an attempt that was not counted could be repeated without end."""
        from sqlalchemy import update
        from sqlalchemy.dialects.postgresql import insert

        from dr_platform.operations.tables import remediation_budget as t

        stored = replace(spent, version=spent.version + 1)
        if spent.version == 0:
            change = insert(t).values(**vars(stored)).on_conflict_do_nothing()
        else:
            chosen = (t.c.subject == spent.subject) & (t.c.version == spent.version)
            change = update(t).where(chosen).values(**vars(stored))
        with unavailable_when_down(), self._engine.begin() as connection:
            if connection.execute(change.returning(t.c.version)).first() is None:
                raise StaleBudget(spent.subject)
        return stored
