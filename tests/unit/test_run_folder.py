"""The short folder of sockets outside the state is there while something runs, and only then."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dr_platform.lifecycle import stop
from dr_platform.platform import Platform, find_catalog
from dr_platform.state import UnsafeDirectory
from dr_platform.verdict import silent

pytestmark = pytest.mark.unit


@pytest.fixture
def platform() -> Iterator[Platform]:
    with tempfile.TemporaryDirectory(prefix="drp-u-") as folder:
        platform = Platform.open("local", catalog=find_catalog(), state=Path(folder), runtime="local")
        platform.state.make()
        yield platform
        shutil.rmtree(platform.state.run, ignore_errors=True)


def left_by_killed_programs(platform: Platform) -> None:
    platform.state.make_run()
    sockets = platform.system_database.sockets
    sockets.mkdir()
    for path in (platform.supervisor.socket, platform.state.run / "dagster-code.sock", sockets / ".s.PGSQL.5432"):
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    (platform.state.run / "supervisord.pid").write_text("0")


def test_a_state_in_which_nothing_was_started_has_none(platform: Platform) -> None:
    assert not platform.state.run.exists()


def test_it_goes_with_the_last_process_whatever_was_left_in_it(platform: Platform) -> None:
    left_by_killed_programs(platform)
    stop(platform, silent)
    assert not platform.state.run.exists()


def test_a_restore_that_goes_on_keeps_its_sockets(platform: Platform) -> None:
    left_by_killed_programs(platform)
    (platform.state.run / "scratch-1").mkdir()
    stop(platform, silent)
    assert [path.name for path in platform.state.run.iterdir()] == ["scratch-1"]


def test_somebody_elses_folder_is_not_used(platform: Platform, tmp_path: Path) -> None:
    platform.state.run.symlink_to(tmp_path)
    with pytest.raises(UnsafeDirectory):
        platform.state.make_run()
    platform.state.run.unlink()
