"""The ``drp`` command: parsing, showing, exit codes. Not here: anything it tells to happen."""

from __future__ import annotations


def main() -> None:
    """Entry point of ``drp``; an expected failure becomes three lines and an exit code."""
    from dr_platform.cli.app import run

    run()
