"""Verbs that change which version of a service runs: deploy, rollback, and steering what is under way."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Generator, Iterator
from typing import Annotated, Any

import typer

from dr_platform.catalog.models import Strategy
from dr_platform.cli.completion import ServiceArgument
from dr_platform.cli.context import JsonOption, console, platform_of, print_json, say
from dr_platform.errors import ExitCode
from dr_platform.identity import current_actor
from dr_platform.platform import Platform
from dr_platform.rollout.record import Intent, Outcome, Record, Restarted, Rollout

rollout_app = typer.Typer(help="The rollout of a service: what is under way, and what was last.", no_args_is_help=True)


def deploy(
    context: typer.Context,
    service: ServiceArgument,
    version: Annotated[str, typer.Option(help="The version that shall run.")],
    strategy: Annotated[Strategy | None, typer.Option(help="Instead of the environment's own.")] = None,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Deploy a version, watched and taken back by itself when it does harm; exit code 0 only if promoted."""
    from dr_platform import delivery

    platform = platform_of(context)
    intent = delivery.deployment(
        platform, service, version, requested_by=current_actor(), strategy=strategy, reason=reason
    )
    outcome = _ask_and_follow(platform, service, intent)
    _show_outcome(service, outcome, as_json)
    if outcome.result != "promoted":
        raise typer.Exit(ExitCode.REFUSED if outcome.result == "refused" else ExitCode.FAILED)


def rollback(
    context: typer.Context,
    service: ServiceArgument,
    to: Annotated[str | None, typer.Option(help="A version that was stable here; the newest other one.")] = None,
    gradual: Annotated[bool, typer.Option("--gradual", help="25, 50, 100 percent instead of at once.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Go back to a version that was stable here; exit code 0 only if all traffic is there and it answers."""
    from dr_platform import delivery

    platform = platform_of(context)
    pace = "gradual" if gradual else "immediate"
    intent = delivery.rollback(platform, service, requested_by=current_actor(), to=to, pace=pace, reason=reason)
    outcome = _ask_and_follow(platform, service, intent)
    _show_outcome(service, outcome, as_json)
    if outcome.result != "rolled_back":
        raise typer.Exit(ExitCode.FAILED)


def pause(context: typer.Context, service: ServiceArgument) -> None:
    """Stop the rollout where it is; its guards go on watching."""
    _steer(context, service, "pause")


def resume(context: typer.Context, service: ServiceArgument) -> None:
    """Let a paused rollout go on."""
    _steer(context, service, "resume")


def abort(context: typer.Context, service: ServiceArgument) -> None:
    """Take the open rollout back; outranks everything else."""
    _steer(context, service, "abort")


@rollout_app.command()
def promote(context: typer.Context, service: ServiceArgument) -> None:
    """Shorten the watch: go to all traffic now, unless a check fails."""
    _steer(context, service, "promote")


@rollout_app.command()
def retry(
    context: typer.Context,
    service: ServiceArgument,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Ask once more for what was aborted or taken back, with the same revision; 0 only if it is there now."""
    from dr_platform import delivery

    platform = platform_of(context)
    intent = delivery.retry(platform, service, requested_by=current_actor(), reason=reason)
    outcome = _ask_and_follow(platform, service, intent)
    _show_outcome(service, outcome, as_json)
    if not outcome.as_asked:
        raise typer.Exit(ExitCode.REFUSED if outcome.result == "refused" else ExitCode.FAILED)


@rollout_app.command()
def restart(
    context: typer.Context,
    service: ServiceArgument,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Start the stable version's replicas anew, one after the other, without losing a request."""
    from dr_platform import delivery
    from dr_platform.rollout.requests import follow_restart

    platform = platform_of(context)
    asked = delivery.restart(platform, service, requested_by=current_actor(), reason=reason)
    version = asked.placement.revision.version
    say(f"{service}: restart of {asked.replicas} x {version} asked for, {asked.id}; it goes on without you")
    limit_s = delivery.FOLLOW_LIMIT_S + asked.each_s
    ended = follow_restart(platform.runtime, asked, service, platform.clock, limit_s, say)
    _show_restarted(service, ended, as_json)
    if not ended.done:
        raise typer.Exit(ExitCode.FAILED)


@rollout_app.command()
def show(context: typer.Context, service: ServiceArgument, as_json: JsonOption = False) -> None:
    """Show the rollout of a service: phase, stable and candidate, weights, epoch, who acts."""
    from dr_platform import delivery
    from dr_platform.rollout import record as records

    platform = platform_of(context)
    delivery.service_of(platform, service)
    record = records.read(platform.runtime, service).record
    shown = _shown(platform, service, record)
    if as_json:
        print_json(shown)
        return
    console.print(f"{service}: {shown['phase']}, epoch {shown['epoch']}", markup=False)
    for name in ("stable", "candidate"):
        if (place := shown[name]) is not None:
            console.print(f"  {name}: {place['version']} in {place['slot']}", markup=False)
    weights = shown["weights"] or {"blue": "?", "green": "?"}
    console.print(f"  weights: blue {weights['blue']}, green {weights['green']}", markup=False)
    for line in _details(record):
        console.print(f"  {line}", markup=False)


def controller(context: typer.Context) -> None:
    """Act on open rollouts until stopped; the supervisor runs it, one at a time acts."""
    from dr_platform import delivery

    platform = platform_of(context)
    with _until_stopped() as stop:
        delivery.controller(platform, say).run(stop, platform.environment.look)


@contextlib.contextmanager
def _until_stopped() -> Generator[threading.Event]:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    yield stop


def _ask_and_follow(platform: Platform, service: str, intent: Intent) -> Outcome:
    from dr_platform.delivery import FOLLOW_LIMIT_S
    from dr_platform.rollout.requests import ask, follow

    ask(platform.runtime, service, intent)
    say(f"{service}: {intent.kind} of {intent.revision.version} asked for, {intent.id}; it goes on without you")
    return follow(platform.runtime, service, intent.id, platform.clock, FOLLOW_LIMIT_S, say)


def _steer(context: typer.Context, service: str, command: Any) -> None:
    from dr_platform import delivery
    from dr_platform.rollout.requests import steer

    platform = platform_of(context)
    delivery.service_of(platform, service)
    steer(platform.runtime, service, command, current_actor())
    say(f"{service}: {command} asked for; `drp rollout show {service}` tells what becomes of it")


def _show_outcome(service: str, outcome: Outcome, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "service": service,
                "from": outcome.from_version,
                "to": outcome.to_version,
                "strategy": outcome.strategy.value,
                "outcome": outcome.result,
                "reason": outcome.reason,
                "incident": outcome.incident,
                "duration_s": round((outcome.ended_at - outcome.began_at).total_seconds(), 1),
            }
        )
        return
    console.print(f"{service} {outcome.to_version}: {outcome.result} ({outcome.reason})", markup=False)
    if outcome.incident is not None:
        console.print(f"incident {outcome.incident}: `drp incident show {outcome.incident}`", markup=False)


def _show_restarted(service: str, ended: Restarted, as_json: bool) -> None:
    if not as_json:
        console.print(f"{service} {ended.version}: restart {ended.why}", markup=False)
        return
    print_json(
        {
            "service": service,
            "version": ended.version,
            "restart": ended.restart,
            "outcome": "restarted" if ended.done else "stopped",
            "reason": ended.why,
            "duration_s": round((ended.ended_at - ended.began_at).total_seconds(), 1),
        }
    )


def _shown(platform: Platform, service: str, record: Record) -> dict[str, Any]:
    observed = platform.runtime.observe(service)
    rollout, stable = record.rollout, record.stable
    weights = observed.weights
    return {
        "service": service,
        "phase": rollout.phase.value if rollout else "stable" if stable else "none",
        "stable": {"slot": stable.slot.value, "version": stable.revision.version} if stable else None,
        "candidate": _candidate(rollout),
        "weights": {"blue": weights.blue, "green": weights.green} if weights else None,
        "epoch": record.epoch,
        "driver": rollout.driver if rollout else None,
        "paused": rollout.paused if rollout else None,
        "restart": _restarting(record),
        "last": _last(record.last),
    }


def _candidate(rollout: Rollout | None) -> dict[str, Any] | None:
    if rollout is None:
        return None
    place = rollout.candidate
    return {"slot": place.slot.value, "version": place.revision.version, "rollout": rollout.id}


def _restarting(record: Record) -> dict[str, Any] | None:
    if (restart := record.restart) is None:
        return None
    return {"restart": restart.id, "replicas": restart.replicas, "current": restart.current}


def _last(last: Outcome | None) -> dict[str, Any] | None:
    if last is None:
        return None
    return {"rollout": last.rollout, "to": last.to_version, "outcome": last.result, "reason": last.reason}


def _details(record: Record) -> Iterator[str]:
    rollout = record.rollout
    if rollout is not None and rollout.paused is not None:
        yield rollout.paused
    if rollout is not None and rollout.why:
        yield f"taken back: {rollout.why}"
    if (restart := record.restart) is not None:
        yield f"restart asked for by {restart.requested_by}: {restart.current or 'no replica'} is started anew"
    if record.restarted is not None:
        yield f"last restart: {record.restarted.why}"
    if record.warm is not None:
        yield f"{record.warm.placement.revision.version} is kept warm until {record.warm.until:%Y-%m-%d %H:%M:%S} UTC"
    if record.watch is not None and record.watch.paged is not None:
        yield f"a person was called: {record.watch.paged}"
    if record.last is not None:
        yield f"last: {record.last.to_version} {record.last.result} ({record.last.reason})"
    for hold in record.holds:
        yield f"held: {hold.revision.version} since {hold.at:%Y-%m-%d %H:%M} UTC ({hold.why})"


def register(app: typer.Typer) -> None:
    for verb in (deploy, rollback, pause, resume, abort, controller):
        app.command()(verb)
    app.add_typer(rollout_app, name="rollout")
