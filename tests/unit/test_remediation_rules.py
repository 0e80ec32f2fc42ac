"""Guards that a failing check is met with what the catalog's rules say, one attempt a time, health first."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dr_platform.catalog import load_catalog
from dr_platform.catalog.models import Remediation, RemedyRule
from dr_platform.errors import PlatformError
from dr_platform.health import looks
from dr_platform.incidents import TriggerKind
from dr_platform.operations.budgets import Spent
from dr_platform.platform import Platform, find_catalog
from dr_platform.remediation import (
    Attempt,
    Condition,
    Escalate,
    Grounds,
    Leave,
    Policies,
    Policy,
    Situation,
    Target,
    Trail,
    decide,
    remediable,
    situations,
    subject_of,
)
from dr_platform.remedy import ACTOR, Remedy, go_back, in_turn, restart
from dr_platform.resources import ATTEMPT_TAG, RESTART_JOB, TARGET_TAG, attempt_request
from dr_platform.rollout.requests import RolloutRefused
from dr_platform.runtime.port import ReplicaState, Slot
from tests.catalogs import shipped_copy
from tests.unit.test_delivery_sensors import NAME, Stage, stage
from tests.unit.test_remediation import DATABASE, NOW, SERVICE, UNSPENT, ago, ill, spent, well

__all__ = ["stage"]

pytestmark = pytest.mark.unit


def rule(**fields: object) -> RemedyRule:
    return RemedyRule.model_validate({"layer": "services", **fields})


def policies(*rules: RemedyRule) -> Policies:
    return Policies(Remediation(rules=rules))


# What the rules say


def test_without_a_rule_health_alone_is_mended_by_materialising_it_anew() -> None:
    default = policies()
    assert default.checks == ("healthy",)
    assert default.of(SERVICE) == Policy.of(Remediation())
    assert default.of(SERVICE, "hipaa") is None
    assert {Policy.of(Remediation()).action(number) for number in range(1, 11)} == {"re-materialise"}


def test_no_shipped_environment_takes_the_mending_of_health_away() -> None:
    catalog = load_catalog(find_catalog())
    for environment in catalog.environments.values():
        for target in remediable(catalog):
            policy = Policies(environment.remediation).of(target)
            assert policy is not None
            assert policy.action(1) == "re-materialise"


def test_a_rule_for_one_part_counts_before_one_for_its_layer_and_others_keep_theirs() -> None:
    found = policies(rule(actions=["restart"]), rule(part="billing", actions=["roll-back"], attempts=1))
    assert [p and p.actions for p in map(found.of, (("services", "billing"), SERVICE, DATABASE))] == [
        ("roll-back",),
        ("restart",),
        ("re-materialise",),
    ]
    own = found.of(("services", "billing"))
    assert own is not None
    assert (own.attempts, own.first_pause) == (1, timedelta(seconds=10))


def test_actions_follow_one_another_and_the_last_is_repeated() -> None:
    policy = Policy.of(Remediation(), rule(actions=["re-materialise", "restart"], attempts=4))
    given = [Situation(SERVICE, ill(99), spent(n)) for n in range(4)]
    actions = [a.action for a in (decide(s, NOW, policy) for s in given) if isinstance(a, Attempt)]
    assert actions == ["re-materialise", "restart", "restart", "restart"]


def test_a_policy_that_only_pages_tries_nothing_and_calls_once_the_patience_is_over() -> None:
    policy = Policy.of(Remediation(), rule(check="hipaa", actions=["page"]))
    assert decide(Situation(SERVICE, ill(11), UNSPENT), NOW, policy) == Leave("may be starting")
    called = decide(Situation(SERVICE, ill(12), UNSPENT), NOW, policy)
    assert called == Escalate("nothing is tried by the policy: 0 of 1 replicas ready")
    assert decide(Situation(SERVICE, ill(99), spent(0, escalated_s=1)), NOW, policy) == Leave("a person was called")


def test_a_person_is_called_where_the_rule_says_so_before_the_attempts_are_used_up() -> None:
    policy = Policy.of(Remediation(), rule(actions=["restart", "page"], attempts=5))
    assert decide(Situation(SERVICE, ill(99), spent(1)), NOW, policy) == Escalate(
        "1 attempts did not help: 0 of 1 replicas ready"
    )


def test_another_check_waits_until_the_target_itself_is_healthy() -> None:
    catalog = load_catalog(find_catalog())
    target = ("services", next(n for n, s in catalog.services.items() if not s.needs.services))
    leaking = {target: ill(99)}

    def about(health: Mapping[Target, Condition], trails: Mapping[Target, Trail]) -> Situation:
        ground = Grounds(health, trails)
        return situations(catalog, leaking, {target: UNSPENT}, {}, health=ground)[target]

    policy = Policy.of(Remediation(), rule(check="hipaa", actions=["restart"]))
    name = "/".join(target)
    cases = [
        (about({target: ill(1)}, {}), Leave(f"stands on {name}, which is unhealthy")),
        (
            about({target: well(99)}, {target: Trail(under_way=True)}),
            Leave(f"stands on {name}, which is being worked on"),
        ),
        (about({target: well(99)}, {}), Attempt(1, "restart")),
    ]
    assert [decide(given, NOW, policy) for given, _ in cases] == [expected for _, expected in cases]


@pytest.mark.parametrize(
    "fields",
    [
        {"layer": "databases", "actions": ["roll-back"]},
        {"layer": "services", "actions": ["page", "restart"]},
        {"layer": "databases", "check": "smoke"},
        {"layer": "infrastructure", "part": "ports"},
        {"layer": "services", "actions": []},
        {"layer": "services", "check": "invented"},
        {"layer": "knowledge"},
    ],
)
def test_a_rule_that_cannot_be_carried_out_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RemedyRule.model_validate(fields)


def test_a_rule_about_a_part_that_is_not_there_is_a_fault_of_its_file(tmp_path) -> None:
    root = shipped_copy(tmp_path)
    file = root / "environments" / "local.yaml"
    wrong = "\nremediation: {rules: [{layer: services, part: biling, actions: [restart]}]}\n"
    file.write_text(file.read_text(encoding="utf-8") + wrong, encoding="utf-8")
    with pytest.raises(PlatformError) as refused:
        load_catalog(root)
    assert "remediation.rules.0.part" in str(refused.value)
    assert "billing" in str(refused.value)


def test_every_check_that_a_rule_may_name_exists() -> None:
    there = {(look.asset[0], look.check) for look in looks(Platform.open("local", catalog=find_catalog()))}
    for check in ("healthy", "hipaa", "smoke", "access"):
        assert ("services", check) in there
    assert {("databases", "healthy"), ("databases", "hipaa"), ("infrastructure", "healthy")} <= there


# Whatever happens

actions = st.lists(st.sampled_from(["re-materialise", "restart", "roll-back"]), min_size=1, max_size=4)
rules = st.builds(
    lambda tried, page, attempts, pause: rule(
        actions=[*tried, *(["page"] if page else [])], attempts=attempts, first_pause=f"{pause} s"
    ),
    actions,
    st.booleans(),
    st.integers(1, 10),
    st.integers(1, 120),
)


@dataclass
class Unhealable:
    """A target that stays ill whatever is tried, looked at each five seconds."""

    policy: Policy
    spent: Spent = field(default_factory=lambda: Spent("s"))

    def live(self, looks: int) -> list[tuple[float, Attempt | Escalate]]:
        done: list[tuple[float, Attempt | Escalate]] = []
        for look in range(looks):
            now = NOW + timedelta(seconds=5 * look)
            recent = sum(isinstance(action, Attempt) for _, action in done)
            action = decide(Situation(SERVICE, ill(99), self.spent, Trail(recent=recent)), now, self.policy)
            if isinstance(action, Attempt):
                self.spent = self.spent.with_attempt(now)
                done.append((5.0 * look, action))
            elif isinstance(action, Escalate):
                self.spent = self.spent.with_escalation(now)
                done.append((5.0 * look, action))
        return done


@settings(max_examples=60)
@given(rules)
def test_whatever_the_rule_attempts_follow_its_order_within_its_budget_and_pauses_and_end_in_one_call(
    wanted: RemedyRule,
) -> None:
    policy = Policy.of(Remediation(), wanted)
    done = Unhealable(policy).live(3000)
    attempts = [(at, action) for at, action in done if isinstance(action, Attempt)]
    assert [action.number for _, action in attempts] == list(range(1, len(attempts) + 1))
    assert [action.action for _, action in attempts] == [policy.action(n + 1) for n in range(len(attempts))]
    assert "page" not in {action.action for _, action in attempts}
    paged = wanted.actions.index("page") if "page" in wanted.actions else policy.attempts
    assert len(attempts) <= min(policy.attempts, paged, policy.attempts_in_window)
    for (before, action), (after, _) in itertools.pairwise(attempts):
        assert after - before >= policy.pause_after(action.number).total_seconds()
    calls = [at for at, action in done if isinstance(action, Escalate)]
    assert len(calls) <= 1
    assert all(at < call for at, _ in attempts for call in calls)
    assert calls or policy.pause_after(len(attempts)) > timedelta(hours=1)  # the next one was not due yet


@settings(max_examples=60)
@given(rules, st.sampled_from([True, None]))
def test_whatever_the_rule_nothing_is_done_about_what_is_good_or_could_not_be_looked_at(
    wanted: RemedyRule, good: bool | None
) -> None:
    policy = Policy.of(Remediation(), wanted)
    assert isinstance(decide(Situation(SERVICE, Condition(good, ago(9999)), UNSPENT), NOW, policy), Leave)


# Acting


def test_each_attempt_of_each_check_is_a_run_of_its_own_and_a_restart_names_its_part() -> None:
    remedies = [
        Remedy(SERVICE, number, "why", "100", check, action)
        for number in (1, 2)
        for check, action in (("healthy", "re-materialise"), ("hipaa", "restart"), ("hipaa", "re-materialise"))
    ]
    requests = [attempt_request(remedy, []) for remedy in remedies]
    assert len({request.run_key for request in requests}) == 4  # of one check one number, whatever it does
    assert requests[0].tags == {TARGET_TAG: "services/any", ATTEMPT_TAG: "1"}
    assert requests[1].tags[TARGET_TAG] == subject_of(SERVICE, "hipaa") == "services/any:hipaa"
    assert requests[1].job_name == RESTART_JOB
    assert requests[1].run_config["ops"]["start_anew"]["config"] == {"layer": "services", "part": "any"}


def test_a_restart_starts_the_replicas_that_serve_and_no_other(stage: Stage) -> None:
    stage.deploy("2.0.0")
    (serving,) = stage.runtime.observe(NAME).slots[Slot.GREEN].replicas
    stage.runtime.faults.unready_replicas.add(serving.name)
    before = stage.runtime.observe(NAME).slots[Slot.BLUE].replicas
    done = stage.definitions.resolve_job_def(RESTART_JOB).execute_in_process(
        instance=stage.instance,
        run_config={"ops": {"start_anew": {"config": {"layer": "services", "part": NAME}}}},
    )
    assert done.success
    observed = stage.runtime.observe(NAME)
    assert [r.state for r in observed.slots[Slot.GREEN].replicas] == [ReplicaState.READY]
    assert observed.slots[Slot.BLUE].replicas == before


def test_a_server_of_others_is_not_restarted(stage: Stage) -> None:
    from dataclasses import replace as changed

    stage.platform.binding = changed(stage.platform.binding, databases="endpoints")
    with pytest.raises(PlatformError, match="not started by this platform"):
        restart(stage.platform, ("databases", "postgres"))


def test_going_back_opens_an_incident_first_and_reaches_the_version_before(stage: Stage) -> None:
    stage.deploy("2.0.0")
    stage.look(5)
    intent = go_back(stage.platform, NAME, "hipaa", "not active: encryption_active")
    record = stage.record()
    assert record.queued is not None
    assert (record.queued.id, record.queued.automatic, record.queued.requested_by) == (intent.id, True, ACTOR)
    assert [event.kind for event in record.outbox] == ["incident-opened"]
    stage.look(10)
    stable = stage.record().stable
    assert stable is not None
    assert stable.revision.version == "1.0.0"
    incident = stage.platform.incidents.show(str(intent.incident))
    assert (incident.detection.kind, incident.breach_pending) == (TriggerKind.HIPAA, True)
    assert incident.blast_radius.requests_served is None  # not counted, which is not zero


def test_a_service_goes_back_once_in_its_time_and_never_over_what_somebody_asked_for(stage: Stage) -> None:
    stage.deploy("2.0.0")
    stage.look(5)
    go_back(stage.platform, NAME, "healthy", "why")
    with pytest.raises(RolloutRefused):
        go_back(stage.platform, NAME, "healthy", "why")
    stage.look(10)
    stage.deploy("3.0.0")
    stage.look(5)
    before = stage.record()
    with pytest.raises(RolloutRefused, match="within 30 min"):
        go_back(stage.platform, NAME, "healthy", "why")
    assert stage.record().queued is before.queued is None


def test_without_a_version_before_it_says_why_it_does_not_go_back(stage: Stage) -> None:
    with pytest.raises(RolloutRefused, match="no other revision was stable here before"):
        go_back(stage.platform, NAME, "healthy", "why")


def test_what_is_slow_does_not_always_come_before_the_same_others() -> None:
    cases = ["a", "b", "c"]
    rounds = [tuple(in_turn(cases, NOW + timedelta(seconds=5 * n))) for n in range(3)]
    assert {order[0] for order in rounds} == set(cases)
    assert all(sorted(order) == cases for order in rounds)
    assert list(in_turn([], NOW)) == []


def test_the_remediation_sensor_that_cannot_look_says_so(stage: Stage) -> None:
    result = stage.tick("remediation")
    assert isinstance(result, dg.SensorResult)
    assert "could not look" in str(result.skip_reason)
