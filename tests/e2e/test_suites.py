"""Guards that the platform passes its own suites, and that their answers are the same everywhere they are shown."""

from __future__ import annotations

import re

import pytest

from tests.e2e.platform_process import PERFORMANCE, Command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]


@pytest.mark.parametrize("suite", ["smoke", "integration", "ai", "security"])  # the others are part of `drp up`
def test_a_whole_platform_passes_the_suite(platform: Command, suite: str) -> None:
    found = platform.json("check", "--suite", suite)
    assert [f"{r['asset']} {r['check']}: {r['reason']}" for r in found["results"] if not r["passed"]] == []
    assert found["passed"] == len(found["results"]) > 0
    assert found["failed"] == 0


def test_performance_is_told_in_the_last_line_and_by_the_exit_code(
    platform: Command, pytestconfig: pytest.Config
) -> None:
    """How fast a shared machine is at the moment is not this test's affair."""
    done = platform.run("check", "--suite", "performance")
    line = done.stdout.splitlines()[-1]
    pytestconfig.stash[PERFORMANCE] = line
    told = re.match(r"Performance: (\d+) of (\d+) promises kept", line)
    assert told is not None, done.stderr
    kept, promised = map(int, told.groups())
    status = platform.json("status")
    assert promised == len(status["services"]) + len(status["databases"]) + len(("search", "embedding", "generation"))
    assert (done.returncode == 0) is (kept == promised)
