"""Releases bound to a platform: what runs here, whether one may enter, and who is told that it did.

Here: putting the parts of a release's rollout together, and asking the gate again right before it begins,
whoever starts it. Not here: what is done in which order (``release_rollout``, ``releases.plan``), the
gate's rows (``promotion``), or how a verb or a job looks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from dr_platform import bring_up, delivery, readiness
from dr_platform.databases.port import Phase
from dr_platform.databases.schema import read_steps
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.evidence import Entry
from dr_platform.objects import AlreadyExists, local_objects
from dr_platform.platform import Platform
from dr_platform.promotion import GateTable, Risk
from dr_platform.promotion.facts import HOLD, VERIFIED, release_subject
from dr_platform.release_rollout import FOLLOW_S, ReleaseRollout
from dr_platform.releases.bundle import Member, ReleaseBundle, Step, diff
from dr_platform.releases.changelog import Deployment, changelog_entry
from dr_platform.releases.ledger import Ended, Episode, ReleaseLedger, current_release
from dr_platform.releases.plan import ApplySchema, DeployService, PlanStep, Running, known_steps
from dr_platform.releases.store import DamagedRelease, ReleaseStore, UnknownRelease
from dr_platform.releases.tracker import KEY_SECRET, EvidenceTracker, Notice, Outcome, Tracker, WebhookTracker
from dr_platform.rollout import record as records
from dr_platform.rollout.record import Intent
from dr_platform.rollout.requests import RolloutRefused
from dr_platform.runtime.port import Revision
from dr_platform.verdict import Progress, silent

BEGAN = "release-began"
ENDED = "release-ended"
CHANGELOG = "release-changelog"
URL_FIELD = "url"
"""Of the secret ``webhooks/release-tracker``: an address often holds a secret itself."""


class NotReady(PlatformError):
    """The gate of the environment is shut. ``table`` says why, row by row."""

    exit_code = ExitCode.REFUSED

    def __init__(self, table: GateTable) -> None:
        super().__init__(table)
        self.table = table
        shut = [f"  {row.name}: {row.answer.message}" for row in table.rows if not row.answer.allow]
        candidate = table.candidate
        self.what = f"release {candidate.release} may not enter {candidate.environment}:\n" + "\n".join(shut)
        self.untouched = f"every service and database of {candidate.environment}; this command began nothing"
        self.next_step = f"see `drp production-ready --release {candidate.release} --to {candidate.environment}`"


class MadeForAnother(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, release: str, made_for: str, environment: str) -> None:
        super().__init__(release, made_for, environment)
        self.what = f"release {release} was made for {made_for}, not for {environment}"
        self.untouched = "every service and database; nothing was begun"
        self.next_step = f"create it there: `drp --env {environment} release create`"


class OtherEnvironment(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, asked: str, here: str) -> None:
        super().__init__(asked, here)
        self.what = f"this is {here}, and {asked[:80]!r} was asked for"
        self.untouched = "every environment; nothing was begun"
        self.next_step = f"start it in the instance of that environment, or name {here}"


class OtherMigrations(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, release: str, steps: tuple[str, ...]) -> None:
        super().__init__(release, steps)
        self.what = f"the catalog's migrations are not those of release {release}: {', '.join(steps)}"
        self.untouched = "every service and database; nothing was begun"
        self.next_step = "use the catalog that the release was made from, or create a new release"


class ReleaseNotDeployed(PlatformError):
    """It stopped at a service that was not promoted."""

    def __init__(self, release: str, environment: str, why: str) -> None:
        super().__init__(release, environment, why)
        self.what = f"release {release} was not deployed in {environment}: {why}"
        self.untouched = "services that are not named; the release is held out until a person lets it in"
        let_in = f"`drp hold clear {release} --to {environment}`"
        self.next_step = f"find the cause with `drp incident list`, then {let_in}, and promote again"


def release_store(platform: Platform) -> ReleaseStore:
    return ReleaseStore(local_objects(platform.state.objects))


def created_releases(platform: Platform) -> frozenset[str]:
    """Names of releases that were created; none before the first."""
    return frozenset(release_store(platform).names()) if platform.state.objects.is_dir() else frozenset()


def release_ledger(platform: Platform) -> ReleaseLedger:
    return ReleaseLedger(local_objects(platform.state.objects))


# What a person or a job asks for


def promote(platform: Platform, name: str, actor: str, progress: Progress = silent) -> Ended:
    """Deploy a release that was created, if its gate is open now. Raises ``NotReady``, and
    ``ReleaseNotDeployed`` where it was begun and did not become whole."""
    bundle = _bundle(platform, name)
    driver = rollout(platform, actor, progress)
    if not driver.going_back(bundle):  # what failed half-way goes back whatever the gate says by now
        plan = driver.plan(bundle)
        _require_files(platform, bundle, plan)
        require_ready(platform, bundle, plan)
    ended = driver.promote(bundle)
    if ended.outcome is not Outcome.DEPLOYED:
        raise ReleaseNotDeployed(name, platform.environment.name, ended.why)
    return ended


def promote_into(platform: Platform, environment: str, name: str, actor: str, progress: Progress = silent) -> Ended:
    """The same for callers who name the environment, which must be this one: each has its own instance."""
    if environment != platform.environment.name:
        raise OtherEnvironment(environment, platform.environment.name)
    return promote(platform, name, actor, progress)


def roll_back(
    platform: Platform, name: str, actor: str, progress: Progress = silent, *, service: str | None = None
) -> Ended:
    """Take the release that was promoted last back, wholly or one service with those that go along."""
    return rollout(platform, actor, progress).roll_back(_bundle(platform, name), service)


def _bundle(platform: Platform, name: str) -> ReleaseBundle:
    bundle = release_store(platform).get(name)
    if bundle.environment != platform.environment.name:
        raise MadeForAnother(name, bundle.environment, platform.environment.name)
    return bundle


def require_ready(platform: Platform, bundle: ReleaseBundle, plan: tuple[PlanStep, ...]) -> GateTable:
    """Ask the whole gate. Raises ``NotReady``."""
    table = readiness.readiness(platform, bundle.name, platform.environment, risk=risk_of(plan))
    if not table.passed:
        raise NotReady(table)
    return table


def risk_of(plan: tuple[PlanStep, ...]) -> Risk:
    """Risky is what strands callers for a while, and what cannot be taken back afterwards."""
    risky = any(
        (isinstance(step, DeployService) and step.strands)
        or (isinstance(step, ApplySchema) and step.phase is Phase.CONTRACT)
        for step in plan
    )
    return Risk.RISKY if risky else Risk.ORDINARY


def running_release(platform: Platform) -> str:
    """The release that was deployed here last, else the one that the environment's file names."""
    found = current_release(release_ledger(platform).episodes()) if platform.state.objects.is_dir() else None
    return found or platform.catalog.release_of(platform.environment).name


def record_suite(platform: Platform, suite: str, actor: str, *, passed: bool, checks: int, failed: int) -> Entry:
    """What a suite found about the release that runs here, for the gate of the next environment."""
    candidate = readiness.candidate_of(platform, running_release(platform), platform.environment)
    return readiness.recorder(platform).suite_ran(
        candidate, suite, actor, passed=passed, checks=checks, failed=failed
    )  # fmt: skip


# The driver's parts


def rollout(platform: Platform, actor: str, progress: Progress = silent) -> ReleaseRollout:
    return ReleaseRollout(
        runtime=platform.runtime,
        catalog=platform.catalog,
        ledger=release_ledger(platform),
        books=ReleaseBooks(platform, progress),
        clock=platform.clock,
        running=partial(running, platform),
        apply_schema=lambda step: _apply(platform, step, progress),
        deployment=partial(_deployment, platform, actor),
        rollback=partial(_rollback, platform, actor),
        actor=actor,
        declared=platform.catalog.release_of(platform.environment).name,
        progress=progress,
        # Nothing is told during a bake, nor while it is prolonged for want of requests.
        follow_s=FOLLOW_S + 5 * platform.environment.bake,
    )


def running(platform: Platform, bundle: ReleaseBundle) -> Running:
    """Stable revisions with the contract that a release gave them, and the schema steps that ran."""
    known = (bundle, *_others(platform, bundle.name))
    services: dict[str, Member] = {}
    for name in sorted(platform.runtime.declared()):
        if (stable := records.read(platform.runtime, name).record.stable) is not None:
            services[name] = _member(platform, name, stable.revision, known)
    return Running(services, {name: _applied(platform, name, known) for name in bundle.databases})


def _others(platform: Platform, name: str) -> Iterator[ReleaseBundle]:
    store = release_store(platform)
    for other in store.names():
        with suppress(DamagedRelease, UnknownRelease):  # it is named by `drp release list`
            if other != name:
                yield store.get(other)


def _member(platform: Platform, name: str, revision: Revision, known: tuple[ReleaseBundle, ...]) -> Member:
    """The same version may stand in several releases; its contract does not differ between them."""
    for bundle in known:
        if (member := bundle.services.get(name)) is not None and member.revision == revision:
            return member
    release = platform.catalog.release_of(platform.environment)
    return Member(revision=revision, contract=release.contract_of(name))


def _applied(platform: Platform, name: str, known: tuple[ReleaseBundle, ...]) -> tuple[Step, ...] | None:
    """``None`` where it cannot be read. Of an engine that this machine cannot have nothing is to be done,
    so that its steps count as done; its own check is red."""
    if name not in platform.catalog.databases:
        return None
    if bring_up.unavailable_reason(platform, name) is not None:
        return known[0].databases[name]
    try:
        database = platform.connect(name, "admin")
        try:
            return known_steps(database.applied(), name, *known)
        finally:
            database.close()
    except PlatformError:
        return None


def _require_files(platform: Platform, bundle: ReleaseBundle, plan: tuple[PlanStep, ...]) -> None:
    wanted = {s.database: set(s.versions) for s in plan if isinstance(s, ApplySchema)}
    missing = []
    for name in sorted(wanted):
        files = [Step.of(step) for step in read_steps(platform.catalog.database_folder(name) / "migrations")]
        missing += [
            f"{name} {step.version}"
            for applying in plan
            if isinstance(applying, ApplySchema) and applying.database == name
            for step in bundle.databases[name]
            if step.version in applying.versions and step not in files
        ]
    if missing:
        raise OtherMigrations(bundle.name, tuple(missing))


def _apply(platform: Platform, step: ApplySchema, progress: Progress) -> None:
    outcome = bring_up.apply_schema(platform, step.database, progress, only=step.versions)
    progress(f"{step.database}: {outcome.describe()}")


def _deployment(
    platform: Platform, actor: str, service: str, revision: Revision, intent_id: str, reason: str
) -> Intent:
    known = delivery.service_of(platform, service)
    if (why := delivery.unusable(platform, known, revision)) is not None:
        raise RolloutRefused(service, f"{revision.version}: {why}", "create a release from this catalog and code")
    return delivery.deployment(
        platform, service, revision.version, requested_by=actor, reason=reason, intent_id=intent_id
    )  # fmt: skip


def _rollback(platform: Platform, actor: str, service: str, revision: Revision, intent_id: str, reason: str) -> Intent:
    intent = delivery.rollback(platform, service, requested_by=actor, to=revision.version, reason=reason)
    if intent.revision != revision:
        raise RolloutRefused(service, f"{revision.version} ran before with another image or configuration", "deploy it")
    return replace(intent, id=intent_id)


# Who is told


@dataclass(frozen=True)
class ReleaseBooks:
    """Evidence, what gates rest on, the changelog and the trackers. Each is written once for an episode,
    whoever repeats it; raises ``OperationsUnavailable`` while the evidence log does not answer."""

    platform: Platform
    progress: Progress = silent

    def began(self, episode: Episode) -> None:
        began = episode.began
        body = {"action": began.action, "replaces": began.replaces, "environment": began.environment}
        self._once(BEGAN, episode, {**body, "digest": began.digest})

    def ended(self, episode: Episode, bundle: ReleaseBundle, ended: Ended) -> None:
        text = ""
        if ended.outcome is Outcome.DEPLOYED:
            text = self._changelog(episode, bundle, ended)
            self._judge(VERIFIED, episode, ended)
        else:
            self._judge(HOLD, episode, ended)
        self._notify(episode, bundle, ended, text)
        # Why it failed stays in the ledger: texts of rollouts may quote what this log does not take.
        body: dict[str, Any] = {"outcome": ended.outcome.value, "digest": bundle.digest}
        if episode.withdrawal is not None:
            body |= {"cause": episode.withdrawal.service, "back": list(episode.withdrawal.back)}
        self._once(ENDED, episode, {**body, "environment": bundle.environment})

    def _judge(self, kind: str, episode: Episode, ended: Ended) -> None:
        """Where it runs and was watched to its end it is verified; what failed or went back stays out."""
        candidate = readiness.candidate_of(self.platform, episode.began.release, self.platform.environment)
        began = self._entry(BEGAN, episode)
        log, subject = self.platform.evidence, release_subject(episode.began.release)
        later = log.entries(kind=kind, subject=subject, after=began.sequence if began else 0)
        if any((e.body.get("environment"), e.body.get("digest")) == _key_of(candidate) for e in later):
            return
        recorder = readiness.recorder(self.platform)
        if kind == VERIFIED:
            recorder.verified(candidate, episode.began.by)
        else:
            recorder.hold(candidate, episode.began.by, f"{episode.id}: {ended.outcome}")

    def _changelog(self, episode: Episode, bundle: ReleaseBundle, ended: Ended) -> str:
        """The text lies beside the release, its hash in the evidence log: a description of free words has
        no place there."""
        began = episode.began
        change = diff(began.earlier, bundle)
        change = replace(change, data_contract=(self._data_contract(began.replaces), bundle.data_contract))
        text = changelog_entry(Deployment(bundle, change, bundle.environment, ended.at, began.by))
        objects, key = local_objects(self.platform.state.objects), f"changelog/{began.number:06d}.md"
        try:
            objects.put(key, text.encode())
        except AlreadyExists:
            text = objects.get(key).decode()
        self._once(CHANGELOG, episode, {"object": key, "sha256": hashlib.sha256(text.encode()).hexdigest()})
        return text

    def _data_contract(self, release: str) -> str | None:
        with suppress(UnknownRelease, DamagedRelease):
            return release_store(self.platform).get(release).data_contract
        known = self.platform.catalog.releases.get(release)
        return known.data_contract if known else None

    def _notify(self, episode: Episode, bundle: ReleaseBundle, ended: Ended, text: str) -> None:
        by, environment = episode.began.by, bundle.environment
        notice = Notice(episode.id, bundle.name, bundle.digest, environment, ended.outcome, ended.at, by, text)
        for tracker in trackers(self.platform):
            if not (delivery := tracker.notify(notice)).delivered:
                self.progress(f"a tracker was not told: {delivery.why}")

    def _once(self, kind: str, episode: Episode, body: Mapping[str, Any]) -> None:
        if self._entry(kind, episode) is None:
            subject = release_subject(episode.began.release)
            self.platform.evidence.append(kind, subject, episode.began.by, {**body, "episode": episode.id})

    def _entry(self, kind: str, episode: Episode) -> Entry | None:
        entries = self.platform.evidence.entries(kind=kind, subject=release_subject(episode.began.release))
        return next((entry for entry in entries if entry.body.get("episode") == episode.id), None)


def _key_of(candidate: readiness.Candidate) -> tuple[str, str]:
    return candidate.environment, candidate.digest


def trackers(platform: Platform) -> tuple[Tracker, ...]:
    """The evidence log always; a webhook where its secret is there."""
    written, hook = EvidenceTracker(platform.evidence), webhook(platform)
    return (written, hook) if hook is not None else (written,)


def webhook(platform: Platform) -> WebhookTracker | None:
    """Whoever is told outside of the platform; ``None`` where nobody is, or it cannot be known now."""
    try:
        fields = platform.secrets.read(KEY_SECRET)
    except PlatformError:  # a deployment does not wait for a notice
        return None
    url = (fields or {}).get(URL_FIELD)
    return WebhookTracker(url, platform.secrets, platform.clock) if url else None
