"""Verbs about one service or database: logs, diagnose, connect."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from dr_platform.cli.completion import DatabaseArgument, ServiceArgument
from dr_platform.cli.context import JsonOption, console, mark, platform_of, print_json
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.platform import Platform
from dr_platform.runtime.port import Slot, UnknownService


def logs(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A service, a database, or a part such as router or dagster-daemon.")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new lines until stopped.")] = False,
    previous: Annotated[bool, typer.Option("--previous", help="What was written before the last start.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=1, max=100000, help="Newest lines of each replica.")] = 100,
    slot: Annotated[Slot | None, typer.Option(help="Only this slot's replicas.")] = None,
) -> None:
    """Print logs of a service's replicas, or of any supervised program."""
    platform = platform_of(context)
    if name in platform.catalog.services:
        found = platform.runtime.logs(name, slot, previous=previous, lines=lines, follow=follow)
    else:
        known = {p.group for p in platform.supervisor.processes()} | set(platform.catalog.services)
        if name not in known:
            raise UnknownService(name, known)
        found = platform.local_runtime.program_logs(name, previous=previous, lines=lines, follow=follow)
    for line in found:
        sys.stdout.write(f"{line.replica}: {line.text}\n")
        if follow:
            sys.stdout.flush()


def diagnose(
    context: typer.Context,
    name: ServiceArgument,
    as_json: JsonOption = False,
) -> None:
    """Everything one needs at night about one service: state, probes, dependencies, events, last log lines."""
    platform = platform_of(context)
    if name not in platform.catalog.services:
        raise UnknownService(name, tuple(platform.catalog.services))
    report = _diagnosis(platform, name)
    if as_json:
        print_json(report)
    else:
        _show_diagnosis(report)
    if report["conclusion"] != "healthy":
        raise typer.Exit(ExitCode.FAILED)


def _diagnosis(platform: Platform, name: str) -> dict[str, Any]:
    from dr_platform.faults import FaultStore
    from dr_platform.health import service_health_body, service_hipaa_verdict, service_verdict
    from dr_platform.runtime.local.events import recent_events

    verdict, hipaa = service_verdict(platform, name), service_hipaa_verdict(platform, name)
    try:
        observed = platform.runtime.observe(name)
        weights = None if observed.weights is None else {s.value: observed.weights.of(s) for s in Slot}
        suspended = None if observed.weights is None else observed.notice is not None
        replicas = [
            {"slot": s.value, "replica": r.name, "state": r.state.value, "restarts": r.restarts, "reason": r.reason}
            for s, status in observed.slots.items()
            for r in status.replicas
        ]
    except PlatformError as exc:
        weights, suspended, replicas = None, None, [{"reason": exc.what}]
    faults = FaultStore(platform.state.faults, runtime=platform.binding.runtime).list()
    return {
        "service": name,
        "conclusion": "healthy" if verdict.passed else verdict.why,
        "compliance": hipaa.why,
        "weights": weights,
        "suspended": suspended,
        "replicas": replicas,
        "dependencies": service_health_body(platform, name).get("dependencies", {}),
        "injected_faults": [f.describe() for f in faults if f.service == name],
        "events": [e for e in recent_events(platform.state, 200) if str(e.get("program", "")).startswith(name)][-10:],
        "log": [f"{line.replica}: {line.text}" for line in platform.runtime.logs(name, lines=15)][-15:],
    }


def _show_diagnosis(report: dict[str, Any]) -> None:
    console.print(f"{report['service']}: {mark(report['conclusion'] == 'healthy')} {report['conclusion']}")
    if report["suspended"]:
        console.print("suspended for maintenance: callers get a notice, `drp maintenance show`", markup=False)
    console.print(f"compliance: {report['compliance']}", f"weights: {report['weights']}", sep="\n", markup=False)
    for title in ("replicas", "dependencies", "injected_faults", "events", "log"):
        console.print(f"\n{title.replace('_', ' ')}:")
        content = report[title]
        rows = [f"{k}: {v}" for k, v in content.items()] if isinstance(content, dict) else content
        for row in rows or ["none"]:
            text = ", ".join(f"{k} {v}" for k, v in row.items() if v != "") if isinstance(row, dict) else str(row)
            console.print(f"  {text}", markup=False)


def connect(
    context: typer.Context,
    name: DatabaseArgument,
    role: Annotated[str, typer.Option(help="application or admin.")] = "application",
) -> None:
    """Open a prompt on a database with its own credentials, which are never shown."""
    from dr_platform.cli.prompt import converse

    platform = platform_of(context)
    if name not in platform.catalog.databases:
        raise UnknownService(name, tuple(platform.catalog.databases))
    if role not in ("application", "admin"):
        raise typer.BadParameter("choose application or admin", param_hint="--role")
    database = platform.connect(name, role)  # type: ignore[arg-type]
    try:
        converse(database, sys.stdin, sys.stdout)
    finally:
        database.close()


def register(app: typer.Typer) -> None:
    for verb in (logs, diagnose, connect):
        app.command()(verb)
