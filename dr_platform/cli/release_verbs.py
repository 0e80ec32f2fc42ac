"""``drp release`` and ``drp promote``: make releases immutable, compare them, deploy and take them back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from dr_platform.catalog import Release
from dr_platform.cli.context import Choice, JsonOption, console, platform_of, print_json, say
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.identity import current_actor
from dr_platform.platform import Platform
from dr_platform.releases.bundle import ReleaseBundle, ReleaseDiff, ServiceChange, create, diff, variant
from dr_platform.releases.ledger import Ended
from dr_platform.releases.store import DamagedRelease, ReleaseStore
from dr_platform.runtime.port import UnknownService

app = typer.Typer(help="Releases: what is deployed together, under one digest.", no_args_is_help=True)

_SHORT = 19
"""Characters of a digest in tables: its algorithm and twelve digits."""


class ReleaseOfCatalog(PlatformError):
    """Two releases of one name, one in the catalog and one stored, would say different things."""

    exit_code = ExitCode.REFUSED

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.what = f"{name} is a release of the catalog, and its versions stand there"
        self.untouched = "every environment; no release was stored"
        self.next_step = f"edit releases/{name}.yaml, or choose another name for a release with --set"


@app.command(name="create")
def create_release(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A release of the catalog, or a new name.")],
    versions: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SERVICE=VERSION", help="Another version than the environment's release has."),
    ] = None,
    description: Annotated[str, typer.Option(help="What is new, in a sentence.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Store a release: it never changes afterwards. The same content again changes nothing."""
    platform = platform_of(context)
    release = _wanted(platform, name, _versions(platform, versions or ()), description)
    stored = _store(platform).add(_composed(platform, release))
    if as_json:
        print_json(_document(stored))
    else:
        console.print(f"{stored.name}: {len(stored.services)} services, {stored.digest}", markup=False)


def _versions(platform: Platform, pairs: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        service, equals, version = pair.partition("=")
        if not equals or service in found:
            raise typer.BadParameter("write SERVICE=VERSION, once for each service", param_hint="--set")
        if service not in platform.catalog.services:
            raise UnknownService(service, tuple(platform.catalog.services))
        found[service] = version
    return found


def _wanted(platform: Platform, name: str, versions: dict[str, str], description: str) -> Release:
    known = platform.catalog.releases.get(name)
    if known is None:
        base = platform.catalog.release_of(platform.environment)
        return variant(base, name, versions, description, platform.clock.now().date())
    if versions or description:
        raise ReleaseOfCatalog(name)
    return known


def _composed(platform: Platform, release: Release) -> ReleaseBundle:
    from dr_platform.databases.schema import read_steps

    catalog = platform.catalog
    revisions = {
        name: replace(platform.workload(name).revision, version=release.version_of(name)) for name in catalog.services
    }
    steps = {name: read_steps(catalog.database_folder(name) / "migrations") for name in catalog.databases}
    return create(
        release,
        platform.environment.name,
        revisions,
        steps,
        created_at=platform.clock.now(),
        created_by=current_actor(),
    )


def _store(platform: Platform) -> ReleaseStore:
    from dr_platform.release_delivery import release_store

    return release_store(platform)


def _document(bundle: ReleaseBundle) -> dict[str, Any]:
    return {"digest": bundle.digest, **bundle.model_dump(mode="json")}


@app.command()
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A release that was created.")],
    as_json: JsonOption = False,
) -> None:
    """Show what a release consists of; its content is verified by its digest first."""
    bundle = _store(platform_of(context)).get(name)
    if as_json:
        print_json(_document(bundle))
        return
    made = f"made for {bundle.environment} by {bundle.created_by}, {bundle.created_at:%Y-%m-%d %H:%M} UTC"
    for line in (f"{bundle.name}  {bundle.digest}", made, bundle.description):
        if line:
            console.print(line, markup=False)
    services = Table("service", "version", "image", "configuration", "provides", "requires")
    for service, member in bundle.services.items():
        revision, contract = member.revision, member.contract
        required = ", ".join(f"{needed} {requirement}" for needed, requirement in contract.requires.items())
        digest = revision.digest[:_SHORT]
        services.add_row(service, revision.version, digest, revision.config_hash, contract.provides, required)
    schema = Table("database", "schema", "steps")
    for database, steps in bundle.databases.items():
        schema.add_row(database, bundle.schema_version(database) or "none", str(len(steps)))
    console.print(services, schema)
    console.print(f"data contract {bundle.data_contract}", markup=False)


@app.command(name="diff")
def compare(
    context: typer.Context,
    before: Annotated[str, typer.Argument(metavar="A", help="The release that runs.")],
    after: Annotated[str, typer.Argument(metavar="B", help="The release to compare with it.")],
    as_json: JsonOption = False,
) -> None:
    """Show what deploying release B where A runs would change."""
    store = _store(platform_of(context))
    change = diff(store.get(before), store.get(after))
    if as_json:
        print_json(change.as_document())
    elif change.empty:
        console.print(f"{before} and {after} deploy the same", markup=False)
    else:
        _show_diff(change)


def _show_diff(change: ReleaseDiff) -> None:
    services = Table("service", change.before or "", change.after, "what changes", "breaks")
    for service in change.services:
        services.add_row(service.service, *_sides(service), ", ".join(service.aspects), ", ".join(service.breaks))
    if change.services:
        console.print(services)
    for database in change.databases:
        for word, steps in (("adds", database.added), ("lacks", database.removed)):
            if steps:
                told = ", ".join(f"{step.phase} {step.version}" for step in steps)
                console.print(f"{database.database}: {change.after} {word} {told}", markup=False)
    if change.data_contract[0] != change.data_contract[1]:
        console.print(f"data contract {change.data_contract[0]} becomes {change.data_contract[1]}", markup=False)


def _sides(change: ServiceChange) -> tuple[str, str]:
    """Version and contract on both sides: the columns in which most changes show."""
    before, after = (
        f"{member.revision.version}, provides {member.contract.provides}" if member else "–"
        for member in (change.before, change.after)
    )
    return before, after


@app.command(name="list")
def list_releases(context: typer.Context, as_json: JsonOption = False) -> None:
    """List releases that were created, each verified by its digest; 1 when one is damaged."""
    store = _store(platform_of(context))
    rows = [_row(store, name) for name in store.names()]
    if as_json:
        print_json(rows)
    else:
        table = Table("release", "digest", "created", "by", "description")
        for row in rows:
            created = row["created_at"][:16].replace("T", " ")
            said = (escape(row[text]) for text in ("created_by", "description"))
            table.add_row(escape(row["name"]), row["digest"][:_SHORT], created, *said)
        console.print(table if rows else "no release was created yet")
    if any(not row["digest"] for row in rows):
        raise typer.Exit(ExitCode.FAILED)


def _row(store: ReleaseStore, name: str) -> dict[str, str]:
    try:
        bundle = store.get(name)
    except DamagedRelease as exc:
        return {"name": name, "digest": "", "created_at": "", "created_by": "", "description": exc.what}
    return {
        "name": name,
        "digest": bundle.digest,
        "created_at": bundle.created_at.isoformat(),
        "created_by": bundle.created_by,
        "description": bundle.description,
    }


def promote(
    context: typer.Context,
    release: Annotated[str, typer.Argument(help="A release that was created for the environment.")],
    to: Annotated[str, typer.Option("--to", help="The environment to deploy it in.")],
    as_json: JsonOption = False,
) -> None:
    """Deploy a release as a whole, if the environment's gate is open; 0 only when it was deployed."""
    from dr_platform import release_delivery
    from dr_platform.cli.promotion_verbs import show_gate

    platform = _opened_for(context, to)
    try:
        ended = release_delivery.promote(platform, release, current_actor(), say)
    except release_delivery.NotReady as exc:
        if as_json:
            print_json({"release": release, "environment": to, "outcome": "refused", "gate": exc.table.as_json()})
        else:
            show_gate(exc.table)
        raise
    _show_ended(release, to, ended, as_json)


def _opened_for(context: typer.Context, environment: str) -> Platform:
    """The environment named by ``--env`` must be this one; without ``--env`` it is opened."""
    choice: Choice = context.obj
    if isinstance(choice, Choice) and choice.environment is None:
        return replace(choice, environment=environment).platform()
    platform = choice.platform()
    if platform.environment.name != environment:
        raise typer.BadParameter(f"--env names {platform.environment.name}; leave it out", param_hint="--to")
    return platform


@app.command(name="rollback")
def roll_back(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The release that was promoted here last.")],
    service: Annotated[
        str | None, typer.Option(help="Only this service, with those whose contracts need it to go along.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Take a promoted release back to what ran before it, dependents first; refused after a contract step."""
    from dr_platform import release_delivery

    platform = platform_of(context)
    ended = release_delivery.roll_back(platform, name, current_actor(), say, service=service)
    _show_ended(name, platform.environment.name, ended, as_json)


def _show_ended(release: str, environment: str, ended: Ended, as_json: bool) -> None:
    if as_json:
        print_json({"release": release, "environment": environment, **ended.model_dump(mode="json")})
    else:
        console.print(f"release {release} in {environment}: {ended.outcome} ({ended.why})", markup=False)


def register(root: typer.Typer) -> None:
    root.command()(promote)
    root.add_typer(app, name="release")
