"""What is asked for: a seed, a size, a last day. Everything else follows from it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

from dr_platform.catalog import DataClass
from dr_platform.errors import ExitCode, PlatformError

FORMAT = 1
"""Rises when the same plan would give other rows, so that a stopped load is not finished by another
generator."""
PATIENTS_PER_SCALE = 1_000
BLOCK = 50
"""Patients of one block, the unit that is loaded, recorded and repeated. About 3,500 messages and
5 MB: large enough for every engine's bulk path, small enough that services, which wait for the chain
of audit events while a block is committed, wait a tenth of a second."""
DAYS = 730
LAST_DAY = date(2026, 10, 31)
MOST_SCALE = 100_000.0


class WrongPlan(PlatformError):
    exit_code = ExitCode.REFUSED

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.what = f"no synthetic data can be made of this: {problem}"
        self.untouched = "every database; nothing was connected to"
        self.next_step = "correct the value; see `drp synthesize --help`"


class NotSynthetic(PlatformError):
    """Raised before anything is connected to."""

    exit_code = ExitCode.REFUSED

    def __init__(self, environment: str, data_class: str) -> None:
        super().__init__(environment, data_class)
        self.what = f"{environment} holds {data_class} data, among which no invented persons may be put"
        self.untouched = f"every database of {environment}; none was connected to"
        self.next_step = "choose an environment whose data class is synthetic, or bind it with `--runtime local`"


@dataclass(frozen=True)
class Plan:
    """Equal plans give equal rows. ``scale`` 1 means 1,000 patients; ``until`` is the last day on
    which anything happens, two years after the first."""

    seed: int
    scale: float = 1.0
    until: date = LAST_DAY
    format: int = FORMAT

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise WrongPlan(f"the seed {self.seed} is not within 0 and 2**63 - 1")
        if not 0 < self.scale <= MOST_SCALE:
            raise WrongPlan(f"the scale factor {self.scale:g} is not above 0 and at most {MOST_SCALE:g}")
        if not date(2000, 1, 1) <= self.until <= date(2100, 1, 1):
            raise WrongPlan(f"the last day {self.until} is not in this century")

    @property
    def patients(self) -> int:
        return max(1, round(self.scale * PATIENTS_PER_SCALE))

    @property
    def clinicians(self) -> int:
        return min(20_000, max(4, self.patients // 25))

    @property
    def blocks(self) -> int:
        return -(-self.patients // BLOCK)

    def rows_of(self, block: int) -> range:
        """Patients of one block."""
        return range(block * BLOCK, min((block + 1) * BLOCK, self.patients))

    @property
    def first_moment(self) -> datetime:
        return datetime(self.until.year, self.until.month, self.until.day, tzinfo=UTC) - timedelta(days=DAYS - 1)

    @property
    def text(self) -> str:
        """Canonical: equal for equal plans."""
        return json.dumps({**asdict(self), "until": self.until.isoformat()}, sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> Plan:
        fields = json.loads(text)
        return cls(fields["seed"], fields["scale"], date.fromisoformat(fields["until"]), fields["format"])

    def __str__(self) -> str:
        return f"seed {self.seed}, scale {self.scale:g}, until {self.until}, format {self.format}"


class Existing(StrEnum):
    """What becomes of other synthetic data that the databases hold."""

    KEPT = "kept"
    """The load is refused."""
    REPLACED = "replaced"
    """It is removed first; also where it is of the same plan."""


def require_synthetic(environment: str, data_class: DataClass) -> None:
    """Raise ``NotSynthetic`` unless the environment is there for synthetic data. Also where nothing
    more sensitive than that is allowed: a class that is not ``synthetic`` was meant for other data."""
    if data_class is not DataClass.SYNTHETIC:
        raise NotSynthetic(environment, data_class.value)
