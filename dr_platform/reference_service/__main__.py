"""``python -m dr_platform.reference_service --service NAME --slot blue --port N``: one replica."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dr_platform.clock import SystemClock
from dr_platform.errors import PlatformError
from dr_platform.identity import new_id
from dr_platform.reference_service.replica import Replica
from dr_platform.reference_service.server import serve
from dr_platform.reference_service.settings import Identity, Paths, Settings
from dr_platform.reference_service.topology import read_topology
from dr_platform.secrets.embedded import EmbeddedSecretStore


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dr_platform.reference_service", description=__doc__)
    parser.add_argument("--service", required=True, help="name of the catalog entry")
    parser.add_argument("--slot", choices=("blue", "green"), default="blue")
    parser.add_argument("--port", type=int, required=True, help="on loopback; the router passes requests on to it")
    given = parser.parse_args(arguments)
    environment = os.environ
    catalog = Path(environment.get("DRP_CATALOG", "catalog"))
    paths = Paths(Path(environment.get("DRP_STATE_ROOT", ".drp/local")).absolute(), catalog)
    identity = Identity(
        service=given.service,
        version=environment.get("DRP_VERSION", "0.0.0"),
        slot=given.slot,
        port=given.port,
        process=new_id("process"),
        environment=environment.get("DRP_ENVIRONMENT", "local"),
        runtime=environment.get("DRP_RUNTIME", "local"),
        config_hash=environment.get("DRP_CONFIG_HASH", ""),
    )
    clock = SystemClock()
    try:
        topology = read_topology(catalog, identity.environment, paths.own)
        secrets = EmbeddedSecretStore(paths.secrets, clock)
        replica = Replica.assemble(identity, topology, Settings.from_environment(), paths, secrets, clock)
        serve(replica)
    except PlatformError as exc:
        print(exc, file=sys.stderr)
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
