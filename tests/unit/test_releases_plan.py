"""Guards the order of a deployment, what goes back together, and when nothing may go back."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dr_platform.catalog import Catalog, Contract
from dr_platform.catalog.contracts import unmet
from dr_platform.databases.port import AppliedStep, EditedMigration, OutOfOrderMigration, Phase
from dr_platform.errors import ExitCode
from dr_platform.releases.bundle import Member, ReleaseBundle
from dr_platform.releases.plan import (
    ApplySchema,
    DeployService,
    PlanStep,
    Remedy,
    RetireService,
    RollbackPlan,
    RollbackRefusal,
    RollbackRefused,
    Running,
    UnplannableRelease,
    UnreadableHistory,
    Wave,
    deployment_order,
    in_waves,
    known_steps,
    plan_rollback,
    plan_withdrawal,
    rollback_set,
)
from tests.release_values import a_bundle, a_catalog, a_member, a_revision, a_step, shipped

pytestmark = pytest.mark.unit

unhurried = settings(max_examples=60)

Needs = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Two:
    """Two releases, each of which fits together, over one graph of needs."""

    needs: Needs
    previous: Mapping[str, Member]
    current: Mapping[str, Member]

    def contracts(self) -> tuple[dict[str, Contract], dict[str, Contract]]:
        return (
            {name: member.contract for name, member in self.current.items()},
            {name: member.contract for name, member in self.previous.items()},
        )

    def catalog(self) -> Catalog:
        return a_catalog(self.needs)


@st.composite
def members(draw: st.DrawFn, names: list[str], version: str) -> dict[str, Member]:
    """Some of the services with contracts that fit together; each requires only earlier ones."""
    found: dict[str, Member] = {}
    for name in names:
        if not draw(st.booleans() | st.just(True)):
            continue
        requires = {}
        for needed in draw(st.lists(st.sampled_from(sorted(found)), max_size=3, unique=True)) if found else []:
            provided = int(found[needed].contract.provides)
            ranges = [f"{provided}", f">={provided}", f"<{provided + 1}", ">=1", f">={provided} <{provided + 2}"]
            requires[needed] = draw(st.sampled_from(ranges))
        contract = Contract(provides=draw(st.sampled_from(["1", "2", "3"])), requires=requires)
        found[name] = Member(revision=a_revision(version), contract=contract)
    return found


@st.composite
def two_releases(draw: st.DrawFn) -> Two:
    names = [f"service-{letter}" for letter in "abcdef"[: draw(st.integers(2, 6))]]
    needs = {
        name: tuple(draw(st.lists(st.sampled_from(names[:at]), max_size=2, unique=True))) if at else ()
        for at, name in enumerate(names)
    }
    return Two(needs, draw(members(names, "1.0.0")), draw(members(names, "2.0.0").filter(bool)))


def after_rolling_back(going: set[str], current: Mapping[str, Contract], previous: Mapping[str, Contract]) -> bool:
    """Whether what runs afterwards fits together."""
    stay = {name: contract for name, contract in current.items() if name not in going}
    return not list(unmet(stay | {name: previous[name] for name in going if name in previous}))


class TestRollbackSet:
    @unhurried
    @given(two_releases(), st.data())
    def test_nothing_that_is_left_requires_what_is_gone(self, two: Two, data: st.DataObject) -> None:
        current, previous = two.contracts()
        service = data.draw(st.sampled_from(sorted(current)))
        going = rollback_set(service, current, previous, two.needs)
        assert service in going
        assert len(set(going)) == len(going)
        assert after_rolling_back(set(going), current, previous)

    @unhurried
    @given(two_releases(), st.data())
    def test_without_any_member_but_the_named_one_it_would_not_fit(self, two: Two, data: st.DataObject) -> None:
        current, previous = two.contracts()
        service = data.draw(st.sampled_from(sorted(current)))
        going = set(rollback_set(service, current, previous, two.needs))
        for member in going - {service}:
            assert not after_rolling_back(going - {member}, current, previous)

    @unhurried
    @given(two_releases(), st.data())
    def test_every_other_set_that_fits_contains_it(self, two: Two, data: st.DataObject) -> None:
        current, previous = two.contracts()
        service = data.draw(st.sampled_from(sorted(current)))
        going = set(rollback_set(service, current, previous, two.needs))
        others = sorted((current.keys() | previous.keys()) - {service})
        for chosen in chain.from_iterable(combinations(others, size) for size in range(len(others) + 1)):
            candidate = {service, *chosen}
            if after_rolling_back(candidate, current, previous):
                assert going <= candidate

    @unhurried
    @given(two_releases(), st.data())
    def test_what_needs_another_goes_before_it(self, two: Two, data: st.DataObject) -> None:
        current, previous = two.contracts()
        service = data.draw(st.sampled_from(sorted(current)))
        going = rollback_set(service, current, previous, two.needs)
        for at, name in enumerate(going):
            needed = {*two.needs[name], *(current[name].requires if name in current else {})}
            assert not needed & set(going[:at])

    def test_needs_order_services_also_through_one_that_stays(self) -> None:
        now = {"ant": a_member(provides="2"), "bee": a_member(ant="2"), "cow": a_member(ant="2"), "zoo": a_member()}
        current = {name: member.contract for name, member in now.items()}
        previous = dict.fromkeys(now, Contract())
        needs = {"bee": ("zoo",), "zoo": ("cow",), "cow": ("ant",)}
        assert rollback_set("ant", current, previous, needs) == ("bee", "cow", "ant")

    def test_services_that_need_each_other_have_no_order(self) -> None:
        current = {"ant": Contract(provides="2"), "bee": a_member(ant="2").contract}
        with pytest.raises(UnplannableRelease, match=r"ant -> bee -> ant|bee -> ant -> bee"):
            rollback_set("ant", current, {}, {"ant": ("bee",)})


THIRD = "embedding-service"
SIX = {
    "audit-logging": (),
    "bge-host": (),
    THIRD: ("bge-host",),
    "search-service": (THIRD,),
    "background-tasks": ("audit-logging", THIRD),
    "generation-service": ("search-service",),
}
BEFORE = {name: a_member("1.0.0") for name in SIX}


def six(**changed: Member) -> dict[str, Member]:
    """Six services in a new version, of which the third breaks its contract."""
    new = {name: a_member("2.0.0") for name in SIX} | {THIRD: a_member("2.0.0", "2")}
    return new | {name.replace("_", "-"): member for name, member in changed.items()}


class TestSixServicesWithABreakingContractInTheThird:
    @pytest.mark.parametrize(
        ("changed", "expected"),
        [
            pytest.param({}, (THIRD,), id="nobody requires the new one"),
            pytest.param(
                {"search_service": a_member("2.0.0", embedding_service=">=2")},
                ("search-service", THIRD),
                id="one requires the new one",
            ),
            pytest.param(
                {
                    "search_service": a_member("2.0.0", embedding_service=">=2"),
                    "background_tasks": a_member("2.0.0", embedding_service="<3"),
                },
                ("search-service", THIRD),
                id="another one takes both",
            ),
            pytest.param(
                {
                    "search_service": a_member("2.0.0", "2", embedding_service=">=2"),
                    "background_tasks": a_member("2.0.0", embedding_service="2"),
                    "generation_service": a_member("2.0.0", search_service=">=2"),
                },
                ("generation-service", "search-service", "background-tasks", THIRD),
                id="one breaks its own callers in turn",
            ),
        ],
    )
    def test_exactly_those_that_need_it_go_back_dependents_first(
        self, changed: dict[str, Member], expected: tuple[str, ...]
    ) -> None:
        previous = a_bundle(BEFORE, name="3.0")
        plan = plan_rollback(THIRD, Running.wholly(a_bundle(six(**changed))), previous, a_catalog(SIX))
        assert isinstance(plan, RollbackPlan)
        assert plan.members == expected
        assert set(plan.steps) == {DeployService(name, a_revision("1.0.0")) for name in expected}

    def test_the_others_may_go_back_without_it(self) -> None:
        new = six(search_service=a_member("2.0.0", embedding_service=">=2"))
        plan = plan_rollback("generation-service", Running.wholly(a_bundle(new)), a_bundle(BEFORE), a_catalog(SIX))
        assert isinstance(plan, RollbackPlan)
        assert plan.members == ("generation-service",)

    def test_a_caller_that_took_only_the_earlier_contract_takes_its_provider_back(self) -> None:
        before = BEFORE | {"search-service": a_member("1.0.0", embedding_service="1")}
        new = six(search_service=a_member("2.0.0", embedding_service="2"))
        plan = plan_rollback("search-service", Running.wholly(a_bundle(new)), a_bundle(before), a_catalog(SIX))
        assert isinstance(plan, RollbackPlan)
        assert plan.members == ("search-service", THIRD)

    def test_deploying_names_who_is_cut_off_until_its_turn(self) -> None:
        before = BEFORE | {"search-service": a_member("1.0.0", embedding_service="1")}
        new = six(search_service=a_member("2.0.0", embedding_service="2"))
        steps = deployment_order(a_bundle(new), Running.wholly(a_bundle(before)), a_catalog(SIX))
        assert DeployService(THIRD, a_revision("2.0.0"), strands=("search-service",)) in steps


OLD = (a_step("1.0.0"), a_step("1.1.0"))
NEW = (*OLD, a_step("1.2.0"), a_step("1.3.0", Phase.DATA), a_step("1.4.0", Phase.CONTRACT))
NEEDS: Needs = {"api": ("store",), "store": (), "mail": ()}
CATALOG = a_catalog(NEEDS, {"store": ("postgres",), "mail": ("redis",)})
THEN = a_bundle({name: a_member("1.0.0") for name in NEEDS}, {"postgres": OLD}, name="3.0")
NOW = a_bundle({name: a_member("2.0.0") for name in NEEDS}, {"postgres": NEW}, name="4.0")


def having(bundle: ReleaseBundle, **applied: tuple[object, ...] | None) -> Running:
    return Running(bundle.services, applied)  # type: ignore[arg-type]


class TestRollbackAndSchema:
    @pytest.mark.parametrize("applied", [OLD, NEW[:3], NEW[:4]], ids=["nothing", "expanded", "filled"])
    def test_before_a_contract_step_ran_the_version_before_may_return(self, applied: tuple[object, ...]) -> None:
        plan = plan_rollback("store", having(NOW, postgres=applied), THEN, CATALOG)
        assert plan == RollbackPlan("store", (DeployService("store", a_revision("1.0.0")),))

    def test_afterwards_it_is_refused_with_what_remains(self) -> None:
        refusal = plan_rollback("store", having(NOW, postgres=NEW), THEN, CATALOG)
        assert isinstance(refusal, RollbackRefusal)
        assert refusal.contracted == (("postgres", "1.4.0"),)
        assert refusal.remains == (Remedy.ROLL_FORWARD, Remedy.MAINTENANCE)

    def test_one_contract_step_under_any_member_refuses_all_of_them(self) -> None:
        now = {**NOW.services, "api": a_member("2.0.0", "2"), "store": a_member("2.0.0", api=">=2")}
        catalog = a_catalog({"store": ("api",), "api": ()}, {"store": ("postgres",)})
        refusal = plan_rollback("api", Running(now, {"postgres": NEW}), THEN, catalog)
        assert isinstance(refusal, RollbackRefusal)
        assert refusal.members == ("store", "api")

    def test_a_service_that_does_not_use_the_database_may_still_return(self) -> None:
        assert isinstance(plan_rollback("mail", having(NOW, postgres=NEW), THEN, CATALOG), RollbackPlan)

    def test_a_service_that_the_catalog_lost_may_use_any_database(self) -> None:
        catalog = a_catalog({"mail": ()})
        assert isinstance(plan_rollback("store", having(NOW, postgres=NEW), THEN, catalog), RollbackRefusal)

    def test_a_contract_step_that_the_release_before_was_made_for_is_no_obstacle(self) -> None:
        then = a_bundle(THEN.services, {"postgres": NEW}, name="3.0")
        assert isinstance(plan_rollback("store", having(NOW, postgres=NEW), then, CATALOG), RollbackPlan)

    def test_a_history_that_could_not_be_read_does_not_permit_a_rollback(self) -> None:
        refusal = plan_rollback("store", having(NOW, postgres=None), THEN, CATALOG)
        assert isinstance(refusal, RollbackRefusal)
        assert refusal.unread == ("postgres",)
        assert refusal.remains[0] is Remedy.LOOK_AGAIN

    def test_a_step_that_no_release_knows_counts_as_one_that_took_away(self) -> None:
        history = [AppliedStep(v, "", f"sum of {v}", "", 1.0) for v in ("1.0.0", "1.1.0", "1.2.0", "9.0.0")]
        assert [step.phase for step in known_steps(history, "postgres", NOW)] == [*[Phase.EXPAND] * 3, Phase.CONTRACT]
        refusal = plan_rollback("store", having(NOW, postgres=known_steps(history, "postgres", NOW)), THEN, CATALOG)
        assert isinstance(refusal, RollbackRefusal)
        assert refusal.contracted == (("postgres", "9.0.0"),)

    def test_a_service_that_the_release_before_did_not_have_is_retired(self) -> None:
        then = a_bundle({"store": a_member()}, name="3.0")
        plan = plan_rollback("mail", Running.wholly(NOW), then, CATALOG)
        assert plan == RollbackPlan("mail", (RetireService("mail"),))

    def test_a_service_as_before_has_nothing_to_go_back_to(self) -> None:
        with pytest.raises(UnplannableRelease, match="does not run in another revision"):
            plan_rollback("store", Running.wholly(THEN), THEN, CATALOG)

    def test_releases_that_never_fitted_are_refused_and_not_believed(self) -> None:
        then = a_bundle({"api": a_member("1.0.0", store="2"), "store": a_member("1.0.0")})
        now = Running({"api": a_member("2.0.0"), "store": a_member("2.0.0")})
        refusal = plan_rollback("api", now, then, CATALOG)
        assert isinstance(refusal, RollbackRefusal)
        assert refusal.unmended == (("api", "store"),)

    def test_the_error_says_what_ran_and_what_remains_and_survives_pickling(self) -> None:
        refusal = plan_rollback("store", having(NOW, postgres=NEW), THEN, CATALOG)
        assert isinstance(refusal, RollbackRefusal)
        told = str(pickle.loads(pickle.dumps(RollbackRefused(refusal))))  # noqa: S301 - our own bytes
        assert "postgres has run the contract step 1.4.0" in told
        assert "roll forward" in told
        assert "maintenance mode" in told


def carried_out(running: Running, step: PlanStep, bundle: ReleaseBundle) -> Running:
    services, applied = dict(running.services), dict(running.applied)
    match step:
        case DeployService(name):
            services[name] = bundle.services[name]
        case RetireService(name):
            del services[name]
        case ApplySchema(database, _, versions):
            done = applied.get(database) or ()
            applied[database] = (*done, *(s for s in bundle.databases[database] if s.version in versions))
    return Running(services, applied)


class TestDeploymentOrder:
    def test_schema_expands_before_the_services_and_contracts_after_them(self) -> None:
        assert deployment_order(NOW, Running.wholly(THEN), CATALOG) == (
            ApplySchema("postgres", Phase.EXPAND, ("1.2.0",)),
            DeployService("mail", a_revision("2.0.0")),
            DeployService("store", a_revision("2.0.0")),
            DeployService("api", a_revision("2.0.0")),
            ApplySchema("postgres", Phase.DATA, ("1.3.0",)),
            ApplySchema("postgres", Phase.CONTRACT, ("1.4.0",)),
        )

    def test_all_databases_are_filled_before_any_contracts(self) -> None:
        steps = {"postgres": (a_step("1", Phase.CONTRACT),), "redis": (a_step("1", Phase.DATA),)}
        plan = deployment_order(a_bundle({}, steps), Running(), CATALOG)
        assert [step.phase for step in plan if isinstance(step, ApplySchema)] == [Phase.DATA, Phase.CONTRACT]

    def test_what_runs_already_gives_an_empty_plan(self) -> None:
        assert deployment_order(NOW, Running.wholly(NOW), CATALOG) == ()

    def test_a_contract_that_is_stated_differently_deploys_nothing(self) -> None:
        restated = {**NOW.services, "api": a_member("2.0.0", store=">=1")}
        assert deployment_order(a_bundle(restated, NOW.databases), Running.wholly(NOW), CATALOG) == ()

    @unhurried
    @given(two_releases())
    def test_providers_come_before_what_needs_them_and_only_changes_come(self, two: Two) -> None:
        new = a_bundle(two.current)
        steps = deployment_order(new, Running(two.previous), two.catalog())
        deployed = [step.service for step in steps if isinstance(step, DeployService)]
        assert sorted(deployed) == sorted(two.current)
        for at, name in enumerate(deployed):
            needed = {*two.needs[name], *two.current[name].contract.requires}
            assert not needed & set(deployed[at + 1 :])
        retired = [step.service for step in steps if isinstance(step, RetireService)]
        assert set(retired) == two.previous.keys() - two.current.keys()

    @unhurried
    @given(two_releases(), st.data())
    def test_planned_again_after_a_stop_it_is_the_rest(self, two: Two, data: st.DataObject) -> None:
        new, catalog = a_bundle(two.current, {"postgres": NEW}), two.catalog()
        running = Running(two.previous, {"postgres": OLD})
        steps = deployment_order(new, running, catalog)
        stop = data.draw(st.integers(0, len(steps)))
        for step in steps[:stop]:
            running = carried_out(running, step, new)
        assert deployment_order(new, running, catalog) == steps[stop:]

    def test_services_that_the_release_lost_are_retired_dependents_first(self) -> None:
        steps = deployment_order(a_bundle({"mail": a_member("2.0.0")}), Running.wholly(THEN), CATALOG)
        assert steps == (DeployService("mail", a_revision("2.0.0")), RetireService("api"), RetireService("store"))

    def test_who_had_its_turn_already_is_not_cut_off(self) -> None:
        before = {"ant": a_member(bee="1"), "bee": a_member()}
        after = {"ant": a_member("2.0.0"), "bee": a_member("2.0.0", "2", ant="1")}
        steps = deployment_order(a_bundle(after), Running(before), a_catalog({"ant": (), "bee": ()}))
        assert steps == (DeployService("ant", a_revision("2.0.0")), DeployService("bee", a_revision("2.0.0")))

    def test_the_shipped_catalog_is_deployed_in_the_order_of_its_waves(self) -> None:
        services = {name: a_member() for name in shipped().services}
        steps = deployment_order(a_bundle(services), Running(), shipped())
        place = {step.service: at for at, step in enumerate(steps) if isinstance(step, DeployService)}
        assert len(place) == 22
        assert all(place[n] < place[s.name] for s in shipped().services.values() for n in s.needs.services)

    def test_phases_that_the_version_order_forbids_are_refused(self) -> None:
        steps = (a_step("1.0.0", Phase.CONTRACT), a_step("1.1.0"))
        with pytest.raises(UnplannableRelease, match=r"expand step 1\.1\.0 comes after contract step 1\.0\.0"):
            deployment_order(a_bundle({}, {"postgres": steps}), Running(), CATALOG)

    def test_steps_that_applying_would_refuse_are_refused_before_anything_is_touched(self) -> None:
        edited = (*OLD[:1], a_step("1.1.0").model_copy(update={"checksum": "another"}))
        with pytest.raises(EditedMigration):
            deployment_order(NOW, having(THEN, postgres=edited), CATALOG)
        with pytest.raises(OutOfOrderMigration):
            deployment_order(NOW, having(THEN, postgres=(*OLD, NEW[3])), CATALOG)

    def test_an_older_release_is_refused_once_a_contract_step_ran(self) -> None:
        with pytest.raises(RollbackRefused) as caught:
            deployment_order(THEN, Running.wholly(NOW), CATALOG)
        assert caught.value.exit_code is ExitCode.REFUSED
        assert len(deployment_order(THEN, having(NOW, postgres=NEW[:4]), CATALOG)) == 3

    def test_a_history_that_could_not_be_read_is_not_an_empty_one(self) -> None:
        with pytest.raises(UnreadableHistory) as caught:
            deployment_order(NOW, having(THEN, postgres=None), CATALOG)
        assert caught.value.exit_code is ExitCode.UNAVAILABLE

    def test_a_release_of_services_that_the_catalog_lost_is_refused_by_name(self) -> None:
        with pytest.raises(UnplannableRelease, match="ghost"):
            deployment_order(a_bundle({"ghost": a_member()}), Running(), CATALOG)


class TestWaves:
    @staticmethod
    def waves(two: Two, done: set[str] | None = None) -> tuple[tuple[str, ...], ...]:
        """Of what is left when these have been deployed."""
        new, catalog, done = a_bundle(two.current), two.catalog(), done or set()
        running = Running({**two.previous, **{name: two.current[name] for name in done}})
        plan = deployment_order(new, running, catalog)
        steps = in_waves(plan, new, two.previous, catalog)
        flat = [step for wave in steps for step in (wave.services if isinstance(wave, Wave) else (wave,))]
        assert sorted(map(str, flat)) == sorted(map(str, plan))
        return tuple(tuple(s.service for s in wave.services) for wave in steps if isinstance(wave, Wave))

    @staticmethod
    def behind(two: Two) -> dict[str, set[str]]:
        """All that each leads to, by needs and by contracts of now and then."""
        graph = {name: set(needed) for name, needed in two.needs.items()}
        for members_ in (two.previous, two.current):
            for name, member in members_.items():
                graph[name] |= member.contract.requires.keys()
        for _ in graph:
            graph = {name: needed.union(*(graph[other] for other in needed)) for name, needed in graph.items()}
        return graph

    @unhurried
    @given(two_releases())
    def test_each_comes_right_after_the_last_that_it_is_related_to(self, two: Two) -> None:
        waves, behind = self.waves(two), self.behind(two)
        for number, wave in enumerate(waves):
            earlier = [name for before in waves[:number] for name in before]
            for name in wave:
                needed = {*two.needs[name], *two.current[name].contract.requires} & two.current.keys()
                assert needed <= set(earlier)
                assert not behind[name] & ({*wave} - {name})
                if number:
                    assert any(other in behind[name] or name in behind[other] for other in waves[number - 1])

    @unhurried
    @given(two_releases(), st.data())
    def test_what_is_left_after_a_stop_in_a_wave_falls_into_the_same_waves(self, two: Two, data: st.DataObject) -> None:
        waves = self.waves(two)
        stop = data.draw(st.integers(0, len(waves) - 1))
        some = data.draw(st.sets(st.sampled_from(waves[stop]), max_size=len(waves[stop]) - 1))
        done = {name for wave in waves[:stop] for name in wave} | some
        left = tuple(name for name in waves[stop] if name not in some)
        assert self.waves(two, done) == (left, *waves[stop + 1 :])

    @unhurried
    @given(two_releases())
    def test_nobody_is_in_one_wave_with_what_it_cannot_work_with_until_its_own_turn(self, two: Two) -> None:
        plan = deployment_order(a_bundle(two.current), Running(two.previous), two.catalog())
        waves = self.waves(two)
        strands = {step.service: set(step.strands) for step in plan if isinstance(step, DeployService)}
        assert not any(strands[name] & set(wave) for wave in waves for name in wave)

    def test_services_that_a_chain_of_unchanged_ones_joins_are_not_side_by_side(self) -> None:
        before = {name: a_member() for name in ("ant", "bee", "cow", "dog")}
        after = before | {name: a_member("2.0.0") for name in ("ant", "cow", "dog")}
        catalog = a_catalog({"ant": (), "bee": ("ant",), "cow": ("bee",), "dog": ()})
        plan = deployment_order(a_bundle(after), Running(before), catalog)
        ant, dog, cow = (DeployService(name, a_revision("2.0.0")) for name in ("ant", "dog", "cow"))
        assert in_waves(plan, a_bundle(after), before, catalog) == (Wave((ant, dog)), Wave((cow,)))

    def test_schema_steps_and_retirements_stay_around_the_waves(self) -> None:
        steps = in_waves(deployment_order(NOW, Running.wholly(THEN), CATALOG), NOW, THEN.services, CATALOG)
        kinds = [type(step).__name__ for step in steps]
        assert kinds == ["ApplySchema", "Wave", "Wave", "ApplySchema", "ApplySchema"]
        assert [len(step.services) for step in steps if isinstance(step, Wave)] == [2, 1]


class TestWithdrawal:
    """A release that stopped at a service, which went back by itself already."""

    @unhurried
    @given(two_releases(), st.data())
    def test_wherever_it_stops_what_runs_afterwards_fits_and_no_member_is_superfluous(
        self, two: Two, data: st.DataObject
    ) -> None:
        new, before, catalog = a_bundle(two.current), a_bundle(two.previous), two.catalog()
        steps = [s for s in deployment_order(new, Running(two.previous), catalog) if isinstance(s, DeployService)]
        at = data.draw(st.integers(0, len(steps) - 1))
        running = Running(two.previous)
        for step in steps[: at + 1]:
            running = carried_out(running, step, new)
        failed = steps[at].service
        plan = plan_withdrawal((failed,), running, before, catalog)
        assert isinstance(plan, RollbackPlan)
        going = set(plan.members)
        assert failed in going
        assert going <= {step.service for step in steps[: at + 1]}
        assert after_rolling_back(going, running.contracts, before.contracts)
        others = going - {failed}
        for chosen in chain.from_iterable(combinations(sorted(others), size) for size in range(len(others))):
            assert not after_rolling_back({failed, *chosen}, running.contracts, before.contracts)

    def test_a_service_whose_turn_had_not_come_takes_back_what_it_cannot_work_with(self) -> None:
        before = {"api": a_member("1.0.0", store="1"), "mail": a_member("1.0.0"), "store": a_member("1.0.0")}
        half = {**before, "store": a_member("2.0.0", "2"), "mail": a_member("2.0.0")}
        plan = plan_withdrawal(("mail",), Running(half), a_bundle(before), CATALOG)
        assert isinstance(plan, RollbackPlan)
        assert set(plan.members) == {"mail", "store"}

    def test_after_a_contract_step_it_is_refused_as_one_service_is(self) -> None:
        refusal = plan_withdrawal(("store", "mail"), having(NOW, postgres=NEW), THEN, CATALOG)
        assert isinstance(refusal, RollbackRefusal)
        assert refusal.contracted == (("postgres", "1.4.0"),)
