"""Talking to a running Dagster over GraphQL, without importing it: a command starts in a fraction of a
second, and works against an instance of another process or machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from dr_platform.clock import Clock, SystemClock
from dr_platform.errors import ExitCode, PlatformError, TemporaryFailure
from dr_platform.verdict import Measure

if TYPE_CHECKING:
    import httpx

LOCATION = "dr_platform"
REPOSITORY = "__repository__"
POLL_S = 0.3
RUN_LIMIT_S = 1800.0
AWAY_S = 60.0
"""Its supervisor has the webserver back in 10 s on two busy cores."""


class DagsterUnreachable(TemporaryFailure):
    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.what = f"Dagster does not answer at {url}: {reason}"
        self.untouched = "services, databases and whatever else runs"
        self.next_step = "start it with `drp up`; see `drp logs dagster-webserver` and `drp logs dagster-code`"


class CodeLocationAway(DagsterUnreachable):
    """The webserver answers, but not the process that holds the definitions; it is started anew."""


class NotRunning(TemporaryFailure):
    def __init__(self, environment: str) -> None:
        super().__init__(environment)
        self.what = f"{environment} does not run on this machine"
        self.untouched = "everything; no run was started"
        self.next_step = "start it with `drp up`"


class DagsterRefused(PlatformError):
    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = f"Dagster refused: {what}"
        self.untouched = "everything; no run was started"
        self.next_step = "see `drp logs dagster-code`"


class UnknownSelection(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, selection: str, layers: tuple[str, ...]) -> None:
        super().__init__(selection, layers)
        self.what = f"{selection}: no such asset or layer"
        self.untouched = "everything; no run was started"
        self.next_step = f"name an asset such as services/api-gateway, or a layer: {', '.join(layers)}"


EventKind = Literal["started", "materialized", "check", "failure", "log", "ended"]


@dataclass(frozen=True)
class RunEvent:
    """One thing a run did. ``asset`` is a path such as ``services/billing``; ``passed`` belongs to
    checks and to the end of the run, ``measurements`` to checks."""

    kind: EventKind
    asset: str = ""
    text: str = ""
    check: str = ""
    passed: bool | None = None
    measurements: Mapping[str, Measure] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """Counts over all assets and checks of the code location, by their newest result. ``failing`` names the checks
    that are not good, as ``layer/name check``."""

    materialized: int
    failed: int
    checks_passed: int
    failing: tuple[str, ...]


class DagsterClient:
    """A client for one instance. Every method raises ``DagsterUnreachable`` when it does not answer."""

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        self._url = url
        self._clock = clock or SystemClock()

    def wait_until_ready(self, timeout_s: float) -> None:
        """Return once the webserver has loaded the code location as its server offers it now."""
        deadline = self._clock.monotonic() + timeout_s
        while (reason := self._not_loaded()) is not None:
            if self._clock.monotonic() > deadline:
                raise DagsterUnreachable(self._url, reason)
            self._clock.sleep(POLL_S)

    def _not_loaded(self) -> str | None:
        try:
            answer = self._ask(_RELOAD, {"location": LOCATION})["reloadRepositoryLocation"]
        except DagsterUnreachable as exc:
            return exc.what
        loaded = answer.get("locationOrLoadError") or {}
        if loaded.get("__typename") == "RepositoryLocation":
            return None
        message = str(loaded.get("message") or answer.get("message") or "the code location is not there yet")
        return message.strip().splitlines()[0][:300]

    def launch_job(
        self, job: str, *selection: str, tags: Mapping[str, str] | None = None, partition: str | None = None
    ) -> str:
        """Queue a run and return its id. ``selection`` names assets or layers, with the checks that the
        job has for them; all of the job without it. A code location that is being started anew is waited for."""
        slot = {} if partition is None else {"dagster/partition": partition}
        return self._queue(job, self._assets(selection) if selection else {}, {**(tags or {}), **slot})

    def launch_checks(self, checks: Iterable[tuple[str, str]], tags: Mapping[str, str] | None = None) -> str:
        """Queue a run of these checks, each an asset's path and a name, and of nothing else."""
        wanted = [{"assetKey": {"path": asset.split("/")}, "name": check} for asset, check in checks]
        return self._queue("health", {"assetSelection": [], "assetCheckSelection": wanted}, tags or {})

    def _queue(self, job: str, selected: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        selector: dict[str, Any] = {
            "repositoryLocationName": LOCATION,
            "repositoryName": REPOSITORY,
            "jobName": job,
            **selected,
        }
        params = {
            "selector": selector,
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in tags.items()]},
        }
        # A request that was lost on its way is not repeated: its run may have been queued.
        answer = self._patiently(lambda: self._launch(params), CodeLocationAway)
        return answer["run"]["runId"]

    def _launch(self, params: Mapping[str, Any]) -> dict[str, Any]:
        answer = self._ask(_LAUNCH, {"params": params})["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise self._refusal(str(answer.get("message") or answer["__typename"]))
        return answer

    def _refusal(self, message: str) -> PlatformError:
        """What Dagster's own words mean; it gives no other sign of it."""
        if "DagsterUserCodeUnreachableError" in message:
            return CodeLocationAway(self._url, "its code location is away")
        return DagsterRefused(message.strip().splitlines()[0][:300] if message.strip() else "without a reason")

    def _assets(self, selection: Iterable[str]) -> dict[str, Any]:
        nodes = self._patiently(lambda: self._ask(_NODES), CodeLocationAway)["assetNodes"]
        paths = [n["assetKey"]["path"] for n in nodes]
        chosen = []
        for each in selection:
            wanted = each.strip("/").split("/")
            found = [{"path": path} for path in paths if path[: len(wanted)] == wanted]
            if not found:
                raise UnknownSelection(each, tuple(sorted({path[0] for path in paths})))
            chosen += found
        return {"assetSelection": chosen}

    def follow(self, run_id: str) -> Iterator[RunEvent]:
        """Everything the run does, until it has ended; the last event is ``ended``. A webserver that
        is away for less than ``AWAY_S`` only delays: the run goes on without it."""
        cursor, deadline = None, self._clock.monotonic() + RUN_LIMIT_S
        names = {_step_of(n["assetKey"]): _path(n["assetKey"]) for n in self._read(_NODES)["assetNodes"]}
        while True:
            answer = self._read(_EVENTS, {"run": run_id, "cursor": cursor})
            ended = _ended(answer["runOrError"])
            page = answer["logsForRun"]
            cursor = page.get("cursor", cursor)
            for raw in page.get("events", []):
                if (event := _event(raw, names)) is not None:
                    yield event
            if ended is not None and not page.get("hasMore"):
                yield RunEvent("ended", passed=ended == "SUCCESS", text=ended)
                return
            if self._clock.monotonic() > deadline:
                raise DagsterUnreachable(self._url, f"run {run_id} has not ended within {RUN_LIMIT_S:.0f} s")
            if not page.get("hasMore"):
                self._clock.sleep(POLL_S)

    def _read(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask something that may be asked again; Dagster's store may be away as well as itself."""
        return self._patiently(lambda: self._ask(query, variables), (DagsterUnreachable, DagsterRefused))

    def _patiently(
        self,
        act: Callable[[], dict[str, Any]],
        away: type[PlatformError] | tuple[type[PlatformError], ...],
    ) -> dict[str, Any]:
        deadline = self._clock.monotonic() + AWAY_S
        while True:
            try:
                return act()
            except away:
                if self._clock.monotonic() > deadline:
                    raise
                self._clock.sleep(POLL_S)

    def summary(self) -> Summary:
        nodes = self._ask(_NODES)["assetNodes"]
        paths = [{"path": n["assetKey"]["path"]} for n in nodes]
        infos = self._ask(_LATEST, {"keys": paths})["assetsLatestInfo"]
        answers = self._newest_answers(nodes)
        return Summary(
            materialized=sum(i["latestMaterialization"] is not None for i in infos),
            failed=sum(_failed_last(i) for i in infos),
            checks_passed=sum(status == "SUCCEEDED" for status in answers.values()),
            failing=tuple(sorted(name for name, status in answers.items() if status in ("FAILED", "EXECUTION_FAILED"))),
        )

    def _newest_answers(self, nodes: list[dict]) -> dict[str, str | None]:
        """The newest execution of each check, whether a run or a sensor made it."""
        named = [(n["assetKey"], c["name"]) for n in nodes for c in n["assetChecksOrError"].get("checks", [])]
        parts, variables = [], {}
        for i, (key, check) in enumerate(named):
            parts.append(f"c{i}: assetCheckExecutions(assetKey: $k{i}, checkName: $n{i}, limit: 1) {{ status }}")
            variables |= {f"k{i}": {"path": key["path"]}, f"n{i}": check}
        if not named:
            return {}
        declared = ", ".join(f"$k{i}: AssetKeyInput!, $n{i}: String!" for i in range(len(named)))
        answer = self._ask(f"query({declared}) {{ {' '.join(parts)} }}", variables)
        return {
            f"{_path(key)} {check}": next((e["status"] for e in answer[f"c{i}"]), None)
            for i, (key, check) in enumerate(named)
        }

    def stopped_automation(self) -> tuple[str, ...]:
        """Sensors and schedules that do not run."""
        repository = self._ask(_AUTOMATION)["repositoryOrError"]
        states = [(s["name"], s["sensorState"]["status"]) for s in repository.get("sensors", [])]
        states += [(s["name"], s["scheduleState"]["status"]) for s in repository.get("schedules", [])]
        return tuple(sorted(name for name, status in states if status != "RUNNING"))

    @cached_property
    def _http(self) -> httpx.Client:
        import httpx

        # Loopback is asked directly, whatever proxy the person's shell is set to.
        return httpx.Client(timeout=30.0, trust_env=False)

    def _ask(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        import httpx

        try:
            answer = self._http.post(f"{self._url}/graphql", json={"query": query, "variables": dict(variables or {})})
            body = answer.json()
        except (httpx.HTTPError, ValueError) as exc:
            raise DagsterUnreachable(self._url, type(exc).__name__) from None
        if body.get("errors"):
            raise self._refusal(str(body["errors"][0].get("message", "")))
        return body["data"]


def _ended(run: Mapping[str, Any]) -> str | None:
    status = str(run.get("status", "FAILURE"))
    return status if status in ("SUCCESS", "FAILURE", "CANCELED") else None


def _path(key: Mapping[str, Any] | None) -> str:
    return "/".join(key["path"]) if key else ""


def _event(raw: Mapping[str, Any], names: Mapping[str, str]) -> RunEvent | None:
    """``names`` leads from steps to assets; other steps keep their name, and their start is no news."""
    step = str(raw.get("stepKey") or "")
    match raw["__typename"]:
        case "MaterializationEvent":
            summary = next((e["text"] for e in raw["metadataEntries"] if e.get("label") == "summary"), "")
            return RunEvent("materialized", _path(raw["assetKey"]), summary)
        case "AssetCheckEvaluationEvent":
            found = raw["evaluation"]
            text = found.get("description") or ""
            measured = dict(_measures(found["metadataEntries"]))
            return RunEvent("check", _path(found["assetKey"]), text, found["checkName"], found["success"], measured)
        case "ExecutionStepFailureEvent":
            return RunEvent("failure", names.get(step, step), _reason(raw))
        case "RunFailureEvent":
            # Failed steps have spoken for themselves; a run may also fail without one.
            return None if "Steps failed" in raw["message"] else RunEvent("failure", "", _reason(raw))
        case "ExecutionStepStartEvent" if step in names:
            return RunEvent("started", names[step])
        case "LogMessageEvent" if raw["level"] in ("INFO", "WARNING", "ERROR", "CRITICAL"):
            return RunEvent("log", names.get(step, step), raw["message"])
        case _:
            return None


def _measures(entries: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Measure]]:
    for entry in entries:
        values = (entry.get(name) for name in ("floatValue", "intValue", "boolValue", "text"))
        if (value := next((v for v in values if v is not None), None)) is not None:
            yield entry["label"], value


def _step_of(key: Mapping[str, Any]) -> str:
    """The name that Dagster gives the step of an asset."""
    return "__".join(key["path"]).replace("-", "_")


def _reason(raw: Mapping[str, Any]) -> str:
    failure = (raw.get("failureMetadata") or {}).get("description")
    error = raw.get("error") or {}
    cause = (error.get("causes") or [{}])[0].get("message") if error.get("causes") else None
    text = str(failure or cause or error.get("message") or raw["message"]).strip()
    return text.splitlines()[0][:300] if text else "failed"


def _failed_last(info: Mapping[str, Any]) -> bool:
    """The newest run that meant to materialise the asset ended badly and did not materialise it."""
    run, materialization = info["latestRun"] or {}, info["latestMaterialization"] or {}
    return run.get("status") in ("FAILURE", "CANCELED") and materialization.get("runId") != run.get("id")


_RELOAD = """mutation($location: String!) {
  reloadRepositoryLocation(repositoryLocationName: $location) { __typename
  ... on WorkspaceLocationEntry { locationOrLoadError { __typename ... on PythonError { message } } }
  ... on PythonError { message } ... on ReloadNotSupported { message }
  ... on RepositoryLocationNotFound { message } } }"""
_LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
  ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } ... on InvalidSubsetError { message }
  ... on PipelineNotFoundError { message } ... on RunConfigValidationInvalid { errors { message } } } }"""
_NODES = """{ assetNodes { assetKey { path }
  assetChecksOrError { ... on AssetChecks { checks { name } } } } }"""
_EVENTS = """query($run: ID!, $cursor: String) { runOrError(runId: $run) { ... on Run { status } }
  logsForRun(runId: $run, afterCursor: $cursor, limit: 1000) { ... on EventConnection { cursor hasMore events {
    __typename ... on MessageEvent { message level stepKey }
    ... on MaterializationEvent { assetKey { path } metadataEntries { label ... on TextMetadataEntry { text } } }
    ... on AssetCheckEvaluationEvent { evaluation { assetKey { path } checkName success description
      metadataEntries { label ... on TextMetadataEntry { text } ... on IntMetadataEntry { intValue }
      ... on FloatMetadataEntry { floatValue } ... on BoolMetadataEntry { boolValue } } } }
    ... on ExecutionStepFailureEvent { error { message causes { message } } failureMetadata { description } }
    ... on RunFailureEvent { error { message causes { message } } } } } } }"""
_LATEST = """query($keys: [AssetKeyInput!]!) { assetsLatestInfo(assetKeys: $keys) {
  assetKey { path } latestRun { id status }
  latestMaterialization { runId } } }"""
_AUTOMATION = """{ repositoryOrError(
  repositorySelector: { repositoryName: "__repository__", repositoryLocationName: "dr_platform" }) {
  ... on Repository { sensors { name sensorState { status } } schedules { name scheduleState { status } } } } }"""
