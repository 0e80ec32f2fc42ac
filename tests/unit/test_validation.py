"""Guards what is made of what was seen: each verdict can pass, fail, and say that nothing was seen."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dr_platform.catalog import load_catalog
from dr_platform.catalog.models import Slo
from dr_platform.clock import ManualClock
from dr_platform.metrics.port import Counters, Histogram, MetricsUnavailable, Window
from dr_platform.phi import PhiDetector
from dr_platform.platform import find_catalog
from dr_platform.reference_service.crisis import CrisisKind, find_crisis
from dr_platform.runtime.port import ProbeResult, Slot
from dr_platform.validation import ai, hipaa, security, smoke
from dr_platform.validation.performance import (
    EACH,
    FRESH_S,
    Gauges,
    Load,
    Loaded,
    judge,
    parse,
    performance_verdict,
    window_of,
)
from dr_platform.validation.security import Listener, judge_access, judge_files, judge_listeners

pytestmark = pytest.mark.unit

BLUE, GREEN = Slot.BLUE, Slot.GREEN


# Smoke


def health(**other: Any) -> ProbeResult:
    body = dict.fromkeys(smoke.FIELDS, "") | {"service": "billing", "version": "1.0.0", "status": "healthy"} | other
    return ProbeResult(200, json.dumps(body).encode(), 2.0)


ANSWERS = {"/health": health(), "/health/ready": ProbeResult(200), "/health/live": ProbeResult(200)}


def smoked(
    slots: Mapping[Slot, str] = {BLUE: "1.0.0"}, by_slot: Mapping[Slot, ProbeResult] = {}, **answers: Any
) -> Any:
    named = {f"/{path.replace('_', '/')}": answer for path, answer in answers.items()}
    seen = {slot: health(version=version) for slot, version in slots.items()} | dict(by_slot)
    return smoke.judge("billing", slots, ANSWERS | named, seen)


def test_a_service_whose_addresses_and_slots_answer_as_documented_passes() -> None:
    verdict = smoked({BLUE: "1.0.0", GREEN: "1.1.0"})
    assert (verdict.passed, verdict.why) == (True, "3 addresses and 2 slots answer as documented")


@pytest.mark.parametrize(("verdict", "why"), [
    (smoked(health_ready=ProbeResult(503)), "/health/ready: HTTP 503"),
    (smoked(health=ProbeResult(None, reason="connection refused")), "/health: connection refused"),
    (smoked(health=health(service="consent")), "/health is answered by another service"),
    (smoked(health=health(version="0.9.0")), "/health is answered by a version that should not run"),
    (smoked(health=ProbeResult(200, b"{}")), "/health: no health response"),
    (smoked(health=ProbeResult(200, b'{"status": "healthy"}')), "lacks compliance, dependencies"),
    (smoked({}), "no slot has a ready replica"),
    (smoked({BLUE: "1.0.0", GREEN: "1.1.0"}, {GREEN: health()}), "the revision header does not lead to 1.1.0 in green"),
])  # fmt: skip
def test_whatever_is_not_as_documented_fails(verdict: Any, why: str) -> None:
    assert verdict.passed is False
    assert why in verdict.why


def test_the_gateway_is_also_asked_about_its_databases() -> None:
    services = load_catalog(find_catalog()).services
    assert "/health/database" in smoke.documented_paths(services["api-gateway"])
    assert smoke.documented_paths(services["billing"]) == ("/health", "/health/ready", "/health/live")


# AI


def test_the_messages_are_signs_of_their_own_crisis_and_hold_no_identifier() -> None:
    assert set(ai.SIGNS) == set(CrisisKind)
    assert [kind for kind, message in ai.SIGNS.items() if kind not in find_crisis(message)] == []
    assert find_crisis(ai.HARMLESS) == ()
    assert not [text for text in (*ai.SIGNS.values(), *ai.FOREIGN) if PhiDetector().detect(text)]


def test_latency_is_judged_at_the_95th_percentile() -> None:
    quick, slow = [10.0] * 19, [10.0] * 18
    assert ai.judge_latency([*quick, 900.0], 500).passed is True
    verdict = ai.judge_latency([*slow, 900.0, 900.0], 500)
    assert (verdict.passed, verdict.measurements["p95_ms"]) == (False, 900.0)


# HIPAA


def test_every_made_up_identifier_stands_in_its_sentence_and_is_found_as_what_it_is() -> None:
    detector = PhiDetector()
    for kind, (text, value) in hipaa.IDENTIFIERS.items():
        assert value in text
        assert str(kind) in {str(span.kind) for span in detector.detect(text)}, text
        assert value not in detector.redact(text)


# Security


@pytest.mark.parametrize(("address", "passed"), [
    ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("::ffff:127.0.0.1", True),
    ("0.0.0.0", False), ("::", False), ("192.0.2.7", False), ("fe80::1%eth0", False),  # noqa: S104 - only judged
])  # fmt: skip
def test_only_loopback_is_not_exposed(address: str, passed: bool) -> None:
    verdict = judge_listeners(2, [Listener("keeper", "127.0.0.1", 1), Listener("redis", address, 6379)], [])
    assert verdict.passed is passed
    assert passed or f"redis on {address}:6379" in verdict.why


def test_a_process_that_cannot_be_looked_into_and_no_listener_at_all_do_not_pass() -> None:
    assert judge_listeners(2, [Listener("redis", "127.0.0.1", 6379)], ["postgres"]).passed is None
    assert judge_listeners(0, [], []).passed is None


def test_secrets_are_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o700)
    assert judge_files(folder, os.getuid()).passed is None
    secret = folder / "key"
    secret.touch(mode=0o600)
    assert judge_files(folder, os.getuid()).passed is True
    assert judge_files(folder, os.getuid() + 1).passed is False
    secret.chmod(0o640)
    assert "secrets/key is open to others (mode 640)" in judge_files(folder, os.getuid()).why
    secret.chmod(0o600)
    folder.chmod(0o711)
    assert judge_files(folder, os.getuid()).passed is False


def test_one_token_that_is_answered_otherwise_than_wanted_fails() -> None:
    good = {"no token": (401, 401), "a good token": (200, 200)}
    assert judge_access(good).passed is True
    assert judge_access(good | {"a forged token": (200, 401)}).why == "a forged token is answered 200"
    assert judge_access(good | {"a good token": (401, 200)}).passed is False


def test_well_known_logins_are_not_the_local_accounts() -> None:
    assert not [account for account, _password in security.WELL_KNOWN if account.startswith("demo-")]


# Performance

SLO = Slo.model_validate({"error_ratio": "1 %", "latency_p95": "100 ms"})


def window(requests: int = 100, errors: int = 0, slow: int = 0) -> Window:
    return Window(20.0, requests, errors, 0, Histogram((50.0, 500.0), (requests - slow, requests)))


def loaded(seen: Window | None, dropped: int = 0, **other: Any) -> Loaded:
    return Loaded(600, 20.0, dropped, {"any": seen}, **other)


@pytest.mark.parametrize(("seen", "passed", "why"), [
    pytest.param(loaded(window()), True, "p95 48 ms, promised below 100 ms (under 600 requests in 20 s)", id="kept"),
    pytest.param(loaded(window(errors=1)), False, "errors 1.0%, promised below 1%", id="must stay below, not at"),
    pytest.param(loaded(window(slow=20)), False, "promised below 100 ms", id="slow"),
    pytest.param(loaded(window(errors=50), dropped=300), False, "errors", id="broken whatever the load was"),
    pytest.param(loaded(window(), dropped=300), None, "300 of 600 requests", id="kept under less load proves nothing"),
    pytest.param(loaded(window(EACH - 1)), None, "only 14 requests", id="too few"),
    pytest.param(loaded(window(0)), None, "only 0 requests", id="none"),
    pytest.param(loaded(None), None, "began to count anew", id="a restarted router"),
    pytest.param(Loaded(0, 0.0, 0, {"any": window()}), None, "could not be sent", id="no load at all"),
])  # fmt: skip
def test_promises_are_judged_by_what_the_router_counted_under_the_stated_load(
    seen: Loaded, passed: bool | None, why: str
) -> None:
    verdict = judge("any", SLO, seen)
    assert verdict.passed is passed
    assert why in verdict.why


@pytest.mark.parametrize(("slo", "other", "passed"), [
    ({"cache_hit_ratio": "85 %"}, {"before": {"any": Gauges(90, 100)}, "after": {"any": Gauges(180, 200)}}, True),
    ({"cache_hit_ratio": "85 %"}, {"before": {"any": Gauges(99, 100)}, "after": {"any": Gauges(183, 200)}}, False),
    ({"cache_hit_ratio": "85 %"}, {"before": {"any": Gauges(9, 10)}, "after": {"any": Gauges(9, 10)}}, None),
    ({"queue_depth": 100}, {"after": {"any": Gauges(queue_depth=99)}}, True),
    ({"queue_depth": 100}, {"after": {"any": Gauges(queue_depth=100)}}, False),
    ({"queue_depth": 100}, {}, None),
    ({"gpu_utilisation": "80 %"}, {}, True),
    ({"gpu_utilisation": "80 %"}, {"gpu_devices": 1}, None),
])  # fmt: skip
def test_promises_about_caches_queues_and_devices(slo: Any, other: Any, passed: bool | None) -> None:
    assert judge("any", Slo.model_validate(slo), loaded(window(), **other)).passed is passed


def test_what_replicas_count_is_added_up_and_what_the_second_tier_is_asked_is_not_asked_twice() -> None:
    first = (
        'drp_cache_hits_total{service="s",cache="search",tier="memory"} 6\n'
        'drp_cache_misses_total{service="s",cache="search",tier="memory"} 4\n'
        'drp_cache_hits_total{service="s",cache="search",tier="redis"} 3\n'
        'drp_cache_misses_total{service="s",cache="search",tier="redis"} 1\n'
        'drp_queue_depth{service="s",queue="tasks"} 2\n'
    )
    assert parse(iter([first, first])) == Gauges(cache_hits=18, cache_asked=20, queue_depth=2)
    assert parse(iter(["", "nothing of the kind 1"])) == Gauges()


def test_all_who_ask_at_the_same_time_share_one_load_and_a_later_one_gets_its_own() -> None:
    clock, loads = ManualClock(), iter([loaded(window(100)), loaded(window(200))])
    load = Load(lambda: next(loads), clock)
    with ThreadPoolExecutor(4) as pool:
        seen = [future.result() for future in [pool.submit(load.loaded) for _ in range(8)]]
    assert seen == [loaded(window(100))] * 8
    clock.sleep(FRESH_S + 1)
    assert load.loaded() == loaded(window(200))


def test_a_load_that_could_not_be_measured_is_tried_once_and_told_to_all() -> None:
    tried = []

    def measure() -> Loaded:
        tried.append(1)
        raise MetricsUnavailable("the router", "connection refused")

    load = Load(measure, ManualClock())
    service = load_catalog(find_catalog()).services["billing"]
    verdicts = [performance_verdict(load, service) for _ in range(3)]
    assert len(tried) == 1
    assert {verdict.passed for verdict in verdicts} == {None}
    assert "the router does not answer" in verdicts[0].why


def test_a_window_is_both_slots_together_and_unknown_across_a_restart_of_the_router() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    before = Counters(at, 10, 1, 0, Histogram((50.0,), (10,)), 1, 1)
    after = Counters(at + timedelta(seconds=20), 30, 2, 0, Histogram((50.0,), (30,)), 1, 1)
    new = replace(after, requests=5, errors=0, latency=Histogram((50.0,), (5,)))
    found = window_of({BLUE: before}, {BLUE: after, GREEN: new})
    assert found is not None
    assert (found.requests, found.errors, found.latency.total) == (25, 1, 25)
    assert window_of({BLUE: after}, {BLUE: before}) is None
