"""What a restored PostgreSQL can be asked beside its facts: pages, vector indexes, constraints.

Here: looking. A look that takes too long says that it could not be finished. Not here: comparing with the source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psycopg
from psycopg import sql

from dr_platform.backups.port import Probe
from dr_platform.backups.postgresql import catalog
from dr_platform.backups.postgresql.access import Access
from dr_platform.backups.postgresql.catalog import Connection, VectorIndex, one, verbatim
from dr_platform.databases.embedded import postgresql_files
from dr_platform.databases.embedded.files import ServerUser
from dr_platform.databases.embedded.port import EngineUnavailable

LIMIT_S = 300
RECALL = 0.95
NEIGHBOURS = 10
BREADTHS = (40, 200, 1000)
"""How widely HNSW searches (``hnsw.ef_search``), tried in turn. An index whose graph is whole finds the nearest when
it searches widely enough; one that lost a part of it never does."""
_COMPARED_ROWS = 5_000_000
"""Rows that exact searches read together: a question costs a pass over its table."""
_QUESTIONS = (5, 40)
_CHECKSUMS_S = 3600.0
_SESSIONS = 2
_ROUNDING = 1e-6
_OPERATORS = {"l2": "<->", "ip": "<#>", "cosine": "<=>", "l1": "<+>"}


def probe(access: Access) -> tuple[Probe, ...]:
    """Everything that can be asked while the server runs, by two sessions side by side."""
    with access.connect() as connection:
        indexes = catalog.vector_indexes(connection)
    looks: list[tuple[str, Callable[[Connection], Looked]]] = [
        ("indexes_valid", _indexes_valid),
        ("constraints_validated", _constraints_validated),
        ("foreign_keys_hold", lambda connection: _none_found(connection, _foreign_keys(connection))),
        ("required_values_present", lambda connection: _none_found(connection, _not_null(connection))),
        ("unique_values_unique", lambda connection: _none_found(connection, _unique(connection))),
        *((f"vectors {i.schema}.{i.index}", partial(_vectors, index=i)) for i in indexes),
    ]
    with ThreadPoolExecutor(_SESSIONS, thread_name_prefix="probe") as pool:
        # The longest begin first.
        asked = [pool.submit(_looked, access, name, look) for name, look in reversed(looks)]
        return tuple(future.result() for future in reversed(asked))


def checksums(programs: Path, data: Path, user: ServerUser) -> Probe:
    """Of every page of a server that is stopped."""
    try:
        said = postgresql_files.run([programs / "pg_checksums", "--check", "-D", data], user, timeout_s=_CHECKSUMS_S)
    except EngineUnavailable as exc:
        return Probe("page_checksums", False, exc.why)
    blocks = next((int(line.split()[-1]) for line in said.splitlines() if line.startswith("Blocks scanned")), 0)
    return Probe("page_checksums", True, f"{blocks} pages are as they were written", {"pages": float(blocks)})


Looked = tuple[bool | None, str, dict[str, float]]


def _looked(access: Access, name: str, look: Callable[[Connection], Looked]) -> Probe:
    try:
        with access.connect() as connection:
            connection.execute(f"SET statement_timeout = '{LIMIT_S}s'".encode())
            passed, detail, measurements = look(connection)
    except psycopg.errors.QueryCanceled:
        return Probe(name, None, f"not finished within {LIMIT_S} s")
    except psycopg.Error as exc:
        return Probe(name, None, f"could not look: {type(exc).__name__}")  # its text may quote rows
    return Probe(name, passed, detail, measurements)


def _indexes_valid(connection: Connection) -> Looked:
    row = connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE NOT (indisvalid AND indisready AND indislive)) FROM pg_index"
    ).fetchone() or (0, 0)
    return row[1] == 0, f"{row[1]} of {row[0]} indexes cannot be used", {"indexes": float(row[0])}


def _constraints_validated(connection: Connection) -> Looked:
    row = connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE NOT convalidated) FROM pg_constraint WHERE connamespace <> 11"
    ).fetchone() or (0, 0)
    # One that was never validated at the source either is no fault of the backup.
    return True, f"{row[0] - row[1]} of {row[0]} constraints are validated", {"not_validated": float(row[1])}


Rule = tuple[str, sql.Composable]
"""Name of a rule, and a query that counts the rows that break it."""


def _none_found(connection: Connection, rules: Sequence[Rule]) -> Looked:
    broken = [name for name, query in rules if one(connection, query)]
    detail = f"{len(rules)} rules looked at, {len(broken)} broken" + (f", such as {broken[0]}" if broken else "")
    return not broken, detail, {"rules": float(len(rules)), "broken": float(len(broken))}


def _foreign_keys(connection: Connection) -> list[Rule]:
    query = """
        SELECT n.nspname, c.relname, k.conname, fn.nspname, f.relname,
               (SELECT array_agg(a.attname::text ORDER BY u.i) FROM unnest(k.conkey) WITH ORDINALITY u(n, i)
                  JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n),
               (SELECT array_agg(a.attname::text ORDER BY u.i) FROM unnest(k.confkey) WITH ORDINALITY u(n, i)
                  JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.n)
          FROM pg_constraint k
          JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_class f ON f.oid = k.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace
         WHERE k.contype = 'f' AND k.convalidated AND k.conparentid = 0
         ORDER BY 1, 2, 3
    """
    return [(f"{row[0]}.{row[2]}", _orphans(*row)) for row in connection.execute(query).fetchall()]


def _orphans(
    schema: str, relation: str, _: str, other_schema: str, other: str, columns: Sequence[str], keys: Sequence[str]
) -> sql.Composable:
    pairs = [
        sql.SQL("p.{} = c.{}").format(sql.Identifier(key), sql.Identifier(column))
        for column, key in zip(columns, keys, strict=True)
    ]
    given = [sql.SQL("c.{} IS NOT NULL").format(sql.Identifier(column)) for column in columns]
    return sql.SQL("SELECT count(*) FROM {} c WHERE {} AND NOT EXISTS (SELECT FROM {} p WHERE {})").format(
        sql.Identifier(schema, relation),
        sql.SQL(" AND ").join(given),
        sql.Identifier(other_schema, other),
        sql.SQL(" AND ").join(pairs),
    )


def _not_null(connection: Connection) -> list[Rule]:
    query = """
        SELECT n.nspname, c.relname, array_agg(a.attname::text ORDER BY a.attnum)
          FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND a.attnum > 0 AND a.attnotnull AND NOT a.attisdropped
           AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%'
         GROUP BY 1, 2 ORDER BY 1, 2
    """
    return [(f"{row[0]}.{row[1]}", _missing(*row)) for row in connection.execute(query).fetchall()]


def _missing(schema: str, relation: str, columns: Sequence[str]) -> sql.Composable:
    missing = sql.SQL(" OR ").join(sql.SQL("{} IS NULL").format(sql.Identifier(column)) for column in columns)
    return sql.SQL("SELECT count(*) FROM ONLY {} WHERE {}").format(sql.Identifier(schema, relation), missing)


def _unique(connection: Connection) -> list[Rule]:
    """Read from the rows, past the index that ought to prevent it."""
    query = """
        SELECT n.nspname, c.relname, i.relname, pg_get_expr(x.indpred, x.indrelid), x.indnullsnotdistinct,
               (SELECT array_agg(a.attname::text ORDER BY u.i)
                  FROM unnest(x.indkey::int2[]) WITH ORDINALITY u(n, i)
                  JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = u.n WHERE u.i <= x.indnkeyatts)
          FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE x.indisunique AND NOT 0 = ANY(x.indkey::int2[]) AND c.relkind = 'r' AND n.nspname <> 'pg_catalog'
           AND n.nspname NOT LIKE 'pg\\_toast%'
         ORDER BY 1, 2, 3
    """
    return [(f"{row[0]}.{row[2]}", _doubles(*row)) for row in connection.execute(query).fetchall()]


def _doubles(
    schema: str, relation: str, _: str, predicate: str | None, nulls_equal: bool, columns: Sequence[str]
) -> sql.Composable:
    names = [sql.Identifier(column) for column in columns]
    conditions = [] if nulls_equal else [sql.SQL("{} IS NOT NULL").format(name) for name in names]
    conditions += [sql.SQL("({})").format(verbatim(predicate))] if predicate else []
    where = sql.SQL(" WHERE {}").format(sql.SQL(" AND ").join(conditions)) if conditions else sql.SQL("")
    return sql.SQL("SELECT count(*) FROM (SELECT FROM ONLY {}{} GROUP BY {} HAVING count(*) > 1) AS twice").format(
        sql.Identifier(schema, relation), where, sql.SQL(", ").join(names)
    )


# Vectors


def _vectors(connection: Connection, *, index: VectorIndex) -> Looked:
    if not index.valid:
        return False, "the index is not valid", {}
    operator = next((sign for name, sign in _OPERATORS.items() if f"_{name}_" in index.operators), None)
    if operator is None:
        return None, f"operator class {index.operators} is not known here", {}
    questions = _questions(connection, index)
    if not questions:
        return True, "there is no row to ask for", {"questions": 0.0}
    with connection.transaction():
        exact: Sequence[Sequence[float]] = ()
        for breadth in BREADTHS:
            found = [_nearest(connection, index, operator, place, breadth) for place in questions]
            exact = exact or _exact(connection, index, operator, questions, found)
            recall, itself = _recall(exact, found), _itself(found)
            if recall >= RECALL and itself == 1.0:
                break
    detail = f"{recall:.3f} of the {NEIGHBOURS} nearest found over {len(questions)} stored vectors, width {breadth}"
    measurements = {"recall": recall, "itself": itself, "questions": float(len(questions)), "width": float(breadth)}
    return recall >= RECALL and itself == 1.0, detail, measurements


def _questions(connection: Connection, index: VectorIndex) -> list[str]:
    """Places of stored rows, spread over the table."""
    relation, column = sql.Identifier(index.schema, index.relation), sql.Identifier(index.column)
    rows = int(one(connection, sql.SQL("SELECT count({}) FROM {}").format(column, relation)) or 0)
    wanted = max(_QUESTIONS[0], min(_QUESTIONS[1], _COMPARED_ROWS // max(rows, 1)))
    share = min(100.0, 100.0 * wanted * 3 / max(rows, 1))
    query = sql.SQL(
        "SELECT ctid::text FROM {} TABLESAMPLE BERNOULLI ({}) REPEATABLE (7)"
        " WHERE {} IS NOT NULL ORDER BY random() LIMIT {}"
    ).format(relation, sql.Literal(share), column, sql.Literal(wanted))
    return [row[0] for row in connection.execute(query).fetchall()]


def _nearest(connection: Connection, index: VectorIndex, operator: str, place: str, breadth: int) -> list[float]:
    """Distances of the nearest rows, by the index."""
    connection.execute("SET LOCAL enable_seqscan = off")
    setting = "hnsw.ef_search" if index.method == "hnsw" else "ivfflat.probes"
    connection.execute("SELECT set_config(%s, %s, true)", (setting, str(breadth)))
    relation, column = sql.Identifier(index.schema, index.relation), sql.Identifier(index.column)
    asked = sql.SQL("(SELECT {} FROM {} WHERE ctid = {}::tid)").format(column, relation, sql.Literal(place))
    query = sql.SQL("SELECT {c} {s} {q} FROM {r} ORDER BY {c} {s} {q} LIMIT {n}").format(
        c=column, s=_sign(connection, operator), q=asked, r=relation, n=sql.Literal(NEIGHBOURS)
    )
    return [float(row[0]) for row in connection.execute(query).fetchall()]


def _exact(
    connection: Connection, index: VectorIndex, operator: str, places: Sequence[str], found: Sequence[Sequence[float]]
) -> list[list[float]]:
    """The same by comparing every row, all questions in one pass, because fetching the vectors costs more than
    comparing them; for the same reason the questions are an array, which holds them fetched.
    What the index found are rows of the table, so none of the nearest is farther than the farthest of them."""
    relation, column = sql.Identifier(index.schema, index.relation), sql.Identifier(index.column)
    query = sql.SQL("""
        SELECT number, distance FROM (
            SELECT number, distance, row_number() OVER (PARTITION BY number ORDER BY distance) AS rank
              FROM (SELECT {compared} AS compared FROM {relation} WHERE {column} IS NOT NULL OFFSET 0) c
             CROSS JOIN LATERAL (
                   SELECT a.number, a.limit_of, c.compared {sign} a.question AS distance
                     FROM unnest((SELECT array_agg(t.{column} ORDER BY w.number)
                                    FROM unnest(%s::text[]) WITH ORDINALITY AS w (place, number)
                                    JOIN {relation} t ON t.ctid = w.place::tid), %s::float8[])
                          WITH ORDINALITY AS a (question, limit_of, number) OFFSET 0) every
             WHERE limit_of IS NULL OR distance <= limit_of) near
         WHERE rank <= {count} ORDER BY number, distance
    """).format(
        column=column,
        relation=relation,
        compared=_fetched(connection, index),
        sign=_sign(connection, operator),
        count=sql.Literal(NEIGHBOURS),
    )
    connection.execute("SET LOCAL enable_seqscan = on")
    limits = [given[-1] + _ROUNDING if len(given) == NEIGHBOURS else None for given in found]
    exact: list[list[float]] = [[] for _ in places]
    for number, distance in connection.execute(query, (list(places), limits)).fetchall():
        exact[number - 1].append(float(distance))
    return exact


def _fetched(connection: Connection, index: VectorIndex) -> sql.Composable:
    """A copy of the vector in memory. The column itself would be fetched anew from where long values are stored for
    each question."""
    column = sql.Identifier(index.column)
    known = "SELECT count(*) FROM pg_proc WHERE proname = 'subvector' AND proargtypes[0]::regtype::text ~ %s"
    if not one(connection, known, rf"(^|\.){index.type}$"):  # it came with pgvector 0.7, and not for every type
        return column
    return sql.SQL("{}.subvector({}, 1, {})").format(_home(connection), column, sql.Literal(index.dimensions))


def _sign(connection: Connection, operator: str) -> sql.Composable:
    return sql.SQL("OPERATOR({}.{})").format(_home(connection), verbatim(operator))


def _home(connection: Connection) -> sql.Identifier:
    return sql.Identifier(
        str(
            one(
                connection,
                "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
                " WHERE extname = 'vector'",
            )
        )
    )


def _recall(exact: Sequence[Sequence[float]], found: Sequence[Sequence[float]]) -> float:
    """By distance, not by place: of equal vectors either is right."""
    hits = total = 0
    for right, given in zip(exact, found, strict=True):
        farthest = right[-1] if right else 0.0
        total += len(right)
        hits += min(len(right), sum(distance <= farthest + _ROUNDING for distance in given))
    return hits / total if total else 1.0


def _itself(found: Sequence[Sequence[float]]) -> float:
    """How many questions found a row at no greater distance than their own to themselves."""
    return sum(bool(given) for given in found) / len(found) if found else 1.0
