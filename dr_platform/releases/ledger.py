"""How far each promotion and rollback of a release has come, so that whoever repeats one goes on with it.

Here: what is written down, one object for each of three moments, created once and never changed. Not
here: what is done between them (``release_rollout``), or evidence for auditors (``evidence``), which may
be away when services have to go back.

Objects ``deployments/<number>/began.json``, then ``withdrawal.json`` where services go back, then
``ended.json``. Numbers rise; of two that begin at once one gets the number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from pydantic import AwareDatetime, ValidationError

from dr_platform.catalog.fields import Name, VersionText
from dr_platform.catalog.models import EnvironmentName, Model
from dr_platform.errors import PlatformError, TemporaryFailure
from dr_platform.objects import AlreadyExists, ObjectStore
from dr_platform.releases.bundle import Member, ReleaseBundle, Step, canonical
from dr_platform.releases.plan import Running
from dr_platform.releases.tracker import Outcome

_FOLDER = "deployments"
_SHORT = 12
M = TypeVar("M", bound=Model)

Action = Literal["promote", "rollback"]


class Began(Model):
    """``before`` and ``schemas`` are what ran when it began, or what shall run after a rollback;
    ``replaces`` names the release that this was."""

    number: int
    action: Action
    release: VersionText
    digest: str
    environment: EnvironmentName
    by: str
    at: AwareDatetime
    replaces: VersionText
    before: dict[Name, Member]
    schemas: dict[Name, tuple[Step, ...]]

    @property
    def id(self) -> str:
        """Identifies this attempt in evidence and in what is asked of rollouts."""
        return f"rel-{self.digest.removeprefix('sha256:')[:_SHORT]}-{self.number}"

    @property
    def earlier(self) -> ReleaseBundle:
        """What ran before as a release; it may be half of one, and was never stored. Its data contract
        is not known here."""
        return ReleaseBundle(
            name=self.replaces,
            environment=self.environment,
            services=self.before,
            databases=self.schemas,
            data_contract="1",
            created_at=self.at,
            created_by=self.by,
        )


class Withdrawal(Model):
    """Written before anything goes back. ``service`` was not promoted; ``called_off`` were on their way
    beside it and were taken back for that reason alone. ``back``: in this order. ``refused``: why nothing
    may go back, and ``remains`` what is left to do then."""

    service: Name
    why: str
    called_off: tuple[Name, ...] = ()
    back: tuple[Name, ...] = ()
    refused: str = ""
    remains: tuple[str, ...] = ()


class Ended(Model):
    outcome: Outcome
    why: str
    at: AwareDatetime


@dataclass(frozen=True)
class Episode:
    """One promotion or rollback of a release."""

    began: Began
    withdrawal: Withdrawal | None = None
    ended: Ended | None = None

    @property
    def id(self) -> str:
        return self.began.id


class BegunMeanwhile(TemporaryFailure):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.what = f"another promotion or rollback has begun as number {number} meanwhile"
        self.untouched = "every service and database; nothing was begun"
        self.next_step = "wait until it has ended, then repeat"


class DamagedLedger(PlatformError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.what = f"{key}, which says how far a deployment came, cannot be read"
        self.untouched = "every service and database, and the stored object"
        self.next_step = f"restore the object {key} from a backup; `drp status` shows what runs"


class ReleaseLedger:
    """Beside the releases, in one environment's object store."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def episodes(self) -> tuple[Episode, ...]:
        """Oldest first. Raises ``DamagedLedger``."""
        keys = [info.key for info in self._objects.list(_FOLDER)]
        numbers = sorted(int(key.split("/")[1]) for key in keys if key.endswith("/began.json"))
        return tuple(self._episode(number, frozenset(keys)) for number in numbers)

    def last(self) -> Episode | None:
        episodes = self.episodes()
        return episodes[-1] if episodes else None

    def begin(self, began: Began) -> Episode:
        """Raises ``BegunMeanwhile`` where its number is taken."""
        try:
            self._objects.put(_key(began.number, "began"), canonical(began.model_dump(mode="json")))
        except AlreadyExists:
            raise BegunMeanwhile(began.number) from None
        return Episode(began)

    def withdraw(self, episode: Episode, withdrawal: Withdrawal) -> Episode:
        """Decided once: where it was decided before, that counts."""
        return replace(episode, withdrawal=self._once(episode, "withdrawal", withdrawal))

    def end(self, episode: Episode, ended: Ended) -> Episode:
        return replace(episode, ended=self._once(episode, "ended", ended))

    def _once(self, episode: Episode, moment: str, document: M) -> M:
        key = _key(episode.began.number, moment)
        try:
            self._objects.put(key, canonical(document.model_dump(mode="json")))
        except AlreadyExists:
            return self._read(key, type(document))
        return document

    def _episode(self, number: int, keys: frozenset[str]) -> Episode:
        withdrawal, ended = _key(number, "withdrawal"), _key(number, "ended")
        return Episode(
            self._read(_key(number, "began"), Began),
            self._read(withdrawal, Withdrawal) if withdrawal in keys else None,
            self._read(ended, Ended) if ended in keys else None,
        )

    def _read(self, key: str, kind: type[M]) -> M:
        try:
            return kind.model_validate_json(self._objects.get(key))
        except ValidationError:
            raise DamagedLedger(key) from None


def _key(number: int, moment: str) -> str:
    return f"{_FOLDER}/{number:06d}/{moment}.json"


def next_number(last: Episode | None) -> int:
    return last.began.number + 1 if last else 1


def current_release(episodes: Sequence[Episode]) -> str | None:
    """The release that was deployed here last and not rolled back, as far as the ledger knows."""
    found: str | None = None
    for episode in episodes:
        match episode.ended.outcome if episode.ended else None:
            case Outcome.DEPLOYED:
                found = episode.began.release
            case Outcome.ROLLED_BACK:
                found = episode.began.replaces
            case _:
                pass
    return found


def ran_before(bundle: ReleaseBundle, running: Running, last: Episode | None) -> Running:
    """What a new attempt at a release goes back to. Where the attempt before it failed, what that one
    left of this release is no state to return to: what ran before it is."""
    services, applied = dict(running.services), dict(running.applied)
    if last is not None and _failed_before(last, bundle):
        left = {
            name
            for name, member in services.items()
            if name in bundle.services and member.revision == bundle.services[name].revision
        }
        services = {name: member for name, member in services.items() if name not in left}
        services |= {name: member for name, member in last.began.before.items() if name in left}
        applied = dict(last.began.schemas)
    return Running(services, applied)


def _failed_before(last: Episode, bundle: ReleaseBundle) -> bool:
    failed = last.ended is not None and last.ended.outcome is Outcome.FAILED
    return failed and last.began.action == "promote" and last.began.digest == bundle.digest
