"""What looks at the platform found, one row a look, kept for days.

Here: storing, finding and pruning. Not here: the looks (``health``), how often they are taken, or
what follows from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from dr_platform.operations.engine import unavailable_when_down
from dr_platform.verdict import Verdict

if TYPE_CHECKING:
    from sqlalchemy import Engine, Row

KEPT = timedelta(days=7)


@dataclass(frozen=True)
class Observation:
    """``look`` names the check, such as ``health``, on ``subject``, such as ``services/<name>``."""

    at: datetime
    subject: str
    look: str
    verdict: Verdict


class Observations:
    """Observations in the operations database. Every method raises ``OperationsUnavailable``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def record(self, observations: Iterable[Observation]) -> None:
        """All of them or none."""
        from sqlalchemy import insert

        from dr_platform.operations.tables import observation

        rows = [_row(o) for o in observations]
        if rows:
            with unavailable_when_down(), self._engine.begin() as connection:
                connection.execute(insert(observation), rows)

    def newest(self) -> dict[tuple[str, str], Observation]:
        """The last observation of each subject and look."""
        from sqlalchemy import func, select

        from dr_platform.operations.tables import observation as t

        newest_first = (t.c.at.desc(), t.c.id.desc())
        rank = func.row_number().over(partition_by=(t.c.subject, t.c.look), order_by=newest_first)
        ranked = select(t, rank.label("rank")).subquery()
        query = select(ranked).where(ranked.c.rank == 1)
        with unavailable_when_down(), self._engine.connect() as connection:
            found = [_observation(row) for row in connection.execute(query)]
        return {(o.subject, o.look): o for o in found}

    def history(self, subject: str, look: str, since: datetime) -> tuple[Observation, ...]:
        """Oldest first."""
        from sqlalchemy import select

        from dr_platform.operations.tables import observation as t

        chosen = (t.c.subject == subject) & (t.c.look == look) & (t.c.at >= since)
        with unavailable_when_down(), self._engine.connect() as connection:
            rows = connection.execute(select(t).where(chosen).order_by(t.c.at, t.c.id)).all()
        return tuple(_observation(row) for row in rows)

    def prune(self, now: datetime, kept: timedelta = KEPT) -> int:
        """Remove what is older than ``kept`` and return how many rows that were. The newest of a
        subject and look goes as well: what nobody looked at for days is not known."""
        from sqlalchemy import delete

        from dr_platform.operations.tables import observation as t

        with unavailable_when_down(), self._engine.begin() as connection:
            return connection.execute(delete(t).where(t.c.at < now - kept)).rowcount


def _row(observation: Observation) -> dict[str, Any]:
    return {
        "at": observation.at,
        "subject": observation.subject,
        "look": observation.look,
        "passed": observation.verdict.passed,
        "why": observation.verdict.why,
        "measurements": dict(observation.verdict.measurements),
    }


def _observation(row: Row[Any]) -> Observation:
    return Observation(row.at, row.subject, row.look, Verdict(row.passed, row.why, row.measurements))
