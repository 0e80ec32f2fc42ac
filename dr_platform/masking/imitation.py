"""Canary rows in the image of a row that is there, for engines whose rows are values of Python.

Here: from a row to a row that names a canary wherever it may. Not here: writing it, or PostgreSQL, where
the server imitates.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from dr_platform.masking.canaries import Canary
from dr_platform.masking.classification import IDENTIFIERS, Column, Holds, Table
from dr_platform.masking.people import derived_key
from dr_platform.masking.seals import place_of
from dr_platform.masking.values import PEOPLE
from dr_platform.reference_service.cipher import FieldCipher


def imitated(table: Table, row: Mapping[str, Any], canary: Canary, number: int, cipher: FieldCipher) -> dict[str, Any]:
    """The row with a canary's keys, identifiers and texts; sealed ones sealed with the source's key."""
    made = {name: _inside(table, name, value, canary, number) for name, value in row.items()}
    for name, column in table.columns.items():
        if column.sealed is not None and made.get(name) is not None:
            text = canary.text(number) if column.holds is Holds.TEXT else canary.value(column.holds) or canary.word
            made[name] = cipher.encrypt(text, place_of(column.sealed, made))
    return made


def _inside(table: Table, path: str, value: Any, canary: Canary, number: int) -> Any:
    if isinstance(value, dict):
        return {key: _inside(table, f"{path}.{key}", one, canary, number) for key, one in value.items()}
    if isinstance(value, list):
        return [_inside(table, f"{path}[]", one, canary, number) for one in value]
    column = table.columns.get(path)
    return value if column is None or value is None else _value(column, value, canary, number)


def _value(column: Column, value: Any, canary: Canary, number: int) -> Any:
    if column.holds is Holds.KEY:
        return _key(column, value, canary)
    if isinstance(value, str) and column.holds is Holds.TEXT:
        return canary.text(number)
    if isinstance(value, str) and column.holds in IDENTIFIERS:
        return canary.value(column.holds)
    return value


def _key(column: Column, value: Any, canary: Canary) -> Any:
    own = canary.id if column.domain == PEOPLE else uuid.uuid5(canary.id, column.domain)
    if column.derived:
        own = derived_key(column.derived, str(own))
    if isinstance(value, uuid.UUID):
        return uuid.UUID(int=own.int, version=1) if value.version == 1 else own
    kind, colon, _ = str(value).rpartition(":")
    return f"{kind}{colon}{own}" if isinstance(value, str) else value
