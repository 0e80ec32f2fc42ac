"""The runtime of one machine for tests: a real supervisord, a real router, small real processes.

Here: bringing it up on ports of a test's own, and its faults. Not here: what is tested.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import quote

from dr_platform.clock import SystemClock
from dr_platform.runtime.local.records import PortRange
from dr_platform.runtime.local.runtime import Launch, LocalRuntime
from dr_platform.runtime.local.supervisor import Supervisor
from dr_platform.runtime.port import Slot, Workload
from dr_platform.state import StateDirectory
from tests.contracts.runtime import until

REPLICA = Path(__file__).with_name("replica.py")


class LocalHarness:
    """``folder`` may be one that another process made: both then see the same runtime."""

    def __init__(self, folder: Path, port_offset: int, ports: PortRange) -> None:
        self.folder, self.port_offset, self.ports = folder, port_offset, ports
        self.state = StateDirectory(folder / "state", folder / "run").make()
        self.switches = folder / "switches"
        self.switches.mkdir(exist_ok=True)
        self.supervisor = Supervisor(self.state)
        self.runtime = self.another()

    def bring_up(self) -> None:
        self.supervisor.start({})
        self.runtime.start_router()

    def another(self) -> LocalRuntime:
        return LocalRuntime(
            self.state,
            launch=self._launch,
            port_offset=self.port_offset,
            clock=SystemClock(),
            entry_point=(sys.executable,),
            ports=self.ports,
        )

    def _launch(self, workload: Workload, _slot: Slot) -> Launch:
        # -S: no site packages, so that a replica costs a tenth of a second less
        environment = {"VERSION": workload.revision.version, "SWITCHES": str(self.switches)}
        return Launch((sys.executable, "-S", str(REPLICA), "%(process_num)d"), environment)

    @contextmanager
    def _switched(self, name: str, content: str = "") -> Iterator[None]:
        # In one step: a replica that reads it between creation and content would read nothing.
        new = self.switches / f".{name}"
        new.write_text(content)
        new.replace(self.switches / name)
        try:
            yield
        finally:
            (self.switches / name).unlink()

    def make_unready(self, version: str) -> AbstractContextManager[None]:
        return self._switched(f"unready-{version}")

    def make_crashing(self, version: str) -> AbstractContextManager[None]:
        return self._switched(f"crash-{version}")

    def make_failing(self, version: str, share: float) -> AbstractContextManager[None]:
        """This share of the requests that are not about its health is answered with 500."""
        return self._switched(f"errors-{version}", str(share))

    @contextmanager
    def lose_router(self) -> Iterator[None]:
        self.runtime.stop_router()
        yield
        self.runtime.start_router()

    def kill(self, name: str, slot: Slot) -> None:
        os.kill(self.pid(f"{name}-{slot}"), signal.SIGKILL)

    def pid(self, program: str) -> int:
        pids = [info.pid for info in self.supervisor.processes() if info.group == program]
        assert pids
        assert pids[0]
        return pids[0]

    def write_log(self, name: str, slot: Slot, text: str) -> None:
        until(lambda: self.runtime.probe(name, f"/log?{quote(text)}", slot).ok)

    def job(self, script: str) -> tuple[str, ...]:
        return ("-c", script)


@contextmanager
def local_runtime(port_offset: int, ports: PortRange) -> Iterator[LocalHarness]:
    """One that is up, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="drp-t-") as folder:
        harness = LocalHarness(Path(folder), port_offset, ports)
        try:
            harness.bring_up()
            yield harness
        finally:
            harness.supervisor.stop()
