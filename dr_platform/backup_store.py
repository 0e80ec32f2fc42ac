"""Which backups an environment has, for whoever has to know before they act.

Here: where backups lie, what each database is promised, and its newest verified backup. Not here: taking, proving or
removing one (``backup_desk``), or what it means for health (``recovery``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime, timedelta

from dr_platform.backups.bucket import Bucket
from dr_platform.backups.catalogue import Catalogue, Record
from dr_platform.backups.keys import KeyRing
from dr_platform.backups.policy import BackupPolicy, read_policies
from dr_platform.backups.port import Kind
from dr_platform.platform import Platform

STORE = "DRP_BACKUP_STORE"


def bucket_of(platform: Platform) -> Bucket:
    """``DRP_BACKUP_STORE``, such as ``s3://bucket/prefix``, with a folder for each environment; else a folder
    of this machine, which does not outlive it."""
    if configured := os.environ.get(STORE):
        return Bucket(f"{configured.rstrip('/')}/{platform.environment.name}")
    return Bucket.of_folder(platform.state.objects)


def policy_of(platform: Platform, database: str) -> BackupPolicy:
    """A database without a ``backup.yaml`` has every default."""
    return read_policies(platform.catalog.root).get(database, BackupPolicy())


def newest_verified(platform: Platform, database: str, kinds: Iterable[Kind] | None = None) -> Record | None:
    """By the store alone. Raises where it does not answer: that there is none has then not been seen."""
    return Catalogue(bucket_of(platform), KeyRing(platform.secrets)).listing(database).newest_verified(kinds)


def newest_backup(platform: Platform, database: str) -> datetime | None:
    """When the data of the newest verified backup was read; ``None`` where there is none."""
    found = newest_verified(platform, database)
    return None if found is None else found.created_at


def backup_age(platform: Platform, database: str) -> timedelta:
    """How old that may be: what the database was promised to lose at most (its RPO)."""
    return timedelta(seconds=policy_of(platform, database).rpo)
