"""The intake as a supervised program: its command line. Not here: what it serves (``server``)."""

from __future__ import annotations

import sys

from dr_platform.platform import Platform, definitions_digest
from dr_platform.runtime.local.programs import Program

PROGRAM = "intake"


def intake_program(platform: Platform) -> Program:
    """``drp intake-server`` under the supervisor. It is restarted with the catalog it decides by."""
    argv = (sys.executable, "-m", "dr_platform.cli", "intake-server")
    environment = {**platform.process_environment(), "DRP_DEFINITIONS": definitions_digest(platform.catalog.root)}
    return Program(PROGRAM, argv, environment, start_s=2.0, stop_s=15.0, priority=340)
