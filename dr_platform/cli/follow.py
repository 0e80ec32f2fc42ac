"""Following a Dagster run to its end, with live progress: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.live import Live
from rich.table import Table

from dr_platform.cli.context import mark, messages, say
from dr_platform.dagster_client import DagsterClient, RunEvent
from dr_platform.errors import PlatformError
from dr_platform.suites import Result


class RunFailed(PlatformError):
    def __init__(self, run_id: str, failures: tuple[str, ...], ui: str) -> None:
        super().__init__(run_id, failures, ui)
        reasons = "\n".join(f"  {line}" for line in failures) or "  see the run's log"
        self.what = f"not everything is as it should be:\n{reasons}"
        self.untouched = "whatever is not named above; it runs"
        self.next_step = f"look at {ui}/runs/{run_id}, mend the cause, and repeat the command"


@dataclass
class RunResult:
    """What a run did, counted."""

    succeeded: bool = False
    materialized: int = 0
    passed: int = 0
    failed: int = 0
    failures: tuple[str, ...] = ()
    results: tuple[Result, ...] = ()
    """Of checks, in the order of their answers."""

    @property
    def good(self) -> bool:
        return self.succeeded and not self.failed


@dataclass
class _Board:
    """The state of every asset that the run has spoken of."""

    assets: dict[str, tuple[bool | None, str]] = field(default_factory=dict)
    checks: dict[str, list[bool]] = field(default_factory=dict)
    last: str = ""

    def table(self) -> Table:
        table = Table("asset", "", "checks", "detail", box=None)
        for name, (good, detail) in self.assets.items():
            results = self.checks.get(name, [])
            shown = f"{sum(results)}/{len(results)}" if results else "-"
            table.add_row(name, mark(good) if good is not None else "[dim]…[/]", shown, detail[:80])
        table.caption = self.last[:110]
        return table


def follow(client: DagsterClient, run_id: str) -> RunResult:
    """Show a run until it ends. Stopping the command does not stop the run."""
    result, board = RunResult(), _Board()
    say(f"run {run_id} follows")
    if not messages.is_terminal:
        for event in client.follow(run_id):
            _take(event, result, board)
            if line := _line(event):
                say(line)
        return result
    with Live(board.table(), console=messages, refresh_per_second=5, transient=True) as live:
        for event in client.follow(run_id):
            _take(event, result, board)
            live.update(board.table())
    return result


def _take(event: RunEvent, result: RunResult, board: _Board) -> None:
    match event.kind:
        case "started":
            board.assets.setdefault(event.asset, (None, "started"))
        case "materialized":
            result.materialized += 1
            board.assets[event.asset] = (True, event.text)
        case "check":
            board.checks.setdefault(event.asset, []).append(bool(event.passed))
            board.assets.setdefault(event.asset, (True, ""))
            found = Result(event.asset, event.check, event.passed is True, event.text, event.measurements)
            result.results += (found,)
            if event.passed:
                result.passed += 1
            else:
                result.failed += 1
                board.assets[event.asset] = (False, event.text)
                result.failures += (f"{event.asset} {event.check}: {event.text}",)
        case "failure":
            board.assets[event.asset] = (False, event.text)
            result.failures += (f"{event.asset or 'run'}: {event.text}",)
        case "log":
            board.last = event.text
        case "ended":
            result.succeeded = bool(event.passed)


def _line(event: RunEvent) -> str:
    match event.kind:
        case "materialized":
            return f"{event.asset}: {event.text}" if event.text else f"{event.asset}: materialised"
        case "check":
            word = "passed" if event.passed else "FAILED"
            return f"{event.asset}: check {event.check} {word}" + ("" if event.passed else f": {event.text}")
        case "failure":
            return f"{event.asset or 'run'}: FAILED: {event.text}"
        case "log":
            return event.text
        case _:
            return ""
