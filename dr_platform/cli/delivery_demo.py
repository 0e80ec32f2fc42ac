"""``drp demo-delivery``: three minutes in which a good version is promoted and a bad one reverts itself.

Here: the order of what is shown. Not here: anything that is done; each step is a verb of its own.
"""

from __future__ import annotations

import re

from dr_platform import delivery
from dr_platform.catalog.models import Strategy
from dr_platform.cli.context import console, say
from dr_platform.errors import ExitCode, PlatformError
from dr_platform.faults import FaultStore
from dr_platform.identity import current_actor
from dr_platform.platform import Platform
from dr_platform.rollout import record as records
from dr_platform.rollout.record import Outcome
from dr_platform.rollout.requests import ask, follow

ERROR_RATIO, AFTER_S = 0.2, 10.0


class DemoFailed(PlatformError):
    exit_code = ExitCode.FAILED

    def __init__(self, service: str, expected: str, outcome: Outcome) -> None:
        super().__init__(service, expected, outcome)
        self.what = f"expected {expected}, but {outcome.to_version} was {outcome.result}: {outcome.reason}"
        self.untouched = "every other service"
        self.next_step = f"look with `drp rollout show {service}` and `drp diagnose {service}`"


def run(platform: Platform) -> None:
    """Raises ``DemoFailed`` when the platform does not do what it promises."""
    service = next(name for name, s in sorted(platform.catalog.services.items()) if not s.roles and s.needs.databases)
    stable = records.read(platform.runtime, service).record.stable
    before = stable.revision.version if stable else "1.0.0"
    good, bad = _next(before), _next(_next(before))
    _say(f"{service} runs {before}. A good version, {good}, is deployed by canary: 5, 25, 50, 100 percent.")
    outcome = _deploy(platform, service, good)
    if outcome.result != "promoted":
        raise DemoFailed(service, "a promotion", outcome)
    _say(f"Promoted. Now {bad}: from {AFTER_S:g} s after its start, one request in five fails. No key is touched.")
    faults = FaultStore(platform.state.faults, runtime=platform.binding.runtime)
    faults.inject(service, bad, error_ratio=ERROR_RATIO, after_s=AFTER_S)
    try:
        outcome = _deploy(platform, service, bad)
    finally:
        faults.clear(service)
    if outcome.result != "rolled_back" or outcome.incident is None:
        raise DemoFailed(service, "a rollback by itself, with an incident", outcome)
    _report(platform, service, good, outcome.incident)


def _deploy(platform: Platform, service: str, version: str) -> Outcome:
    intent = delivery.deployment(
        platform, service, version, requested_by=current_actor(), strategy=Strategy.CANARY, reason="demonstration"
    )
    ask(platform.runtime, service, intent)
    return follow(platform.runtime, service, intent.id, platform.clock, delivery.FOLLOW_LIMIT_S, say)


def _report(platform: Platform, service: str, good: str, incident: str) -> None:
    from dr_platform.incidents.report import report
    from dr_platform.status import urls

    _say(f"All traffic is on {good} again. The incident, as it was recorded:")
    console.print(report(platform.incidents.show(_copied(platform, incident))), markup=False)
    _say(f"Also in the UI: {urls(platform)['dagster']}/assets/services/{service}; `drp incident show {incident}`")


def _copied(platform: Platform, incident: str) -> str:
    """Wait until the controller has copied the end of the incident out of its record."""
    deadline = platform.clock.monotonic() + 15.0
    while platform.clock.monotonic() < deadline:
        found = [i for i in platform.incidents.list() if i.id == incident]
        if found and found[0].status != "open":
            break
        platform.clock.sleep(0.5)
    return incident


def _next(version: str) -> str:
    """The version with its second number raised, or with one added."""
    match = re.fullmatch(r"(\d+)\.(\d+)(.*)", version)
    return f"{match[1]}.{int(match[2]) + 1}{match[3]}" if match else f"{version}.1"


def _say(line: str) -> None:
    console.print(f"\n>> {line}", markup=False)
