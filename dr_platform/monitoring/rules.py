"""Service level objectives of the catalog as Prometheus' recording and alert rules.

Here: which rules there are, their thresholds and labels. Not here: the expressions behind them
(``promql``).

Burn rates and windows: Google's Site Reliability Workbook, "Alerting on SLOs", table 5-8. A window
pair fires while both its long window (enough budget is spent) and its short one (it is still being
spent) are above the threshold, so an alert ends soon after its cause.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dr_platform.catalog import Service
from dr_platform.monitoring import promql
from dr_platform.monitoring.scope import SCRAPE_S, Scope

Document = dict[str, Any]


@dataclass(frozen=True)
class Burn:
    """Budget is spent ``rate`` times as fast as it may be, over both windows."""

    long: str
    short: str
    rate: float
    severity: str


BURNS = (
    Burn("1h", "5m", 14.4, "page"),
    Burn("6h", "30m", 6, "page"),
    Burn("24h", "2h", 3, "ticket"),
    Burn("3d", "6h", 1, "ticket"),
)

GUARD_ERRORS = 0.05
"""Automated rollback trigger of the second guide: error rate above 5 % for 3 minutes."""
GUARD_HEALTH = 0.10
"""Automated rollback trigger of the second guide: health check failures above 10 % for 5 minutes."""
GUARD_LEAST_ERRORS = 5
"""Fewer errors in 3 minutes may be chance: at 1 % errors and 18 requests, five have a probability
below 1e-5."""
GUARD_LEAST_LOOKS = 180 // SCRAPE_S
"""A replica that has just started is unready for some seconds, which is much of a short history."""


@dataclass(frozen=True)
class Rule:
    """A recording rule where ``alert`` is empty, else an alert."""

    expr: str
    record: str = ""
    alert: str = ""
    wait: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> Document:
        parts: dict[str, Any] = {"alert": self.alert, "record": self.record, "expr": self.expr, "for": self.wait}
        parts |= {"labels": dict(self.labels), "annotations": dict(self.annotations)}
        return {key: value for key, value in parts.items() if value}


def rule_documents(scope: Scope) -> dict[str, Document]:
    """File name to document, one file for each service."""
    return {f"{service.name}.yaml": {"groups": [_group(scope, service)]} for service in scope.services}


def rules_of(scope: Scope, service: Service) -> tuple[Rule, ...]:
    """All rules of one service; each recording stands before the alerts that read it."""
    return (*_recordings(scope, service), *_Alerts(scope, service).all())


def _group(scope: Scope, service: Service) -> Document:
    # One group: its rules are evaluated one after the other, so that an alert reads fresh recordings.
    rules = [rule.document() for rule in rules_of(scope, service)]
    return {"name": f"drp-{service.name}", "interval": f"{SCRAPE_S}s", "rules": rules}


def objectives(service: Service) -> dict[str, float]:
    """What the service promises, by the name of the promise: shares of 1, seconds, tasks."""
    return {name: float(value) for name, value in sorted(vars(service.slo).items()) if value is not None}


def _recordings(scope: Scope, service: Service) -> Iterator[Rule]:
    name, slo = service.name, service.slo
    for promise, value in objectives(service).items():
        labels = {"service": name, "slo": promise}
        yield Rule(f"vector({value:.12g})", "service:drp_slo:objective", labels=labels)
    yield Rule(f"sum by (service) (rate({promql.REQUESTS}{promql.asked(name)}[5m]))", "service:drp_requests:rate5m")
    for window in sorted({w for burn in BURNS for w in (burn.long, burn.short)}, key=_seconds):
        yield Rule(promql.error_ratio(name, window), error_ratio_name(window))
    for window in ("5m", "30m"):
        if slo.latency_p95:
            yield Rule(promql.p95(name, window), f"service:drp_request_duration_seconds:p95_{window}")
        if slo.cache_hit_ratio:
            yield Rule(promql.cache_hit_ratio(name, window), f"service:drp_cache_hits:ratio_rate{window}")
    if slo.queue_depth:
        yield Rule(promql.queue_depth(name), "service:drp_queue_depth:max")
    yield from _gpu_recordings(scope, service)
    yield from _guard_recordings(scope, name)


def _gpu_recordings(scope: Scope, service: Service) -> Iterator[Rule]:
    if service.slo.gpu_utilisation is None:
        return
    labels = {"service": service.name}
    if gap := scope.gpu_gap(service):
        # Said instead of left out: nothing measured must not look like nothing wrong.
        yield Rule("vector(1)", "service:drp_gpu_utilisation:not_applicable", labels={**labels, "reason": gap})
    else:
        yield Rule(promql.gpu_utilisation(service.name, "1h"), "service:drp_gpu_utilisation:avg1h", labels=labels)


def _guard_recordings(scope: Scope, name: str) -> Iterator[Rule]:
    for window in ("1m", "3m"):
        yield Rule(promql.error_ratio(name, window, promql.REVISION), f"revision:drp_request_errors:ratio_rate{window}")
        if scope.router:
            yield Rule(promql.router_error_ratio(name, window), f"slot:drp_router_errors:ratio_rate{window}")
    for window in ("1m", "5m"):
        if scope.router:
            yield Rule(promql.router_health_failures(name, window), f"slot:drp_router_health_failures:ratio{window}")
        else:
            yield Rule(promql.health_failures(name, window), f"revision:drp_health_failures:ratio{window}")


def error_ratio_name(window: str) -> str:
    return f"service:drp_request_errors:ratio_rate{window}"


class _Alerts:
    """The alerts of one service."""

    def __init__(self, scope: Scope, service: Service) -> None:
        self._scope = scope
        self._service = service
        self._of = promql.of(service.name)

    def all(self) -> Iterator[Rule]:
        yield self._absent()
        yield from self._burns()
        yield from self._latency()
        yield from self._queue()
        yield from self._cache()
        yield from self._gpu()
        yield from self._guards()

    def _alert(self, name: str, expr: str, severity: str, summary: str, wait: str = "", **labels: str) -> Rule:
        service = self._service
        owned = {"severity": severity, "owner": service.owner, "service": service.name}
        annotations = {
            "summary": f"{service.title}: {summary}",
            "runbook_url": f"{self._scope.runbooks}#{name.lower()}",
        }
        return Rule(expr, alert=name, wait=wait, labels={**owned, **labels}, annotations=annotations)

    def _absent(self) -> Rule:
        return self._alert(
            "DrpMetricsAbsent",
            f"absent({promql.REQUESTS}{self._of})",
            "page",
            "no replica can be measured, so nothing is known about its objectives",
            wait="2m",
        )

    def _burns(self) -> Iterator[Rule]:
        objective = self._service.slo.error_ratio
        for burn in BURNS:
            if burn.rate * objective >= 1:  # not even a total outage is above it: a rule that cannot fire
                continue
            above = f"> {burn.rate:g} * {objective:.12g}"
            expr = (
                f"{error_ratio_name(burn.long)}{self._of} {above} and {error_ratio_name(burn.short)}{self._of} {above}"
            )
            yield self._alert(
                "DrpErrorBudgetBurn",
                expr,
                burn.severity,
                f"{{{{ $value | humanizePercentage }}}} of requests failed in {burn.long} and more still do: "
                f"burn rate above {burn.rate:g}, its objective is below {objective:.2%}",
                slo="error_ratio",
                window=burn.long,
            )

    def _latency(self) -> Iterator[Rule]:
        objective = self._service.slo.latency_p95
        if objective is None:
            return
        yield self._alert(
            "DrpLatencyP95",
            self._both("service:drp_request_duration_seconds:p95_", "30m", "5m", f"> {objective:.12g}"),
            "ticket",
            f"95 of 100 answers take up to {{{{ $value | humanizeDuration }}}}, its objective is {objective:g} s",
            slo="latency_p95",
        )

    def _queue(self) -> Iterator[Rule]:
        objective = self._service.slo.queue_depth
        if objective is None:
            return
        yield self._alert(
            "DrpQueueDepth",
            f"service:drp_queue_depth:max{self._of} >= {objective}",
            "ticket",
            f"{{{{ $value }}}} tasks wait, its objective is below {objective}",
            wait="5m",
            slo="queue_depth",
        )
        yield self._unreadable(f"{promql.QUEUE}{self._of}", "queue_depth")

    def _cache(self) -> Iterator[Rule]:
        objective = self._service.slo.cache_hit_ratio
        if objective is None:
            return
        yield self._alert(
            "DrpCacheHitRatio",
            self._both("service:drp_cache_hits:ratio_rate", "30m", "5m", f"<= {objective:.12g}"),
            "ticket",
            f"the cache answers {{{{ $value | humanizePercentage }}}}, its objective is above {objective:.0%}",
            slo="cache_hit_ratio",
        )

    def _gpu(self) -> Iterator[Rule]:
        objective = self._service.slo.gpu_utilisation
        if objective is None or self._scope.gpu_gap(self._service):
            return
        yield self._alert(
            "DrpGpuUtilisation",
            f"service:drp_gpu_utilisation:avg1h{self._of} >= {objective:.12g}",
            "ticket",
            f"its GPUs are used {{{{ $value | humanizePercentage }}}}, its objective is below {objective:.0%}",
            slo="gpu_utilisation",
        )
        yield self._unreadable(promql.gpu_devices(self._service.name), "gpu_utilisation")

    def _unreadable(self, metric: str, slo: str) -> Rule:
        summary = f"its objective {slo} cannot be judged, nothing measures it"
        return self._alert("DrpObjectiveUnreadable", f"absent({metric})", "ticket", summary, wait="10m", slo=slo)

    def _both(self, prefix: str, long: str, short: str, compared: str) -> str:
        return f"{prefix}{long}{self._of} {compared} and {prefix}{short}{self._of} {compared}"

    def _guards(self) -> Iterator[Rule]:
        """Each trigger in two readings. Sliding: the share over the whole time, still so in the last
        minute, with enough behind it. Literal: at every single look for so long."""
        name = self._service.name
        replicas = "revision:drp_request_errors:ratio_rate"
        yield from self._error_guard(replicas, promql.ERRORS + promql.asked(name), promql.REVISION, "replica")
        if not self._scope.router:
            yield from self._health_guard("revision:drp_health_failures:ratio", promql.REVISION, "up", "replica")
            return
        # Where there is a router of our own it knows a retired slot from a dead one, a scrape does not.
        router, slot = "slot:drp_router_errors:ratio_rate", ("service", "slot")
        yield from self._error_guard(router, promql.router_errors(name), slot, "router")
        members = promql.ROUTER_MEMBERS
        yield from self._health_guard("slot:drp_router_health_failures:ratio", slot, members, "router")

    def _error_guard(self, ratio: str, errors: str, by: tuple[str, ...], source: str) -> Iterator[Rule]:
        labels = ", ".join(by)
        enough = f"sum by ({labels}) (increase({errors}[3m])) >= {GUARD_LEAST_ERRORS}"
        summary = f"{{{{ $value | humanizePercentage }}}} of the requests to {_revision(by)} fail: roll it back"
        sliding = f"{self._both(ratio, '3m', '1m', f'> {GUARD_ERRORS}')} and {enough}"
        literal = f"{ratio}1m{self._of} > {GUARD_ERRORS}"
        yield self._alert("DrpRolloutErrors", sliding, "page", summary, reading="sliding", source=source)
        yield self._alert("DrpRolloutErrors", literal, "page", summary, "3m", reading="literal", source=source)

    def _health_guard(self, ratio: str, by: tuple[str, ...], looks: str, source: str) -> Iterator[Rule]:
        labels = ", ".join(by)
        enough = f"max by ({labels}) (count_over_time({looks}{self._of}[5m])) >= {GUARD_LEAST_LOOKS}"
        summary = f"{{{{ $value | humanizePercentage }}}} of the health looks at {_revision(by)} fail: roll it back"
        sliding = f"{self._both(ratio, '5m', '1m', f'> {GUARD_HEALTH:g}')} and {enough}"
        literal = f"{ratio}1m{self._of} > {GUARD_HEALTH:g}"
        yield self._alert("DrpRolloutHealth", sliding, "page", summary, reading="sliding", source=source)
        yield self._alert("DrpRolloutHealth", literal, "page", summary, "5m", reading="literal", source=source)


def _revision(by: tuple[str, ...]) -> str:
    """How a message names whose requests they are; filled in by Prometheus."""
    version = "version {{ $labels.version }} " if "version" in by else ""
    return version + "in slot {{ $labels.slot }}"


_UNITS = {"m": 60, "h": 3600, "d": 86400}


def _seconds(window: str) -> int:
    return int(window[:-1]) * _UNITS[window[-1]]
