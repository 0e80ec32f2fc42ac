"""Between Dagster and the platform: outcomes become results, verdicts become check results, expected
failures become failures that say what to do. Not here: any definition or decision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import dagster as dg

from dr_platform.errors import PlatformError, TemporaryFailure
from dr_platform.health import Look
from dr_platform.remediation import Condition, Target
from dr_platform.remedy import Remedy
from dr_platform.verdict import Measure, Verdict

T = TypeVar("T")
ANSWERS = {True: "good", False: "bad", None: "unknown"}


class Outcome(Protocol):
    def measurements(self) -> Mapping[str, Measure]: ...

    def describe(self) -> str: ...


def carried_out(act: Callable[[], T]) -> T:
    """Run something of the platform; only what may succeed when tried again may be retried."""
    try:
        return act()
    except PlatformError as exc:
        raise dg.Failure(
            description=f"{exc.what}. {exc.next_step}",
            metadata={"untouched": exc.untouched, "next": exc.next_step},
            allow_retries=isinstance(exc, TemporaryFailure),
        ) from None


def materialized(outcome: Outcome, key: Iterable[str] | None = None) -> dg.MaterializeResult:
    metadata = {"summary": outcome.describe(), **outcome.measurements()}
    return dg.MaterializeResult(asset_key=dg.AssetKey(list(key)) if key else None, metadata=metadata)


def key_of(look: Look) -> dg.AssetCheckKey:
    return dg.AssetCheckKey(dg.AssetKey(list(look.asset)), look.check)


def severity_of(look: Look) -> dg.AssetCheckSeverity:
    return dg.AssetCheckSeverity.ERROR if look.severe else dg.AssetCheckSeverity.WARN


def metadata_of(verdict: Verdict) -> dict[str, Measure]:
    return {"answer": ANSWERS[verdict.passed], "why": verdict.why, **verdict.measurements}


def look_at_all(looks: Iterable[Look]) -> Iterator[tuple[Look, Verdict]]:
    """Evaluate side by side: most of a look is waiting for an answer."""
    chosen = tuple(looks)
    with ThreadPoolExecutor(max_workers=8, thread_name_prefix="look") as pool:
        yield from zip(chosen, pool.map(lambda look: look.verdict(), chosen), strict=True)


def check_result(look: Look, verdict: Verdict) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=dg.AssetKey(list(look.asset)),
        check_name=look.check,
        passed=verdict.passed is True,
        severity=severity_of(look),
        description=verdict.why,
        metadata=metadata_of(verdict),
    )


def check_evaluation(look: Look, verdict: Verdict) -> dg.AssetCheckEvaluation:
    """The same as an evaluation outside of any run, for sensors."""
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(list(look.asset)),
        check_name=look.check,
        passed=verdict.passed is True,
        severity=severity_of(look),
        description=verdict.why,
        metadata={k: dg.MetadataValue.text(v) if isinstance(v, str) else v for k, v in metadata_of(verdict).items()},
    )


class Conditions:
    """What the newest evaluations in the event log say of targets."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance

    def of(self, targets: Iterable[Target]) -> dict[Target, Condition]:
        """Only targets that were ever looked at; a look under way leaves the answer before it."""
        keys = {dg.AssetCheckKey(dg.AssetKey(list(target)), "healthy"): target for target in targets}
        records = self._instance.event_log_storage.get_latest_asset_check_execution_by_key(list(keys))
        found = {}
        for key, record in records.items():
            evaluation = record.event and record.event.dagster_event and record.event.asset_check_evaluation
            if evaluation is not None and evaluation:
                found[keys[key]] = _condition(evaluation, record.create_timestamp)
        return found


def _condition(evaluation: dg.AssetCheckEvaluation, at: float) -> Condition:
    answer = evaluation.metadata.get("answer")
    good = {"good": True, "bad": False}.get(str(answer.value)) if answer is not None else evaluation.passed
    return Condition(good, datetime.fromtimestamp(at, UTC), evaluation.description or "")


def attempt_request(remedy: Remedy) -> dg.RunRequest:
    """A run of one asset and its checks; the attempt is in the key, so that each is made once."""
    key = dg.AssetKey(list(remedy.target))
    return dg.RunRequest(
        run_key=f"{'/'.join(remedy.target)}:{remedy.episode}:{remedy.number}",
        asset_selection=[key],
        asset_check_keys=[dg.AssetCheckKey(key, "healthy")],
        tags={"dr-platform/remediation": "/".join(remedy.target), "dr-platform/attempt": str(remedy.number)},
    )


def escalation(remedy: Remedy) -> dg.AssetObservation:
    """What a person is called by: shown on the asset and in its history."""
    return dg.AssetObservation(
        asset_key=dg.AssetKey(list(remedy.target)),
        description=f"A person is needed: {remedy.why}",
        metadata={"escalated": True, "attempts": remedy.number, "why": remedy.why},
    )


def process_observation(event: Mapping[str, object]) -> dg.AssetObservation:
    """An end or restart of a supervised process."""
    text = f"{event.get('program')}: {event.get('event')} {event.get('detail') or ''}".strip()
    shown = {k: str(v) for k, v in event.items() if v is not None}
    return dg.AssetObservation(asset_key=dg.AssetKey(["infrastructure", "runtime"]), description=text, metadata=shown)
