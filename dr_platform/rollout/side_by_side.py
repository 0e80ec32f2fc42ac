"""Several rollouts that were asked for together and have nothing to do with each other.

Here: asking for so many at once, following all of them, and calling the others off when one does not end
as asked. Not here: which belong together (``releases.plan``), or what goes back afterwards.

Whoever was killed on the way and begins anew looks first at what was asked for before: where one of
those failed, no other is begun.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dr_platform.clock import Clock
from dr_platform.rollout import record as records
from dr_platform.rollout.record import Intent, Outcome
from dr_platform.rollout.requests import FOLLOW_S, Follower, RolloutRefused, ask, call_off, knows
from dr_platform.runtime.port import Runtime
from dr_platform.verdict import Progress, silent


@dataclass(frozen=True)
class Gone:
    """How they ended: why some failed, and who was called off because of it. All others either ended
    as asked or, where anything failed, were perhaps never begun."""

    failed: Mapping[str, str]
    called_off: tuple[str, ...] = ()


@dataclass
class SideBySide:
    """One thread looks at all of them. ``intents`` by service, in the order in which they are begun;
    ``caller`` is who calls off, and nobody else's name; an error of ``each_look`` ends the watching and
    nothing else, as ``NobodyActs`` does."""

    runtime: Runtime
    intents: Mapping[str, Intent]
    clock: Clock
    caller: str
    at_once: int
    follow_s: float
    each_look: Callable[[], object] = lambda: None
    progress: Progress = silent
    _following: dict[str, Follower] = field(init=False, default_factory=dict)
    _ended: dict[str, Outcome] = field(init=False, default_factory=dict)
    _refused: dict[str, str] = field(init=False, default_factory=dict)

    def to_their_end(self) -> Gone:
        waiting = [service for service in self.intents if not self._asked_before(service)]
        while self._following or (waiting and not self._fails):
            self.each_look()
            self._look()
            if not self._fails:
                self._ask(waiting)
            if self._fails:
                self._call_off()
            if self._following:
                self.clock.sleep(FOLLOW_S)
        return self._gone()

    @property
    def _fails(self) -> bool:
        """Also while the one that fails is still being taken back: the others need not go further."""
        return bool(self._gone().failed) or any(follower.going_back for follower in self._following.values())

    def _asked_before(self, service: str) -> bool:
        known = knows(records.read(self.runtime, service).record, self.intents[service].id)
        if known:
            self._follow(service)
        return known

    def _follow(self, service: str) -> None:
        intent = self.intents[service].id
        self._following[service] = Follower(self.runtime, service, intent, self.clock, self.follow_s, self.progress)

    def _look(self) -> None:
        for service, follower in list(self._following.items()):
            if (outcome := follower.look()) is not None:
                self._ended[service] = outcome
                del self._following[service]

    def _ask(self, waiting: list[str]) -> None:
        while waiting and len(self._following) < self.at_once:
            service = waiting.pop(0)
            try:
                ask(self.runtime, service, self.intents[service])
            except RolloutRefused as exc:
                self._refused[service] = exc.what
                return
            self._follow(service)

    def _call_off(self) -> None:
        """At each look: of one that only waited, the controller may have begun it meanwhile."""
        for service in self._following:
            call_off(self.runtime, service, self.intents[service].id, self.caller, self.clock.now())

    def _gone(self) -> Gone:
        failed: dict[str, str] = {}
        called_off: list[str] = []
        for service in self.intents:
            outcome = self._ended.get(service)
            if service in self._refused:
                failed[service] = self._refused[service]
            elif outcome is None or outcome.as_asked:
                continue
            elif outcome.ended_by == self.caller:
                called_off.append(service)
            else:
                failed[service] = f"{outcome.result}: {outcome.reason}"
        if called_off and not failed:  # by a try before this one, whose reason cannot be seen any more
            return Gone(dict.fromkeys(called_off, "it was called off before"))
        return Gone(failed, tuple(called_off))
