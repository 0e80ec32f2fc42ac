"""Masking bound to a platform: where the source comes from, which key, into which environment, who is told.

Here: putting a run together from two environments, and its plan for people. Not here: masking itself
(``masking``), or bringing a backup back: that is handed in as a ``MaskSource``.
"""

from __future__ import annotations

import base64
import secrets as random_source
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from dr_platform.backups.switch import MASKED, subject_of
from dr_platform.catalog import DataClass, Engine
from dr_platform.databases.access import read_login
from dr_platform.databases.port import Endpoint
from dr_platform.databases.schema import read_steps
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.identity import current_actor, new_id
from dr_platform.masking.canaries import Canaries
from dr_platform.masking.classification import Classification, read_classifications
from dr_platform.masking.port import Access, MaskSource
from dr_platform.masking.recipe import KEY_BYTES, Profile, Recipe
from dr_platform.masking.run import Order, Part, Report, engines, mask, refuse
from dr_platform.masking.seals import KeyRing
from dr_platform.platform import Platform
from dr_platform.verdict import Progress, silent

EVIDENCE = "masking"
"""Kind of the entries of the evidence log: counts and names, never a value."""
KEY_CATEGORY = "encryption-keys"
LIVE = "live"
_SWITCHED = frozenset({Engine.POSTGRESQL, Engine.REDIS})
"""Engines in which one database takes another one's place: see ``database_switch``."""
_LET_IN = frozenset({Engine.POSTGRESQL, Engine.SCYLLADB})
"""Engines whose schema admits the application's login. Elsewhere its rights name the database, and are given
with the login: see ``switch``."""


class NotAnEnvironmentForMasked(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, into: str, reason: str) -> None:
        super().__init__(into, reason)
        self.what = f"masked data does not go into {into}: {reason}"
        self.untouched = "every environment"
        self.next_step = "choose another environment with --into, such as staging"


class NoRestoredSource(PlatformError):
    """Nothing brings this source back."""

    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.what = f"{name} cannot be masked: {why}"
        self.untouched = "every environment"
        self.next_step = "bring the backup back first, or name `live` where all data is synthetic"


class NotClassified(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(names)
        self.what = f"{', '.join(names)}: no classification.yaml beside database.yaml, so nothing may be masked"
        self.untouched = "every environment"
        self.next_step = "classify every column of these databases, see docs/masking.md"


@dataclass(frozen=True)
class LiveSource:
    """The environment's own databases. Refused where they may hold patients' data: masking reads a restored
    copy then, never production itself."""

    platform: Platform
    name: str = LIVE

    @property
    def expendable(self) -> bool:
        """Made-up people may stand among made-up people."""
        return self.platform.binding.data_class.rank < DataClass.PHI.rank

    def access(self) -> Mapping[str, Access]:
        if not self.expendable:
            raise NoRestoredSource(self.name, f"{self.platform.environment.name} may hold patients' data")
        return {name: _access(self.platform, name) for name in self.platform.catalog.databases}


def masking_key(platform: Platform, into: str, profile: Profile) -> bytes:
    """Of ``expert_determination`` the environment's own, kept by the environment that the data comes from:
    whoever works in staging must not have it. Of ``safe_harbor`` one that exists in this process alone."""
    if profile is Profile.SAFE_HARBOR:
        return random_source.token_bytes(KEY_BYTES)
    fields = platform.secrets.ensure(
        f"masking/{into}",
        lambda: {"key": base64.b64encode(random_source.token_bytes(KEY_BYTES)).decode()},
        category=KEY_CATEGORY,
    )
    return base64.b64decode(fields["key"])


def mask_into(
    platform: Platform, source: MaskSource, into: Platform, profile: Profile, progress: Progress = silent
) -> Report:
    """Mask the source into new databases of ``into`` and say so in the evidence log. Raises what refuses
    the run, before anything is written."""
    check(platform, into)
    run_id = new_id("mask")
    parts = _parts(platform, source, into, run_id)
    order = _order(platform, source, into, profile, run_id)
    subject, actor = f"environment:{into.environment.name}", current_actor()
    told = {"run": run_id, "source": source.name, "profile": profile.value, "key_id": order.recipe.key_id}
    platform.evidence.append(EVIDENCE, subject, actor, {**told, "state": "begun"})
    report = mask(parts, order, platform.clock, progress)
    if report.passed:
        _let_application_in(into, parts)
        for name, database in report.databases.items():
            body = {"run": run_id, "source": source.name, "profile": profile.value, "into": database}
            into.evidence.append(MASKED, subject_of(name), actor, body)
    failed = [gate.name for gate in report.gates if gate.passed is not True]
    ended = {"state": "passed" if report.passed else "refused", "rows": report.rows, "failed": failed}
    platform.evidence.append(EVIDENCE, subject, actor, {**told, **ended})
    return report


def _let_application_in(into: Platform, parts: list[Part]) -> None:
    for part in parts:
        if part.target.database.engine in _LET_IN:
            with closing(into.connect_elsewhere(part.target.name, part.target.endpoint)) as database:
                database.admit_application()


def switch(into: Platform, report: Report) -> tuple[str, ...]:
    """What a person does to let the environment's services read the new databases, in order; empty where
    there is nothing to read. Masking itself changes no environment's settings."""
    if not report.passed:
        return ()
    # A Redis cluster has one key space: what was made there is live already.
    beside = {n: entry for n, entry in report.databases.items() if entry != into.catalog.databases[n].database}
    engines = {name: into.catalog.databases[name].engine for name in beside}
    by_command = [name for name in beside if engines[name] in _SWITCHED]
    others = {name: entry for name, entry in beside.items() if name not in by_command}
    knowledge = into.knowledge_database.name in report.databases
    return (
        *(f"run `{_drp(into)} switch {name} --to {report.databases[name]}`" for name in by_command),
        *_by_hand(into, others, {name for name in others if engines[name] not in _LET_IN}),
        *((f"run `{_drp(into)} materialize knowledge`: articles are not carried over",) if knowledge else ()),
    )


def _drp(platform: Platform) -> str:
    """The command line that names this platform."""
    environment, runtime = platform.environment, platform.binding.runtime
    return f"drp --env {environment.name}{'' if runtime == environment.runtime else f' --runtime {runtime}'}"


def _by_hand(into: Platform, entries: Mapping[str, str], unknown_there: Collection[str]) -> tuple[str, ...]:
    """For databases that have no switch; the application's login is not admitted to some of them yet."""
    name = into.environment.name
    if not entries:
        return ()
    if into.binding.databases != "endpoints":
        return (
            f"{', '.join(entries)}: nothing, servers of {name} on this machine go on under the names in database.yaml",
        )
    steps = [
        f"give the application's login of {database} the right to read and write {entry}"
        for database, entry in entries.items()
        if database in unknown_there
    ]
    for database, entry in entries.items():
        there = into.endpoint(into.catalog.databases[database])
        steps.append(
            f"write `{database}: {there.host}:{there.port}/{entry}` under endpoints in environments/{name}.yaml"
        )
    return (*steps, "run `drp catalog validate`", f"run `drp --env {name} rollout restart SERVICE` for each service")


def plan(platform: Platform, source: MaskSource, into: Platform, profile: Profile) -> dict[str, Any]:
    """What a run would do, after all refusals were tried. Writes nothing, not even a key."""
    check(platform, into)
    run_id = new_id("mask")
    parts = _parts(platform, source, into, run_id)
    recipe = Recipe(profile, bytes(KEY_BYTES), platform.clock.now().date())
    order = Order(run_id, recipe, KeyRing.of(platform.secrets), KeyRing.of(into.secrets))
    with engines(parts, order) as found:
        refuse(found)
        planned = {engine.name: _planned(part.known, engine.into) for part, engine in found}
    return {
        "source": source.name,
        "into": into.environment.name,
        "profile": profile.value,
        "databases": planned,
    }


def _planned(known: Classification, into: str) -> dict[str, Any]:
    tables = known.tables
    classes = Counter(c.holds.value for t in tables.values() if t.is_masked for c in t.columns.values())
    return {
        "target": into,
        "masked": sorted(name for name, table in tables.items() if table.is_masked),
        "dropped": {name: table.why for name, table in sorted(tables.items()) if not table.is_masked},
        "columns": dict(sorted(classes.items())),
        "k": known.k,
    }


def check(platform: Platform, into: Platform) -> None:
    """Raise ``NotAnEnvironmentForMasked``; costs nothing, so that it is asked before a backup is brought back."""
    name = into.environment.name
    if name == platform.environment.name:
        raise NotAnEnvironmentForMasked(name, "the source is there")
    if into.environment.data_class is DataClass.PHI:
        raise NotAnEnvironmentForMasked(name, "it holds patients' data itself")


def _order(platform: Platform, source: MaskSource, into: Platform, profile: Profile, run_id: str) -> Order:
    recipe = Recipe(profile, masking_key(platform, into.environment.name, profile), platform.clock.now().date())
    canaries = Canaries.made_from(random_source.token_bytes(32)) if source.expendable else None
    return Order(run_id, recipe, KeyRing.of(platform.secrets), KeyRing.of(into.secrets), canaries)


def _parts(platform: Platform, source: MaskSource, into: Platform, run_id: str) -> list[Part]:
    known = classifications(platform)
    accesses = source.access()
    if missing := sorted(accesses.keys() - known.keys()):
        raise NotClassified(tuple(missing))
    return [_part(platform, into, name, access, known[name], run_id) for name, access in accesses.items()]


def classifications(platform: Platform) -> Mapping[str, Classification]:
    return read_classifications(platform.catalog.root)


def _part(platform: Platform, into: Platform, name: str, access: Access, known: Classification, run_id: str) -> Part:
    there = _access(into, name)
    database = f"{there.endpoint.database}_{run_id.replace('-', '_')}"
    target = Access(there.database, Endpoint(there.endpoint.host, there.endpoint.port, database), there.login)
    return Part(access, target, known, read_steps(platform.catalog.database_folder(name) / "migrations"))


def _access(platform: Platform, name: str) -> Access:
    """As administrator. Connects once, so that a server that does not answer is named here."""
    with closing(platform.connect(name, "admin")) as database:
        return Access(database.database, database.endpoint, read_login(name, "admin", platform.secrets))
