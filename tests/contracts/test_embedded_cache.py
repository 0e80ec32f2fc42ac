"""How server files get into the cache: whole or not at all, by one process at a time."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from dr_platform.clock import ManualClock
from dr_platform.databases.embedded.cache import EngineCache, StepFailed, Workshop
from dr_platform.databases.embedded.port import EngineUnavailable
from dr_platform.verdict import silent

pytestmark = pytest.mark.contract
DIGEST = "0123456789abcdef0123456789abcdef"


def make_program(workshop: Workshop) -> None:
    (workshop.draft / "program").write_text("made")


def run(workshop: Workshop, code: str, limit_s: float = 30.0) -> str:
    return workshop.run(
        [sys.executable, "-c", code], "building", environment={}, directory=workshop.scratch, limit_s=limit_s
    )


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    cache, made = EngineCache(tmp_path), []
    for _ in range(2):
        folder = cache.ensure("Engine", "engine", DIGEST, lambda w: (made.append(1), make_program(w))[1], silent)
    assert made == [1]
    assert (folder / "program").read_text() == "made"


def test_a_failed_attempt_leaves_no_result_and_keeps_what_was_fetched(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)

    def break_off(workshop: Workshop) -> None:
        make_program(workshop)
        (workshop.scratch / "fetched").write_text("part")
        run(workshop, "print('no route'); raise SystemExit(3)")

    with pytest.raises(StepFailed, match="code 3") as failure:
        cache.ensure("Engine", "engine", DIGEST, break_off, silent)
    assert failure.value.detail == "no route"
    assert list((tmp_path / "engines").iterdir()) == []
    seen = []

    def go_on(workshop: Workshop) -> None:
        seen.append((workshop.scratch / "fetched").read_text())
        make_program(workshop)

    cache.ensure("Engine", "engine", DIGEST, go_on, silent)
    assert seen == ["part"]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_tool_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    def hang(workshop: Workshop) -> None:
        run(workshop, "import signal; signal.pause()", limit_s=0.5)

    with pytest.raises(StepFailed, match="longer than"):
        EngineCache(tmp_path).ensure("Engine", "engine", DIGEST, hang, silent)


def test_of_two_at_once_one_works_and_the_other_waits_and_says_so(tmp_path: Path) -> None:
    made, lines, started, go_on = [], [], threading.Event(), threading.Event()

    def make_slowly(workshop: Workshop) -> None:
        made.append(1)
        started.set()
        go_on.wait(30)
        make_program(workshop)

    def hear(line: str) -> None:
        lines.append(line)
        go_on.set()

    cache = EngineCache(tmp_path)
    first = threading.Thread(target=cache.ensure, args=("Engine", "engine", DIGEST, make_slowly, silent))
    first.start()
    assert started.wait(30)
    folder = cache.ensure("Engine", "engine", DIGEST, make_slowly, hear)
    first.join()
    assert made == [1]
    assert (folder / "program").exists()
    assert "another process is getting it" in lines[0]


def test_waiting_for_another_process_has_an_end(tmp_path: Path) -> None:
    def ask_again(workshop: Workshop) -> None:
        EngineCache(tmp_path, ManualClock()).ensure("Engine", "engine", DIGEST, make_program, silent, wait_s=60)

    with pytest.raises(EngineUnavailable, match="another process has been getting it"):
        EngineCache(tmp_path).ensure("Engine", "engine", DIGEST, ask_again, silent)


def test_a_cache_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineUnavailable, match="DRP_CACHE"):
        EngineCache(tmp_path / "file").ensure("Engine", "engine", DIGEST, make_program, silent)


def test_progress_comes_every_few_seconds(tmp_path: Path) -> None:
    lines: list[str] = []

    def hang(workshop: Workshop) -> None:  # a manual clock jumps with each look, so this takes no time
        with pytest.raises(StepFailed):
            workshop.run(
                [sys.executable, "-c", "import signal; signal.pause()"],
                "building",
                environment={},
                directory=workshop.scratch,
                limit_s=10.0,
                detail=lambda: ", 3 of 9 parts",
            )

    EngineCache(tmp_path, ManualClock()).ensure("Engine", "engine", DIGEST, hang, lines.append)
    assert lines[0] == "building"
    assert lines[1:] == ["building: 3 s, 3 of 9 parts", "building: 6 s, 3 of 9 parts", "building: 9 s, 3 of 9 parts"]
