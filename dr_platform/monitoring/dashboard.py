"""A Grafana dashboard of one environment: every objective beside what is measured.

Here: the dashboard as a value, in Grafana's JSON model (schema version 39). Not here: the
recordings that its panels read (``rules``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from dr_platform.monitoring.rules import error_ratio_name
from dr_platform.monitoring.scope import Scope

Document = dict[str, Any]

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_CHOSEN = '{service=~"$service"}'
_WIDTH, _HEIGHT = 12, 8


@dataclass(frozen=True)
class _Panel:
    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    """Expression and legend."""
    kind: str = "timeseries"
    text: str = ""
    ceiling: float | None = None


def dashboard_document(scope: Scope) -> Document:
    """Its address ends in ``/d/production-overview`` in production, as the second guide says."""
    panels = [_placed(panel, place) for place, panel in enumerate(_panels(scope))]
    return {
        "uid": f"{scope.environment}-overview",
        "title": f"{scope.environment.capitalize()} overview",
        "description": "Objectives of the catalog beside what is measured. Generated: changes are overwritten.",
        "tags": ["dr-platform", scope.environment],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "timezone": "utc",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timepicker": {},
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": [_datasource(), _service()]},
        "panels": panels,
    }


def _datasource() -> Document:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source", "hide": 0}


def _service() -> Document:
    query = "label_values(service:drp_slo:objective, service)"
    return {
        "name": "service",
        "label": "Service",
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "service"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
        "options": [],
        "regex": "",
    }


def _panels(scope: Scope) -> Iterator[_Panel]:
    alerts = 'count by (alertname, severity, owner, service) (ALERTS{alertstate="firing",service=~"$service"})'
    yield _Panel("Firing alerts", "none", ((alerts, "{{service}}: {{alertname}} ({{severity}}, {{owner}})"),))
    yield _Panel("Requests", "reqps", (("service:drp_requests:rate5m" + _CHOSEN, "{{service}}"),))
    yield _objective("error_ratio", "Error ratio, 5 minutes", "percentunit", error_ratio_name("5m"))
    yield _Panel("Error budget burn rate", "none", tuple(_burn_rates()))
    promised = {name for s in scope.services for name, value in vars(s.slo).items() if value is not None}
    for panel in _promises():
        if panel[0] in promised:
            yield _objective(*panel)
    yield from _gpu_panels(scope)
    yield from _rollout_panels(scope)


def _promises() -> Iterator[tuple[str, str, str, str]]:
    yield "latency_p95", "Latency, 95th percentile", "s", "service:drp_request_duration_seconds:p95_5m"
    yield "queue_depth", "Queue depth", "none", "service:drp_queue_depth:max"
    yield "cache_hit_ratio", "Cache hit ratio", "percentunit", "service:drp_cache_hits:ratio_rate5m"


def _objective(promise: str, title: str, unit: str, measured: str) -> _Panel:
    objective = f'service:drp_slo:objective{{slo="{promise}",service=~"$service"}}'
    return _Panel(title, unit, ((measured + _CHOSEN, "{{service}}"), (objective, "objective of {{service}}")))


def _burn_rates() -> Iterator[tuple[str, str]]:
    budget = 'service:drp_slo:objective{slo="error_ratio"}'
    for window in ("1h", "6h", "24h", "3d"):
        ratio = error_ratio_name(window) + _CHOSEN
        yield f"{ratio} / on (service) group_left () {budget}", f"{{{{service}}}} over {window}"


def _gpu_panels(scope: Scope) -> Iterator[_Panel]:
    wanted = [service for service in scope.services if service.slo.gpu_utilisation is not None]
    gaps = [f"- {s.name}: not applicable, {gap}" for s in wanted if (gap := scope.gpu_gap(s))]
    if len(gaps) < len(wanted):
        title = "GPU utilisation, 1 hour"
        yield _objective("gpu_utilisation", title, "percentunit", "service:drp_gpu_utilisation:avg1h")
    if gaps:
        yield _Panel("GPU utilisation: not measured", "none", (), kind="text", text="\n".join(gaps))


def _rollout_panels(scope: Scope) -> Iterator[_Panel]:
    legend = "{{service}} {{version}} {{slot}}"
    errors = _Panel("Errors by version, 3 minutes", "percentunit", (), ceiling=0.05)
    yield replace(errors, queries=(("revision:drp_request_errors:ratio_rate3m" + _CHOSEN, legend),))
    health = _Panel("Failed health looks, 5 minutes", "percentunit", (), ceiling=0.10)
    if scope.router:
        router = (("slot:drp_router_errors:ratio_rate3m" + _CHOSEN, "{{service}} {{slot}}"),)
        yield replace(errors, title="Errors by slot as the router sees them, 3 minutes", queries=router)
        looks = "slot:drp_router_health_failures:ratio5m"
    else:
        looks = "revision:drp_health_failures:ratio5m"
    yield replace(health, queries=((looks + _CHOSEN, legend),))


def _placed(panel: _Panel, place: int) -> Document:
    column, row = place % 2, place // 2
    common: Document = {
        "id": place + 1,
        "title": panel.title,
        "type": panel.kind,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
    }
    if panel.kind == "text":
        return {**common, "options": {"mode": "markdown", "content": panel.text}}
    targets = [
        {"refId": chr(ord("A") + number), "datasource": _SOURCE, "expr": expr, "legendFormat": legend}
        for number, (expr, legend) in enumerate(panel.queries)
    ]
    return {**common, "datasource": _SOURCE, "targets": targets, "fieldConfig": _field_config(panel), "options": {}}


def _field_config(panel: _Panel) -> Document:
    steps: list[Document] = [{"color": "green", "value": None}]
    custom: Document = {}
    if panel.ceiling is not None:
        steps.append({"color": "red", "value": panel.ceiling})
        custom = {"thresholdsStyle": {"mode": "line"}}
    defaults = {"unit": panel.unit, "min": 0, "custom": custom, "thresholds": {"mode": "absolute", "steps": steps}}
    return {"defaults": defaults, "overrides": []}
