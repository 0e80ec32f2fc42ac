"""Two logical databases of one Redis exchange their contents, by ``SWAPDB``.

The live one is always number 0, so what was live is afterwards behind the number that the other one had. A note in
each of them, written in the same transaction, tells them apart: the number alone names a database that was never
live, ``7_before_20261126t140500z`` what was live until then and lies behind 7 now. So a repetition never swaps back.

Here: looking, and the exchange. Not here: whether it should be done (``backups.switch``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import redis

from dr_platform.backups.port import LastSwitch, Occupant, Standing
from dr_platform.backups.source import Source
from dr_platform.backups.switch import STAMP, NotSwitched, SwitchInterrupted
from dr_platform.clock import Clock
from dr_platform.databases.port import DatabaseUnreachable
from dr_platform.databases.redis_ import HISTORY_KEY, SWITCH_KEY
from dr_platform.databases.schema import version_key
from dr_platform.verdict import Progress

LIVE = 0
_NAME = re.compile(r"(\d{1,4})(?:_before_(\d{8}t\d{6}z))?")


@dataclass(frozen=True)
class RedisSwitching:
    """See ``Switching``. ``connect`` opens a client that speaks bytes to the logical database of a number."""

    source: Source
    clock: Clock
    connect: Callable[[int], Any]

    @property
    def interruption(self) -> str:
        return "no connection is ended; from one command to the next the keys are the other ones, within milliseconds"

    def standing(self, to: str) -> Standing:
        with self.connect(LIVE) as live:
            try:
                return self._standing(live, to)
            except redis.ConnectionError as exc:
                raise DatabaseUnreachable(self.source.name, self.source.endpoint.address, type(exc).__name__) from None

    def _standing(self, live: Any, to: str) -> Standing:
        note = _note(live)
        last = LastSwitch(note["to"], note["before"], datetime.fromisoformat(note["at"])) if "to" in note else None
        here = _occupant(live, self.source.endpoint.database, note)
        found = _NAME.fullmatch(to)
        if found is None or int(found[1]) == LIVE:
            return Standing(here, None, last)
        with self.connect(int(found[1])) as beside:
            try:
                note, keys = _note(beside), beside.dbsize()
            except redis.ResponseError:  # the server has not that many
                return Standing(here, None, last)
            is_it = keys > 0 and note.get("until", "") == (found[2] or "")
            return Standing(here, _occupant(beside, to, note) if is_it else None, last)

    def kept_as(self, to: str, moment: str) -> str:
        return f"{_number(to)}_before_{moment}"

    def switch(self, standing: Standing, at: datetime, progress: Progress) -> float:
        if standing.target is None:
            raise ValueError("there is nothing to switch to")
        to, stamp = standing.target.name, f"{at:{STAMP}}"
        before = self.kept_as(to, stamp)
        note = {"to": to, "before": before, "at": at.isoformat()}
        began = self.clock.monotonic()
        progress(f"{to} and the live keys change places")
        with self.connect(LIVE) as live:
            try:
                self._swap(live, (standing.live, standing.target), note, stamp)
            except redis.WatchError:
                why = "somebody else switched meanwhile"
                raise NotSwitched(self.source.name, why, "read the plan anew") from None
            except redis.ConnectionError as exc:
                raise SwitchInterrupted(self.source.name, type(exc).__name__) from None
            except redis.RedisError as exc:
                raise NotSwitched(self.source.name, type(exc).__name__, "see the server's log") from None
        progress(f"{to} is live; what was live is {before}")
        return self.clock.monotonic() - began

    def _swap(self, live: Any, pair: tuple[Occupant, Occupant], note: Mapping[str, str], stamp: str) -> None:
        number = _number(note["to"])
        with live.pipeline(transaction=True) as together:
            for at, occupant in zip((LIVE, number), pair, strict=True):
                together.watch(SWITCH_KEY)  # from the first on, commands are sent at once until `multi`
                together.execute_command("SELECT", at)
                together.watch(SWITCH_KEY)
                if _identity(_note(together)) != occupant.identity:
                    raise redis.WatchError
            together.execute_command("SELECT", LIVE)
            together.multi()
            together.delete(SWITCH_KEY).hset(SWITCH_KEY, "until", stamp)
            together.execute_command("SELECT", number)
            together.delete(SWITCH_KEY).hset(SWITCH_KEY, mapping=dict(note))
            together.execute_command("SELECT", LIVE)
            together.execute_command("SWAPDB", LIVE, number)
            together.execute()


def _number(name: str) -> int:
    return int(name.partition("_")[0])


def _note(client: Any) -> dict[str, str]:
    return {field.decode(): value.decode() for field, value in client.hgetall(SWITCH_KEY).items()}


def _identity(note: Mapping[str, str]) -> str:
    """A key space has no identity of its own; what switches noted in it tells the two apart."""
    return note.get("at") or note.get("until") or "never switched"


def _occupant(client: Any, name: str, note: Mapping[str, str]) -> Occupant:
    versions = [version.decode() for version in client.hkeys(HISTORY_KEY)]
    return Occupant(name, _identity(note), f"{client.dbsize()} keys", max(versions, key=version_key, default=""))
