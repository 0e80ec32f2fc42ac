"""Verbs about the platform as a whole: up, down, reset, status, health, doctor, top, check."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from dr_platform.cli.context import JsonOption, console, mark, platform_of, print_json, say
from dr_platform.cli.follow import RunFailed, follow
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.identity import current_actor
from dr_platform.platform import Platform
from dr_platform.suites import Result

if TYPE_CHECKING:
    from dr_platform.dagster_client import DagsterClient
    from dr_platform.status import Status

TRAFFIC_RATE = 4.0
"""Requests a second: enough for each service to be seen several times a minute, 2 % of one core."""


_NAMED = 20
"""So many failed checks are named: a screen still holds them."""


def up(context: typer.Context, as_json: JsonOption = False) -> None:
    """Bring the whole platform up by a Dagster run and show it; a second time changes nothing."""
    from dr_platform.dagster_client import DagsterClient
    from dr_platform.lifecycle import start_foundation
    from dr_platform.status import collect, urls

    platform = platform_of(context)
    started = platform.clock.monotonic()
    start_foundation(platform, say)
    client = DagsterClient(urls(platform)["dagster"])
    client.wait_until_ready(120.0)
    say("dagster: answers")
    run_id = client.launch_job("bring_up", tags={"dr-platform/actor": current_actor()})
    last, result = run_id, follow(client, run_id)
    start_traffic(platform)
    if result.good and (backups := launch_first_backups(platform, client)) is not None:
        last, result = backups, follow(client, backups)
    status = collect(platform)
    if as_json:
        print_json(status.as_json() | {"run_id": run_id, "duration_s": round(platform.clock.monotonic() - started, 1)})
    else:
        show_status(status)
        console.print(f"up in {platform.clock.monotonic() - started:.0f} s; run {status.urls['dagster']}/runs/{run_id}")
    if not result.good:
        raise RunFailed(last, result.failures, status.urls["dagster"])


def launch_first_backups(platform: Platform, client: DagsterClient) -> str | None:
    """A run that takes a backup of every database that has none, or ``None`` where all have one. Whatever becomes
    due later is for schedules and sensors."""
    from dr_platform.backup_desk import BACKUP_JOB, slot_of, wanted_backups
    from dr_platform.recovery import LAYER

    missing = [f"{LAYER}/{each.name}" for each in wanted_backups(platform) if each.newest is None]
    if not missing:
        return None
    say(f"first backups: {len(missing)} databases have none; each is proved by a restore")
    tags = {"dr-platform/actor": current_actor(), "dr-platform/reason": "first"}
    return client.launch_job(BACKUP_JOB, *missing, tags=tags, partition=slot_of(platform.clock.now()))


def start_traffic(platform: Platform) -> None:
    """Keep a little honest load on the services, so that indicators have something to measure."""
    from dr_platform.infrastructure.replicas import traffic_program

    platform.supervisor.put([traffic_program(platform.process_environment(), sys.executable, TRAFFIC_RATE)])


def dev(context: typer.Context) -> None:
    """Bring the platform up, then reload definitions and services whenever a file of theirs changes."""
    from dr_platform.cli.dev import watch

    up(context)
    watch(context.obj, say)


def down(context: typer.Context) -> None:
    """End every process of this environment; state stays, and `drp up` continues from it."""
    from dr_platform.lifecycle import stop

    stop(platform_of(context), say)
    say("nothing of this environment runs any more; its state is kept")


def reset(
    context: typer.Context, yes: Annotated[bool, typer.Option("--yes", help="Do not ask; for scripts.")] = False
) -> None:
    """End everything and remove all state: databases, secrets, logs. Asks first."""
    from dr_platform.lifecycle import erase, stop

    platform = platform_of(context)
    platform.require_local()
    root = platform.state.root
    if not root.exists():
        say(f"there is no state at {root}")
    elif not yes:
        say(f"this removes {root}: all databases, keys, evidence and logs of {platform.environment.name}.")
        answer = typer.prompt(
            f"Type the environment's name ({platform.environment.name}) to go on", default="", show_default=False
        )
        if answer != platform.environment.name:
            say("Not confirmed. Untouched: everything.")
            raise typer.Exit(ExitCode.REFUSED)
    stop(platform, say)
    erase(platform, say)


def status(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show services, databases, assets and addresses."""
    from dr_platform.status import collect

    found = collect(platform_of(context))
    if as_json:
        print_json(found.as_json())
    else:
        show_status(found)


def show_status(found: Status) -> None:
    services = Table("service", "namespace", "slot", "version", "ready", "healthy", "address", box=None)
    for s in found.services:
        ready = f"{s.replicas_ready}/{s.replicas_desired}"
        health = f"{mark(s.healthy)} [yellow]suspended[/]" if s.suspended else mark(s.healthy)
        services.add_row(s.name, s.namespace, s.slot or "-", s.version or "-", ready, health, s.address)
    databases = Table("database", "server", "version", "healthy", "latency", box=None)
    for d in found.databases:
        latency = "-" if d.latency_ms is None else f"{d.latency_ms:.1f} ms"
        databases.add_row(d.name, d.server or "-", d.server_version or "-", mark(d.healthy), latency)
    console.print(services, "", databases, "")
    assets = found.assets
    console.print(
        f"assets: {assets.materialized} materialised, {assets.failed} failed; "
        f"checks: {assets.checks_passed} passed, {assets.checks_failed} failed"
    )
    for each in assets.failing[:_NAMED]:
        console.print(f"  [red]failed[/] {escape(each)}")
    if (more := len(assets.failing) - _NAMED) > 0:
        console.print(f"  and {more} more: `drp status --json`")
    for name, url in found.urls.items():
        console.print(f"{name}: {url}")


def health(context: typer.Context, as_json: JsonOption = False) -> None:
    """Ask every service and database how it is; exit code 1 unless all are healthy."""
    from dr_platform.health import all_health_bodies

    platform = platform_of(context)
    bodies = all_health_bodies(platform)
    healthy = all(body.get("status") == "healthy" for body in bodies.values())
    if as_json:
        print_json({"healthy": healthy, "services": bodies})
    else:
        table = Table("service", "status", "version", "unhealthy dependencies", box=None)
        for name, body in bodies.items():
            sick = [k for k, v in body.get("dependencies", {}).items() if v != "healthy"]
            detail = ", ".join(sick) or str(body.get("reason", ""))
            table.add_row(name, mark(body.get("status") == "healthy"), str(body.get("version", "-")), detail)
        console.print(table)
    if not healthy:
        raise typer.Exit(ExitCode.FAILED)


def doctor(context: typer.Context, as_json: JsonOption = False) -> None:
    """Look at the machine and at what runs, and say what to do about what is wrong."""
    from dr_platform.doctor import diagnose

    found = list(diagnose(platform_of(context)))
    if as_json:
        print_json([asdict(d) for d in found])
    else:
        table = Table("check", "", "found", "remedy", box=None)
        for d in found:
            table.add_row(d.check, mark(d.ok), d.found, d.remedy)
        console.print(table)
    if not all(d.ok for d in found):
        raise typer.Exit(ExitCode.FAILED)


def top(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show what every process uses: processor, memory (its proportional share), restarts."""
    from dr_platform.usage import usage

    platform = platform_of(context)
    rows = usage(platform.supervisor, platform.clock)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = Table("process", "pid", "state", "cpu", "memory", "up", box=None)
    for row in rows:
        memory = f"{row.pss_bytes / 2**20:.0f} MiB"
        table.add_row(row.name, str(row.pid or "-"), row.state, f"{row.cpu_percent:.1f} %", memory, f"{row.up_s:.0f} s")
    total = sum(row.pss_bytes for row in rows)
    console.print(table, f"{len(rows)} processes, {total / 2**30:.2f} GiB")


def materialize(
    context: typer.Context,
    selection: Annotated[
        str, typer.Argument(help="An asset, such as services/api-gateway, or a layer, such as services.")
    ],
) -> None:
    """Bring assets to what they should be, by a Dagster run, and run their checks."""
    from dr_platform.status import running_dagster, urls

    platform = platform_of(context)
    client = running_dagster(platform)
    run_id = client.launch_job("bring_up", selection, tags={"dr-platform/actor": current_actor()})
    result = follow(client, run_id)
    ui = urls(platform)["dagster"]
    console.print(f"{result.passed} checks passed, {result.failed} failed; {ui}/runs/{run_id}")
    if not result.good:
        raise RunFailed(run_id, result.failures, ui)


def check(
    context: typer.Context,
    selection: Annotated[str | None, typer.Argument(help="An asset or a layer; all checks without it.")] = None,
    suite: Annotated[
        str | None, typer.Option(help="health, smoke, integration, hipaa, ai, security, performance or data.")
    ] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show every check with what it measured.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run checks by a Dagster run: all, or those of a suite, an asset or a layer; exit code 1 unless all pass."""
    from dr_platform.health import looks
    from dr_platform.status import running_dagster, urls
    from dr_platform.suites import complete, performance_line, select

    platform = platform_of(context)
    chosen = select(looks(platform), suite, selection)
    client = running_dagster(platform)
    run_id = client.launch_checks([("/".join(look.asset), look.check) for look in chosen], tags=_tags(suite))
    run = follow(client, run_id)
    results = complete(run.results, chosen)
    failed = [r for r in results if not r.passed]
    passed, ui = len(results) - len(failed), urls(platform)["dagster"]
    if as_json:
        print_json({"passed": passed, "failed": len(failed), "results": [r.as_json() for r in results]})
    else:
        _show_measurements(results if verbose else ())
        console.print(f"{passed} checks passed, {len(failed)} failed; {ui}/runs/{run_id}")
        console.print(performance_line(results, chosen), markup=False, soft_wrap=True)
    if suite is not None and selection is None:
        _record(platform, suite, passed, len(failed), run.succeeded)
    if not run.succeeded or failed:
        reasons = tuple(f"{r.asset} {r.check}: {r.reason}" for r in failed)
        raise RunFailed(run_id, reasons or run.failures, ui)


def _tags(suite: str | None) -> dict[str, str]:
    return {"dr-platform/actor": current_actor()} | ({"dr-platform/suite": suite} if suite else {})


def _show_measurements(results: Sequence[Result]) -> None:
    """Every check with its reason, and below it what it measured."""
    for r in results:
        console.print(f"{mark(r.passed)}  {escape(f'{r.asset} {r.check}: {r.reason}')}", soft_wrap=True)
        figures = [f"{name}={value}" for name, value in r.measurements.items() if name not in ("answer", "why")]
        if figures:
            console.print(f"       {escape(' '.join(figures))}", soft_wrap=True, style="dim")


def _record(platform: Platform, suite: str, passed: int, failed: int, ended_well: bool) -> None:
    """What was found stays found where it cannot be recorded; the gate then says that it did not run."""
    from dr_platform.release_delivery import record_suite

    good = ended_well and not failed
    try:
        record_suite(platform, suite, current_actor(), passed=good, checks=passed + failed, failed=failed)
    except PlatformError as exc:
        say(f"suite {suite} is not recorded: {exc.what}")


def register(app: typer.Typer) -> None:
    for verb in (up, dev, down, reset, status, health, doctor, top, materialize, check):
        app.command()(verb)
