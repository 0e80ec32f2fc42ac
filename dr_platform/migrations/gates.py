"""What must hold before a schema is changed where patients' data lies.

Here: decisions over values. Not here: where a backup's age or an approval is read from.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from dr_platform.databases.port import AppliedStep
from dr_platform.errors import ExitCode, PlatformError


class NoFreshBackup(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, age_h: float | None, limit_h: float) -> None:
        super().__init__(name, age_h, limit_h)
        found = "there is none" if age_h is None else f"the newest is {age_h:.1f} h old"
        self.what = f"{name}: no verified backup of the last {limit_h:g} h, {found}"
        self.untouched = f"the schema of {name}"
        self.next_step = f"take one with `drp backup {name}`, which proves it by a restore, then repeat"


class NotApproved(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, environment: str, why: str) -> None:
        super().__init__(name, environment, why)
        self.what = f"{name}: nobody has agreed to change its schema in {environment} in this way: {why}"
        self.untouched = f"the schema of {name}"
        self.next_step = f"ask with `drp migrate {name} --request --reason …`, and let others `drp approve` it"


class OutsideWindow(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, environment: str, opens: str) -> None:
        super().__init__(name, environment, opens)
        self.what = f"{name}: {environment} is outside of its maintenance window"
        self.untouched = f"the schema of {name}"
        self.next_step = f"wait until {opens}; the schedule `migrations` then begins by itself"


def require_backup(
    name: str, applied: Sequence[AppliedStep], newest: datetime | None, now: datetime, limit: timedelta
) -> None:
    """Raise ``NoFreshBackup``. An empty schema has nothing that a backup could bring back. A backup from the
    future was dated by a clock that is wrong, and counts for nothing."""
    if not applied:
        return
    age = None if newest is None else now - newest
    if age is None or age > limit or age < timedelta(0):
        raise NoFreshBackup(name, None if age is None else age.total_seconds() / 3600, limit.total_seconds() / 3600)
