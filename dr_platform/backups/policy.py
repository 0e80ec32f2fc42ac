"""What a database is promised about its backups: ``catalog/databases/<name>/backup.yaml``.

Here: the file's model and reading it. Not here: when something runs, or what is deleted (``retention``).

Defaults follow the strictest reading of the HIPAA Security Rule that is in force or proposed: a data backup
plan (45 CFR 164.308(a)(7)(ii)(A)), tested restores (D), backups at most a day old.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from dr_platform.backups.port import Kind
from dr_platform.backups.proof import Budget
from dr_platform.backups.retention import Keep
from dr_platform.catalog.beside import read_beside
from dr_platform.catalog.models import Model
from dr_platform.catalog.quantities import Duration

FILE = "backup.yaml"
_FIELD = r"(\*|[0-9]{1,2}(-[0-9]{1,2})?)(/[0-9]{1,2})?(,[0-9]{1,2}(-[0-9]{1,2})?)*"
_CRON = re.compile(rf"{_FIELD}( {_FIELD}){{4}}")
_LIMIT = 2
"""A restore that takes twice its budget is ended: it tells nothing more."""


def _cron(value: str) -> str:
    if not _CRON.fullmatch(value):
        raise ValueError("is no schedule: write minute, hour, day, month and weekday as '15 1 * * *', in UTC")
    return value


Cron = Annotated[str, AfterValidator(_cron)]


class Retention(Model):
    """How many verified backups stay: grandfather, father, son."""

    daily: int = Field(default=7, ge=1, le=366, description="days whose newest backup stays")
    weekly: int = Field(default=5, ge=0, le=520, description="weeks whose newest backup stays")
    monthly: int = Field(default=12, ge=0, le=240, description="months whose newest backup stays")
    yearly: int = Field(default=7, ge=0, le=100, description="years whose newest backup stays")

    @property
    def keep(self) -> Keep:
        return Keep(self.daily, self.weekly, self.monthly, self.yearly)


class Drill(Model):
    """The rehearsal of a disaster: back from the bucket and the escrow identity alone (45 CFR 164.308(a)(7)(ii)(D))."""

    schedule: Cron = Field(default="30 6 1 * *", description="when it is rehearsed, in UTC")
    age: Duration = Field(default=3024000.0, description="the last one that brought it back is at most this old")


class BackupPolicy(Model):
    """The promises for one database."""

    tier: int = Field(default=1, ge=1, le=3, description="1 is restored first after a disaster")
    rpo: Duration = Field(default=86400.0, description="the newest verified backup is at most this old")
    rto: Duration = Field(default=14400.0, description="a restore takes at most this long")
    log: Duration = Field(default=1209600.0, description="any moment of this long can be brought back, by the log")
    schedules: dict[Kind, Cron] = Field(
        default_factory=dict, description="kind of backup to when it is taken, in UTC; empty for once a day"
    )
    retention: Retention = Field(default_factory=Retention, description="how many verified backups stay")
    drill: Drill = Field(default_factory=Drill, description="when coming back from a disaster is rehearsed")

    @model_validator(mode="after")
    def _has_a_full_one(self) -> Self:
        if Kind.PHYSICAL_INCREMENTAL in self.schedules and Kind.PHYSICAL_FULL not in self.schedules:
            raise ValueError("schedules an incremental backup and no full one: add physical-full to schedules")
        return self

    @property
    def budget(self) -> Budget:
        return Budget(restore_s=self.rto, limit_s=_LIMIT * self.rto)


def read_policies(root: Path) -> Mapping[str, BackupPolicy]:
    """By name of the database; one without a file has every default. Raises ``CatalogError`` with all faults
    of all files."""
    return read_beside(root, FILE, BackupPolicy)
