"""One run over PostgreSQL: the engine's part of ``EngineMasking``.

Here: planting, order of steps, proofs in SQL. Not here: plans and carrying over (``postgresql``).
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql

from dr_platform.databases.postgresql import PostgresDatabase
from dr_platform.databases.schema import migrate, version_key
from dr_platform.masking import postgresql as pg
from dr_platform.masking.anonymity import Anonymity, anonymise
from dr_platform.masking.canaries import Canaries, Canary
from dr_platform.masking.classification import IDENTIFIERS, Column, Holds, Table
from dr_platform.masking.engine import Engine
from dr_platform.masking.people import Roster, RosterFile
from dr_platform.masking.port import Gate, Masked, NotMaskable, Run, SameDatabase
from dr_platform.masking.postgresql_indexes import take_off
from dr_platform.masking.seals import place_of
from dr_platform.masking.sql import INTEGERS, qualified, quoted
from dr_platform.masking.values import PEOPLE
from dr_platform.reference_service.cipher import Undecryptable

MOST_CATEGORIES = 50
"""A column of more different values is no category."""
FREQUENCY_BOUND = 0.01
"""Shares of a category may differ by so much; safe columns are copied, so anything else is a defect."""
LENGTH_BOUND = 0.35
"""Median and upper quartile of a text's length may differ by so much: marks such as [NAME] are shorter."""
_TELLING = frozenset({Holds.TEXT, Holds.JSON, Holds.KEY}) | IDENTIFIERS
_CONSTRAINED = frozenset({Holds.SECRET, Holds.BIOMETRIC, Holds.PHOTO})
"""Columns whose form a schema may prescribe: a hash of a password is no word."""
_COINCIDING = frozenset({Holds.NAME})
"""A made-up name may be somebody's; a made-up address of example.invalid may not."""


class PostgresMasking(Engine):
    def _open(self) -> None:
        self._made = False
        self._workers: pg.Workers | None = None
        self._snapshot: pg.Snapshot | None = None
        self._anonymity: tuple[Anonymity, ...] = ()
        self._broken: Sequence[str] = ()
        """Foreign keys that masked rows do not keep to."""
        with pg.connect(self._source_access) as connection:
            self._schema = pg.read_schema(connection)

    def schema(self) -> Mapping[str, tuple[str, ...]]:
        found = dict(self._schema.columns)
        with pg.connect(self._source_access) as connection:
            for name, table in self._masked_tables().items():
                for column, described in table.columns.items():
                    if described.paths and column in found[name]:
                        lost = _json_paths(connection, name, column) - set(described.paths)
                        found[name] += tuple(f"{column}: {path}" for path in sorted(lost))
        return found

    def refuse_problems(self) -> None:
        pg.check_plan(self._schema, self._known)
        if self._source_access.endpoint == self._target_access.endpoint:
            raise SameDatabase(self.name)

    def _masked_tables(self) -> dict[str, Table]:
        return {n: t for n, t in self._known.tables.items() if t.is_masked and n in self._schema.tables}

    # Canaries

    def plant(self, canaries: Canaries) -> int:
        """A row for each canary in every table that has a row to imitate."""
        planted = 0
        cipher = self._opened.cipher()
        with pg.connect(self._source_access) as connection:
            people_first = sorted(self._masked_tables().items(), key=lambda item: not item[1].people)
            for name, table in people_first:
                if any(c.holds in _TELLING for c in table.columns.values()):
                    for number, canary in enumerate(canaries.people):
                        planted += self._plant_one(connection, name, table, canary, number, cipher)
        return planted

    def _plant_one(
        self, connection: pg.Connection, name: str, table: Table, canary: Canary, number: int, cipher: Any
    ) -> int:
        for spared in (frozenset(), _CONSTRAINED):
            with contextlib.suppress(psycopg.errors.CheckViolation):
                row = self._row_of(connection, name, table, canary, number, cipher, spared)
                return self._insert(connection, name, row)
        return 0  # the imitated row and the canary do not go together

    def _row_of(
        self,
        connection: pg.Connection,
        name: str,
        table: Table,
        canary: Canary,
        number: int,
        cipher: Any,
        spared: Collection[Holds],
    ) -> dict[str, Any]:
        facts = {c.name: c for c in self._schema.tables[name] if not c.generated}
        row: dict[str, Any] = {}
        for column, fact in facts.items():
            if table.columns[column].holds in spared:
                continue
            value = _planted_value(column, table.columns[column], fact.type, table, canary, number, name)
            if value is not None:
                row[column] = value
        row |= self._imitated(connection, name, table, row)
        for column, described in table.columns.items():
            if column in row and described.sealed is not None:
                row[column] = cipher.encrypt(row[column], place_of(described.sealed, row))
        for column, described in table.columns.items():
            if described.holds is Holds.BLIND_INDEX and described.of in facts:
                text = canary.value(table.columns[described.of].holds) or canary.word
                row[column] = cipher.blind_index(text, described.purpose)
        return row

    def _imitated(self, connection: pg.Connection, name: str, table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
        """What sealed values are bound to and the canary has no value of its own for."""
        bound = pg.named_in_seals(table) & set(self._schema.columns[name]) - set(row)
        if not bound:
            return {}
        listed = ", ".join(f"{quoted(c)}::text" for c in sorted(bound))
        found = connection.execute(f"SELECT {listed} FROM {qualified(name)} LIMIT 1".encode()).fetchone()  # noqa: S608
        return dict(zip(sorted(bound), found or (), strict=False))

    def _insert(self, connection: pg.Connection, name: str, row: Mapping[str, Any]) -> int:
        facts = {c.name: c for c in self._schema.tables[name] if not c.generated}
        columns = ", ".join(quoted(c) for c in facts)
        picked = ", ".join(f"%({c})s::{facts[c].type}" if c in row else f"t.{quoted(c)}" for c in facts)
        statement = (
            f"INSERT INTO {qualified(name)} ({columns}) OVERRIDING SYSTEM VALUE"  # noqa: S608 - quoted names
            f" SELECT {picked} FROM (SELECT * FROM {qualified(name)} LIMIT 1) t ON CONFLICT DO NOTHING"
        )
        return connection.execute(statement.encode(), row).rowcount

    # The run

    def fill(self, roster: Roster) -> None:
        self._hired(roster.file).fill_roster(self._known)

    def _hired(self, roster: RosterFile) -> pg.Workers:
        """Workers stay from the first person to the last row."""
        if self._workers is None:
            seen = self._seen()
            facts = (roster, self._opened, self._sealing, self._masked_tables())
            self._workers = pg.Workers(seen, pg.Job(self._source_access, self._target_access, seen.name, *facts))
        return self._workers

    def _seen(self) -> pg.Snapshot:
        """What is masked, and what the result is compared with: a live source is written to all the time."""
        if self._snapshot is None:
            self._snapshot = pg.Snapshot(self._source_access)
        return self._snapshot

    def make_target(self) -> None:
        pg.make_target(self._target_access, self._source_access)
        self._made = True
        with pg.connect(self._source_access) as connection:
            applied = _applied(connection)
        steps = [s for s in self._steps if not applied or version_key(s.version) in applied]
        database = PostgresDatabase(
            self._target_access.database, self._target_access.endpoint, self._target_access.login
        )
        with contextlib.closing(database):
            migrate(database, steps)
        with pg.connect(self._target_access) as connection:
            made = pg.read_schema(connection)
        wanted = {n: set(self._schema.columns[n]) for n in self._masked_tables()}
        differing = sorted(n for n, columns in wanted.items() if set(made.columns.get(n, ())) != columns)
        if differing:
            raise NotMaskable(tuple(f"{self.name}: {n}: staging's schema has other columns" for n in differing))

    def mask(self, run: Run) -> tuple[Masked, ...]:
        tables = self._masked_tables()
        plans = [pg.plan_table(name, self._schema, table, run.recipe) for name, table in tables.items()]

        with pg.connect(self._target_access) as connection, contextlib.closing(self._hired(run.roster)) as workers:
            with pg.open_for_loading(connection, list(tables)):
                taken = take_off(connection, tables)
                done = workers.carry_over(plans, run.recipe, run.progress)
                workers.put_back(connection, taken)
                pg.rechain(connection, self._known)
            with workers.finishing(taken, tables) as self._broken:
                pg.advance_sequences(connection, plans)
                self._anonymity = tuple(
                    anonymise(connection, name, table, self._schema, self._known.k)
                    for name, table in tables.items()
                    if table.people
                )
        return done

    def discard(self) -> None:
        if self._made:
            pg.drop_target(self._target_access)
            self._made = False

    def close(self) -> None:
        for opened in (self._workers, self._snapshot):
            if opened is not None:
                opened.close()
        self._workers = self._snapshot = None

    # Proofs

    def stored_texts(self) -> Iterator[tuple[str, bytes]]:
        cipher = self._sealing.cipher()
        with pg.connect(self._target_access) as connection:
            schema = pg.read_schema(connection)
            for name, facts in schema.tables.items():
                columns = [c for c in facts if c.type not in INTEGERS | {"boolean", "double precision", "vector"}]
                if columns:
                    yield from self._texts_of(connection, name, columns, cipher)

    def _texts_of(
        self, connection: pg.Connection, name: str, columns: Sequence[pg.ColumnFacts], cipher: Any
    ) -> Iterator[tuple[str, bytes]]:
        table = self._known.tables.get(name)
        listed = ", ".join(quoted(c.name) if c.type == "bytea" else f"{quoted(c.name)}::text" for c in columns)
        with connection.transaction(), connection.cursor("scan") as cursor:
            cursor.itersize = 2_000
            cursor.execute(f"SELECT {listed}, to_jsonb(t) FROM {qualified(name)} t".encode())  # noqa: S608
            for *values, whole in cursor:
                for column, value in zip(columns, values, strict=True):
                    if value is None:
                        continue
                    stored = value.encode() if isinstance(value, str) else bytes(value)
                    yield f"{name}.{column.name}", stored
                    described = table.columns.get(column.name) if table else None
                    if described is not None and described.sealed is not None:
                        yield f"{name}.{column.name}", _opened(cipher, stored, described, whole)

    def gates(self, masked: tuple[Masked, ...]) -> tuple[Gate, ...]:
        from dr_platform.masking.expectations import expectations_gate

        source = self._seen().connection
        # A part that is undone lets go of its locks at once, not when the engine is closed.
        with source.transaction(force_rollback=True), pg.connect(self._target_access) as target:
            return (
                self._counts(source, masked),
                self._orphans(target),
                self._hits(source, target),
                self._nulls(source, target),
                self._frequencies(source, target),
                self._lengths(source, target),
                *(_anonymity_gate(one) for one in self._anonymity if one.columns),
                expectations_gate(
                    self._target_access, self._masked_tables(), self._schema, {m.name: m.rows for m in masked}
                ),
            )

    def _counts(self, source: pg.Connection, masked: tuple[Masked, ...]) -> Gate:
        rows = {m.name: m.written for m in masked}
        differing = [n for n in self._masked_tables() if _count(source, n) != rows.get(n, 0)]
        total = sum(rows.values())
        return Gate(
            f"{self.name}: row counts", not differing, _named(differing, "have another number of rows"), {"rows": total}
        )

    def _orphans(self, target: pg.Connection) -> Gate:
        broken, total = [*self._broken], 0
        tables = self._masked_tables()
        for key in self._schema.foreign:
            if key.table in tables and key.parent in tables:
                pairs = list(zip(key.columns, key.parent_columns, strict=True))
                joined = " AND ".join(f"p.{quoted(b)} = c.{quoted(a)}" for a, b in pairs)
                present = " AND ".join(f"c.{quoted(a)} IS NOT NULL" for a, _ in pairs)
                missing = _one(
                    target,
                    f"SELECT count(*) FROM {qualified(key.table)} c WHERE {present} AND NOT EXISTS"  # noqa: S608
                    f" (SELECT FROM {qualified(key.parent)} p WHERE {joined})",
                )
                total += missing
                broken += [f"{key.table}.{','.join(key.columns)}"] if missing else []
        return Gate(f"{self.name}: foreign keys", not broken, _named(broken, "have orphans"), {"orphans": total})

    def _hits(self, source: pg.Connection, target: pg.Connection) -> Gate:
        """Values of identifying columns that are the same before and after. Digests are compared, so
        that no value of the source reaches staging's server."""
        met, total = [], 0
        for name, table in self._masked_tables().items():
            for column, described in table.columns.items():
                if described.sealed is None and described.holds in (IDENTIFIERS | {Holds.KEY}) - _COINCIDING:
                    hits = _equal_values(source, target, name, column)
                    total += hits
                    met += [f"{name}.{column}"] if hits else []
        return Gate(
            f"{self.name}: no value of an identifier stays", not met, _named(met, "still match"), {"hits": total}
        )

    def _nulls(self, source: pg.Connection, target: pg.Connection) -> Gate:
        differing = []
        for name, table in self._masked_tables().items():
            columns = [
                c for c, d in table.columns.items() if d.holds not in _MAY_VANISH and c in self._schema.columns[name]
            ]
            if columns and _null_counts(source, name, columns) != _null_counts(target, name, columns):
                differing.append(name)
        return Gate(f"{self.name}: null ratios", not differing, _named(differing, "have other nulls"))

    def _frequencies(self, source: pg.Connection, target: pg.Connection) -> Gate:
        differing, widest = [], 0.0
        for name, table in self._masked_tables().items():
            types = {c.name: c.type for c in self._schema.tables[name]}
            for column, described in table.columns.items():
                if described.holds is Holds.SAFE and types.get(column) in ("text", "character varying", "character"):
                    gap = _widest_gap(_shares(source, name, column), _shares(target, name, column))
                    widest = max(widest, gap)
                    differing += [f"{name}.{column}"] if gap > FREQUENCY_BOUND else []
        detail = _named(differing, f"differ by more than {FREQUENCY_BOUND:.0%} in a category")
        return Gate(f"{self.name}: category frequencies", not differing, detail, {"widest_gap": round(widest, 4)})

    def _lengths(self, source: pg.Connection, target: pg.Connection) -> Gate:
        differing, widest = [], 0.0
        for name, table in self._masked_tables().items():
            for column, described in table.columns.items():
                if described.holds is Holds.TEXT and described.sealed is None:
                    before, after = _quartiles(source, name, column), _quartiles(target, name, column)
                    gap = max((abs(a - b) / max(b, 1) for b, a in zip(before, after, strict=True)), default=0.0)
                    widest = max(widest, gap)
                    differing += [f"{name}.{column}"] if gap > LENGTH_BOUND else []
        detail = _named(differing, f"differ by more than {LENGTH_BOUND:.0%} in median or upper quartile")
        return Gate(f"{self.name}: text lengths", not differing, detail, {"widest_gap": round(widest, 4)})


_MAY_VANISH = frozenset(
    {Holds.SSN, Holds.SECRET, Holds.BIOMETRIC, Holds.PHOTO, Holds.ZIP, Holds.BIRTH_DATE, Holds.AGE, Holds.QUASI}
)
"""Removed, or suppressed for anonymity."""


def _planted_value(
    column: str, described: Column, kind: str, table: Table, canary: Canary, number: int, name: str
) -> Any:
    """A canary's value for a column, or ``None`` to imitate the other row."""
    if described.holds is Holds.KEY:
        if column == table.person and (table.people or described.domain == PEOPLE):
            return str(canary.id)
        if kind == "bigint":
            return uuid.uuid5(canary.id, f"{name}/{column}").int >> 66
        alone = described.domain != PEOPLE
        return str(uuid.uuid5(canary.id, f"{name}/{column}")) if alone else None
    if described.holds is Holds.TEXT:
        return canary.text(number)
    if described.holds is Holds.JSON:
        return json.dumps(_document(described, canary, number))
    return canary.value(described.holds) if described.holds in IDENTIFIERS or kind == "text" else None


def _document(described: Column, canary: Canary, number: int) -> dict[str, Any]:
    """A document with a canary at every path that may hold text."""
    whole: dict[str, Any] = {}
    for path, inner in described.paths.items():
        value = canary.text(number) if inner.holds is Holds.TEXT else canary.value(inner.holds)
        if value is None:
            continue
        here: Any = whole
        steps = path.split(".")
        for step in steps[:-1]:
            here = here.setdefault(step.removesuffix("[]"), [{}] if step.endswith("[]") else {})
            here = here[0] if isinstance(here, list) else here
        last = steps[-1]
        here[last.removesuffix("[]")] = [value] if last.endswith("[]") else value
    return whole


def _opened(cipher: Any, stored: bytes, described: Column, row: Mapping[str, Any]) -> bytes:
    try:
        return cipher.decrypt(stored, place_of(described.sealed, row)).encode() if described.sealed else b""
    except Undecryptable:
        return b""  # what staging's key does not open nobody in staging reads; the engine counts it


def _json_paths(connection: pg.Connection, table: str, column: str) -> set[str]:
    query = f"""
        WITH RECURSIVE walk(path, value) AS (
            SELECT '', {quoted(column)}::jsonb FROM {qualified(table)} WHERE {quoted(column)} IS NOT NULL
            UNION ALL
            SELECT CASE WHEN jsonb_typeof(w.value) = 'array' THEN w.path || '[]'
                        WHEN w.path = '' THEN e.key ELSE w.path || '.' || e.key END, e.value
            FROM walk w CROSS JOIN LATERAL (
                SELECT key, value FROM jsonb_each(
                    CASE WHEN jsonb_typeof(w.value) = 'object' THEN w.value ELSE '{{}}' END)
                UNION ALL
                SELECT '', x FROM jsonb_array_elements(
                    CASE WHEN jsonb_typeof(w.value) = 'array' THEN w.value ELSE '[]' END) x
            ) e WHERE jsonb_typeof(w.value) IN ('object', 'array')
        )
        SELECT DISTINCT path FROM walk WHERE jsonb_typeof(value) NOT IN ('object', 'array', 'null')
    """  # noqa: S608 - quoted names
    return {path for (path,) in connection.execute(query.encode())}


def _applied(connection: pg.Connection) -> set[tuple[int, ...]]:
    if _one(connection, "SELECT (to_regclass('public.drp_schema_history') IS NOT NULL)::int") == 0:
        return set()
    return {version_key(v) for (v,) in connection.execute("SELECT version FROM public.drp_schema_history")}


def _one(connection: pg.Connection, query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    return int(row[0]) if row else 0


def _count(connection: pg.Connection, table: str) -> int:
    return _one(connection, f"SELECT count(*) FROM {qualified(table)}")  # noqa: S608 - quoted names


def _named(tables: Sequence[str], problem: str) -> str:
    return f"{', '.join(tables)} {problem}" if tables else "as they should be"


def _equal_values(source: pg.Connection, target: pg.Connection, table: str, column: str) -> int:
    digest = f"sha256(convert_to(lower(btrim({quoted(column)}::text)), 'UTF8'))"
    distinct = f"SELECT DISTINCT {digest} FROM {qualified(table)} WHERE {quoted(column)} IS NOT NULL"  # noqa: S608
    with target.transaction():
        target.execute("CREATE TEMP TABLE drp_seen (digest bytea) ON COMMIT DROP")
        with (
            source.cursor().copy(f"COPY ({distinct}) TO STDOUT (FORMAT binary)".encode()) as out,
            target.cursor().copy("COPY drp_seen FROM STDIN (FORMAT binary)") as back,
        ):
            for chunk in out:
                back.write(chunk)
        return _one(target, f"SELECT count(*) FROM ({distinct}) s(digest) JOIN drp_seen USING (digest)")  # noqa: S608


def _null_counts(connection: pg.Connection, table: str, columns: Sequence[str]) -> tuple[int, ...]:
    listed = ", ".join(f"count(*) FILTER (WHERE {quoted(c)} IS NULL)" for c in columns)
    row = connection.execute(f"SELECT {listed} FROM {qualified(table)}".encode()).fetchone()  # noqa: S608
    return tuple(row or ())


def _shares(connection: pg.Connection, table: str, column: str) -> dict[str, float] | None:
    """Share of each category; ``None`` for a column of too many values."""
    query = f"SELECT {quoted(column)}, count(*) FROM {qualified(table)} GROUP BY 1 LIMIT {MOST_CATEGORIES + 1}"  # noqa: S608
    rows = connection.execute(query.encode()).fetchall()
    total = sum(count for _, count in rows)
    return None if len(rows) > MOST_CATEGORIES else {value: count / total for value, count in rows}


def _widest_gap(before: dict[str, float] | None, after: dict[str, float] | None) -> float:
    if before is None or after is None:
        return 0.0
    return max((abs(before.get(k, 0.0) - after.get(k, 0.0)) for k in before.keys() | after.keys()), default=0.0)


def _quartiles(connection: pg.Connection, table: str, column: str) -> tuple[float, ...]:
    row = connection.execute(
        sql.SQL(
            "SELECT percentile_cont(ARRAY[0.5, 0.75]) WITHIN GROUP (ORDER BY length({0}::text)) FROM {1}"
            " WHERE {0} IS NOT NULL"
        ).format(sql.Identifier(column), sql.Identifier(*table.split(".", 1)))
    ).fetchone()
    return tuple(row[0]) if row and row[0] else ()


def _anonymity_gate(one: Anonymity) -> Gate:
    detail = (
        f"smallest group {one.smallest} of {one.groups}, k {one.k}; {one.generalised} rows generalised, "
        f"{one.suppressed} suppressed"
    )
    counts = {"k": one.k, "smallest": one.smallest, "groups": one.groups, "small_before": one.small_before}
    counts |= {"generalised": one.generalised, "suppressed": one.suppressed}
    return Gate(
        f"{one.table}: k-anonymity over {', '.join(one.columns)}",
        one.smallest >= one.k or not one.groups,
        detail,
        counts,
    )
