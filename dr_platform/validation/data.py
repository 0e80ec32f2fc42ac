"""Data: what the catalog expects of every table and collection, counted in the running databases.

Not here: the expectations (``quality.model``), the counting, or the verdict's words (``quality.judge``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import cache, partial

from dr_platform.look import Cost, Look, always_answers
from dr_platform.platform import Platform
from dr_platform.quality.engines import inspector_of
from dr_platform.quality.judge import counted, judge
from dr_platform.quality.model import Dimension, Rule, read_expectations, rules_by_dimension
from dr_platform.quality.port import Inspector
from dr_platform.verdict import Verdict

TEXTS = {
    Dimension.COLUMNS: "Tables have the columns that are declared.",
    Dimension.NULLS: "What must have a value has one.",
    Dimension.RANGES: "Values are among those allowed, and within bounds.",
    Dimension.REFERENCES: "References lead somewhere, and what must be unique is.",
    Dimension.FRESHNESS: "What must keep coming is recent; what must expire does.",
    Dimension.VOLUME: "There are as many rows as expected.",
}


@always_answers
def quality_verdict(platform: Platform, name: str, rules: Sequence[Rule]) -> Verdict:
    """The rules of one dimension in one database. Results are counts, never values."""
    with contextlib.ExitStack() as opened:

        @cache
        def inspector(database: str | None) -> Inspector:
            found = inspector_of(platform.connect(database or name, "admin"), platform.clock)
            opened.callback(found.close)
            return found

        return judge(counted(rules, inspector))


def data_looks(platform: Platform) -> Iterator[Look]:
    """One for each database and dimension of which the catalog expects something."""
    for name, expected in read_expectations(platform.catalog.root).items():
        if name not in platform.catalog.databases:
            continue
        for dimension, rules in rules_by_dimension(expected).items():
            yield Look(
                ("databases", name),
                dimension.value,
                TEXTS[dimension],
                partial(quality_verdict, platform, name, rules),
                severe=dimension not in expected.warns,
                after=(("schema", name),),
                cost=Cost.THOROUGH,
                together="databases_data",
            )
