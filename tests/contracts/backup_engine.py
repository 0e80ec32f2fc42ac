"""What every backup engine promises, tried through the real pipeline. Runs only through its adapters.

An adapter gives a class-wide ``engine`` whose database holds some rows, and says how to add one more.
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from dr_platform.backups.manifest import Manifest
from dr_platform.backups.port import BackupEngine, Facts, Kind, StoredBackup
from dr_platform.backups.switch import NoSwitch
from dr_platform.errors import PlatformError
from dr_platform.objects import open_objects
from tests.backups import Room, order, room

_MOST = 4 << 20


def comparable(facts: Facts) -> tuple[object, ...]:
    """What a restored copy must say again. Counts alone where the source went on changing."""
    tables = tuple((t.name, t.rows, t.fingerprint if facts.exact else "") for t in facts.tables)
    return tables, facts.schema_fingerprint, facts.migration_version, facts.heartbeat


class BackupEngineContract:
    """Subclasses say ``add_row``, and name a database that is live in ``live_name``."""

    @pytest.fixture
    def engine(self) -> BackupEngine:
        raise NotImplementedError

    def add_row(self, engine: BackupEngine) -> None:
        """One more row in the live database, committed."""
        raise NotImplementedError

    def live_name(self, engine: BackupEngine) -> str:
        raise NotImplementedError

    def kinds(self, engine: BackupEngine) -> tuple[Kind, ...]:
        return tuple(kind for kind in engine.kinds if kind is not Kind.PHYSICAL_INCREMENTAL)

    def taken(self, here: Room, engine: BackupEngine, kind: Kind) -> tuple[Manifest, tuple[StoredBackup, ...]]:
        manifest = here.writer.take(order(kind=kind), engine)
        return manifest, here.reader.chain("live", manifest.backup_id)

    @pytest.fixture
    def here(self, tmp_path: Path) -> Room:
        return room(tmp_path).with_writer(part_bytes=1 << 20)

    def test_pieces_have_names_that_an_object_can_have_and_can_be_handed_to_another_process(
        self, engine: BackupEngine
    ) -> None:
        objects = open_objects("memory://")
        for kind in self.kinds(engine):
            with engine.snapshot(kind) as snapshot:
                pieces = snapshot.pieces()
                assert pieces
                assert len({piece.name for piece in pieces}) == len(pieces)
                for piece in pieces:
                    objects.put(f"{kind}/{piece.name}/00000", b"")
                    assert pickle.loads(pickle.dumps(piece)).name == piece.name  # noqa: S301 - our own bytes

    def test_every_piece_gives_something_in_chunks_that_fit_into_memory(self, engine: BackupEngine) -> None:
        for kind in self.kinds(engine):
            with engine.snapshot(kind) as snapshot:
                for piece in snapshot.pieces():
                    sizes = [len(chunk) for chunk in piece.read()]
                    assert sum(sizes) > 0, piece.name
                    assert max(sizes) <= _MOST, piece.name

    def test_a_restored_copy_says_the_same_as_the_snapshot(self, engine: BackupEngine, here: Room) -> None:
        for kind in self.kinds(engine):
            manifest, chain = self.taken(here, engine, kind)
            with engine.scratch() as restoration:
                restoration.restore(chain)
                found = restoration.facts()
                probes = restoration.probes()
            assert comparable(replace(found, exact=manifest.facts.exact)) == comparable(manifest.facts)
            assert sum(table.rows for table in found.tables) > 0
            assert [probe for probe in probes if probe.passed is False] == []

    def test_the_snapshot_does_not_see_what_is_written_after_it(self, engine: BackupEngine, here: Room) -> None:
        """Of a physical copy the log decides how far it goes, so it is not asked."""
        for kind in set(self.kinds(engine)) - {Kind.PHYSICAL_FULL}:
            with engine.snapshot(kind) as snapshot:
                snapshot.pieces()
                self.add_row(engine)
                before = sum(table.rows for table in snapshot.facts().tables)
            with engine.snapshot(kind) as snapshot:
                snapshot.pieces()
                assert sum(table.rows for table in snapshot.facts().tables) == before + 1, kind

    def test_fingerprints_change_with_the_data(self, engine: BackupEngine) -> None:
        kind = self.kinds(engine)[-1]
        with engine.snapshot(kind) as snapshot:
            before = snapshot.facts()
        self.add_row(engine)
        with engine.snapshot(kind) as snapshot:
            after = snapshot.facts()
        assert {t.name: t.fingerprint for t in before.tables} != {t.name: t.fingerprint for t in after.tables}
        assert before.schema_fingerprint == after.schema_fingerprint

    def test_a_backup_that_lacks_a_piece_is_not_restored_in_silence(self, engine: BackupEngine, here: Room) -> None:
        for kind in self.kinds(engine):
            _, chain = self.taken(here, engine, kind)
            largest = max(chain[-1].pieces, key=lambda piece: piece.size_hint)
            without = replace(chain[-1], pieces=tuple(p for p in chain[-1].pieces if p is not largest))
            assert self._refused_or_different(engine, (*chain[:-1], without), chain[-1].facts), kind

    def test_a_damaged_piece_stops_the_restore(self, engine: BackupEngine, here: Room) -> None:
        for kind in self.kinds(engine):
            manifest, chain = self.taken(here, engine, kind)
            for file in here.object_files(manifest.backup_id):
                content = file.read_bytes()
                file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            with pytest.raises(PlatformError), engine.scratch() as restoration:
                restoration.restore(chain)

    def _refused_or_different(self, engine: BackupEngine, chain: tuple[StoredBackup, ...], facts: Facts) -> bool:
        try:
            with engine.scratch() as restoration:
                restoration.restore(chain)
                return comparable(replace(restoration.facts(), exact=facts.exact)) != comparable(facts)
        except PlatformError:
            return True

    def test_the_live_database_is_no_target_of_a_restore(self, engine: BackupEngine) -> None:
        with pytest.raises(PlatformError), engine.new_database(self.live_name(engine)):
            pytest.fail("the live database was offered as a target")

    def test_a_new_database_is_taken_away_after_a_failure_and_its_name_is_free_again(
        self, engine: BackupEngine, here: Room
    ) -> None:
        for kind in self.kinds_for_new(engine):
            _, chain = self.taken(here, engine, kind)
            with pytest.raises(ZeroDivisionError):
                self._restored_and_failed(engine, chain)
            with engine.new_database("restored_by_test") as restoration:
                restoration.restore(chain)
                facts = restoration.facts()
                assert facts.tables
                assert facts.heartbeat == chain[-1].facts.heartbeat
            with pytest.raises(PlatformError), engine.new_database("restored_by_test"):
                pytest.fail("a name that is taken was offered as a target")
            self.remove_database(engine, "restored_by_test")

    def test_a_switch_is_offered_to_what_is_there_or_refused_with_the_steps_by_hand(self, engine: BackupEngine) -> None:
        refused: NoSwitch | None = None
        try:
            standing = engine.switching().standing("never_made")
            assert standing.target is None
            assert standing.live.extent
        except NoSwitch as exc:
            refused = exc
        if refused is not None:
            assert "drp maintenance on" in "".join(refused.steps)
            assert all(step in refused.next_step for step in refused.steps)

    def _restored_and_failed(self, engine: BackupEngine, chain: tuple[StoredBackup, ...]) -> None:
        with engine.new_database("restored_by_test") as restoration:
            restoration.restore(chain)
            raise ZeroDivisionError

    def kinds_for_new(self, engine: BackupEngine) -> tuple[Kind, ...]:
        """Kinds that can go into a new database beside the live one."""
        return self.kinds(engine)[-1:]

    def remove_database(self, engine: BackupEngine, name: str) -> None:
        """Remove what a test restored."""
        raise NotImplementedError
