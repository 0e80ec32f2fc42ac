"""A release of four services rolled out by the real driver and a real controller, with real processes, a
real router and open-loop traffic on every service.

``mail`` and ``core`` need nothing, ``api`` needs ``core``, ``web`` needs ``api``. In the release ``core``
provides another contract, which ``api`` and ``web`` require instead of the one before.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import pytest

from dr_platform.catalog import Catalog
from dr_platform.clock import SystemClock
from dr_platform.objects import open_objects
from dr_platform.release_rollout import ReleaseRollout
from dr_platform.releases.bundle import Member, ReleaseBundle
from dr_platform.releases.ledger import Ended, Episode, ReleaseLedger, Withdrawal
from dr_platform.releases.plan import ApplySchema, Running
from dr_platform.releases.tracker import Outcome
from dr_platform.rollout import record as records
from dr_platform.rollout.record import Intent, Placement, Record
from dr_platform.rollout.requests import target_of
from dr_platform.rollout.strategy import IMMEDIATE_WEIGHTS, canary, rollback_steps
from dr_platform.runtime.local.records import PortRange
from dr_platform.runtime.local.runtime import LocalRuntime
from dr_platform.runtime.port import CLOSED, Revision, Slot, Weights, Workload
from tests.contracts.controller_process import Orders
from tests.contracts.delivery import ROOT, answered_by, intent_of, lost, made_to_fail
from tests.contracts.delivery import told as told_in
from tests.contracts.local import LocalHarness, local_runtime
from tests.contracts.runtime import ALL_BLUE, Load, a_service, deploy, load, until
from tests.release_values import a_bundle, a_member, shipped

pytestmark = pytest.mark.contract

PORT_OFFSET = 9_400
PORTS = PortRange(16_500, 600)
RATE = 40
"""Requests a second to each of the four."""
NEEDS: Mapping[str, tuple[str, ...]] = {"core": (), "mail": (), "api": ("core",), "web": ("api",)}
_numbers = itertools.count(1)
# Each has a number of its own, so that one of them alone can be made to fail.
OLD = {name: f"1.{number}.0" for number, name in enumerate(NEEDS)}
NEW = {name: f"2.{number}.0" for number, name in enumerate(NEEDS)}


def bundle(name: str, versions: Mapping[str, str], contract: str) -> ReleaseBundle:
    requires = {name: {"core": contract} if name in ("api", "web") else {} for name in NEEDS}
    members = {name: a_member(version, "1", **requires[name]) for name, version in versions.items()}
    return a_bundle(members | {"core": a_member(versions["core"], contract)}, name=name)


BEFORE, RELEASE = bundle("3.0", OLD, "1"), bundle("4.0", NEW, "2")


@dataclass
class Estate:
    """What runs, the controller that acts on it, and the driver's parts."""

    harness: LocalHarness
    name: str
    loads: dict[str, Load] = field(default_factory=dict)

    def __post_init__(self) -> None:
        services = {name: a_service(name=name, needs={"services": list(needed)}) for name, needed in NEEDS.items()}
        self.catalog: Catalog = replace(shipped(), services=services)
        self.clock = SystemClock()
        self.ledger = ReleaseLedger(open_objects((self.harness.folder / f"objects-{self.name}").as_uri()))
        self.books: list[str] = []

    @property
    def runtime(self) -> LocalRuntime:
        return self.harness.runtime

    def begin(self) -> None:
        for name, service in self.catalog.services.items():
            self.runtime.declare(service)
            revision = BEFORE.services[name].revision
            deploy(self.runtime, Slot.BLUE, Workload(service, revision, 1))
            self.runtime.route(name, ALL_BLUE, 1)
            placement = Placement(Slot.BLUE, revision)
            records.change(self.runtime, name, lambda record, placement=placement: record.with_stable(placement))

    def end(self) -> None:
        for name in NEEDS:
            self.runtime.route(name, CLOSED, self.runtime.observe(name).epoch)
            for slot in Slot:
                self.runtime.retire(name, slot)
            self.runtime.undeclare(name)

    def record(self, name: str) -> Record:
        return records.read(self.runtime, name).record

    def driver(self) -> ReleaseRollout:
        return ReleaseRollout(
            runtime=self.runtime,
            catalog=self.catalog,
            ledger=self.ledger,
            books=Books(self.books),
            clock=self.clock,
            running=self._running,
            apply_schema=no_schema,
            deployment=self._deployment,
            rollback=self._rollback,
            actor="ana",
            declared="3.0",
            follow_s=60.0,
        )

    def _running(self, _bundle: ReleaseBundle) -> Running:
        stable = {name: self.record(name).stable for name in NEEDS}
        return Running({name: member_of(name, place.revision) for name, place in stable.items() if place is not None})

    def _deployment(self, _service: str, revision: Revision, intent_id: str, reason: str) -> Intent:
        steps = canary((50, 100), 1, 1.5)
        return intent_of(intent_id, revision.version, steps, revision=revision, replicas=1, reason=reason)

    def _rollback(self, service: str, revision: Revision, intent_id: str, reason: str) -> Intent:
        assert target_of(self.record(service), revision.version, lambda _r: None).revision == revision
        back = self._deployment(service, revision, intent_id, reason)
        return replace(back, kind="rollback", steps=rollback_steps(IMMEDIATE_WEIGHTS, 1))

    def versions(self) -> dict[str, str]:
        """What takes all traffic, by service, as the router does it and as callers see it."""
        found = {}
        for name in NEEDS:
            stable, observed = self.record(name).stable, self.runtime.observe(name)
            assert stable is not None
            assert observed.weights == Weights.all_to(stable.slot)
            found[name] = str(answered_by(self.runtime.probe(name, "/")))
            assert found[name] == stable.revision.version
        return found

    def withdrawal(self) -> Withdrawal:
        episode = self.ledger.last()
        assert episode is not None
        assert episode.withdrawal is not None
        return episode.withdrawal

    def seen(self) -> str:
        """What the load counted, for whoever reads the test's output."""
        lines = []
        for name, requests in self.loads.items():
            answers = [answer for _, answer in requests.answers]
            new = sum(answered_by(answer) == NEW[name] for answer in answers)
            failed = sum(made_to_fail(answer) for answer in answers)
            gone = len(lost(requests))
            lines.append(f"{name}: {len(answers)} sent, {new} to {NEW[name]}, {failed} failed as told, {gone} lost")
        return "\n".join(lines)


def member_of(name: str, revision: Revision) -> Member:
    return next(b.services[name] for b in (BEFORE, RELEASE) if b.services[name].revision == revision)


def no_schema(step: ApplySchema) -> None:
    raise AssertionError(step)


@dataclass(frozen=True)
class Books:
    told: list[str]

    def began(self, episode: Episode) -> None:
        self.told.append(f"began {episode.id}")

    def ended(self, episode: Episode, bundle: ReleaseBundle, ended: Ended) -> None:
        self.told.append(f"{ended.outcome} {episode.id}")


@pytest.fixture(scope="module")
def local() -> Iterator[LocalHarness]:
    with local_runtime(PORT_OFFSET, PORTS) as harness:
        yield harness


@pytest.fixture
def estate(local: LocalHarness) -> Iterator[Estate]:
    """Under traffic until the test ends, with a controller of its own."""
    estate = Estate(local, f"estate-{next(_numbers)}")
    orders = Orders(str(local.folder), PORT_OFFSET, PORTS.first, PORTS.size, estate.name, lease_s=5.0)
    estate.begin()
    controller = subprocess.Popen(orders.argv(), cwd=ROOT)
    try:
        yield estate
    finally:
        controller.terminate()
        controller.wait(30)
        estate.end()


def under_traffic(estate: Estate) -> ExitStack:
    stack = ExitStack()
    for name in NEEDS:
        estate.loads[name] = stack.enter_context(load(estate.runtime, name, rate=RATE))
    return stack


def assert_nothing_lost(estate: Estate, *made_to_fail: str) -> None:
    for name, requests in estate.loads.items():
        assert lost(requests) == [], name
        assert bool(requests.lost) == (name in made_to_fail), name


def test_a_release_arrives_whole_side_by_side_where_it_may_and_loses_no_request(estate: Estate) -> None:
    with under_traffic(estate):
        ended = estate.driver().promote(RELEASE)
        assert ended.outcome is Outcome.DEPLOYED
    assert estate.versions() == NEW
    assert_nothing_lost(estate)
    rolled = {name: last for name in NEEDS if (last := estate.record(name).last) is not None}
    assert {last.result for last in rolled.values()} == {"promoted"}
    assert rolled["core"].began_at < rolled["mail"].ended_at
    assert rolled["mail"].began_at < rolled["core"].ended_at, "one after the other, and not side by side"
    for name, needed in NEEDS.items():
        assert all(rolled[provider].ended_at <= rolled[name].began_at for provider in needed)
    print(f"\n{(ended.at - rolled['core'].began_at).total_seconds():.1f} s\n{estate.seen()}")


@pytest.mark.parametrize(
    ("fails", "back", "called_off", "stays"),
    [
        pytest.param("api", ("api", "core"), (), {"mail"}, id="the second of three"),
        pytest.param("web", ("web", "api", "core"), (), {"mail"}, id="the third of three"),
        pytest.param("mail", ("mail",), ("core",), set(), id="beside the first"),
    ],
)
def test_one_that_fails_its_guards_takes_exactly_those_back_whose_contracts_need_it_in_reverse_order(
    estate: Estate, fails: str, back: tuple[str, ...], called_off: tuple[str, ...], stays: set[str]
) -> None:
    with estate.harness.make_failing(NEW[fails], 1.0), under_traffic(estate):
        ended = estate.driver().promote(RELEASE)
    assert ended.outcome is Outcome.FAILED
    assert "requests failed" in ended.why
    assert estate.versions() == {name: (NEW if name in stays else OLD)[name] for name in NEEDS}
    assert_nothing_lost(estate, fails)
    withdrawal = estate.withdrawal()
    assert (withdrawal.service, withdrawal.back, withdrawal.called_off) == (fails, back, called_off)
    went = {name: last for name in back if (last := estate.record(name).last) is not None}
    assert [name for name, last in sorted(went.items(), key=lambda item: item[1].ended_at)] == list(back)
    assert [last.kind for last in went.values()] == ["deploy", *["rollback"] * (len(back) - 1)]
    for name in called_off:
        last = estate.record(name).last
        assert last is not None
        assert (last.result, last.ended_by) == ("aborted", "release 4.0")
    never = set(NEEDS) - set(back) - set(called_off) - stays
    assert all(estate.record(name).last is None for name in never)
    assert [estate.record(name).automatic_rollbacks for name in NEEDS] == [()] * len(NEEDS)
    until(lambda: all(estate.record(name).outbox == () for name in NEEDS))
    # The one that failed has an incident; what went back with it, and what was called off, has none.
    assert len(told_in(estate.harness, estate.name, "incident-opened")) == 1
    print(f"\n{ended.why}\n{estate.seen()}")
