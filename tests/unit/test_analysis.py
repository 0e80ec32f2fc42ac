"""Guards that each turn of a rollout is kept with what its triggers said, and is shown once as a check."""

from __future__ import annotations

import json
from collections.abc import Mapping

import dagster as dg
import pytest

from dr_platform.analysis import CHECK, ENTRY, analysis_verdict
from dr_platform.resources import ANALYSED
from dr_platform.rollout.controller import LEASE_TTL
from dr_platform.rollout.events import ANALYSIS
from dr_platform.rollout.record import Event
from dr_platform.rollout.requests import ask, steer
from dr_platform.runtime.port import Weights
from tests.rollouts import World
from tests.unit.test_delivery_sensors import NAME, Stage, stage

__all__ = ["stage"]

pytestmark = pytest.mark.unit

TRIGGERS = {"hipaa", "security", "errors", "health", "restarts", "latency", "saturation", "no-data"}


def analyses(world: World) -> list[Event]:
    return [event for event in world.told.values() if event.kind == ANALYSIS]


def turns(world: World) -> list[tuple[object, object, object]]:
    return [(e.body["weight"], e.body["turn"], e.body["verdict"]) for e in analyses(world)]


def test_each_step_is_kept_once_with_every_trigger_and_not_each_second() -> None:
    world = World()
    ask(world.runtime, world.name, world.intent())
    world.to_the_end(world.controller("a"))
    assert turns(world) == [(25, "next-step", "pass"), (100, "watched-to-the-end", "pass")]
    errors = analyses(world)[0].body["evaluations"]["errors"]
    assert set(analyses(world)[0].body["evaluations"]) == TRIGGERS
    assert (errors["verdict"], errors["threshold"], errors["fired_literal"]) == ("pass", 0.05, False)
    assert errors["total"] > 0


def test_what_took_a_rollout_back_is_kept_with_both_readings() -> None:
    world = World(rate=200)
    world.traffic.error_ratio["2"] = 1.0
    ask(world.runtime, world.name, world.intent())
    world.to_the_end(world.controller("a"))
    (told,) = analyses(world)
    assert (told.body["turn"], told.body["verdict"], told.body["trigger"]) == ("taken-back", "fail", "errors")
    assert (told.body["fired_literal"], told.body["fired_guard"]) == (False, True)
    assert told.body["evaluations"]["errors"]["verdict"] == "fail"


def test_a_watch_without_requests_is_kept_each_time_it_is_prolonged_and_when_a_person_is_called() -> None:
    world = World(rate=0.0)
    ask(world.runtime, world.name, world.intent())
    controller = world.controller("a")
    for _ in range(120):
        controller.tick()
        world.clock.sleep(1)
    assert [turn for _, turn, _ in turns(world)] == ["prolonged"] * 3 + ["waits-for-a-person"]
    assert "pass" not in {verdict for _, _, verdict in turns(world)}
    steer(world.runtime, world.name, "resume", "somebody")
    for _ in range(120):
        controller.tick()
        world.clock.sleep(1)
    assert [turn for _, turn, _ in turns(world)] == (["prolonged"] * 3 + ["waits-for-a-person"]) * 2


def test_a_successor_that_decides_the_same_turn_again_tells_nothing_new() -> None:
    world = World()
    ask(world.runtime, world.name, world.intent())
    first = world.controller("a")
    for _ in world.seconds(first):
        if world.observed().weights == Weights(75, 25):
            break
    world.clock.sleep(LEASE_TTL.total_seconds() + 1)
    world.to_the_end(world.controller("b"))
    watched = [(event.body["weight"], event.body["turn"]) for event in analyses(world)]
    assert watched.count((25, "next-step")) == watched.count((100, "watched-to-the-end")) == 1


# As checks


def shown(result: dg.SensorResult) -> list[dg.AssetCheckEvaluation]:
    return [event for event in result.asset_events if isinstance(event, dg.AssetCheckEvaluation)]


def values(evaluation: dg.AssetCheckEvaluation) -> Mapping[str, object]:
    return {name: value.value for name, value in evaluation.metadata.items()}


def test_turns_are_shown_on_the_service_with_samples_thresholds_and_both_readings(stage: Stage) -> None:
    stage.traffic.error_ratio["2.0.0"] = 1.0
    assert stage.deploy("2.0.0").result == "rolled_back"
    stage.look(1)
    told, last = shown(stage.tick("rollouts"))
    assert (told.asset_key.path, told.check_name, told.passed) == (["services", NAME], CHECK, False)
    assert (last.asset_key.path, last.check_name, last.passed) == (["services", NAME], CHECK, True)
    assert "nothing of it runs any more" in str(last.description)
    assert told.severity is dg.AssetCheckSeverity.WARN
    found = values(told)
    assert (found["answer"], found["turn"], found["version"]) == ("bad", "taken-back", "2.0.0")
    assert (found["errors.threshold"], found["errors.fired_guard"], found["fired_guard"]) == (0.05, True, True)
    assert found["errors.bad"] == found["errors.total"]
    assert stage.tick("rollouts").asset_events == []


@pytest.mark.parametrize("first", ["the end", "the analysis"])
def test_the_last_word_is_about_what_runs_whichever_of_end_and_analysis_is_seen_first(stage: Stage, first: str) -> None:
    stage.traffic.error_ratio["2.0.0"] = 1.0
    ended = stage.deploy("2.0.0")
    stage.look(1)
    (entry,) = (e.sequence for e in stage.platform.evidence.entries(kind=ANALYSIS))
    if first == "the end":
        stage.cursors["rollouts"] = json.dumps({NAME: ended.rollout})
        told, last = shown(stage.tick("rollouts"))
    else:
        told, _ = shown(stage.tick("rollouts"))
        stage.instance.report_runless_asset_event(told)  # as if it stood alone in the tick before
        stage.cursors["rollouts"] = json.dumps({ANALYSED: str(entry)})
        (last,) = shown(stage.tick("rollouts"))
    assert (told.passed, last.passed) == (False, True)
    assert "nothing of it runs any more" in str(last.description)


def test_a_turn_is_shown_once_even_when_the_cursor_was_lost(stage: Stage) -> None:
    stage.deploy("2.0.0")
    stage.look(1)
    first = shown(stage.tick("rollouts"))
    assert first
    assert all(evaluation.passed for evaluation in first)
    stage.cursors.clear()
    assert shown(stage.tick("rollouts")) == []
    stage.deploy("3.0.0")
    stage.look(1)
    second = shown(stage.tick("rollouts"))
    assert min(int(str(values(e)[ENTRY])) for e in second) > max(int(str(values(e)[ENTRY])) for e in first)


def test_a_service_that_left_the_catalog_keeps_no_other_from_being_shown(stage: Stage) -> None:
    stage.deploy("2.0.0")
    stage.look(1)
    entry = next(stage.platform.evidence.entries(kind=ANALYSIS))
    stage.platform.evidence.append(ANALYSIS, "ro-gone", "controller:x", {**entry.body, "service": "gone"})
    told = shown(stage.tick("rollouts"))
    assert {evaluation.asset_key.path[-1] for evaluation in told} == {NAME}
    assert stage.tick("rollouts").asset_events == []


def test_the_check_judges_what_runs_and_not_what_was_taken_back(stage: Stage) -> None:
    assert analysis_verdict(stage.platform, NAME).why == "no rollout was judged here yet"
    stage.traffic.error_ratio["2.0.0"] = 1.0
    stage.deploy("2.0.0")
    stage.look(1)
    verdict = analysis_verdict(stage.platform, NAME)
    assert verdict.passed is True
    assert verdict.why.startswith("nothing of it runs any more: 2.0.0 at")
    assert verdict.measurements["verdict"] == "fail"
    stage.deploy("3.0.0")
    stage.look(1)
    verdict = analysis_verdict(stage.platform, NAME)
    assert (verdict.passed, verdict.measurements["version"]) == (True, "3.0.0")


def test_a_version_that_is_being_watched_without_an_answer_is_not_called_good(stage: Stage) -> None:
    stage.traffic.rate = 0.0
    from dr_platform import delivery

    ask(stage.runtime, NAME, delivery.deployment(stage.platform, NAME, "2.0.0", requested_by="somebody"))
    stage.look(120)
    assert stage.record().rollout is not None
    assert analysis_verdict(stage.platform, NAME).passed is None
    steer(stage.runtime, NAME, "promote", "somebody")
    stage.look(60)
    verdict = analysis_verdict(stage.platform, NAME)
    assert (verdict.passed, verdict.why.startswith("promoted by a person's word")) == (True, True)
