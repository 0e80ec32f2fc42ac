"""Guards that maintenance reaches the right services, is in the evidence log, and is never stopped by that log."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typer.testing import CliRunner, Result

from dr_platform.catalog import Role, load_catalog
from dr_platform.cli.context import Choice
from dr_platform.cli.maintenance_verbs import TEXT, TITLE, app
from dr_platform.clock import ManualClock
from dr_platform.evidence import MemoryEvidenceLog, RefusedEvidence
from dr_platform.health import REQUIRED_COMPLIANCE, service_hipaa_verdict
from dr_platform.maintenance import NoEntry, Order, begin, end, entry, every_public, show
from dr_platform.operations.engine import OperationsUnavailable
from dr_platform.platform import Platform, find_catalog
from dr_platform.runtime.memory import MemoryRuntime
from dr_platform.runtime.notice import Notice
from dr_platform.runtime.port import ProbeResult, Slot, UnknownService
from tests.contracts.runtime import ALL_BLUE, a_service, a_workload

pytestmark = pytest.mark.unit

CATALOG = load_catalog(find_catalog())
NOTICE = Notice(TITLE, TEXT, 1800)
ORDER = Order("alex", "incident inc-7k3m9q2w, database is full")


class LostEvidenceLog(MemoryEvidenceLog):
    """Its server does not answer."""

    def append(self, kind: str, subject: str, actor: str, body: Mapping[str, Any]) -> Any:
        raise OperationsUnavailable("OperationalError")


@pytest.fixture
def runtime() -> MemoryRuntime:
    runtime = MemoryRuntime(ManualClock())
    for name in ("one", "two", "three"):
        runtime.declare(a_service(name=name))
    return runtime


@pytest.fixture
def evidence() -> MemoryEvidenceLog:
    return MemoryEvidenceLog(ManualClock())


def entries(log: MemoryEvidenceLog) -> list[tuple[str, str, str, object]]:
    return [(e.kind, e.subject, e.actor, e.body["reason"]) for e in log.entries()]


def test_the_entry_is_the_gateway_and_all_are_the_public_services() -> None:
    gateway = CATALOG.with_role(Role.GATEWAY)
    assert gateway is not None
    assert entry(CATALOG) == (gateway.name,)
    assert set(every_public(CATALOG)) == {n for n, s in CATALOG.services.items() if s.public} | {gateway.name}
    assert len(every_public(CATALOG)) > 1


def test_a_catalog_without_an_entry_is_refused() -> None:
    closed = dataclasses.replace(CATALOG, services={"one": a_service(name="one")})
    for choose in (entry, every_public):
        with pytest.raises(NoEntry):
            choose(closed)


def test_each_suspended_service_is_in_the_evidence_with_actor_and_reason(
    runtime: MemoryRuntime, evidence: MemoryEvidenceLog
) -> None:
    changes = begin(runtime, evidence, ("one", "two"), NOTICE, ORDER)
    assert all(change.done and not change.problems for change in changes)
    assert runtime.suspensions() == {"one": NOTICE, "two": NOTICE}
    assert entries(evidence) == [("maintenance-on", name, ORDER.actor, ORDER.reason) for name in ("one", "two")]


def test_the_end_resumes_all_that_are_suspended_and_a_second_end_does_and_writes_nothing(
    runtime: MemoryRuntime, evidence: MemoryEvidenceLog
) -> None:
    begin(runtime, evidence, ("one", "two"), NOTICE, ORDER)
    assert [change.service for change in end(runtime, evidence, Order("kim", "mended"))] == ["one", "two"]
    assert runtime.suspensions() == {}
    written = entries(evidence)
    assert written[2:] == [("maintenance-off", "one", "kim", "mended"), ("maintenance-off", "two", "kim", "mended")]
    assert end(runtime, evidence, ORDER) == ()
    assert entries(evidence) == written


def test_a_resumption_that_the_router_ignored_is_shown_and_repaired_by_the_next_end(
    runtime: MemoryRuntime, evidence: MemoryEvidenceLog
) -> None:
    begin(runtime, evidence, ("one",), NOTICE, ORDER)
    runtime.faults.routes_ignored = True
    (change,) = end(runtime, evidence, ORDER)
    assert not change.done
    assert [(found.service, found.in_use) for found in show(runtime)] == [("one", False)]
    runtime.faults.routes_ignored = False
    (change,) = end(runtime, evidence, ORDER)
    assert change.done
    assert show(runtime) == ()


def test_evidence_that_cannot_be_written_does_not_stop_maintenance_and_is_told(runtime: MemoryRuntime) -> None:
    log = LostEvidenceLog(ManualClock())
    (change,) = begin(runtime, log, ("one",), NOTICE, ORDER)
    assert change.done
    assert "missing in the evidence log" in change.problems[0]
    assert runtime.suspensions() == {"one": NOTICE}
    (change,) = end(runtime, log, ORDER)
    assert (change.done, len(change.problems)) == (True, 1)
    assert runtime.suspensions() == {}


def test_a_reason_with_patient_data_is_refused_and_nothing_changes(
    runtime: MemoryRuntime, evidence: MemoryEvidenceLog
) -> None:
    with pytest.raises(RefusedEvidence):
        begin(runtime, evidence, ("one",), NOTICE, Order("alex", "patient SSN 123-45-6789 cannot log in"))
    assert runtime.suspensions() == {}
    assert evidence.count() == 0


def test_an_unknown_service_is_refused_before_anything_changes(
    runtime: MemoryRuntime, evidence: MemoryEvidenceLog
) -> None:
    with pytest.raises(UnknownService):
        begin(runtime, evidence, ("one", "nobody"), NOTICE, ORDER)
    assert runtime.suspensions() == {}
    assert evidence.count() == 0


def test_what_the_router_does_is_told_apart_from_what_it_was_told(
    runtime: MemoryRuntime, evidence: MemoryEvidenceLog
) -> None:
    begin(runtime, evidence, ("one",), NOTICE, ORDER)
    assert [(found.service, found.notice, found.in_use) for found in show(runtime)] == [("one", NOTICE, True)]
    runtime.faults.router_unreachable = True
    assert [found.in_use for found in show(runtime)] == [None]
    runtime.faults.router_unreachable = False
    runtime.faults.routes_ignored = True
    (change,) = begin(runtime, evidence, ("two",), NOTICE, ORDER)
    assert not change.done
    assert [(found.service, found.in_use) for found in show(runtime)] == [("one", True), ("two", False)]


@dataclasses.dataclass(frozen=True)
class Opened(Choice):
    """A platform that is open already: the shipped catalog over a runtime in memory."""

    runtime_in_memory: MemoryRuntime = dataclasses.field(default_factory=lambda: MemoryRuntime(ManualClock()))
    log: MemoryEvidenceLog = dataclasses.field(default_factory=lambda: MemoryEvidenceLog(ManualClock()))

    def platform(self) -> Platform:
        found = SimpleNamespace(catalog=CATALOG, runtime=self.runtime_in_memory, evidence=self.log)
        return cast("Platform", found)


@pytest.fixture
def opened() -> Opened:
    opened = Opened()
    for service in CATALOG.services.values():
        opened.runtime_in_memory.declare(service)
    return opened


def drp_maintenance(opened: Opened, *words: str) -> Result:
    return CliRunner().invoke(app, list(words), obj=opened)


def test_the_verbs_suspend_show_and_resume_the_gateway(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRP_ACTOR", "kim")
    (gateway,) = entry(CATALOG)
    done = drp_maintenance(opened, "on", "--reason", "database is full", "--for", "90 min")
    assert (done.exit_code, done.stdout) == (0, f"{gateway}: suspended\n")
    assert entries(opened.log) == [("maintenance-on", gateway, "kim", "database is full")]
    shown = drp_maintenance(opened, "show", "--json")
    row = {"service": gateway, "title": TITLE, "text": TEXT, "retry_after_s": 5400, "in_use": True}
    assert (shown.exit_code, json.loads(shown.stdout)) == (0, [row])
    assert "database is full" not in drp_maintenance(opened, "show").stdout
    ended = drp_maintenance(opened, "off", "--json")
    assert json.loads(ended.stdout) == [{"service": gateway, "done": True, "exit_code": 0, "problems": []}]
    assert drp_maintenance(opened, "show").stdout == "no service is suspended\n"
    assert drp_maintenance(opened, "off").stdout == "no service was suspended\n"


def test_all_means_every_public_service(opened: Opened) -> None:
    assert drp_maintenance(opened, "on", "--reason", "move", "--all").exit_code == 0
    assert set(opened.runtime_in_memory.suspensions()) == set(every_public(CATALOG))


def test_the_exit_code_tells_what_was_not_done_not_recorded_or_not_seen(opened: Opened) -> None:
    lost = dataclasses.replace(opened, log=LostEvidenceLog(ManualClock()))
    done = drp_maintenance(lost, "on", "--reason", "database is full")
    assert done.exit_code == 3
    assert "missing in the evidence log" in done.stderr
    opened.runtime_in_memory.faults.router_unreachable = True
    assert drp_maintenance(opened, "show").exit_code == 3
    assert drp_maintenance(opened, "off").exit_code == 3
    opened.runtime_in_memory.faults.router_unreachable = False
    opened.runtime_in_memory.faults.routes_ignored = True
    assert drp_maintenance(opened, "off").exit_code == 3
    assert drp_maintenance(opened, "show").exit_code == 1


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--reason", " "], id="an empty reason"),
        pytest.param(["--reason", "x", "--for", "soon"], id="no duration"),
        pytest.param(["--reason", "x", "--for", "2 d"], id="too long a wait"),
        pytest.param(["--reason", "x", "--title", ""], id="no title"),
        pytest.param([], id="no reason"),
    ],
)
def test_what_was_typed_wrong_is_refused_and_nothing_changes(opened: Opened, words: list[str]) -> None:
    assert drp_maintenance(opened, "on", *words).exit_code == 2
    assert opened.runtime_in_memory.suspensions() == {}
    assert opened.log.count() == 0


@pytest.mark.parametrize("reason", ["", "  ", "r" * 301])
def test_an_order_has_a_reason_of_bounded_length(reason: str) -> None:
    with pytest.raises(ValueError, match="reason"):
        Order("alex", reason)


def test_the_page_names_help_for_a_crisis() -> None:
    assert "988" in TEXT
    assert "911" in TEXT


def test_access_control_of_a_suspended_service_is_judged_by_its_own_answer(runtime: MemoryRuntime) -> None:
    service = a_service(name="one")
    runtime.apply(Slot.BLUE, a_workload(service, "1"))
    runtime.route("one", ALL_BLUE, 1)
    body = {"status": "healthy", "compliance": dict.fromkeys(REQUIRED_COMPLIANCE, True)}
    platform = cast("Platform", SimpleNamespace(runtime=runtime))
    for status, passed in ((401, True), (200, False)):
        runtime.faults.answers["1"] = ProbeResult(status, json.dumps(body).encode())
        runtime.resume("one")
        assert service_hipaa_verdict(platform, "one").passed is passed
        runtime.suspend("one", NOTICE)
        assert service_hipaa_verdict(platform, "one").passed is passed
