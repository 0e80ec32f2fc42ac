"""The promises of the catalog about backups, and every fault of theirs at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from dr_platform.backups.policy import BackupPolicy, read_policies
from dr_platform.backups.port import Kind
from dr_platform.catalog import CatalogError
from dr_platform.platform import find_catalog
from tests.catalogs import shipped_copy

pytestmark = pytest.mark.unit


def test_every_database_of_the_shipped_catalog_has_its_promises() -> None:
    policies = read_policies(find_catalog())
    assert set(policies) == {"postgres", "mongodb", "redis", "scylladb"}
    assert all(policy.schedules for policy in policies.values())
    assert policies["postgres"].rpo == 24 * 3600
    assert Kind.PHYSICAL_INCREMENTAL in policies["postgres"].schedules


def test_defaults_keep_what_the_rules_ask_for() -> None:
    policy = BackupPolicy()
    assert (policy.rpo, policy.rto) == (86400, 4 * 3600)
    assert (policy.retention.keep.daily, policy.retention.keep.yearly) == (7, 7)
    assert policy.budget.limit_s > policy.budget.restore_s


def test_all_faults_of_all_files_are_told_at_once_with_file_and_field(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    (root / "databases/redis/backup.yaml").write_text("rpo: 24\nschedules: {rdb: daily, tape: '0 1 * * *'}\n")
    (root / "databases/postgres/backup.yaml").write_text("retention: {daily: 0}\n")
    with pytest.raises(CatalogError) as told:
        read_policies(root)
    found = {(fault.file.split("/")[1], fault.field.partition(".")[0]) for fault in told.value.faults}
    assert found >= {("redis", "rpo"), ("redis", "schedules"), ("postgres", "retention")}


def test_an_incremental_schedule_without_a_full_one_is_refused(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    (root / "databases/postgres/backup.yaml").write_text("schedules:\n  physical-incr: '0 1 * * *'\n")
    with pytest.raises(CatalogError, match="add physical-full to schedules"):
        read_policies(root)
