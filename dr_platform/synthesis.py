"""Synthetic data for an environment: where its databases are, what was done, the entry in the evidence log.

Here: joining the platform with ``synthetic``. Not here: what is made, or how it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dr_platform.bring_up import unavailable_reason
from dr_platform.catalog import Engine
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.platform import Platform
from dr_platform.synthetic.plan import Existing, Plan, require_synthetic
from dr_platform.verdict import Measure, Progress, silent

if TYPE_CHECKING:
    # Drivers, numpy and cryptography are loaded when data is made, not wherever the verb or the job is known.
    from dr_platform.synthetic.load import LoadReport
    from dr_platform.synthetic.worker import Server, Servers

EVIDENCE = "synthetic-data"


class NoAccounts(PlatformError):
    exit_code = ExitCode.UNAVAILABLE

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.what = f"synthetic data cannot be loaded, because accounts have nowhere to be: {reason}"
        self.untouched = "every database"
        self.next_step = "bring the database up with `drp up`, then repeat"


@dataclass(frozen=True)
class SynthesisOutcome:
    """``absent`` are databases that this machine cannot have now, with the reason."""

    report: LoadReport
    absent: tuple[tuple[str, str], ...]

    def measurements(self) -> dict[str, Measure]:
        report = self.report
        rate = report.rows / report.duration_s if report.duration_s else 0.0
        figures: dict[str, Measure] = {
            "seed": str(report.plan.seed),
            "scale": report.plan.scale,
            "patients": report.plan.patients,
            "rows_loaded": report.rows,
            "rows_removed": report.removed,
            "rows_per_s": round(rate),
            "generated_s": round(report.generated_s, 3),
            "duration_s": round(report.duration_s, 3),
            "finished": report.finished,
        }
        figures |= {f"{name}_rows": sum(tables.values()) for name, tables in report.held.items()}
        figures |= {f"{name}_load_s": round(seconds, 3) for name, seconds in report.seconds.items()}
        return figures

    def describe(self) -> str:
        report = self.report
        held = ", ".join(f"{sum(tables.values()):,} in {name}" for name, tables in report.held.items())
        now = f"{report.rows:,} rows loaded in {report.duration_s:.1f} s" if report.rows else "nothing to load"
        without = "".join(f"; not in {name}: {reason}" for name, reason in self.absent)
        return f"{report.plan.patients:,} patients of {report.plan}: {now}; there are {held or 'none'}{without}"

    def as_json(self) -> dict[str, object]:
        return {**self.measurements(), "until": self.report.plan.until.isoformat(), "tables": self.report.held}


def synthesize(
    platform: Platform,
    plan: Plan,
    actor: str,
    progress: Progress = silent,
    *,
    existing: Existing = Existing.KEPT,
    processes: int = 2,
) -> SynthesisOutcome:
    """Bring the environment's databases to hold the plan's rows; a repetition changes nothing.

    Raises ``NotSynthetic`` before anything is connected to, ``NoAccounts`` where PostgreSQL is not
    there, and what ``load`` raises.
    """
    from dr_platform.synthetic.load import load

    require_synthetic(platform.environment.name, platform.binding.data_class)
    servers = servers_of(platform)
    absent = tuple(_absent(platform, servers))
    missing = dict(absent)
    if (reason := missing.get(servers.postgresql.database.name)) is not None:
        raise NoAccounts(reason)
    for name, reason in absent:
        progress(f"{name} is left out: {reason}")
    report = load(
        plan,
        servers,
        platform.environment.name,
        platform.binding.data_class,
        platform.clock,
        wanted=tuple(name for name in servers.names if name not in missing),
        existing=existing,
        processes=processes,
        progress=progress,
    )
    if report.rows or report.removed:
        # In thousands: an exact count of nine digits would read as an identifier of somebody.
        body = {"thousand_rows": report.rows // 1000, "thousand_removed": report.removed // 1000}
        platform.evidence.append(EVIDENCE, platform.environment.name, actor, body)
    return SynthesisOutcome(report, absent)


def servers_of(platform: Platform) -> Servers:
    """The first database of each engine."""
    from dr_platform.synthetic.worker import Server, Servers

    firsts: dict[Engine, Server] = {}
    for database in platform.catalog.databases.values():
        firsts.setdefault(database.engine, Server(database, platform.endpoint(database)))
    if Engine.POSTGRESQL not in firsts:
        raise NoAccounts("the catalog has no PostgreSQL database")
    return Servers(firsts.pop(Engine.POSTGRESQL), tuple(firsts.values()), platform.secrets)


def _absent(platform: Platform, servers: Servers) -> Iterator[tuple[str, str]]:
    for name in servers.names:
        if (reason := unavailable_reason(platform, name)) is not None:
            yield name, reason
