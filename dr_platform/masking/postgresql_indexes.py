"""Indexes, keys and foreign keys of the target, taken off while it is loaded and put back as they were.

Masked keys come in no order, so that an index kept while they come is written all over: it is built at once, over the
loaded table.
Here: what can be taken off, and the statements. Not here: who runs them, and when (``postgresql``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.errors import DependentObjectsStillExist

Connection = psycopg.Connection[Any]

_PLAIN = "c.relkind = 'r' AND NOT c.relispartition"
_FOREIGN = f"""
SELECT format('ALTER TABLE %%I.%%I DROP CONSTRAINT %%I', n.nspname, c.relname, f.conname),
       format('ALTER TABLE %%I.%%I ADD CONSTRAINT %%I ', n.nspname, c.relname, f.conname) || pg_get_constraintdef(f.oid)
           || CASE WHEN f.convalidated THEN ' NOT VALID' ELSE '' END,
       CASE WHEN f.convalidated
            THEN format('ALTER TABLE %%I.%%I VALIDATE CONSTRAINT %%I', n.nspname, c.relname, f.conname) ELSE '' END,
       n.nspname || '.' || c.relname || ': ' || f.conname
FROM pg_constraint f JOIN pg_class c ON c.oid = f.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class p ON p.oid = f.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
WHERE f.contype = 'f' AND {_PLAIN} AND p.relkind = 'r' AND NOT p.relispartition
  AND (n.nspname || '.' || c.relname = ANY(%(tables)s) OR pn.nspname || '.' || p.relname = ANY(%(tables)s))
  AND obj_description(f.oid, 'pg_constraint') IS NULL
ORDER BY 2
"""  # noqa: S608 - nothing from outside
_INDEXES = f"""
SELECT CASE WHEN k.oid IS NULL THEN format('DROP INDEX %%I.%%I', n.nspname, i.relname)
            ELSE format('ALTER TABLE %%I.%%I DROP CONSTRAINT %%I', n.nspname, c.relname, k.conname) END,
       pg_get_indexdef(i.oid),
       CASE WHEN k.oid IS NULL THEN ''
            ELSE format('ALTER TABLE %%I.%%I ADD CONSTRAINT %%I %%s USING INDEX %%I', n.nspname, c.relname, k.conname,
                        CASE k.contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END, i.relname)
                 || CASE WHEN k.condeferrable THEN ' DEFERRABLE' ELSE '' END
                 || CASE WHEN k.condeferred THEN ' INITIALLY DEFERRED' ELSE '' END END
FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am a ON a.oid = i.relam
LEFT JOIN pg_constraint k ON k.conindid = i.oid AND k.conrelid = c.oid AND k.contype IN ('p', 'u', 'x')
WHERE n.nspname || '.' || c.relname = ANY(%(tables)s) AND {_PLAIN}
  AND x.indisvalid AND NOT x.indisclustered AND NOT x.indisreplident
  AND (k.oid IS NULL OR k.contype IN ('p', 'u') AND a.amname = 'btree')
  AND obj_description(i.oid, 'pg_class') IS NULL AND obj_description(k.oid, 'pg_constraint') IS NULL
ORDER BY 2
"""  # noqa: S608 - nothing from outside


@dataclass(frozen=True)
class TakenOff:
    """Statements that put it back, in the order of the fields; those of ``indexes``, and those of ``checks``, may
    run side by side."""

    indexes: tuple[str, ...]
    keys: tuple[str, ...]
    foreign: tuple[str, ...]
    checks: Mapping[str, str]
    """Whether rows keep to a foreign key, by its table and name; it is valid from then on."""


def take_off(connection: Connection, tables: Collection[str]) -> TakenOff:
    """What such a statement would not bring back whole stays where it is: indexes of partitioned tables, those that
    something else needs or tells apart, exclusion constraints, and what has a comment."""
    listed = {"tables": list(tables)}
    foreign = connection.execute(_FOREIGN.encode(), listed).fetchall()
    for drop, *_ in foreign:
        connection.execute(drop.encode())
    gone = []
    for drop, make, key in connection.execute(_INDEXES.encode(), listed).fetchall():
        with contextlib.suppress(DependentObjectsStillExist):  # a view may rest on a primary key
            connection.execute(drop.encode())
            gone.append((make, key))
    return TakenOff(
        tuple(make for make, _ in gone),
        tuple(key for _, key in gone if key),
        tuple(add for _, add, *_ in foreign),
        {name: check for _, _, check, name in foreign if check},
    )
