"""Measure a disaster: four databases of synthetic patients, then nothing but their bucket and the escrow identity.

``measure`` returns the drill; ``make bench-data`` prints it and keeps it. The servers and the secret store are gone
before the drill begins, so that what it needs of them ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dr_platform.backup_desk import BackupDesk, identity_file  # noqa: E402 - the path above must be there first
from dr_platform.backups.catalogue import State  # noqa: E402
from dr_platform.backups.drill import Drill  # noqa: E402
from dr_platform.backups.port import Kind  # noqa: E402
from dr_platform.bring_up import apply_schema  # noqa: E402
from dr_platform.catalog import Database, load_catalog  # noqa: E402
from dr_platform.databases.port import Endpoint  # noqa: E402
from dr_platform.drill import DisasterDrill  # noqa: E402
from dr_platform.evidence import MemoryEvidenceLog  # noqa: E402
from dr_platform.platform import Platform, find_catalog  # noqa: E402
from dr_platform.synthesis import synthesize  # noqa: E402
from dr_platform.synthetic.plan import Plan  # noqa: E402
from tests.contracts.embedded_servers import Running, running  # noqa: E402

SCALE = 0.3
"""300 patients with about 21,000 messages, and what belongs to them in the other databases."""
_READY_S = 180.0
_DISASTER = "postgres"
"""The server whose state directory holds the bucket; it ends with the others, its folder last."""


class Beside(Platform):
    """A platform whose servers are those of the measurement, as long as there are any."""

    servers: dict[str, Running]

    def endpoint(self, database: Database) -> Endpoint:
        return self.servers[database.name].endpoint


class NothingLeft:
    """In the place of the secret store, which the disaster took."""

    def __getattr__(self, name: str) -> Any:
        raise LookupError(f"the drill asked the secret store for {name}")


@contextlib.contextmanager
def after_a_disaster(scale: float, progress: Callable[[str], None]) -> Iterator[Platform]:
    """All databases of the catalog were filled and have a verified backup; then everything but these goes."""
    catalog = load_catalog(find_catalog())
    with contextlib.ExitStack() as kept:
        with contextlib.ExitStack() as lost:
            servers = {
                name: (kept if name == _DISASTER else lost).enter_context(running(entry.engine, name, _READY_S))
                for name, entry in catalog.databases.items()
            }
            platform = Beside(catalog, catalog.environments["local"], servers[_DISASTER].state)
            platform.servers = servers
            vars(platform)["secrets"] = _gathered(servers)
            vars(platform)["evidence"] = MemoryEvidenceLog(platform.clock)
            _fill(platform, scale, progress)
        servers[_DISASTER].process.stop()
        platform.servers = {}
        vars(platform)["secrets"] = NothingLeft()
        yield platform


def _gathered(servers: dict[str, Running]) -> Any:
    """One store with the logins of all servers."""
    store = servers[_DISASTER].secrets
    for server in servers.values():
        for name in server.secrets.names():
            fields = server.secrets.read(name)
            if fields is not None and name.startswith("databases/"):
                store.ensure(name, lambda fields=fields: dict(fields), category="databases")
    return store


def _fill(platform: Platform, scale: float, progress: Callable[[str], None]) -> None:
    for name in platform.catalog.databases:
        apply_schema(platform, name, progress)
    progress(synthesize(platform, Plan(1, scale), "bench", progress).describe())
    desk = BackupDesk(platform, progress)
    for name in platform.catalog.databases:
        kind = Kind.PHYSICAL_FULL if name == _DISASTER else None
        record = desk.take(name, kind, "measurement", "bench")
        if record.state is not State.VERIFIED:
            raise RuntimeError(f"{name}: {record.state}: {record.reason}")
    desk.log_of(_DISASTER).flush()


def measure(scale: float = SCALE, progress: Callable[[str], None] = print) -> Drill:
    with after_a_disaster(scale, progress) as platform:
        return DisasterDrill(platform, identity_file(platform), progress).run("bench")


def table(drill: Drill) -> list[str]:
    return drill.markdown().splitlines()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=SCALE, help="1 is 1,000 patients")
    drill = measure(parser.parse_args().scale)
    print("\n".join(table(drill)))
    print(json.dumps(drill.as_json(), indent=1))
    return 0 if drill.passed else 1


if __name__ == "__main__":
    sys.exit(main())
