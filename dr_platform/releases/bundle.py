"""A release as one immutable value: what is deployed together, identified by a digest.

Here: the value, how it is composed and how two of them differ. Not here: where it is kept
(``store``), the order of a deployment (``plan``), or texts for people (``changelog``).

The digest is ``sha256:`` and the SHA-256 of the bundle's canonical JSON: all fields, keys sorted,
separators ``,`` and ``:``, ASCII with escapes. An approval that names it covers every image,
configuration, schema step and contract, and no other bundle has it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any, Self

from pydantic import AwareDatetime, Field, ValidationError

from dr_platform.catalog.contracts import admits, unmet
from dr_platform.catalog.explain import explain
from dr_platform.catalog.faults import field_path
from dr_platform.catalog.fields import ContractNumber, Name, VersionText
from dr_platform.catalog.models import Contract, EnvironmentName, Model, Release
from dr_platform.databases.port import Phase, SchemaStep
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.runtime.port import Revision

MAX_DESCRIPTION = 400


class Member(Model):
    """One service of a release."""

    revision: Revision
    contract: Contract = Contract()


class Step(Model):
    """A schema step that belongs to a release, as its file was when the release was made."""

    version: str
    phase: Phase
    checksum: str

    @classmethod
    def of(cls, step: SchemaStep) -> Self:
        return cls(version=step.version, phase=step.phase, checksum=step.checksum)


class ReleaseBundle(Model):
    """What belongs together. ``databases`` holds each one's steps, oldest first: the last one's
    version is the schema's. Configuration hashes are of ``environment``, whose settings they cover."""

    name: VersionText
    environment: EnvironmentName
    services: dict[Name, Member]
    databases: dict[Name, tuple[Step, ...]]
    data_contract: ContractNumber
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION)] = ""
    created_at: AwareDatetime
    created_by: str

    @property
    def digest(self) -> str:
        return digest_of(self.model_dump(mode="json"))

    @property
    def contracts(self) -> dict[str, Contract]:
        return {name: member.contract for name, member in self.services.items()}

    def schema_version(self, database: str) -> str | None:
        """Version of the last step; ``None`` where the release has none for this database."""
        steps = self.databases.get(database, ())
        return steps[-1].version if steps else None

    def same_content(self, other: ReleaseBundle) -> bool:
        """Whether both deploy the same; who made them and when does not count."""
        made = {"created_at", "created_by"}
        return self.model_dump(exclude=made) == other.model_dump(exclude=made)


def canonical(document: Any) -> bytes:
    """The one spelling of a JSON document that is hashed."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode()


def digest_of(document: Any) -> str:
    return "sha256:" + hashlib.sha256(canonical(document)).hexdigest()


class UnmetContracts(PlatformError):
    """``pairs`` are a service and another one that does not provide what the first requires."""

    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, pairs: tuple[tuple[str, str], ...]) -> None:
        super().__init__(name, pairs)
        told = "; ".join(f"{service} requires another contract of {needed}" for service, needed in pairs)
        self.what = f"release {name} does not fit together: {told}"
        self.untouched = "every environment; the release was not stored"
        self.next_step = f"correct the contracts in the release's file of the catalog (releases/{name}.yaml)"


class MalformedRelease(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, faults: tuple[tuple[str, str, str], ...]) -> None:
        super().__init__(faults)
        self.what = "no release can be made of this:\n" + "\n".join(f"  {at}: {what}" for at, what, _ in faults)
        self.untouched = "every environment; no release was stored"
        self.next_step = "; ".join(dict.fromkeys(remedy for _, _, remedy in faults))


def variant(base: Release, name: str, versions: Mapping[str, str], description: str, released: date) -> Release:
    """A release as another one, but for the versions of some services; contracts are the other one's.
    Raises ``MalformedRelease``."""
    changed = {"name": name, "description": description, "released": released.isoformat(), "next_release": None}
    try:
        return Release.model_validate({**base.model_dump(), **changed, "services": {**base.services, **versions}})
    except ValidationError as exc:
        faults = tuple((field_path(e["loc"]), *explain(Release, e)) for e in exc.errors(include_url=False))
        raise MalformedRelease(faults) from None


def create(
    release: Release,
    environment: EnvironmentName,
    revisions: Mapping[str, Revision],
    databases: Mapping[str, Sequence[SchemaStep]],
    *,
    created_at: datetime,
    created_by: str,
) -> ReleaseBundle:
    """The bundle of a release of the catalog. Raises ``UnmetContracts``."""
    services = {
        name: Member(revision=revision, contract=release.contract_of(name))
        for name, revision in sorted(revisions.items())
    }
    if pairs := tuple(unmet({name: member.contract for name, member in services.items()})):
        raise UnmetContracts(release.name, pairs)
    return ReleaseBundle(
        name=release.name,
        environment=environment,
        services=services,
        databases={name: tuple(Step.of(step) for step in steps) for name, steps in sorted(databases.items())},
        data_contract=release.data_contract,
        description=release.description,
        created_at=created_at.astimezone(UTC),
        created_by=created_by,
    )


@dataclass(frozen=True)
class ServiceChange:
    """One service that differs. ``None`` where a release does not have it. ``breaks`` are services of
    the release before whose contract excludes what this one provides afterwards."""

    service: str
    before: Member | None
    after: Member | None
    breaks: tuple[str, ...] = ()

    @property
    def aspects(self) -> tuple[str, ...]:
        """What differs: ``added``, ``removed``, or some of version, image, configuration, contract."""
        if self.before is None or self.after is None:
            return ("added",) if self.before is None else ("removed",)
        old, new = self.before, self.after
        pairs = {
            "version": (old.revision.version, new.revision.version),
            "image": (old.revision.digest, new.revision.digest),
            "configuration": (old.revision.config_hash, new.revision.config_hash),
            "contract": (old.contract, new.contract),
        }
        return tuple(aspect for aspect, (one, other) in pairs.items() if one != other)


@dataclass(frozen=True)
class SchemaChange:
    """Steps of one database that only one of two releases has; an edited step is in both lists."""

    database: str
    added: tuple[Step, ...]
    removed: tuple[Step, ...]


@dataclass(frozen=True)
class ReleaseDiff:
    """How one release differs from the one ``before`` it; everything is new where that is ``None``."""

    before: str | None
    after: str
    services: tuple[ServiceChange, ...]
    databases: tuple[SchemaChange, ...]
    data_contract: tuple[str | None, str]

    @property
    def empty(self) -> bool:
        """Whether both deploy the same."""
        return not self.services and not self.databases and self.data_contract[0] == self.data_contract[1]

    def as_document(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "before": self.before,
            "after": self.after,
            "services": {change.service: _service_document(change) for change in self.services},
            "databases": {
                change.database: {
                    "added": [step.model_dump(mode="json") for step in change.added],
                    "removed": [step.model_dump(mode="json") for step in change.removed],
                }
                for change in self.databases
            },
            "data_contract": list(self.data_contract),
        }


def _service_document(change: ServiceChange) -> dict[str, Any]:
    return {
        "changed": list(change.aspects),
        "before": change.before.model_dump(mode="json") if change.before else None,
        "after": change.after.model_dump(mode="json") if change.after else None,
        "breaks": list(change.breaks),
    }


def diff(before: ReleaseBundle | None, after: ReleaseBundle) -> ReleaseDiff:
    """What deploying ``after`` where ``before`` runs would change. Equal content gives an empty one."""
    return ReleaseDiff(
        before=before.name if before else None,
        after=after.name,
        services=tuple(_service_changes(before.services if before else {}, after.services)),
        databases=tuple(_schema_changes(before.databases if before else {}, after.databases)),
        data_contract=(before.data_contract if before else None, after.data_contract),
    )


def _service_changes(before: Mapping[str, Member], after: Mapping[str, Member]) -> Iterator[ServiceChange]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old != new:
            yield ServiceChange(name, old, new, excluding(before, name, new))


def excluding(running: Mapping[str, Member], service: str, becomes: Member | None) -> tuple[str, ...]:
    """Running services that cannot work with what a service of theirs becomes; ``None``: it goes."""
    provided = becomes.contract.provides if becomes else None
    return tuple(
        name
        for name, member in sorted(running.items())
        if service in member.contract.requires and not admits(member.contract.requires[service], provided)
    )


def _schema_changes(
    before: Mapping[str, tuple[Step, ...]], after: Mapping[str, tuple[Step, ...]]
) -> Iterator[SchemaChange]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, ()), after.get(name, ())
        added = tuple(step for step in new if step not in old)
        removed = tuple(step for step in old if step not in new)
        if added or removed:
            yield SchemaChange(name, added, removed)
