"""Guards `drp rollout retry` and `drp rollout restart` as a person meets them, on services in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from dr_platform import delivery
from dr_platform.catalog.models import Strategy
from dr_platform.cli import rollout_verbs
from dr_platform.clock import ManualClock
from dr_platform.errors import PlatformError
from dr_platform.evidence import MemoryEvidenceLog
from dr_platform.platform import Platform
from dr_platform.rollout import record as records
from dr_platform.rollout.controller import Controller
from dr_platform.rollout.record import Phase, Placement, Record
from dr_platform.runtime.memory import MemoryRuntime
from dr_platform.runtime.port import ProbeResult, Slot, Weights
from tests.catalogs import generated
from tests.opened import Opened
from tests.rollouts import MemoryTraffic, answer, at_once

pytestmark = pytest.mark.unit

NAME = "service-0000"


class BusyClock(ManualClock):
    """While somebody sleeps by it, the controller looks."""

    controller: Controller | None = None

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self.controller is not None:
            self.controller.tick()


@dataclass
class Place:
    platform: Platform
    runtime: MemoryRuntime
    clock: BusyClock

    def drp(self, *words: str) -> Result:
        app = typer.Typer()
        rollout_verbs.register(app)
        return CliRunner().invoke(app, list(words), obj=Opened(self.platform))

    def told(self, *words: str, exit_code: int = 0) -> dict[str, object]:
        result = self.drp(*words, "--json")
        assert result.exit_code == exit_code, (result.output, result.exception)
        return json.loads(result.stdout)

    def refused(self, *words: str) -> PlatformError:
        result = self.drp(*words)
        assert isinstance(result.exception, PlatformError), result.output
        return result.exception

    @property
    def record(self) -> Record:
        return records.read(self.runtime, NAME).record


@pytest.fixture
def place(tmp_path: Path) -> Place:
    clock = BusyClock()
    platform = Platform.open(
        "local", catalog=generated(tmp_path, 2), state=tmp_path / "state", runtime="local", clock=clock
    )
    runtime = MemoryRuntime(clock)
    platform.__dict__["local_runtime"] = runtime
    platform.__dict__["traffic"] = MemoryTraffic(runtime, clock)
    platform.__dict__["evidence"] = MemoryEvidenceLog(clock)
    for version in ("1.0.0", "2.0.0"):
        runtime.faults.answers[version] = answer(version)
    for service in platform.catalog.services.values():
        workload = platform.workload(service.name, "1.0.0")
        runtime.declare(service)
        runtime.apply(Slot.BLUE, workload)
        runtime.route(service.name, Weights(100, 0), 1)
        placement = Placement(Slot.BLUE, workload.revision)
        records.change(runtime, service.name, lambda record, placement=placement: record.with_stable(placement))
    clock.sleep(60)
    clock.controller = delivery.controller(platform, aside=at_once)
    return Place(platform, runtime, clock)


def test_what_was_aborted_is_tried_again_and_ends_with_0_only_when_it_is_there(place: Place) -> None:
    place.runtime.faults.answers["2.0.0"] = answer("2.0.0", 500)
    first = place.told("deploy", NAME, "--version", "2.0.0", "--strategy", "blue-green", exit_code=1)
    again = place.told("rollout", "retry", NAME, exit_code=1)
    assert (first["outcome"], again["outcome"]) == ("aborted", "aborted")
    tried = place.record.last
    place.runtime.faults.answers["2.0.0"] = answer("2.0.0")
    third = place.told("rollout", "retry", NAME)
    assert (third["to"], third["strategy"], third["outcome"]) == ("2.0.0", "blue-green", "promoted")
    assert tried is not None
    assert third["reason"] == f"retry of {tried.rollout}"
    assert "as asked" in place.refused("rollout", "retry", NAME).what


def test_a_way_back_that_a_person_gave_up_is_tried_again_as_a_way_back(place: Place) -> None:
    place.told("deploy", NAME, "--version", "2.0.0")
    silent = ProbeResult(200, b'{"version": "1.0.0"}')  # it does not say whether it is compliant
    place.runtime.faults.answers["1.0.0"] = silent
    sleep = place.clock.sleep

    def giving_up(seconds: float) -> None:
        sleep(seconds)
        if (rollout := place.record.rollout) is not None and rollout.phase is Phase.SMOKE:
            place.drp("abort", NAME)

    place.clock.sleep = giving_up  # ty: ignore[invalid-assignment]
    assert place.told("rollback", NAME, exit_code=1)["outcome"] == "aborted"
    place.runtime.faults.answers["1.0.0"] = answer("1.0.0")
    again = place.told("rollout", "retry", NAME)
    assert (again["to"], again["outcome"]) == ("1.0.0", "rolled_back")


def test_a_revision_whose_configuration_has_changed_meanwhile_is_not_passed_off_as_the_same(place: Place) -> None:
    place.runtime.faults.answers["2.0.0"] = answer("2.0.0", 500)
    place.told("deploy", NAME, "--version", "2.0.0", exit_code=1)
    records.change(place.runtime, NAME, _with_other_configuration)
    refused = place.refused("rollout", "retry", NAME)
    assert "its configuration is not there any more" in refused.what
    assert refused.exit_code == 2


def _with_other_configuration(record: Record) -> Record:
    assert record.last is not None
    assert record.last.revision is not None
    return replace(record, last=replace(record.last, revision=replace(record.last.revision, config_hash="other")))


def test_the_stable_replicas_are_started_anew_and_shown_while_they_are(place: Place) -> None:
    before = place.runtime.observe(NAME)
    told = place.told("rollout", "restart", NAME, "--reason", "leak")
    assert (told["service"], told["version"], told["outcome"]) == (NAME, "1.0.0", "restarted")
    after = place.runtime.observe(NAME)
    assert after.weights == before.weights
    olds, news = before.slots[Slot.BLUE].replicas, after.slots[Slot.BLUE].replicas
    assert all(old.started_at != new.started_at for old, new in zip(olds, news, strict=True))
    shown = place.drp("rollout", "show", NAME).stdout
    assert "last restart: done" in shown
    assert place.told("rollout", "show", NAME)["restart"] is None
    place.clock.sleep(1)
    (entry,) = place.platform.evidence.entries(kind="restart-ended", subject=f"services/{NAME}")
    assert entry.body["done"] is True


def test_a_replica_that_does_not_come_back_ends_the_restart_with_1_and_its_name(place: Place) -> None:
    sleep = place.clock.sleep

    def never_ready(seconds: float) -> None:
        sleep(seconds)
        if (restart := place.record.restart) is not None and restart.current is not None:
            place.runtime.faults.unready_versions.add("1.0.0")

    place.clock.sleep = never_ready  # ty: ignore[invalid-assignment]
    told = place.told("rollout", "restart", NAME, exit_code=1)
    assert told["outcome"] == "stopped"
    assert f"{NAME}-blue.0" in str(told["reason"])


def test_the_only_replica_of_what_cannot_run_twice_is_not_started_beside_itself(place: Place) -> None:
    alone = {"strategies": (Strategy.RECREATE,)}
    place.platform.environment = place.platform.environment.model_copy(update=alone)
    assert place.platform.replicas_of(place.platform.catalog.services[NAME]) == 1
    before = place.runtime.observe(NAME)
    assert "cannot be started anew beside itself" in place.refused("rollout", "restart", NAME).what
    assert (place.record.restart, place.runtime.observe(NAME)) == (None, before)


def test_a_service_that_does_not_exist_is_refused_by_both(place: Place) -> None:
    for verb in ("retry", "restart"):
        assert place.refused("rollout", verb, "nobody").exit_code == 2
