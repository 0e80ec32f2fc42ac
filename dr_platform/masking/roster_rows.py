"""From rows of the table of people to what the roster keeps of them.

Here: which columns identify, and their plain values. Not here: reading rows (the engines).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dr_platform.masking.classification import IDENTIFIERS, Holds, Table
from dr_platform.masking.seals import KeyRing, place_of
from dr_platform.reference_service.cipher import Undecryptable


@dataclass(frozen=True)
class Identified:
    """The columns that are read of every person."""

    key: str
    table: Table
    identifying: tuple[str, ...]
    read: tuple[str, ...]

    def people(
        self, rows: Sequence[Mapping[str, Any]], opened: KeyRing
    ) -> Iterator[tuple[str, list[tuple[Holds, str]]]]:
        """Each person's key with the identifiers that could be read."""
        cipher = opened.cipher() if any(self.table.columns[c].sealed for c in self.identifying) else None
        for row in rows:
            known: list[tuple[Holds, str]] = []
            for name in self.identifying:
                column, value = self.table.columns[name], row[name]
                if value is None:
                    continue
                if column.sealed is not None and cipher is not None:
                    try:
                        value = cipher.decrypt(bytes(value), place_of(column.sealed, row))
                    except Undecryptable:
                        continue
                known.append((column.holds, str(value)))
            yield str(row[self.key]), known


def identified(table: Table) -> Identified:
    identifying = tuple(name for name, column in table.columns.items() if column.holds in IDENTIFIERS)
    seals = [seal for name in identifying if (seal := table.columns[name].sealed) is not None]
    named = {c for c in table.columns for seal in seals if f"{{{c}" in seal.row + seal.table}
    return Identified(
        table.person, table, identifying, tuple(dict.fromkeys((table.person, *identifying, *sorted(named))))
    )
