"""Between Dagster and the platform: outcomes become results, verdicts become check results, expected
failures become failures that say what to do. Not here: any definition or decision."""

from __future__ import annotations

import functools
import hashlib
import json
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord  # named nowhere public

from dr_platform.aftercare import Called, WentBack
from dr_platform.analysis import ENTRY, Analysis
from dr_platform.backup_desk import slot_of
from dr_platform.delivery import figures
from dr_platform.emergency import Handled
from dr_platform.errors import PlatformError, TemporaryFailure
from dr_platform.intake.decide import Accepted
from dr_platform.knowledge.upkeep import Reseed, Tried
from dr_platform.look import Cost, Look
from dr_platform.open_incidents import OpenIncidents
from dr_platform.platform import Platform
from dr_platform.remediation import Condition, Policies, Target, Trail, subject_of
from dr_platform.remedy import Findings, Remedy
from dr_platform.rollout.record import Outcome as Ended
from dr_platform.rollout.takeover import Earlier, Start
from dr_platform.schema_approvals import due
from dr_platform.verdict import Measure, Verdict
from dr_platform.watch import CheckName, Written, name_of

T = TypeVar("T")
Sensor = Callable[[dg.SensorEvaluationContext], dg.SensorResult]
ANSWERS = {True: "good", False: "bad", None: "unknown"}
HEALTHY = "healthy"
REMEDIATION_JOB = "remediate"
SEED_JOB = "seed"
RESTART_JOB = "restart_part"
RESTART_OP = "start_anew"
WORKING_JOBS = frozenset({"bring_up", REMEDIATION_JOB, RESTART_JOB, "teardown", "__ASSET_JOB"})
"""Jobs that change targets; the last is what Dagster calls a materialisation started in its UI."""
TEND_JOB = "tend_rollouts"
PROMOTE_OP = "promote_release"
INTAKE_TAG = "dr-platform/intake"
ACTOR_TAG = "dr-platform/actor"
"""Who started the run, where somebody said so."""
REASON_TAG = "dr-platform/reason"
"""Why the run was started, for the record."""
LAPSE_TAG = "dr-platform/lease-lapse"
ANALYSED = ":analysed"
"""In the cursor of the sensor ``rollouts``, beside the names of services, none of which has a colon."""
SHOWN_BEFORE = 1000
"""So many results of a check are asked for those that were shown already; a rollout has some ten."""
TARGET_TAG = "dr-platform/remediation"
ATTEMPT_TAG = "dr-platform/attempt"
ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
AT_WORK = [status for status in dg.DagsterRunStatus if status not in ENDED]
"""Who started the run, where somebody said so."""
BACKUP_SLOTS = dg.DailyPartitionsDefinition(start_date="2026-01-01", timezone="UTC", end_offset=1)
"""Today's slot is there from its first minute on."""
PRUNE_JOB = "backups_prune"
DRILL_JOB = "drill"
DRILL_OP = "bring_back_everything"
PURGE_BATCH = 2000
"""Runs removed by one call: bounds how long it takes."""


def backup_job_name(database: str) -> str:
    return f"backup_{database.replace('-', '_')}"


def backup_request(
    database: str, kind: str, why: str, at: datetime, *, run_key: str | None = None, job_name: str | None = None
) -> dg.RunRequest:
    """A run that takes a backup now; without a ``kind`` the one for disaster recovery. ``why`` is ``schedule``, or the
    sensor's word for it."""
    return dg.RunRequest(
        run_key=run_key,
        job_name=job_name,
        partition_key=slot_of(at),
        run_config={"ops": {f"backups__{database.replace('-', '_')}": {"config": {"kind": kind, "reason": why}}}},
        tags={ACTOR_TAG: why if why == "schedule" else "sensor:backups", REASON_TAG: why},
    )


class Outcome(Protocol):
    def measurements(self) -> Mapping[str, Measure]: ...

    def describe(self) -> str: ...


def carried_out(act: Callable[[], T]) -> T:
    """Run something of the platform; only what may succeed when tried again is retried."""
    try:
        return act()
    except PlatformError as exc:
        raise dg.Failure(
            description=f"{exc.what}. {exc.next_step}",
            metadata={"untouched": exc.untouched, "next": exc.next_step},
            allow_retries=isinstance(exc, TemporaryFailure),
        ) from None
    except Exception as exc:  # noqa: BLE001 - whatever a step runs into becomes a failure with its place
        # A defect: repeating the step would repeat it. Its text stays out of the event log, it may quote data.
        raise dg.Failure(
            description=f"unexpected {type(exc).__name__}, a defect of the platform",
            metadata={"at": _frames(exc)},
            allow_retries=False,
        ) from None


def _frames(exc: BaseException) -> str:
    """Where it happened, innermost first; places in the code alone, no values."""
    frames = traceback.extract_tb(exc.__traceback__)[-8:]
    return "\n".join(f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in reversed(frames))


def materialized(outcome: Outcome, key: Iterable[str] | None = None) -> dg.MaterializeResult:
    metadata = {"summary": outcome.describe(), **outcome.measurements()}
    return dg.MaterializeResult(asset_key=dg.AssetKey(list(key)) if key else None, metadata=metadata)


def key_of(look: Look) -> dg.AssetCheckKey:
    return dg.AssetCheckKey(dg.AssetKey(list(look.asset)), look.check)


def cheap(looks: Iterable[Look]) -> list[Look]:
    """What belongs to every run that brings something up."""
    return [look for look in looks if look.cost is Cost.CHEAP]


def loadless(looks: Iterable[Look]) -> list[Look]:
    """What may be looked at without anybody asking for it."""
    return [look for look in looks if look.cost is not Cost.LOAD]


def selection_of(looks: Iterable[Look]) -> dg.AssetSelection:
    return dg.AssetSelection.checks(*(key_of(look) for look in looks))


def severity_of(look: Look) -> dg.AssetCheckSeverity:
    return dg.AssetCheckSeverity.ERROR if look.severe else dg.AssetCheckSeverity.WARN


def metadata_of(verdict: Verdict) -> dict[str, Measure]:
    return {"answer": ANSWERS[verdict.passed], "why": verdict.why, **verdict.measurements}


def check_result(look: Look, verdict: Verdict) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=dg.AssetKey(list(look.asset)),
        check_name=look.check,
        passed=verdict.passed is True,
        severity=severity_of(look),
        description=verdict.why,
        metadata={**metadata_of(verdict), **_report_of(verdict)},
    )


def _report_of(verdict: Verdict) -> dict[str, dg.MarkdownMetadataValue]:
    return {"report": dg.MetadataValue.md(verdict.report)} if verdict.report else {}


def shown_on_asset(look: Look, verdict: Verdict) -> dg.AssetObservation:
    """The report on the asset itself, with its figures, which the UI draws over time. Figures carry the
    check's name, so that those of different checks do not mix."""
    figures = {f"{look.check}/{name}": value for name, value in verdict.measurements.items()}
    report = {f"{look.check}/report": dg.MetadataValue.md(verdict.report)}
    return dg.AssetObservation(dg.AssetKey(list(look.asset)), metadata={**figures, **report})


def check_evaluation(look: Look, verdict: Verdict) -> dg.AssetCheckEvaluation:
    """The same as an evaluation outside of any run, for sensors."""
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(list(look.asset)),
        check_name=look.check,
        passed=verdict.passed is True,
        severity=severity_of(look),
        description=verdict.why,
        metadata={
            **{k: dg.MetadataValue.text(v) if isinstance(v, str) else v for k, v in metadata_of(verdict).items()},
            **_report_of(verdict),
        },
    )


def answering(evaluate: Callable[[dg.SensorEvaluationContext], dg.SensorResult]) -> Sensor:
    """A sensor whose trouble is its own: it says that it could not look, and looks again at its next
    tick. An error's text stays out of the log, it may quote data."""

    @functools.wraps(evaluate)
    def safe(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        try:
            return evaluate(context)
        except PlatformError as exc:
            return dg.SensorResult(skip_reason=f"could not look: {exc.what}", cursor=context.cursor)
        except Exception as exc:  # noqa: BLE001 - whatever a tick runs into is shown with its place
            found = type(exc).__name__
            context.log.error("unexpected %s, a defect of the platform, at\n%s", found, _frames(exc))  # noqa: TRY400 - no text
            return dg.SensorResult(skip_reason=f"could not look: {type(exc).__name__}", cursor=context.cursor)

    return safe


class History:
    """What the event log and the runs of an instance say, at one moment."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._at_work = tuple(instance.get_runs(dg.RunsFilter(statuses=AT_WORK)))

    def written(self, looks: Iterable[Look]) -> dict[CheckName, Written]:
        """The newest entry of each check; checks that were never evaluated are left out."""
        names = {key_of(look): name_of(look) for look in looks}
        records = self._instance.event_log_storage.get_latest_asset_check_execution_by_key(list(names))
        at_work = {run.run_id for run in self._at_work}
        return {names[key]: _written(record, at_work) for key, record in records.items()}

    def busy(self, target: Target) -> bool:
        """Whether a run works on a target, or one that seeds on a knowledge set of it."""
        return any(_works_on(run, [target]) or _seeds(run, target) for run in self._at_work)

    def trails(
        self, targets: Iterable[Target], now: datetime, window: timedelta, check: str = HEALTHY
    ) -> dict[Target, Trail]:
        """What runs do and did about a check of targets."""
        wanted = tuple(targets)
        busy = {target for run in self._at_work for target in _works_on(run, wanted)}
        runs: dict[str, list[dg.RunRecord]] = {}
        for job in (REMEDIATION_JOB, RESTART_JOB):
            for record in self._instance.get_run_records(dg.RunsFilter(job_name=job, created_after=now - window)):
                runs.setdefault(record.dagster_run.tags.get(TARGET_TAG, ""), []).append(record)
        return {target: _trail(target in busy, runs.get(subject_of(target, check), [])) for target in wanted}


def _written(record: AssetCheckExecutionRecord, at_work: Collection[str]) -> Written:
    event = record.event
    evaluation = event.asset_check_evaluation if event is not None else None
    if event is None or evaluation is None:
        promised = record.run_id in at_work
        return Written(None, _utc(record.create_timestamp), promised=promised, broken=not promised)
    # The record itself is as old as the promise of a run to evaluate the check.
    return Written(_answer_of(evaluation), _utc(event.timestamp), evaluation.description or "")


def _answer_of(evaluation: dg.AssetCheckEvaluation) -> bool | None:
    answer = evaluation.metadata.get("answer")
    return {"good": True, "bad": False}.get(str(answer.value)) if answer is not None else evaluation.passed


def _works_on(run: dg.DagsterRun, targets: Iterable[Target]) -> list[Target]:
    """Targets that a run may change: the selected ones, or all where nothing was selected."""
    if run.job_name not in WORKING_JOBS:
        return []
    if run.job_name == RESTART_JOB:  # it selects no asset; started by hand it has no tag and names none
        part = run.tags.get(TARGET_TAG, "").partition(":")[0]
        return [target for target in targets if "/".join(target) == part]
    if not run.asset_selection and not run.asset_check_selection:
        return list(targets)
    return [target for target in targets if dg.AssetKey(list(target)) in (run.asset_selection or ())]


def _seeds(run: dg.DagsterRun, target: Target) -> bool:
    key = dg.AssetKey(list(target))
    return run.job_name == SEED_JOB and (not run.asset_selection or key in run.asset_selection)


def _trail(under_way: bool, records: Iterable[dg.RunRecord]) -> Trail:
    runs = tuple(records)
    ended = max((r.end_time for r in runs if r.end_time is not None), default=None)
    return Trail(under_way, _utc(ended) if ended is not None else None, len(runs))


def _utc(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC)


def conditions_of(written: Mapping[CheckName, Written], check: str = HEALTHY) -> dict[Target, Condition]:
    """What the checks of one name say; where a run is about to answer, nothing is known."""
    return {
        (layer, name): Condition(entry.passed, entry.at, entry.why)
        for (layer, name, asked), entry in written.items()
        if asked == check and not entry.promised and not entry.broken
    }


def findings_of(
    history: History, looks: Iterable[Look], policies: Policies, targets: Iterable[Target], now: datetime
) -> list[Findings]:
    """What every check that something is done about says, and what runs did about it."""
    written, wanted = history.written(looks), tuple(targets)
    window = timedelta(seconds=policies.wanted.window)
    return [
        Findings(check, conditions_of(written, check), history.trails(wanted, now, window, check))
        for check in policies.checks
    ]


def purge_runs(instance: dg.DagsterInstance, older_than: datetime) -> int:
    """Remove ended runs with their events and output, at most ``PURGE_BATCH``; returns how many. Runs
    that may still be working are never removed; what is left is removed by the next call."""
    ended = dg.RunsFilter(statuses=ENDED, created_before=older_than)
    records = instance.get_run_records(filters=ended, limit=PURGE_BATCH, ascending=True)
    for record in records:
        run_id = record.dagster_run.run_id
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        instance.delete_run(run_id)
    return len(records)


def reseed_request(reseed: Reseed, looks: Iterable[Look]) -> dg.RunRequest:
    """A run that seeds one set and looks at it."""
    asset = ("knowledge", reseed.name)
    return dg.RunRequest(
        run_key=reseed.key,
        asset_selection=[dg.AssetKey(list(asset))],
        asset_check_keys=[key_of(look) for look in looks if look.asset == asset],
        tags={ACTOR_TAG: "sensor:knowledge", "dr-platform/why": reseed.why},
    )


def tried_before(cursor: str | None) -> dict[str, Tried]:
    """What the sensor asked for before; nothing where its cursor is of another form."""
    try:
        told = json.loads(cursor or "{}")
        return {
            name: Tried(signature, tuple(datetime.fromisoformat(at) for at in times))
            for name, (signature, times) in told.items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}


def tried_now(before: Mapping[str, Tried], reseeds: Iterable[Reseed]) -> str:
    after = {**before, **{reseed.name: reseed.tried for reseed in reseeds}}
    told = {name: (tried.signature, [at.isoformat() for at in tried.at]) for name, tried in after.items()}
    return json.dumps(told)


def attempt_request(remedy: Remedy, looks: Iterable[Look]) -> dg.RunRequest:
    """A run of one asset with its cheap checks, or one that restarts it; the attempt is in the key, so that
    each is made once."""
    run_key = f"{remedy.subject}:{remedy.episode}:{remedy.number}"
    tags = {TARGET_TAG: remedy.subject, ATTEMPT_TAG: str(remedy.number)}
    if remedy.action == "restart":
        layer, name = remedy.target
        config = {"ops": {RESTART_OP: {"config": {"layer": layer, "part": name}}}}
        return dg.RunRequest(run_key=run_key, job_name=RESTART_JOB, run_config=config, tags=tags)
    return dg.RunRequest(
        run_key=run_key,
        job_name=REMEDIATION_JOB,
        asset_selection=[dg.AssetKey(list(remedy.target))],
        asset_check_keys=[key_of(look) for look in cheap(looks) if look.asset == remedy.target],
        tags=tags,
    )


def remedied_observation(remedy: Remedy) -> dg.AssetObservation:
    """A program asked for the version before, because a check fails."""
    return dg.AssetObservation(
        asset_key=dg.AssetKey(list(remedy.target)),
        description=f"Going back by the policy: {remedy.check}: {remedy.why}",
        metadata={"check": remedy.check, "attempts": remedy.number, "why": remedy.why},
    )


def escalation(remedy: Remedy) -> dg.AssetObservation:
    """What a person is called by: shown on the asset and in its history."""
    return dg.AssetObservation(
        asset_key=dg.AssetKey(list(remedy.target)),
        description=f"A person is needed: {remedy.why}",
        metadata={"escalated": True, "attempts": remedy.number, "why": remedy.why},
    )


# Rollouts


def migration_requests(platform: Platform, note: Callable[[str], None]) -> list[dg.RunRequest] | dg.SkipReason:
    """One run for every approved plan that may begin now; asked again, none for the same plan. Trouble of a tick is its
    own: it says that it could not look."""
    try:
        found = due(platform, note)
    except PlatformError as exc:
        return dg.SkipReason(f"could not look: {exc.what}")
    except Exception as exc:  # noqa: BLE001 - whatever a tick runs into is shown with its place
        note(f"unexpected {type(exc).__name__}, a defect of the platform, at\n{_frames(exc)}")
        return dg.SkipReason(f"could not look: {type(exc).__name__}")
    if not found:
        return dg.SkipReason("no approved change of a schema may begin now")
    return [
        dg.RunRequest(
            run_key=f"{each.database}-{each.digest}",
            run_config={"ops": {"migrate_schema": {"config": {"database": each.database}}}},
            tags={"dr-platform/actor": "schedule:migrations"},
        )
        for each in found
    ]


def choice(name: str, values: Iterable[str]) -> dg.Enum:
    """One of these, for run configuration. Named after its values: Dagster takes two of one name for the
    same, also those of different catalogs."""
    known = tuple(values)
    digest = hashlib.sha256("\n".join(known).encode()).hexdigest()[:8]
    return dg.Enum(f"{name}_{digest}", [dg.EnumValue(str(value)) for value in known])


def intent_of(run: dg.DagsterRun) -> str:
    """A run that goes on after it was killed asks for the same thing."""
    return f"ro-{run.run_id}"


def by_a_program(run: dg.DagsterRun) -> bool:
    """Whether a sensor or a schedule started it, and no person."""
    return any(name in run.tags for name in ("dagster/sensor_name", "dagster/schedule_name"))


def require(outcome: Ended, wanted: str) -> dict[str, Measure]:
    """The figures of a rollout that ended as wanted; any other end is a failure with the same figures."""
    if outcome.result != wanted:
        raise dg.Failure(
            description=f"{outcome.to_version}: {outcome.result} instead of {wanted}: {outcome.reason}",
            metadata=dict(figures(outcome)),
            allow_retries=False,
        )
    return figures(outcome)


def ended_event(service: str, outcome: Ended) -> dg.AssetMaterialization | dg.AssetObservation:
    """What became of a rollout, shown on the service. Only one that changed what is stable makes it anew."""
    key, told = dg.AssetKey(["services", service]), f"{outcome.to_version} {outcome.result.replace('_', ' ')}"
    changed = outcome.result == ("promoted" if outcome.kind == "deploy" else "rolled_back")
    kind = dg.AssetMaterialization if changed else dg.AssetObservation
    return kind(asset_key=key, description=f"{told}: {outcome.reason}", metadata=dict(figures(outcome)))


def failing_since(written: Mapping[CheckName, Written]) -> dict[str, datetime]:
    """Services, by name, whose check says that they fail, and when it said so."""
    return {name: entry.at for (_, name, _), entry in written.items() if entry.passed is False}


def back_observation(back: WentBack) -> dg.AssetObservation:
    """A program goes back to the revision before."""
    intent = back.intent
    return dg.AssetObservation(
        asset_key=dg.AssetKey(["services", back.service]),
        description=f"Going back to {intent.revision.version}: {back.why}",
        metadata={"rollout": intent.id, "incident": intent.incident or "", "why": back.why},
    )


def call_observation(call: Called) -> dg.AssetObservation:
    return escalation(Remedy(("services", call.service), 0, call.why, call.key))


def told_before(cursor: str | None) -> dict[str, str]:
    """What a sensor has told already, by name; a cursor that cannot be read is an empty one."""
    try:
        known = json.loads(cursor or "{}")
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in known.items()} if isinstance(known, dict) else {}


def reached(told: Mapping[str, str]) -> int:
    """Up to which entry of the evidence log analyses were shown."""
    return int(found) if (found := told.get(ANALYSED, "")).isdecimal() else 0


def analysis_evaluations(
    instance: dg.DagsterInstance, shown: Mapping[str, Look], analyses: Iterable[Analysis]
) -> list[dg.AssetCheckEvaluation]:
    """One for each analysis that has none yet: a sensor that lost its cursor, or was stopped before it was
    kept, shows nothing twice."""
    known = [analysis for analysis in analyses if analysis.service in shown]
    before = {name: _entries_shown(instance, shown[name]) for name in {analysis.service for analysis in known}}
    return [
        check_evaluation(shown[analysis.service], analysis.verdict)
        for analysis in known
        if analysis.entry not in before[analysis.service]
    ]


def last_words(
    instance: dg.DagsterInstance,
    shown: Mapping[str, Look],
    ended: Iterable[str],
    checks: Iterable[dg.AssetCheckEvaluation],
) -> list[dg.AssetCheckEvaluation]:
    """What was said of a version that was taken back stays in the history; the last word is about what runs. The end
    of a rollout and what was said of it may be seen at different moments, and in either order."""
    said = {evaluation.asset_key.path[-1]: evaluation.passed for evaluation in checks}
    before = History(instance).written([shown[service] for service in ended if service in shown])
    said = {name: entry.passed for (_, name, _), entry in before.items() if not entry.promised} | said
    verdicts = ((shown[service], shown[service].verdict()) for service, good in said.items() if not good)
    return [check_evaluation(look, verdict) for look, verdict in verdicts if verdict.passed]


def _entries_shown(instance: dg.DagsterInstance, look: Look) -> set[int]:
    records = instance.event_log_storage.get_asset_check_execution_history(key_of(look), limit=SHOWN_BEFORE)
    # A run repeats the newest answer; only what a sensor wrote has no run.
    evaluations = (record.event.asset_check_evaluation for record in records if record.event and not record.run_id)
    found = (evaluation.metadata.get(ENTRY) for evaluation in evaluations if evaluation)
    return {int(str(entry.value)) for entry in found if entry is not None}


def earlier_runs(instance: dg.DagsterInstance, lapse: str) -> Earlier:
    """The runs that stood in for the controller before, the newest of them."""
    records = instance.get_run_records(dg.RunsFilter(job_name=TEND_JOB), limit=100)
    ended = [record.end_time for record in records if record.end_time is not None]
    return Earlier(
        at_work=any(record.dagster_run.status in AT_WORK for record in records),
        attempts=sum(record.dagster_run.tags.get(LAPSE_TAG) == lapse for record in records),
        ended_at=_utc(max(ended)) if ended else None,
    )


def stand_in_request(start: Start) -> dg.RunRequest:
    return dg.RunRequest(run_key=start.key, tags={LAPSE_TAG: start.key.split(":")[1]})


# What CI tells


def started_to(cursor: str | None) -> int:
    """Which event was started last; a cursor that cannot be read starts what was started again, under the
    same run key."""
    return int(cursor) if cursor and cursor.isdecimal() else 0


def intake_request(accepted: Accepted, environment: str) -> dg.RunRequest:
    """A run of the job ``promote``, once for each event."""
    config = {"release": accepted.release, "environment": environment}
    return dg.RunRequest(
        run_key=accepted.subject,
        run_config={"ops": {PROMOTE_OP: {"config": config}}},
        tags={ACTOR_TAG: f"program:intake-{accepted.source}", INTAKE_TAG: accepted.why},
    )


# Incidents


def incidents_metadata(found: OpenIncidents) -> dict[str, dg.MetadataValue | Measure]:
    return {"summary": found.describe(), **found.measurements(), "open": dg.MetadataValue.md(found.markdown())}


def require_handled(handled: Handled) -> dict[str, Measure]:
    """The steps of an emergency that was brought to its end; one that waits for a person is a failure."""
    told: dict[str, Measure] = {"incident": handled.incident, "status": handled.status.value, **dict(handled.steps)}
    if not handled.done:
        raise dg.Failure(description=f"waits for a person: {handled.waits}", metadata=told, allow_retries=False)
    return told


def process_observation(event: Mapping[str, object]) -> dg.AssetObservation:
    """An end or restart of a supervised process."""
    text = f"{event.get('program')}: {event.get('event')} {event.get('detail') or ''}".strip()
    shown = {k: str(v) for k, v in event.items() if v is not None}
    return dg.AssetObservation(asset_key=dg.AssetKey(["infrastructure", "runtime"]), description=text, metadata=shown)
