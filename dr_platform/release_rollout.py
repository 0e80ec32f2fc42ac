"""Carrying out a release: its schema steps and waves of services one after the other, and the way back of
exactly those that must go back.

Here: the driver between a plan (``releases.plan``) and the rollouts that the controller acts on. Not
here: order and sets (``releases.plan``), one service's rollout (``rollout``), gates and approvals
(``readiness``), or where its parts come from (``release_delivery``).

It may be killed between any two of its steps: how far it came is in the ledger and in the rollout
records, every request has an identifier made from the release, the attempt and the service, and what
goes back is written down before anything does. So whoever repeats the command goes on with it.

Services of a wave go side by side. When one of them is not promoted, no other is begun, and those that
are under way are called off: their rollouts take them back at once to what takes the traffic anyway.
Waiting for them would leave callers of the failed one with providers that its old version cannot work
with, for as long as a bake lasts. What was promoted by then is treated as an earlier wave's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, assert_never

from dr_platform.catalog import Catalog
from dr_platform.clock import Clock
from dr_platform.errors import ExitCode, PlatformError, TemporaryFailure
from dr_platform.releases.bundle import ReleaseBundle
from dr_platform.releases.ledger import (
    Action,
    Began,
    Ended,
    Episode,
    ReleaseLedger,
    Withdrawal,
    current_release,
    next_number,
    ran_before,
)
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
    UnreadableHistory,
    Wave,
    deployment_order,
    in_waves,
    plan_withdrawal,
)
from dr_platform.releases.tracker import Outcome
from dr_platform.rollout import record as records
from dr_platform.rollout.converge import remove_services
from dr_platform.rollout.record import Intent
from dr_platform.rollout.record import Outcome as Rolled
from dr_platform.rollout.requests import RolloutRefused, ask, follow
from dr_platform.rollout.side_by_side import Gone, SideBySide
from dr_platform.runtime.port import Lease, Revision, Runtime
from dr_platform.verdict import Progress, silent

LEASE = "release"
LEASE_TTL = timedelta(seconds=60)
SIDE_BY_SIDE = 4
"""Rollouts of one release at once: each runs both versions for a while, and one controller looks at all."""
FOLLOW_S = 120.0
"""Without any movement for so long nobody acts: longer than a replica may take to become ready."""


class ReleaseUnderWay(TemporaryFailure):
    def __init__(self, release: str) -> None:
        super().__init__(release)
        self.what = f"release {release} has to wait: another one is being promoted or rolled back here"
        self.untouched = "whatever this command had not begun"
        seconds = LEASE_TTL.total_seconds()
        self.next_step = f"repeat it when that has ended; if it was killed, {seconds:.0f} s later or by repeating it"


class NotWhole(TemporaryFailure):
    """Everything was promoted and something is not there any more."""

    def __init__(self, release: str, services: tuple[str, ...]) -> None:
        super().__init__(release, services)
        self.what = f"release {release} was deployed, and these do not take all traffic with it: {', '.join(services)}"
        self.untouched = "every other service, and what has been recorded; it was not recorded as verified"
        self.next_step = "see `drp rollout show` for each, then repeat the command"


class WayBackStopped(PlatformError):
    """``left`` are services that still have to go back, the first of them is the one that did not."""

    def __init__(self, release: str, left: tuple[str, ...], why: str) -> None:
        super().__init__(release, left, why)
        self.what = f"release {release}: {left[0]} did not go back: {why}"
        self.untouched = f"{', '.join(left)}: they run as before"
        self.next_step = f"mend {left[0]} or bring it back with `drp rollback {left[0]}`, then repeat the command"


class NothingToRollBack(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, release: str, why: str) -> None:
        super().__init__(release, why)
        self.what = f"release {release} cannot be rolled back: {why}"
        self.untouched = "every service and database"
        self.next_step = "see `drp status`; one service goes back with `drp rollback SERVICE`"


class Books(Protocol):
    """Who is told. Called again with the same episode after a stop, which must add nothing."""

    def began(self, episode: Episode) -> None: ...

    def ended(self, episode: Episode, bundle: ReleaseBundle, ended: Ended) -> None: ...


@dataclass(frozen=True)
class ReleaseRollout:
    """One environment's. ``deployment`` and ``rollback`` make an intent of service, revision, identifier
    and reason, and refuse a revision that cannot run here; ``running`` reads what runs. ``actor`` is who
    asks, ``declared`` the release that the environment's file names."""

    runtime: Runtime
    catalog: Catalog
    ledger: ReleaseLedger
    books: Books
    clock: Clock
    running: Callable[[ReleaseBundle], Running]
    apply_schema: Callable[[ApplySchema], None]
    deployment: Callable[[str, Revision, str, str], Intent]
    rollback: Callable[[str, Revision, str, str], Intent]
    actor: str
    declared: str
    progress: Progress = silent
    follow_s: float = FOLLOW_S
    side_by_side: int = SIDE_BY_SIDE

    def plan(self, bundle: ReleaseBundle) -> tuple[PlanStep, ...]:
        """What is left to do of a release. Raises what ``deployment_order`` raises."""
        return deployment_order(bundle, self.running(bundle), self.catalog)

    # Forward

    def going_back(self, bundle: ReleaseBundle) -> bool:
        """Whether a promotion of it failed and has not been brought to its end."""
        episode = self._open("promote", bundle)
        return episode is not None and episode.withdrawal is not None

    def promote(self, bundle: ReleaseBundle) -> Ended:
        """Deploy a release to its end. When a service is not promoted nothing else is begun, what is under
        way is called off, what the contracts require goes back, and the outcome is ``FAILED``."""
        with self._alone(bundle, "promote"):
            episode = self._open("promote", bundle)
            if episode is None:
                plan = self.plan(bundle)
                if not plan and (done := self._done(bundle)) is not None:
                    return done
                self._intents(plan, bundle, "")  # what cannot run here is refused before anything begins
                episode = self._begin("promote", bundle)
            self.books.began(episode)
            if episode.withdrawal is None:
                episode = self._forward(episode, bundle)
            if episode.withdrawal is None:
                self._require_whole(bundle)
                return self._end(episode, bundle, Outcome.DEPLOYED, "every service was promoted")
            self._go_back(episode, bundle)
            return self._end(episode, bundle, Outcome.FAILED, _told(episode.withdrawal))

    def _forward(self, episode: Episode, bundle: ReleaseBundle) -> Episode:
        plan = self.plan(bundle)
        intents = self._intents(plan, bundle, episode.id)
        for step in in_waves(plan, bundle, episode.began.before, self.catalog):
            self._renew(bundle, "promote")
            match step:
                case ApplySchema(database, phase, versions):
                    self.progress(f"{database}: {phase} {', '.join(versions)}")
                    self.apply_schema(step)
                case Wave():
                    gone = self._side_by_side(step, intents, bundle)
                    if gone.failed:
                        return self._withdraw(episode, bundle, gone)
                case RetireService(service):
                    self._retire(service)
                case _:
                    assert_never(step)
        return episode

    def _side_by_side(self, wave: Wave, intents: Mapping[str, Intent], bundle: ReleaseBundle) -> Gone:
        for step in wave.services:
            if step.strands:
                stranded = ", ".join(step.strands)
                self.progress(f"{step.service}: until their turn comes, {stranded} cannot work with it")
        return SideBySide(
            self.runtime,
            {step.service: intents[step.service] for step in wave.services},
            self.clock,
            caller=f"release {bundle.name}",
            at_once=self.side_by_side,
            follow_s=self.follow_s,
            each_look=lambda: self._renew(bundle, "promote"),
            progress=self.progress,
        ).to_their_end()

    def _intents(self, plan: tuple[PlanStep, ...], bundle: ReleaseBundle, episode: str) -> Mapping[str, Intent]:
        return {
            s.service: self.deployment(s.service, s.revision, f"{episode}-{s.service}", f"release {bundle.name}")
            for s in plan
            if isinstance(s, DeployService)
        }

    def _rolled(self, service: str, intent: Intent, bundle: ReleaseBundle, action: Action) -> Rolled:
        ask(self.runtime, service, intent)
        return follow(
            self.runtime,
            service,
            intent.id,
            self.clock,
            self.follow_s,
            self.progress,
            each_look=lambda: self._renew(bundle, action),
        )

    def _withdraw(self, episode: Episode, bundle: ReleaseBundle, gone: Gone) -> Episode:
        """Decide what goes back with services that were taken back already, and write it down."""
        running, failed = self.running(bundle), tuple(gone.failed)
        there = {name: bundle.services[name] for name in failed}
        as_if_there = Running({**running.services, **there}, running.applied)
        plan = plan_withdrawal(failed, as_if_there, episode.began.earlier, self.catalog)
        if isinstance(plan, RollbackRefusal) and Remedy.LOOK_AGAIN in plan.remains:
            raise UnreadableHistory(plan.unread)  # not decided: whoever repeats it looks again
        withdrawal = _withdrawal(gone, plan)
        if isinstance(plan, RollbackPlan) and (obstacle := self._obstacle(plan)) is not None:
            remains = (Remedy.ROLL_FORWARD, Remedy.MAINTENANCE)
            withdrawal = withdrawal.model_copy(update={"back": (), "refused": obstacle.what, "remains": remains})
        return self.ledger.withdraw(episode, withdrawal)

    def _obstacle(self, plan: RollbackPlan) -> RolloutRefused | None:
        """Why one of them cannot go back, asked before the first does: half of a way back would leave
        services that do not work with each other."""
        for step in plan.steps:
            stable = records.read(self.runtime, step.service).record.stable
            if isinstance(step, RetireService) or stable is None or stable.revision == step.revision:
                continue
            try:
                self.rollback(step.service, step.revision, "", "")
            except RolloutRefused as exc:
                return exc
        return None

    def _require_whole(self, bundle: ReleaseBundle) -> None:
        if missing := tuple(name for name, member in bundle.services.items() if not self._takes(name, member.revision)):
            raise NotWhole(bundle.name, missing)

    def _takes(self, service: str, revision: Revision) -> bool:
        """Whether a revision is stable and its slot takes all traffic, read and not remembered."""
        stable = records.read(self.runtime, service).record.stable
        if stable is None or stable.revision != revision:
            return False
        observed = self.runtime.observe(service)
        slot = observed.slots[stable.slot]
        full = observed.weights is not None and observed.weights.of(stable.slot) == 100
        return full and slot.revision == revision and slot.ready > 0

    # Back

    def roll_back(self, bundle: ReleaseBundle, service: str | None = None) -> Ended:
        """Take a release back to what ran before it: all of it, or one service with those that must go
        along. Raises ``RollbackRefused`` where there is no way back, ``NothingToRollBack``."""
        with self._alone(bundle, "rollback"):
            episode = self._open("rollback", bundle) or self._begin_back(bundle, service)
            self.books.began(episode)
            if episode.withdrawal is None:
                plan = self._plan_back(bundle, episode.began, service)
                episode = self.ledger.withdraw(episode, _asked(plan))
            self._go_back(episode, bundle)
            told = f"went back in this order: {', '.join(episode.withdrawal.back if episode.withdrawal else ())}"
            return self._end(episode, bundle, Outcome.ROLLED_BACK, told)

    def _begin_back(self, bundle: ReleaseBundle, service: str | None) -> Episode:
        deployed = [e for e in self.ledger.episodes() if e.began.action == "promote"]
        if not deployed or deployed[-1].began.digest != bundle.digest:
            raise NothingToRollBack(bundle.name, "it is not the release that was promoted here last")
        began = deployed[-1].began
        if (obstacle := self._obstacle(self._plan_back(bundle, began, service))) is not None:
            raise obstacle  # before anything begins, as what the plan itself refuses
        last = self.ledger.last()
        again = {"number": next_number(last), "action": "rollback", "by": self.actor, "at": self.clock.now()}
        return self.ledger.begin(began.model_copy(update=again))

    def _plan_back(self, bundle: ReleaseBundle, began: Began, service: str | None) -> RollbackPlan:
        running = self.running(bundle)
        changed = [name for name in sorted(bundle.services) if self._changed(name, bundle, began, running)]
        changed += sorted(began.before.keys() - bundle.services.keys() - running.services.keys())
        services = changed if service is None else [service]
        if not services or not set(services) <= set(changed):
            raise NothingToRollBack(
                bundle.name, f"{service or 'no service'} runs by it in another revision than before"
            )
        plan = plan_withdrawal(services, running, began.earlier, self.catalog)
        if isinstance(plan, RollbackRefusal):
            raise RollbackRefused(plan)
        return plan

    def _changed(self, name: str, bundle: ReleaseBundle, began: Began, running: Running) -> bool:
        now, then = running.services.get(name), began.before.get(name)
        ours = now is not None and now.revision == bundle.services[name].revision
        return ours and (then is None or now is None or then.revision != now.revision)

    def _go_back(self, episode: Episode, bundle: ReleaseBundle) -> None:
        """Each by its own rollout, with its own capacity, traffic and verification; dependents first, so
        that none of them meets a provider that went back before it."""
        names = episode.withdrawal.back if episode.withdrawal else ()
        for number, name in enumerate(names):
            self._renew(bundle, episode.began.action)
            then, stable = episode.began.before.get(name), records.read(self.runtime, name).record.stable
            if stable is not None and then is not None and stable.revision == then.revision:
                continue  # it is back already
            if then is None:
                self._retire(name)
            elif (why := self._not_back(name, then.revision, episode, bundle)) is not None:
                raise WayBackStopped(bundle.name, names[number:], why)

    def _not_back(self, name: str, revision: Revision, episode: Episode, bundle: ReleaseBundle) -> str | None:
        gone = records.read(self.runtime, name).record.stable is None  # the release retired it
        ask_for = self.deployment if gone else self.rollback
        try:
            intent = ask_for(name, revision, f"{episode.id}-{name}-back", f"release {bundle.name} goes back")
            outcome = self._rolled(name, intent, bundle, episode.began.action)
        except RolloutRefused as exc:
            return exc.what
        return None if outcome.result in ("rolled_back", "promoted") else f"{outcome.result}: {outcome.reason}"

    def _retire(self, service: str) -> None:
        """Its permanent address stays where the catalog still has it."""
        if service in self.runtime.declared():
            remove_services(self.runtime, [service], self.progress)
        if (known := self.catalog.services.get(service)) is not None:
            self.runtime.declare(known)

    # The ledger

    def _open(self, action: Action, bundle: ReleaseBundle) -> Episode | None:
        """One that was begun, not ended, and after which nothing else began."""
        last = self.ledger.last()
        if last is None or last.ended is not None:
            return None
        return last if (last.began.action, last.began.digest) == (action, bundle.digest) else None

    def _done(self, bundle: ReleaseBundle) -> Ended | None:
        last = self.ledger.last()
        ours = last is not None and last.began.digest == bundle.digest
        deployed = last is not None and last.ended is not None and last.ended.outcome is Outcome.DEPLOYED
        return last.ended if last is not None and ours and deployed else None

    def _begin(self, action: Action, bundle: ReleaseBundle) -> Episode:
        last = self.ledger.last()
        before = ran_before(bundle, self.running(bundle), last)
        return self.ledger.begin(
            Began(
                number=next_number(last),
                action=action,
                release=bundle.name,
                digest=bundle.digest,
                environment=bundle.environment,
                by=self.actor,
                replaces=current_release(self.ledger.episodes()) or self.declared,
                at=self.clock.now(),
                before=dict(before.services),
                schemas={name: steps for name, steps in before.applied.items() if steps is not None},
            )
        )

    def _end(self, episode: Episode, bundle: ReleaseBundle, outcome: Outcome, why: str) -> Ended:
        """Told before it counts as ended, so that a stop between the two tells it again."""
        ended = Ended(outcome=outcome, why=why, at=self.clock.now())
        self.books.ended(episode, bundle, ended)
        return self.ledger.end(episode, ended).ended or ended

    # One at a time

    @contextmanager
    def _alone(self, bundle: ReleaseBundle, action: Action) -> Generator[None]:
        """Two that carry out the same do no harm to each other and share the lease, so that a command
        that was killed can be repeated at once."""
        lease = self._renew(bundle, action)
        try:
            yield
        finally:
            with suppress(TemporaryFailure):  # it runs out by itself, and must not hide what happened
                self.runtime.release_lease(lease)

    def _renew(self, bundle: ReleaseBundle, action: Action) -> Lease:
        lease = self.runtime.acquire_lease(LEASE, f"{action} {bundle.digest}", LEASE_TTL)
        if lease is None:
            raise ReleaseUnderWay(bundle.name)
        return lease


def _withdrawal(gone: Gone, plan: RollbackPlan | RollbackRefusal) -> Withdrawal:
    (service, why), *others = gone.failed.items()
    also = "".join(f"; {name} was not promoted either ({reason})" for name, reason in others)
    made = Withdrawal(service=service, why=f"{why}{also}", called_off=gone.called_off)
    if isinstance(plan, RollbackRefusal):
        return made.model_copy(update={"refused": plan.why, "remains": tuple(plan.remains)})
    return made.model_copy(update={"back": plan.members})


def _asked(plan: RollbackPlan) -> Withdrawal:
    return Withdrawal(service=plan.service, why="asked for", back=plan.members)


def _told(withdrawal: Withdrawal) -> str:
    told = f"{withdrawal.service} was not promoted ({withdrawal.why})"
    if withdrawal.called_off:
        told = f"{told}; called off on their way: {', '.join(withdrawal.called_off)}"
    if withdrawal.refused:
        remains = "; or ".join(withdrawal.remains)
        return f"{told}; nothing else could go back: {withdrawal.refused}; what remains: {remains}"
    others = [name for name in withdrawal.back if name != withdrawal.service]
    return f"{told}; with it went back, in this order: {', '.join(others) or 'nothing'}"
