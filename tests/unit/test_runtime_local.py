"""The pure parts of the local runtime: what is rendered, read back, counted and decided."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dr_platform.clock import ManualClock
from dr_platform.runtime.local import configuration, documents, logs
from dr_platform.runtime.local.configuration import UnusableProgram
from dr_platform.runtime.local.journal import Journal, parse
from dr_platform.runtime.local.keeper import Retries
from dr_platform.runtime.local.liveness import SilenceCounter, Watched, forget_watched, read_watched, write_watched
from dr_platform.runtime.local.programs import Program
from dr_platform.runtime.local.records import (
    PORTS_A_BLOCK,
    Declared,
    FilledSlot,
    LocalRecords,
    PortRange,
    Route,
    ports_for,
)
from dr_platform.runtime.notice import Notice
from dr_platform.runtime.port import (
    CLOSED,
    Revision,
    RuntimeUnreachable,
    Slot,
    SlotInUse,
    StaleEpoch,
    UnknownService,
    Weights,
)
from dr_platform.state import StateDirectory
from tests.contracts.runtime import a_service

pytestmark = pytest.mark.unit

STATE = StateDirectory(Path("/tmp/drp-unit/state"), Path("/tmp/drp-unit/run"))
T0 = datetime(2026, 1, 1, tzinfo=UTC)
FILLED = FilledSlot(Revision("1", "d1", "c1"), {"COLOUR": "teal"}, (20000, 20001), T0)

_text = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
)


def as_supervisord_reads(program: Program) -> dict[str, Any]:
    """Command and environment of the program's first process after supervisord and the shell took it apart."""
    import shlex

    from supervisor.options import ServerOptions, UnhosedConfigParser

    parser = UnhosedConfigParser()
    parser.read_string(configuration.program_text(program, STATE).replace(str(STATE.logs), "/tmp"))
    options = ServerOptions()
    options.here = "/"
    process = options.process_groups_from_parser(parser)[0].process_configs[0]
    return {"argv": shlex.split(process.command), "environment": process.environment}


@settings(max_examples=200)
@given(st.lists(_text, min_size=1, max_size=4))
def test_every_argument_reaches_its_program_unchanged(arguments: list[str]) -> None:
    arguments = [a.replace("%(process_num)d", "").replace("%(here)s", "") for a in arguments]
    read = as_supervisord_reads(Program("p", ("true", *arguments)))
    assert read["argv"][4:] == ["true", *arguments]


@settings(max_examples=200)
@given(_text)
def test_every_value_reaches_its_program_unchanged(value: str) -> None:
    value = value.replace("%(here)s", "")
    read = as_supervisord_reads(Program("p", ("true",), {"KEY": value}))
    by_env = dict(part.split("=", 1) for part in read["argv"][5:-1])
    assert {**read["environment"], **by_env} == {"KEY": value}


def test_the_number_of_a_replica_replaces_its_place_in_the_command() -> None:
    read = as_supervisord_reads(Program("p", ("serve", "--port=%(process_num)d"), first_number=20007))
    assert read["argv"][4:] == ["serve", "--port=20007"]


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(Program("Bad Name", ("true",)), id="a name that supervisord would not find again"),
        pytest.param(Program("p", ()), id="no command"),
        pytest.param(Program("p", ("true", "a\nb")), id="a line break in an argument"),
        pytest.param(Program("p", ("true",), {"KEY": "a\nb"}), id="a line break in a value"),
        pytest.param(Program("p", ("true",), replicas=-1), id="fewer than no replicas"),
    ],
)
def test_a_program_that_cannot_be_written_down_is_refused(program: Program) -> None:
    with pytest.raises(UnusableProgram):
        configuration.program_text(program, STATE)


def test_the_file_of_a_program_is_taken_apart_into_its_replicas() -> None:
    text = configuration.program_text(Program("svc-blue", ("true",), replicas=2, first_number=20000, priority=7), STATE)
    found = configuration.sections(text)
    assert list(found) == ["svc-blue.20000", "svc-blue.20001"]
    assert {configuration.priority_of(body) for body in found.values()} == {7}
    assert configuration.split_group("svc-blue.20001") == ("svc-blue", 20001)
    assert configuration.split_group("postgres") == ("postgres", 0)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("INFO spawned: 'a.20000' with pid 12", ("started", "a.20000", 12, "")),
        (
            "INFO exited: a (terminated by SIGKILL; not expected)",
            ("ended", "a", None, "terminated by SIGKILL; not expected"),
        ),
        ("WARN stopped: a (exit status 0)", ("stopped", "a", None, "exit status 0")),
        ("INFO gave up: a entered FATAL state, too many", ("gave-up", "a", None, "entered FATAL state, too many")),
        (
            "INFO success: a entered RUNNING state, process has",
            ("running", "a", None, "entered RUNNING state, process has"),
        ),
    ],
)
def test_supervisords_log_tells_of_starts_and_ends(line: str, expected: tuple[str, str, int | None, str]) -> None:
    event = parse(f"2026-11-24 03:00:00,125 {line}")
    assert event is not None
    assert (event.kind, event.name, event.pid, event.detail) == expected
    assert event.at.microsecond == 125_000


@pytest.mark.parametrize("line", ["", "nonsense", "2026-11-24 03:00:00,125 INFO reaped unknown pid 7"])
def test_other_lines_tell_nothing(line: str) -> None:
    assert parse(line) is None


def _log_line(name: str) -> str:
    return f"2026-11-24 03:00:00,000 INFO exited: {name} (exit status 1; not expected)\n"


def test_a_journal_goes_on_where_it_was_and_over_a_rotation(tmp_path: Path) -> None:
    log = tmp_path / "supervisord.log"
    journal = Journal(log)

    def names() -> list[str]:
        return [event.name for event in journal.new_events()]

    assert names() == []
    log.write_text(_log_line("one") + _log_line("two")[:20])
    assert names() == ["one"]
    log.write_text(_log_line("one") + _log_line("two"))
    assert names() == ["two"]
    later = Journal(log, offset=journal.offset, inode=journal.inode)
    assert list(later.new_events()) == []
    log.rename(tmp_path / "supervisord.log.1")
    log.write_text(_log_line("three"))
    assert names() == ["three"]


def test_a_log_is_parted_into_lives_over_rotated_files(tmp_path: Path) -> None:
    log = tmp_path / "p.log"
    (tmp_path / "p.log.1").write_text(f"{configuration.START_LINE}1 ===\none\ntwo\n")
    log.write_text(f"three\n\n{configuration.START_LINE}2 ===\nfour\n")
    assert logs.newest(log, 10) == ["four"]
    assert logs.before_last_start(log, 2) == ["two", "three"]
    assert logs.newest(tmp_path / "none.log", 10) == []


def test_a_followed_log_goes_on_over_a_rotation(tmp_path: Path) -> None:
    log = tmp_path / "p.log"
    log.write_text("old\n")
    lines = logs.follow({"p": log}, lambda _s: log.write_text("new\n") if not log.exists() else None)
    log.rename(tmp_path / "p.log.1")
    assert next(lines) == ("p", "new")


def test_a_program_that_is_given_up_is_tried_again_later_each_time_until_it_works() -> None:
    retries = Retries()
    waits = [retries.gave_up("p", 0.0) for _ in range(7)]
    assert waits == [3.0, 6.0, 12.0, 24.0, 48.0, 60.0, 60.0]
    assert retries.due(59.9) == []
    assert retries.due(60.0) == ["p"]
    assert retries.due(60.0) == []
    retries.recovered("p")
    assert retries.gave_up("p", 100.0) == 3.0


WATCHED = Watched("svc-blue.20000", 20000, "/health/live", initial_delay=30.0, period=10.0, timeout=1.0, failures=3)


def test_a_replica_is_asked_after_its_first_delay_and_then_each_period() -> None:
    counter, watched = SilenceCounter(), {WATCHED.group: WATCHED}
    asked = [now for now in range(100) if counter.due(watched, {WATCHED.group: float(now)}, float(now))]
    assert asked == [30, 40, 50, 60, 70, 80, 90]


def test_only_failures_in_a_row_of_one_process_count() -> None:
    counter = SilenceCounter()
    outcomes = [
        (1, False),
        (1, False),
        (1, True),
        (1, False),
        (1, False),
        (2, False),
        (2, False),
        (2, False),
        (2, False),
    ]
    judged = [counter.note(WATCHED, pid, alive=alive) for pid, alive in outcomes]
    assert judged == [False] * 7 + [True, False]


def test_what_is_watched_is_read_back_and_malformed_files_are_left_out(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path, tmp_path / "run")
    write_watched(state, "svc-blue", [WATCHED])
    (tmp_path / "supervisor" / "liveness" / "broken.json").write_text('[{"group": 1')
    assert read_watched(state) == {WATCHED.group: WATCHED}
    forget_watched(state, "svc-blue")
    assert read_watched(state) == {}


def declared(weights: Weights = CLOSED, sequence: int = 0) -> Declared:
    return Declared(a_service(name="svc", port=8000), Route(weights, 3, sequence), {Slot.BLUE: FILLED})


@pytest.mark.parametrize("weights", [CLOSED, Weights(100, 0), Weights(75, 25), Weights(0, 100)], ids=str)
def test_the_weights_of_a_route_table_are_read_back(weights: Weights) -> None:
    (table,) = documents.routes(declared(weights))["resources"]
    assert documents.weights_in(table) == weights


@pytest.mark.parametrize("weights", [CLOSED, Weights(75, 25)], ids=str)
def test_the_notice_of_a_route_table_is_read_back_beside_its_weights(weights: Weights) -> None:
    notice = Notice("Back soon", "We are working on it.", 120)
    (table,) = documents.routes(replace(declared(weights), notice=notice))["resources"]
    assert documents.in_use(table) == documents.InUse(weights, notice)
    (table,) = documents.routes(declared(weights))["resources"]
    assert documents.in_use(table) == documents.InUse(weights, None)


def test_a_database_from_before_suspensions_takes_them(tmp_path: Path) -> None:
    path, ports = tmp_path / "runtime.db", PortRange(31_000, 100)
    records = LocalRecords(path, ManualClock(), ports)
    records.declare(service := a_service())
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE suspensions")
    opened = LocalRecords(path, ManualClock(), ports)
    assert opened.one(service.name).notice is None
    opened.tell(service.name, notice := Notice("Back soon", "We are working on it.", 120))
    assert LocalRecords(path, ManualClock(), ports).all()[service.name].notice == notice


def test_a_refused_notice_gives_way_to_the_one_before_unless_somebody_told_another(tmp_path: Path) -> None:
    records = LocalRecords(tmp_path / "runtime.db", ManualClock(), PortRange(31_000, 100))
    records.declare(service := a_service())
    first, second, third = (Notice(f"notice {n}", "text", n) for n in (1, 2, 3))
    records.tell(service.name, first)
    assert records.tell(service.name, second) == first
    records.untell(service.name, second, first)
    assert records.notices() == {service.name: first}
    records.tell(service.name, third)
    records.untell(service.name, second, first)
    assert records.notices() == {service.name: third}


@pytest.mark.parametrize("table", [{}, {"virtual_hosts": []}, {"virtual_hosts": [{"routes": [{}]}]}])
def test_somebody_elses_route_table_has_no_weights(table: dict[str, object]) -> None:
    assert documents.weights_in(table) is None


def test_each_change_of_a_route_has_its_own_version_and_equal_ones_the_same() -> None:
    versions = [
        documents.routes(declared(weights, sequence))["version_info"]
        for weights, sequence in [(CLOSED, 0), (Weights(100, 0), 1), (CLOSED, 2), (CLOSED, 0)]
    ]
    assert len(set(versions)) == 3
    assert versions[0] == versions[3]


def test_a_draining_replica_gets_no_requests() -> None:
    one = declared()
    draining = FilledSlot(FILLED.revision, FILLED.settings, FILLED.ports, T0, draining=(20001,))
    found = documents.clusters({"svc": Declared(one.service, one.route, {Slot.BLUE: draining})})
    blue = next(cluster for cluster in found["resources"] if cluster["name"] == "svc.blue")
    endpoints = blue["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert [e["endpoint"]["address"]["socket_address"]["port_value"] for e in endpoints] == [20000]


@pytest.fixture
def records(tmp_path: Path) -> LocalRecords:
    return LocalRecords(tmp_path / "runtime.db", ManualClock(), PortRange(20000, 100))


def test_what_is_stored_is_read_back(records: LocalRecords) -> None:
    service = a_service(request_timeout="1500 ms")
    records.declare(service)
    records.fill(service.name, Slot.BLUE, FILLED)
    records.route(service.name, Weights(100, 0), 4)
    assert records.one(service.name) == Declared(service, Route(Weights(100, 0), 4, 1), {Slot.BLUE: FILLED})
    assert records.all() == {service.name: records.one(service.name)}


def test_a_refused_route_leaves_what_was_stored(records: LocalRecords) -> None:
    records.declare(service := a_service())
    records.route(service.name, Weights(100, 0), 4)
    with pytest.raises(StaleEpoch):
        records.route(service.name, Weights(0, 100), 3)
    assert records.one(service.name).route == Route(Weights(100, 0), 4, 1)


def test_a_route_is_taken_back_only_while_it_is_still_the_stored_one(records: LocalRecords) -> None:
    records.declare(service := a_service())
    records.route(service.name, Weights(100, 0), 4)
    told = Route(Weights(100, 0), 4, 1)
    records.route(service.name, Weights(0, 100), 5)
    records.take_back(service.name, told, CLOSED)
    assert records.one(service.name).route.weights == Weights(0, 100)
    records.take_back(service.name, Route(Weights(0, 100), 5, 2), CLOSED)
    assert records.one(service.name).route == Route(CLOSED, 5, 3)


def test_a_slot_with_weight_is_neither_changed_nor_emptied(records: LocalRecords) -> None:
    records.declare(service := a_service())
    records.fill(service.name, Slot.BLUE, FILLED)
    records.route(service.name, Weights(100, 0), 1)
    with pytest.raises(SlotInUse):
        records.fill(service.name, Slot.BLUE, FilledSlot(Revision("2", "d", "c"), {}, (20000,), T0))
    with pytest.raises(SlotInUse):
        records.empty(service.name, Slot.BLUE)
    assert records.one(service.name).slots == {Slot.BLUE: FILLED}


def test_ports_are_given_in_blocks_stay_the_same_skip_busy_ones_and_come_back(records: LocalRecords) -> None:
    first, second = a_service(), a_service()
    records.declare(first)
    records.declare(second)

    def busy(_ports: object) -> list[int]:
        return [20001]

    blue = records.ports(first.name, Slot.BLUE, 2, busy)
    assert blue == (20000, *range(20002, 20000 + PORTS_A_BLOCK))
    assert records.ports(second.name, Slot.BLUE, 1, busy)[0] == 20000 + PORTS_A_BLOCK
    assert records.ports(first.name, Slot.BLUE, 1, busy) == blue
    assert len(records.ports(first.name, Slot.BLUE, 12, busy)) >= 12
    records.undeclare(first.name)
    records.declare(first)
    assert records.ports(first.name, Slot.GREEN, 1, busy)[0] == 20000


def test_when_no_port_is_left_that_is_said(records: LocalRecords) -> None:
    records.declare(service := a_service())
    with pytest.raises(RuntimeUnreachable, match="all taken"):
        records.ports(service.name, Slot.BLUE, 1000, lambda _ports: [])


def test_environments_have_ports_of_their_own() -> None:
    ranges = [range(found.first, found.first + found.size) for found in map(ports_for, range(0, 5000, 1000))]
    assert all(set(one).isdisjoint(other) for one in ranges for other in ranges if one is not other)


def test_an_unknown_service_is_named_with_the_known_ones(records: LocalRecords) -> None:
    records.declare(service := a_service())
    with pytest.raises(UnknownService, match=service.name):
        records.one("stranger")


def test_a_database_that_is_not_one_is_reported_and_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "runtime.db"
    path.write_text("not a database, but somebody's file" * 100)
    with pytest.raises(RuntimeUnreachable):
        LocalRecords(path, ManualClock(), PortRange(20000, 100)).names()
    assert path.read_text().startswith("not a database")


def test_a_lease_that_was_given_back_counts_a_new_holder(records: LocalRecords) -> None:
    lease = records.acquire_lease("rollouts", "one", timedelta(seconds=30))
    assert lease is not None
    records.release_lease(lease)
    again = records.acquire_lease("rollouts", "one", timedelta(seconds=30))
    assert again is not None
    assert (lease.transitions, again.transitions) == (1, 2)


def test_the_keeper_stays_small() -> None:
    """It always runs, so it does not load what the command loads."""
    heavy = "[name for name in ('pydantic', 'yaml', 'httpx') if name in sys.modules]"
    script = f"import sys, dr_platform.runtime.local.keeper; print({heavy})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
