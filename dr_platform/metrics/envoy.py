"""Counters of each slot from Envoy's statistics.

Here: one scrape, and what it says. Not here: windows and judgement (``port``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

from dr_platform.metrics.port import Counters, Histogram, MetricsUnavailable
from dr_platform.runtime.local.documents import stat_name
from dr_platform.runtime.local.envoy import EnvoyAdmin
from dr_platform.runtime.port import RuntimeUnreachable, Slot

_STATS = r"(upstream_rq_(completed|5xx|timeout|time)|membership_(healthy|total))"
_ANY = r"[a-z0-9-]+--(blue|green)"
_NAME = re.compile(r"cluster\.(?P<service>[a-z0-9-]+)--(?P<slot>blue|green)\.(?P<stat>\w+)")


class EnvoyTraffic:
    """``TrafficSource`` over Envoy's admin port. ``now`` gives aware UTC time."""

    def __init__(self, admin: EnvoyAdmin, now: Callable[[], datetime]) -> None:
        self._admin = admin
        self._now = now

    def read(self, service: str) -> Mapping[Slot, Counters]:
        names = "|".join(re.escape(stat_name(service, slot)) for slot in Slot)
        found = self._scrape(f"({names})").get(service, {})
        return {slot: found.get(slot) or _nothing(self._now()) for slot in Slot}

    def read_all(self) -> Mapping[str, Mapping[Slot, Counters]]:
        return self._scrape(_ANY)

    def _scrape(self, clusters: str) -> dict[str, dict[Slot, Counters]]:
        pattern = quote(rf"^cluster\.{clusters}\.{_STATS}$")
        try:
            stats = self._admin.document(f"/stats?format=json&usedonly&histogram_buckets=cumulative&filter={pattern}")
        except RuntimeUnreachable as exc:
            raise MetricsUnavailable("the router", exc.args[1]) from exc
        return parse(stats.get("stats", []), self._now())


@dataclass
class _Found:
    values: dict[str, int] = field(default_factory=dict)
    latency: Histogram = field(default_factory=Histogram)


def parse(stats: Iterable[Mapping[str, Any]], at: datetime) -> dict[str, dict[Slot, Counters]]:
    """Counters by service and slot from the ``stats`` list of a scrape; a statistic that is missing
    was never used, and counts 0."""
    found: dict[tuple[str, Slot], _Found] = {}
    for stat in stats:
        if "histograms" in stat:
            for histogram in stat["histograms"]:
                if place := _place(histogram["name"]):
                    found.setdefault(place[:2], _Found()).latency = _histogram(histogram.get("buckets", []))
        elif (place := _place(stat.get("name", ""))) is not None:
            found.setdefault(place[:2], _Found()).values[place[2]] = int(stat["value"])
    by_service: dict[str, dict[Slot, Counters]] = {}
    for (service, slot), one in found.items():
        by_service.setdefault(service, {})[slot] = _counters(one, at)
    return by_service


def _place(name: str) -> tuple[str, Slot, str] | None:
    matched = _NAME.fullmatch(name)
    return (matched["service"], Slot(matched["slot"]), matched["stat"]) if matched else None


def _histogram(buckets: Iterable[Mapping[str, Any]]) -> Histogram:
    ordered = sorted((float(bucket["upper_bound"]), int(bucket["cumulative"])) for bucket in buckets)
    return Histogram(tuple(bound for bound, _ in ordered), tuple(count for _, count in ordered))


def _counters(found: _Found, at: datetime) -> Counters:
    values = found.values
    return Counters(
        at=at,
        requests=values.get("upstream_rq_completed", 0),
        errors=values.get("upstream_rq_5xx", 0),
        timeouts=values.get("upstream_rq_timeout", 0),
        latency=found.latency,
        members=values.get("membership_total", 0),
        healthy=values.get("membership_healthy", 0),
    )


def _nothing(at: datetime) -> Counters:
    return Counters(at, 0, 0, 0, Histogram(), 0, 0)
