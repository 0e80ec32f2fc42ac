"""From counts to a verdict.

Here: following references from one database into another, and the verdict's words. Not here: engines.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from dr_platform.quality.model import Refers, Rule
from dr_platform.quality.port import MOST_REFERENCES, Counted, Inspector
from dr_platform.verdict import Measure, Verdict

_BATCH = 1000
Open = Callable[[str | None], Inspector]
"""The inspector of a database by its name; of the one that is looked at for ``None``."""


def counted(rules: Sequence[Rule], inspector: Open) -> list[Counted]:
    """Every rule with how often it is broken, in the order of the rules."""
    plain = [rule for rule in rules if not isinstance(rule, Refers)]
    found = {answer.rule: answer for answer in inspector(None).count(plain)} if plain else {}
    return [_followed(rule, inspector) if isinstance(rule, Refers) else found[rule] for rule in rules]


def _followed(rule: Refers, inspector: Open) -> Counted:
    target = inspector(rule.database)
    named = missing = 0
    for batch in _batches(inspector(None).keys(rule.table, rule.column)):
        named += len(batch)
        missing += len(batch) - target.present(rule.target, rule.target_column, batch)
    return Counted(rule, missing, named, whole=named < MOST_REFERENCES)


def _batches(keys: Iterator) -> Iterator[list]:
    while batch := list(itertools.islice(keys, _BATCH)):
        yield batch


def judge(answers: Sequence[Counted]) -> Verdict:
    """Passes where no rule is broken anywhere. The words have counts and names of columns only."""
    bad = [answer for answer in answers if answer.broken]
    measurements: dict[str, Measure] = {
        "rules": len(answers),
        "tables": len({answer.rule.table for answer in answers}),
        "rules_broken": len(bad),
        "element_count": sum(answer.of for answer in answers),
        "unexpected_count": sum(answer.broken for answer in bad),
        "sampled": sum(not answer.whole for answer in answers),
    }
    if not answers:
        return Verdict(None, "nothing is expected", measurements)
    if bad:
        told = "; ".join(f"{a.rule.table}: {a.rule.broken()} ({a.broken:,} of {a.of:,})" for a in bad)
        return Verdict(False, told, measurements)
    return Verdict(True, f"{len(answers)} rules hold in {measurements['tables']} tables", measurements)
