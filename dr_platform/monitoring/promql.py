"""PromQL for what replicas, the router and GPU exporters count.

Here: expressions as text, and the names of the metrics. Not here: thresholds (``rules``).

Replicas label everything with ``service``, ``version`` and ``slot``. A share is given only where
something was counted: 0 of 0 requests would be NaN, which compares as good.
"""

from __future__ import annotations

REVISION = ("service", "version", "slot")
"""Labels that tell a revision's replicas from those of the version before."""

REQUESTS = "drp_requests_total"
ERRORS = "drp_request_errors_total"
LATENCY = "drp_request_duration_seconds_bucket"
QUEUE = "drp_queue_depth"
CACHE_HITS = "drp_cache_hits_total"
CACHE_MISSES = "drp_cache_misses_total"
READINESS = "/health/ready"

ROUTER_REQUESTS = "envoy_cluster_upstream_rq_completed"
ROUTER_CLASSES = "envoy_cluster_upstream_rq_xx"
ROUTER_MEMBERS = "envoy_cluster_membership_total"
ROUTER_HEALTHY = "envoy_cluster_membership_healthy"

GPU = "DCGM_FI_DEV_GPU_UTIL"
"""Percent, from NVIDIA's exporter, labelled with the pod that holds the device."""

# Looks at a replica are most of what an idle one is asked; counted in, they would dilute its errors.
_LOOKS = 'route!~"/health(/.*)?|/metrics"'


def asked(service: str) -> str:
    """Selects requests of callers, without health looks and scrapes."""
    return f'{{service="{service}",{_LOOKS}}}'


def of(service: str) -> str:
    return f'{{service="{service}"}}'


def error_ratio(service: str, window: str, by: tuple[str, ...] = ("service",)) -> str:
    """Share of requests answered 5xx. Before its first error a replica may not have the error
    counter at all, which means 0 as long as it counts requests."""
    return _share(ERRORS + asked(service), REQUESTS + asked(service), window, by)


def router_error_ratio(service: str, window: str) -> str:
    """The same as the router sees it by slot: with refused connections and timeouts, which no
    replica can count."""
    return _share(router_errors(service), ROUTER_REQUESTS + of(service), window, ("service", "slot"))


def router_errors(service: str) -> str:
    return f'{ROUTER_CLASSES}{{service="{service}",envoy_response_code_class="5"}}'


def health_failures(service: str, window: str) -> str:
    """Share of health looks that failed. A replica that cannot be scraped cannot be asked for its
    readiness either, so its missing answers count as failed ones."""
    by = ", ".join(REVISION)
    reached = f"avg by ({by}) (avg_over_time(up{of(service)}[{window}]))"
    probes = f'{{service="{service}",route="{READINESS}"}}'
    unready = _share(ERRORS + probes, REQUESTS + probes, window, REVISION)
    return f"1 - ({reached} * on ({by}) (1 - {unready}) or {reached})"


def router_health_failures(service: str, window: str) -> str:
    """Share of a slot's replicas that the router's own probes find unready, on average. A slot
    without replicas has none that could fail."""
    total = f"sum by (service, slot) (avg_over_time({ROUTER_MEMBERS}{of(service)}[{window}]))"
    healthy = f"sum by (service, slot) (avg_over_time({ROUTER_HEALTHY}{of(service)}[{window}]))"
    return f"1 - {healthy} / ({total} > 0)"


def p95(service: str, window: str) -> str:
    """Seconds."""
    return f"histogram_quantile(0.95, sum by (service, le) (rate({LATENCY}{asked(service)}[{window}])))"


def cache_hit_ratio(service: str, window: str) -> str:
    """Share of look-ups that any tier answered. Every look-up begins in memory, so those are all."""
    hits = _rate(CACHE_HITS + of(service), window, ("service",))
    first = f'{{service="{service}",tier="memory"}}'
    found, missed = (_rate(name + first, window, ("service",)) for name in (CACHE_HITS, CACHE_MISSES))
    asked_for = f"({found} + {missed} or {missed} or {found})"
    return f"({hits} or 0 * {missed}) / ({asked_for} > 0)"


def queue_depth(service: str) -> str:
    """Waiting tasks. Every replica reports the whole queue, so the largest answer is the safe one."""
    return f"max by (service) ({QUEUE}{of(service)})"


def gpu_devices(service: str) -> str:
    """Selects the devices that pods of both slots hold."""
    return f'{GPU}{{pod=~"{service}-(blue|green)-.+"}}'


def gpu_utilisation(service: str, window: str) -> str:
    """Average use as a share of 1."""
    return f"avg(avg_over_time({gpu_devices(service)}[{window}])) / 100"


def _share(part: str, whole: str, window: str, by: tuple[str, ...]) -> str:
    counted, all_ = _rate(part, window, by), _rate(whole, window, by)
    return f"({counted} or 0 * {all_}) / ({all_} > 0)"


def _rate(metric: str, window: str, by: tuple[str, ...]) -> str:
    return f"sum by ({', '.join(by)}) (rate({metric}[{window}]))"
