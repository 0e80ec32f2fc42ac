"""A real Dagster run that asks for a version and follows it, in a process and an instance of its own.

``python -m tests.contracts.dagster_run ARGUMENTS`` with ``Arguments`` as JSON. What becomes of the rollout
when this process and its database are gone is the test's question.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import dagster as dg

from dr_platform.clock import SystemClock
from dr_platform.rollout.requests import ask, follow
from dr_platform.runtime.local.records import PortRange
from tests.contracts.delivery import intent_of
from tests.contracts.local import LocalHarness


@dataclass(frozen=True)
class Arguments:
    home: str
    folder: str
    port_offset: int
    first_port: int
    ports: int
    service: str
    intent: str
    version: str

    def argv(self) -> list[str]:
        return [sys.executable, "-m", "tests.contracts.dagster_run", json.dumps(asdict(self))]


def main() -> None:
    given = Arguments(**json.loads(sys.argv[1]))
    os.environ["DAGSTER_HOME"] = given.home
    runtime = LocalHarness(Path(given.folder), given.port_offset, PortRange(given.first_port, given.ports)).runtime

    @dg.op
    def deploy() -> None:
        ask(runtime, given.service, intent_of(given.intent, given.version))
        follow(runtime, given.service, given.intent, SystemClock(), 60.0)

    @dg.job
    def deployment() -> None:
        deploy()

    with dg.DagsterInstance.get() as instance:
        deployment.execute_in_process(instance=instance)


if __name__ == "__main__":
    main()
