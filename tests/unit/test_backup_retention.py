"""What a policy keeps, over histories of every shape."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.backups.catalogue import Catalogue, Record, State, Unfinished
from dr_platform.backups.errors import UnknownBackup
from dr_platform.backups.housekeeping import Housekeeper, PruneRefused
from dr_platform.backups.port import Kind
from dr_platform.backups.proof import Budget, Prover
from dr_platform.backups.retention import FAILED_FOR, UNFINISHED_FOR, Keep, Plan, plan
from tests.backups import Room, memory_engine, order, room

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
KEEP = Keep()


def record(name: str, age: timedelta, state: State = State.VERIFIED, **more: object) -> Record:
    made = Record(name, "live", Kind.LOGICAL, state, "", NOW - age, 100, manifest_sha256="m")
    return replace(made, **more)  # type: ignore[arg-type]


def planned(records: Sequence[Record], keep: Keep = KEEP, unfinished: Sequence[Unfinished] = ()) -> Plan:
    return plan("live", records, unfinished, keep, NOW, NOW)


def goes(found: Plan) -> set[str]:
    return {expired.id for expired in found.expired}


@st.composite
def histories(draw: st.DrawFn) -> tuple[Record, ...]:
    ages = draw(st.lists(st.integers(0, 60 * 24 * 1500), min_size=0, max_size=25))
    made: list[Record] = []
    for number, minutes in enumerate(sorted(ages, reverse=True)):
        parent = draw(st.sampled_from([None, *(r.id for r in made[-3:] if r.complete)]))
        state = draw(st.sampled_from(State))
        complete = state is not State.FAILED or draw(st.booleans())
        made.append(
            record(
                f"b{number}",
                timedelta(minutes=minutes),
                state,
                parent=parent if complete else None,
                held=draw(st.integers(0, 9)) == 0,
                manifest_sha256="m" if complete else "",
            )
        )
    return tuple(draw(st.permutations(made)))


@given(histories(), st.builds(Keep, *(st.integers(0, 8) for _ in range(4))))
def test_the_newest_verified_one_held_ones_and_parents_of_kept_ones_never_go(
    records: tuple[Record, ...], keep: Keep
) -> None:
    found = goes(planned(records, keep))
    verified = [r for r in records if r.state is State.VERIFIED]
    if verified:
        assert max(verified, key=lambda r: (r.created_at, r.id)).id not in found
    assert not {r.id for r in records if r.held} & found
    assert not {r.parent for r in records if r.id not in found and r.parent} & found


@given(histories(), st.builds(Keep, *(st.integers(0, 8) for _ in range(4))))
def test_every_backup_stays_or_goes_and_a_second_plan_finds_nothing_more(
    records: tuple[Record, ...], keep: Keep
) -> None:
    found = planned(records, keep)
    assert sorted([*goes(found), *(k.id for k in found.kept)]) == sorted(r.id for r in records)
    left = tuple(r for r in records if r.id not in goes(found))
    assert goes(planned(left, keep)) == set()


@given(histories(), st.integers(0, 60 * 24 * 400))
def test_a_failed_backup_never_makes_another_one_go(records: tuple[Record, ...], minutes: int) -> None:
    before = goes(planned(records))
    after = goes(planned((*records, record("failed", timedelta(minutes=minutes), State.FAILED, manifest_sha256=""))))
    assert after - {"failed"} == before


@given(histories(), st.permutations(range(25)))
def test_names_do_not_matter(records: tuple[Record, ...], order: list[int]) -> None:
    """A tool that ordered by name kept the old ones after an upgrade renamed them (wal-g/wal-g issue 539)."""
    distinct = {r.created_at: r for r in records}.values()
    names = {r.id: f"x{order[int(r.id[1:])]}" for r in distinct}
    renamed = tuple(replace(r, id=names[r.id], parent=None) for r in distinct)
    plain = tuple(replace(r, parent=None) for r in distinct)
    assert goes(planned(renamed)) == {names[name] for name in goes(planned(plain))}


def test_a_day_a_week_a_month_and_a_year_each_keep_their_newest() -> None:
    records = [record(f"d{day:04}", timedelta(days=day)) for day in range(1200)]
    kept = {found.id: found.reasons for found in planned(records).kept}
    assert [name for name, why in kept.items() if "daily" in why] == [f"d{day:04}" for day in range(7)]
    assert sum("weekly" in why for why in kept.values()) == 5
    assert sum("monthly" in why for why in kept.values()) == 12
    assert sum("yearly" in why for why in kept.values()) == 4  # of so many years there are backups
    assert len(kept) <= 7 + 5 + 12 + 7


def test_a_pause_of_the_schedule_costs_no_backup() -> None:
    records = [record(f"d{day:04}", timedelta(days=300 + day)) for day in range(7)]
    assert goes(planned(records)) == set()


def test_what_was_never_proved_goes_only_when_a_verified_one_came_after_it() -> None:
    unproved = record("u", timedelta(days=3), State.UNVERIFIED)
    assert goes(planned([unproved, record("older", timedelta(days=4))])) == set()
    assert goes(planned([unproved, record("newer", timedelta(days=2))])) == {"u"}


def test_the_note_of_a_failure_stays_for_a_while() -> None:
    newest = record("v", timedelta(0))
    late, old = FAILED_FOR - timedelta(days=1), FAILED_FOR + timedelta(days=1)
    assert goes(planned([newest, record("f", late, State.FAILED)])) == set()
    assert goes(planned([newest, record("f", old, State.FAILED)])) == {"f"}
    assert goes(planned([record("f", old, State.FAILED)])) == set()


def test_what_was_never_finished_goes_after_two_days() -> None:
    running = Unfinished("r", "live", NOW - UNFINISHED_FOR + timedelta(minutes=1), ())
    given_up = Unfinished("g", "live", NOW - UNFINISHED_FOR - timedelta(minutes=1), ())
    assert goes(planned([], unfinished=[running, given_up])) == {"g"}


@pytest.mark.parametrize(
    ("records", "store_now"),
    [
        pytest.param(
            [record("future", -timedelta(hours=1)), record("old", timedelta(days=900))], NOW, id="future backup"
        ),
        pytest.param([record("old", timedelta(days=900))], NOW - timedelta(days=2), id="this clock is ahead"),
        pytest.param([record("old", timedelta(days=900))], NOW + timedelta(hours=1), id="this clock is behind"),
        pytest.param([record("old", timedelta(days=900))], None, id="no clock to compare with"),
    ],
)
def test_a_doubt_about_a_clock_removes_nothing(records: list[Record], store_now: datetime | None) -> None:
    found = plan("live", records, (), Keep(0, 0, 0, 0), NOW, store_now)
    assert found.refused
    assert found.expired == ()


# Carried out


def verified_backups(here: Room, count: int) -> list[str]:
    engine, ids = memory_engine(), []
    for _ in range(count):
        manifest = here.writer.take(order(), engine)
        Prover(here.reader, here.clock).prove("live", manifest.backup_id, engine, Budget(60, 60), "somebody")
        ids.append(manifest.backup_id)
        here.clock.sleep(1)
    return ids


def housekeeper(here: Room) -> Housekeeper:
    return Housekeeper(here.bucket, here.keys, here.clock)


def at_store_time(tmp_path: Path) -> Room:
    """The clock of the test stands where that of the file system does."""
    here = room(tmp_path)
    here.clock.jump((datetime.now(UTC) - here.clock.now()).total_seconds())
    return here


def test_removed_backups_are_counted_and_gone_with_every_object(tmp_path: Path) -> None:
    here = at_store_time(tmp_path)
    first, second = verified_backups(here, 2)
    pruned = housekeeper(here).prune("live", Keep(1, 0, 0, 0))
    assert (pruned.removed, pruned.left) == ((first,), 1)
    assert pruned.objects == 4  # manifest, proof and two parts
    left = {info.key.split("/")[2] for info in here.bucket.objects.list("backups/live")}
    assert left == {second}


def test_a_removal_that_was_cut_short_is_never_taken_for_a_verified_backup_and_is_finished_later(
    tmp_path: Path,
) -> None:
    here = at_store_time(tmp_path)
    first, second = verified_backups(here, 2)
    keys = list(housekeeper(here)._in_order("live", first))
    for count in range(1, len(keys)):
        here.bucket.objects.delete(keys[count - 1])
        listing = Catalogue(here.bucket, here.keys).listing("live")
        newest = listing.newest_verified()
        assert newest is not None
        assert newest.id == second
        with pytest.raises(UnknownBackup) if listing.unfinished else _Nothing():
            assert listing.find(first).state is not State.VERIFIED
    two_days_ago = (datetime.now(UTC) - UNFINISHED_FOR - timedelta(hours=1)).timestamp()
    for file in here.object_files(first):
        os.utime(file, (two_days_ago, two_days_ago))
    assert housekeeper(here).prune("live", KEEP).removed == (first,)
    assert here.object_files(first) == []


class _Nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_with_a_wrong_clock_nothing_is_removed(tmp_path: Path) -> None:
    here = at_store_time(tmp_path)
    verified_backups(here, 2)
    here.clock.jump(7200)
    with pytest.raises(PruneRefused, match="differ by"):
        housekeeper(here).prune("live", Keep(1, 0, 0, 0))


def test_a_hold_that_was_tampered_with_still_holds(tmp_path: Path) -> None:
    here = at_store_time(tmp_path)
    first, _ = verified_backups(here, 2)
    catalogue = Catalogue(here.bucket, here.keys)
    housekeeper(here).hold(catalogue.listing("live").find(first), "somebody", "a matter")
    (file,) = (tmp_path / "objects/backups/live" / first / "holds").iterdir()
    document = json.loads(file.read_bytes())
    file.write_text(json.dumps({**document, "held": False}))
    found = catalogue.listing("live").find(first)
    assert (found.state, found.held) == (State.FAILED, True)
    assert housekeeper(here).prune("live", Keep(1, 0, 0, 0)).removed == ()
