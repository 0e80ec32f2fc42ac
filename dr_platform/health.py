"""Looking at the parts of a running platform and judging what is seen.

Here: one verdict function per kind of asset and of check. Every function answers and none raises:
what cannot be looked at is a verdict of its own, which does not pass. Texts hold names, counts and
times, never field values of a service or a row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from dr_platform import open_incidents
from dr_platform.analysis import CHECK, analysis_verdict
from dr_platform.catalog import KnowledgeSet
from dr_platform.databases.port import DatabaseUnreachable, Finding, ManagedDatabase
from dr_platform.errors import PlatformError
from dr_platform.look import Cost, Look, always_answers, health_body
from dr_platform.platform import Platform
from dr_platform.rollout import record as records
from dr_platform.rollout.record import Record
from dr_platform.runtime.local.documents import InUse
from dr_platform.runtime.port import Observed, ProbeResult, Slot, SlotStatus
from dr_platform.schema_changes import drift_verdict, lint_verdict
from dr_platform.verdict import Measure, Verdict

if TYPE_CHECKING:
    import psycopg

PROBE_S = 3.0
PROTECTED = "/v1/protected"
REFUSALS = (401, 403)
"""How a service answers a request for it that has no token."""
REQUIRED_COMPLIANCE = ("hipaa_audit_enabled", "encryption_active", "access_controls_active")
"""Fields of the health response's compliance block (second guide, "Health Check Response")."""


@always_answers
def runtime_verdict(platform: Platform) -> Verdict:
    """Supervisor and keeper run, and no process has been given up on."""
    processes = platform.supervisor.processes()
    failed = sorted(p.name for p in processes if p.state in ("FATAL", "BACKOFF"))
    keeper = any(p.group == "keeper" and p.state == "RUNNING" for p in processes)
    measurements: dict[str, Measure] = {"processes": len(processes), "failed": len(failed)}
    if not keeper:
        return Verdict(False, "the keeper does not run: nobody would restart the supervisor", measurements)
    if failed:
        return Verdict(False, f"cannot be kept running: {', '.join(failed)}", measurements)
    return Verdict(True, f"{len(processes)} processes supervised", measurements)


@always_answers
def ports_verdict(platform: Platform) -> Verdict:
    """No documented port is held by a foreign program."""
    from dr_platform.bring_up import check_ports
    from dr_platform.runtime.local.ports import PortsBusy

    try:
        outcome = check_ports(platform)
    except PortsBusy as exc:
        return Verdict(False, exc.what)
    return Verdict(True, outcome.describe(), outcome.measurements())


@always_answers
def router_verdict(platform: Platform) -> Verdict:
    """The router answers, and uses exactly the weights and the notices that were written."""
    drifted, blind, suspended = [], [], 0
    names = sorted(platform.runtime.declared())
    for name in names:
        seen, told = platform.local_runtime.router.in_use(name), platform.local_runtime.told(name)
        suspended += told.notice is not None
        if seen.weights is None:
            blind.append(name)
        elif seen != told:
            drifted.append(f"{name} {_routing(seen)} instead of {_routing(told)}")
    measurements: dict[str, Measure] = {
        "routes": len(names),
        "drifted": len(drifted),
        "unread": len(blind),
        "suspended": suspended,
    }
    if names and len(blind) == len(names):
        return Verdict(False, "the router does not answer", measurements)
    if blind:
        return Verdict(None, f"could not read the routes of {', '.join(blind)}", measurements)
    if drifted:
        return Verdict(False, f"routes differ from what was written: {'; '.join(drifted)}", measurements)
    missing = sorted(set(platform.catalog.services) - set(names))
    if missing:
        return Verdict(False, f"no route for {', '.join(missing)}", measurements)
    paused = f", {suspended} suspended for maintenance" if suspended else ""
    return Verdict(True, f"{len(names)} routes as written{paused}", measurements)


def _routing(routing: InUse) -> str:
    """The notice's text is left out: people wrote it."""
    weights = f"{routing.weights.blue}/{routing.weights.green}" if routing.weights else "unknown"
    return f"{weights} suspended" if routing.notice else weights


@always_answers
def operations_verdict(platform: Platform) -> Verdict:
    """The operations database answers, is current, and the evidence chain is whole."""
    started = platform.clock.monotonic()
    broken = platform.evidence.verify()
    entries = platform.evidence.count()
    measurements: dict[str, Measure] = {
        "evidence_entries": entries,
        "latency_ms": round((platform.clock.monotonic() - started) * 1000, 2),
    }
    if broken is not None:
        return Verdict(False, f"the evidence chain is broken at entry {broken}", measurements)
    return Verdict(True, f"evidence chain of {entries} entries is whole", measurements)


@always_answers
def database_verdict(platform: Platform, name: str) -> Verdict:
    """The server answers a simple query within the latency that the catalog promises."""
    from dr_platform.bring_up import unavailable_reason

    if (reason := unavailable_reason(platform, name)) is not None:
        return Verdict(False, reason, {"available": False})
    limit_ms = platform.catalog.databases[name].latency * 1000
    try:
        database = platform.connect(name)
        try:
            latency = _best_latency(database, limit_ms)
            info = database.server()
        finally:
            database.close()
    except DatabaseUnreachable as exc:
        return Verdict(False, exc.what, {"limit_ms": limit_ms})
    measurements: dict[str, Measure] = {
        "latency_ms": round(latency, 3),
        "limit_ms": limit_ms,
        "server": f"{info.server} {info.version}",
    }
    if latency > limit_ms:
        return Verdict(False, f"a simple query took {latency:.1f} ms, promised are {limit_ms:g} ms", measurements)
    return Verdict(True, f"{info.server} {info.version} answered in {latency:.1f} ms", measurements)


def _best_latency(database: ManagedDatabase, limit_ms: float) -> float:
    """The best of up to 120 queries within three seconds: what remains is the server's own time, not the wait
    for a processor on a machine that is busy for a moment, nor that of a program that is not compiled yet."""
    best = spent = database.ping()
    for _ in range(119):
        if best <= limit_ms or spent > 3000:
            break
        latency = database.ping()
        best, spent = min(best, latency), spent + latency
    return best


@always_answers
def database_hipaa_verdict(platform: Platform, name: str) -> Verdict:
    """Access, authentication and audit properties, measured at the server itself."""
    database = platform.connect(name, "admin")
    try:
        findings = database.findings()
    finally:
        database.close()
    waivers = platform.catalog.databases[name].embedded_waivers if platform.binding.databases == "embedded" else {}
    return _judge_findings(findings, waivers)


def _judge_findings(findings: Sequence[Finding], waivers: Mapping[str, str]) -> Verdict:
    """A property that does not hold fails unless it is waived, and what is waived is shown."""
    bad = [f for f in findings if f.passed is False and f.name not in waivers]
    blind = [f for f in findings if f.passed is None and f.name not in waivers]
    waived = [f for f in findings if not f.passed and f.name in waivers]
    good = len(findings) - len(bad) - len(blind) - len(waived)
    measurements: dict[str, Measure] = {
        "passed": good,
        "failed": len(bad),
        "unmeasured": len(blind),
        "waived": len(waived),
    }
    if not findings:
        return Verdict(None, "the server let nothing be measured", measurements)
    if bad or blind:
        problems = [f"{f.name}: {f.detail} ({f.clause})" for f in bad]
        problems += [f"{f.name}: could not be measured" for f in blind]
        return Verdict(False if bad else None, "; ".join(problems), measurements)
    shown = "".join(f"; waived: {f.name} ({waivers[f.name]})" for f in waived)
    return Verdict(True, f"{good} of {len(findings)} properties hold{shown}", measurements)


@always_answers
def schema_verdict(platform: Platform, name: str) -> Verdict:
    """The applied migrations are exactly the files of the catalog, unedited."""
    from dr_platform.databases.schema import plan, read_steps

    steps = read_steps(platform.catalog.database_folder(name) / "migrations")
    database = platform.connect(name, "admin")
    try:
        applied = database.applied()
    finally:
        database.close()
    pending = plan(name, steps, applied)
    current = applied[-1].version if applied else "none"
    measurements: dict[str, Measure] = {"applied": len(applied), "pending": len(pending), "schema_version": current}
    if pending:
        return Verdict(False, f"not applied: {', '.join(s.version for s in pending)}", measurements)
    return Verdict(True, f"schema {current} as in the catalog", measurements)


@always_answers
def service_verdict(platform: Platform, name: str) -> Verdict:
    """All wanted replicas are ready, and the service itself says that it is healthy."""
    observed = platform.runtime.observe(name)
    record = records.read(platform.runtime, name).record
    wanted = platform.replicas_of(platform.catalog.services[name])
    serving = _serving(record, observed)
    ready = sum(status.ready for status in serving)
    restarts = sum(r.restarts for status in serving for r in status.replicas)
    measurements: dict[str, Measure] = {"replicas": ready, "replicas_desired": wanted, "restarts": restarts}
    if ready < wanted and not _changing(record):
        reasons = sorted({r.reason for status in serving for r in status.replicas if r.reason})
        why = f"{ready} of {wanted} replicas ready" + (f": {'; '.join(reasons)}" if reasons else "")
        return Verdict(False, why, measurements)
    answer = platform.runtime.probe(name, "/health", timeout_s=PROBE_S)
    measurements["latency_ms"] = round(answer.latency_ms, 2)
    body = health_body(answer)
    if body is None:
        return Verdict(False, f"/health: {answer.reason or f'HTTP {answer.status}'}", measurements)
    sick = sorted(k for k, v in body.get("dependencies", {}).items() if v != "healthy")
    measurements["version"] = str(body.get("version", ""))
    if body.get("status") != "healthy":
        detail = f"; unhealthy: {', '.join(sick)}" if sick else ""
        return Verdict(False, f"says it is {_word(body.get('status'))}{detail}", measurements)
    noted = "; suspended for maintenance" if observed.notice else ""
    noted += "; a rollout is under way" if record.rollout is not None else ""
    noted += "; its replicas are being started anew" if record.restart is not None else ""
    return Verdict(True, f"{ready} of {wanted} replicas ready, healthy{noted}", measurements)


def _changing(record: Record) -> bool:
    """Whether a controller is at work on its replicas: what the service says counts, not how many there are."""
    return record.rollout is not None or record.restart is not None


def _serving(record: Record, observed: Observed) -> list[SlotStatus]:
    """The slots whose replicas count: the stable one, and during a rollout both. A revision that is
    only kept warm serves nobody. Nothing stable: whatever is there."""
    if record.rollout is not None or record.stable is None:
        return list(observed.slots.values())
    return [observed.slots[record.stable.slot]]


@always_answers
def service_hipaa_verdict(platform: Platform, name: str) -> Verdict:
    """Audit, encryption and access control are active, as the service measures them itself, and the
    service refuses a request without a token, as seen from outside (45 CFR 164.312(a), (b), (d))."""
    answer = platform.runtime.probe(name, "/health", timeout_s=PROBE_S)
    body = health_body(answer)
    if body is None:
        return Verdict(None, f"/health: {answer.reason or f'HTTP {answer.status}'}")
    compliance = body.get("compliance", {})
    failed = [field for field in REQUIRED_COMPLIANCE if compliance.get(field) is not True]
    stranger = _as_stranger(platform, name)
    if stranger.status is None:
        return Verdict(None, f"{PROTECTED}: {stranger.reason}")
    if stranger.status not in REFUSALS:
        failed.append(f"a request without a token is answered {stranger.status}")
    measurements: dict[str, Measure] = {"properties": len(REQUIRED_COMPLIANCE) + 1, "failed": len(failed)}
    if failed:
        return Verdict(False, f"not active: {', '.join(failed)}", measurements)
    return Verdict(True, "audit, encryption and access control are active", measurements)


def _as_stranger(platform: Platform, name: str) -> ProbeResult:
    """A request without a token. While the service is suspended the router answers for it, so its
    own answer is asked of the slot that carries its traffic."""
    answer = platform.runtime.probe(name, PROTECTED, timeout_s=PROBE_S)
    if answer.status != 503:
        return answer
    observed = platform.runtime.observe(name)
    if observed.notice is None or observed.weights is None:
        return answer
    return platform.runtime.probe(name, PROTECTED, max(Slot, key=observed.weights.of), timeout_s=PROBE_S)


def _word(text: object) -> str:
    """A word of a service's answer that is safe to show: letters only, short."""
    return "".join(c for c in str(text)[:20] if c.isalpha()) or "something unreadable"


def service_health_body(platform: Platform, name: str) -> Mapping[str, Any]:
    """The service's own ``/health`` body, or ``{"status": "unreachable", "reason": …}``."""
    try:
        answer = platform.runtime.probe(name, "/health", timeout_s=PROBE_S)
    except PlatformError as exc:
        return {"status": "unreachable", "reason": exc.what}
    body = health_body(answer)
    return body or {"status": "unreachable", "reason": answer.reason or f"HTTP {answer.status}"}


def all_health_bodies(platform: Platform) -> dict[str, Mapping[str, Any]]:
    """``service_health_body`` of every service, asked side by side."""
    names = sorted(platform.catalog.services)
    with ThreadPoolExecutor(max_workers=8) as pool:
        return dict(zip(names, pool.map(lambda n: service_health_body(platform, n), names), strict=True))


@always_answers
def knowledge_store_verdict(platform: Platform, name: str) -> Verdict:
    """The store holds exactly the set's articles, and was compared with them recently enough."""
    from dr_platform.knowledge.seeding import freshness, pending_changes

    knowledge_set = platform.catalog.knowledge[name]
    folder = platform.catalog.knowledge_folder(name) / knowledge_set.source
    with platform.knowledge() as connection:
        pending = pending_changes(connection, knowledge_set, folder)
        age = freshness(connection, knowledge_set, platform.clock.now())
    measurements: dict[str, Measure] = {"pending": pending, "age_days": round(age.days, 3) if age.known else -1.0}
    if not age.known:
        return Verdict(False, "never seeded", measurements)
    if pending:
        return Verdict(False, f"{pending} documents differ from the source", measurements)
    if age.days > knowledge_set.freshness_days:
        limit = knowledge_set.freshness_days
        return Verdict(False, f"last compared {age.days:.0f} days ago, allowed are {limit}", measurements)
    return Verdict(True, "equals its source", measurements)


@always_answers
def retrieval_verdict(platform: Platform, name: str) -> Verdict:
    """The set's labelled questions find their documents well enough, and fast enough: the quickest of up to
    five rounds, because what remains is the search's own time, not the wait for a processor on a machine that is busy
    for a moment. What is found is the same each time."""
    from dr_platform.knowledge.evaluate import evaluate_set

    folder = platform.catalog.knowledge_folder(name)
    knowledge_set = platform.catalog.knowledge[name]
    with platform.knowledge() as connection:
        embedder = platform.embedder_of(connection)
        report = evaluate_set(connection, embedder, knowledge_set, folder)
        for _ in range(4):
            if report.fused.p95_ms <= knowledge_set.retrieval.p95 * 1000:
                break
            again = evaluate_set(connection, embedder, knowledge_set, folder)
            report = min(report, again, key=lambda round_: round_.fused.p95_ms)
    return report.verdict()


@always_answers
def knowledge_gate(platform: Platform, name: str, gate: Gate) -> Verdict:
    """One property of a set's stored articles."""
    with platform.knowledge() as connection:
        return gate(connection, platform.catalog.knowledge[name])


Gate = Callable[["psycopg.Connection", KnowledgeSet], Verdict]


def _gates(platform: Platform) -> tuple[tuple[str, str, bool, Gate], ...]:
    """Name, description, whether a failure is an error, and the look."""
    from dr_platform.knowledge import gates
    from dr_platform.knowledge.seeding import identifiers

    return (
        ("duplicates", "No article repeats a passage of another one.", False, gates.duplicates_verdict),
        ("language", "Articles are in the language that they declare.", False, gates.language_verdict),
        (
            "phi",
            "Stored passages hold nothing that seems to identify a patient (45 CFR 164.514(b)(2)).",
            True,
            lambda connection, chosen: gates.phi_verdict(connection, chosen, identifiers),
        ),
        (
            "staleness",
            "Every article was reviewed within the set's policy.",
            False,
            lambda connection, chosen: gates.staleness_verdict(connection, chosen, platform.clock.now()),
        ),
    )


def looks(platform: Platform) -> tuple[Look, ...]:
    """Every check of every asset: the one list that Dagster, sensors and the command share."""
    from dr_platform.recovery import recovery_looks
    from dr_platform.validation.looks import validation_looks

    held_to_hipaa = platform.environment.compliance.rank > 0
    found = [
        Look(("infrastructure", name), "healthy", text, functools.partial(verdict, platform))
        for name, text, verdict in (
            ("runtime", "Supervisor and keeper run, nothing has been given up on.", runtime_verdict),
            ("router", "Envoy uses exactly the weights that were written.", router_verdict),
            ("ports", "No documented port is held by another program.", ports_verdict),
            ("state", "The operations database answers and the evidence chain is whole.", operations_verdict),
        )
    ]
    for name in platform.catalog.databases:
        found += _database_looks(platform, name, held_to_hipaa)
    found.append(
        Look(
            ("services", "fleet"),
            "healthy",
            "Every service has the replicas that the release wants.",
            functools.partial(fleet_verdict, platform),
            together="services_state",
        )
    )
    for name in platform.catalog.services:
        found += _service_looks(platform, name, held_to_hipaa)
    for name in platform.catalog.knowledge:
        found += _knowledge_looks(platform, name)
    return (*found, *validation_looks(platform), *recovery_looks(platform), *_incident_looks(platform))


def _database_looks(platform: Platform, name: str, held: bool) -> list[Look]:
    bound = functools.partial
    return [
        Look(
            ("databases", name),
            "healthy",
            "Answers a simple query within the promised latency.",
            bound(database_verdict, platform, name),
        ),
        Look(
            ("databases", name),
            "hipaa",
            "Access, authentication and audit properties measured at the server (45 CFR 164.312).",
            bound(database_hipaa_verdict, platform, name),
            held,
            (("schema", name),),
            together="schema_state",
        ),
        Look(
            ("schema", name),
            "healthy",
            "The applied migrations are exactly the files of the catalog.",
            bound(schema_verdict, platform, name),
            together="schema_state",
        ),
        Look(
            ("schema", name),
            "lint",
            "Every migration is written so that it harms nobody while it runs, or its waiver says why.",
            always_answers(bound(lint_verdict, platform, name)),
            together="schema_state",
        ),
        Look(
            ("schema", name),
            "drift",
            "The live schema is what the newest migration left; nobody changed it by hand.",
            always_answers(bound(drift_verdict, platform, name)),
            together="schema_state",
        ),
    ]


def _service_looks(platform: Platform, name: str, held: bool) -> list[Look]:
    bound = functools.partial
    return [
        Look(
            ("services", name),
            "healthy",
            "All wanted replicas are ready and the service says that it is healthy.",
            bound(service_verdict, platform, name),
            together="services_state",
        ),
        Look(
            ("services", name),
            "hipaa",
            "Audit, encryption and access control are active, measured by the service and from outside.",
            bound(service_hipaa_verdict, platform, name),
            held,
            together="services_state",
        ),
        Look(
            ("services", name),
            CHECK,
            "What carries traffic was found good by the triggers of its rollout.",
            bound(always_answers(analysis_verdict), platform, name),
            False,
            # No part of bringing something up: rollouts write their own answers, this one repeats the last.
            cost=Cost.THOROUGH,
        ),
    ]


def _knowledge_looks(platform: Platform, name: str) -> list[Look]:
    bound = functools.partial
    return [
        Look(
            ("knowledge", name),
            "healthy",
            "The store equals the set's articles and is fresh.",
            bound(knowledge_store_verdict, platform, name),
            together="knowledge_state",
        ),
        Look(
            ("knowledge", name),
            "retrieval",
            "Labelled questions find their articles.",
            bound(retrieval_verdict, platform, name),
            together="knowledge_state",
        ),
        *(
            # Whole sets are read, so not in every run that brings something up.
            Look(
                ("knowledge", name),
                check,
                text,
                bound(knowledge_gate, platform, name, gate),
                severe,
                (),
                Cost.THOROUGH,
                "knowledge_gates",
            )
            for check, text, severe, gate in _gates(platform)
        ),
    ]


def _incident_looks(platform: Platform) -> list[Look]:
    bound, asset = functools.partial, ("compliance", "incidents")
    state = (("infrastructure", "state"),)
    return [
        Look(
            asset,
            "healthy",
            "Every incident can be read as it was written.",
            bound(ledger_verdict, platform),
            True,
            state,
            together="incidents",
        ),
        Look(
            asset,
            "assessed",
            "No breach assessment is pending (45 CFR 164.402(2), 164.414(b)).",
            bound(assessments_verdict, platform),
            True,
            state,
            together="incidents",
        ),
    ]


@always_answers
def ledger_verdict(platform: Platform) -> Verdict:
    """Every incident can be read."""
    from dr_platform.incidents import BrokenIncident

    try:
        found = open_incidents.look(platform.incidents)
    except BrokenIncident as exc:
        return Verdict(False, exc.what)
    return Verdict(True, found.describe(), found.measurements())


@always_answers
def assessments_verdict(platform: Platform) -> Verdict:
    """No incident waits for the signature under its breach assessment."""
    found = open_incidents.look(platform.incidents)
    if found.pending:
        return Verdict(False, f"not assessed: {', '.join(i.id for i in found.pending)}", found.measurements())
    return Verdict(True, "no breach assessment is pending", found.measurements())


@always_answers
def fleet_verdict(platform: Platform) -> Verdict:
    """Every service has the replicas that the release wants, and no other service is there."""
    missing = []
    for name, service in platform.catalog.services.items():
        observed = platform.runtime.observe(name)
        record = records.read(platform.runtime, name).record
        ready = sum(status.ready for status in _serving(record, observed))
        if ready < platform.replicas_of(service) and not _changing(record):
            missing.append(name)
    surplus = sorted(platform.runtime.declared() - set(platform.catalog.services))
    total = len(platform.catalog.services)
    measurements: dict[str, Measure] = {"services": total, "settled": total - len(missing), "surplus": len(surplus)}
    if missing or surplus:
        late = f"not ready: {', '.join(missing)}" if missing else f"not in the catalog: {', '.join(surplus)}"
        return Verdict(False, late, measurements)
    return Verdict(True, f"{total} services as wanted", measurements)
