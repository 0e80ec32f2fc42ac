"""``drp monitoring``: the catalog's objectives as files for Prometheus and Grafana."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from dr_platform.cli.context import JsonOption, console, mark, platform_of, print_json, say
from dr_platform.errors import ExitCode
from dr_platform.monitoring import promtool
from dr_platform.monitoring.folder import Plan, look, texts, write
from dr_platform.monitoring.prometheus import Target
from dr_platform.monitoring.scope import Scope, namespaces_of
from dr_platform.platform import Platform
from dr_platform.verdict import Verdict

app = typer.Typer(help="Rules, configuration and a dashboard for Prometheus and Grafana.", no_args_is_help=True)

FolderOption = Annotated[Path | None, typer.Option("--to", help="Folder; else `monitoring` in the state folder.")]
RunbooksOption = Annotated[str, typer.Option("--runbooks", help="What stands before the anchor in links of alerts.")]
_RUNBOOKS = "docs/monitoring.md"


@app.command()
def export(
    context: typer.Context, to: FolderOption = None, runbooks: RunbooksOption = _RUNBOOKS, as_json: JsonOption = False
) -> None:
    """Write rules, configuration, targets and a dashboard; what others wrote is never overwritten."""
    platform = platform_of(context)
    folder, scope = _folder(platform, to), _scope(platform, runbooks)
    targets = _targets(platform)
    wanted = texts(scope, targets)
    done = write(folder, wanted)
    if as_json:
        print_json({"folder": str(folder), "files": list(wanted), "written": done.write, "removed": done.remove})
        return
    console.print(
        f"{folder}: {len(done.write)} files written, {len(done.remove)} removed, "
        f"{len(wanted) - len(done.write)} unchanged",
        markup=False,
    )
    for line in _gaps(scope, targets):
        say(line)


@app.command()
def check(
    context: typer.Context, to: FolderOption = None, runbooks: RunbooksOption = _RUNBOOKS, as_json: JsonOption = False
) -> None:
    """Compare the exported files with the catalog and have promtool check them; 1 where something is
    wrong, 3 where promtool cannot look."""
    platform = platform_of(context)
    folder, scope = _folder(platform, to), _scope(platform, runbooks)
    verdicts = {"files": _drift(look(folder, texts(scope, _targets(platform))), folder)}
    if verdicts["files"].passed:
        verdicts |= promtool.verdicts(promtool.find(), folder, runtime=scope.runtime)
    _show(verdicts, as_json=as_json)
    if any(verdict.passed is False for verdict in verdicts.values()):
        raise typer.Exit(ExitCode.FAILED)
    if any(verdict.passed is None for verdict in verdicts.values()):
        raise typer.Exit(ExitCode.UNAVAILABLE)


def _folder(platform: Platform, to: Path | None) -> Path:
    return (to or platform.state.root / "monitoring").absolute()


def _scope(platform: Platform, runbooks: str) -> Scope:
    running = tuple(s for s in platform.catalog.services.values() if platform.replicas_of(s))
    local = platform.binding.runtime == "local"
    return Scope(
        environment=platform.environment.name,
        runtime=platform.binding.runtime,
        services=running,
        namespaces=() if local else namespaces_of(platform.environment, running),
        router=f"127.0.0.1:{platform.local_runtime.router.admin.port}" if local else None,
        runbooks=runbooks,
    )


def _targets(platform: Platform) -> tuple[Target, ...]:
    """Replicas of the local runtime; none before anything was ever brought up."""
    if platform.binding.runtime != "local" or not platform.state.runtime_database.exists():
        return ()
    return tuple(
        Target(name, slot.value, filled.revision.version, f"127.0.0.1:{port}")
        for name, slots in platform.local_runtime.filled().items()
        for slot, filled in slots.items()
        for port in filled.ports
    )


def _gaps(scope: Scope, targets: tuple[Target, ...]) -> Iterator[str]:
    """What the files cannot show, told to whoever made them."""
    if scope.runtime == "local" and not targets:
        yield "No replica runs yet, so there is none to scrape: export again after `drp up`."
    for service in scope.services:
        if service.slo.gpu_utilisation is not None and (gap := scope.gpu_gap(service)):
            yield f"{service.name}: its objective gpu_utilisation is not applicable, {gap}."


def _drift(plan: Plan, folder: Path) -> Verdict:
    if plan.nothing:
        return Verdict(True, f"{folder} is what the catalog says")
    told = {"missing or old": plan.write, "no longer wanted": plan.remove, "not ours": plan.foreign}
    listed = "; ".join(f"{what}: {', '.join(files)}" for what, files in told.items() if files)
    return Verdict(False, f"{listed}. Run `drp monitoring export`")


def _show(verdicts: Mapping[str, Verdict], *, as_json: bool) -> None:
    if as_json:
        print_json({name: {"passed": v.passed, "why": v.why} for name, v in verdicts.items()})
        return
    for name, verdict in verdicts.items():
        console.print(f"{mark(verdict.passed)} {name}: ", end="")
        console.print(verdict.why, markup=False, soft_wrap=True)


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="monitoring")
