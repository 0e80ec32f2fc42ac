"""What a PostgreSQL database consists of: tables with their columns and sizes, roles, sequences, vector indexes.

Here: reading the system catalogue inside an open snapshot. Not here: rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString, cast

import psycopg
from psycopg import sql

BLOCK_BYTES = 8192

_TABLES = """
SELECT c.oid::int8, n.nspname, c.relname, c.relpersistence = 'p',
       pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::int8,
       pg_catalog.pg_table_size(c.oid)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence IN ('p', 'u')
   AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%'
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY n.nspname, c.relname
"""
# In binary an array or a composite carries the numbers of the types in it, so those of types that somebody made are
# carried as text.
_COLUMNS = """
SELECT a.attrelid::int8, a.attname, a.atttypid::int8, a.attgenerated <> '',
       t.typsend <> 0 AND t.typreceive <> 0
       AND (b.oid < 16384 OR b.typtype = 'e' OR b.typtype = 'b' AND b.typcategory <> 'A')
       AND coalesce(nullif(b.typelem, 0), b.oid) NOT IN (SELECT oid FROM pg_type WHERE typname = ANY(%s)
                                                            AND typnamespace = 'pg_catalog'::regnamespace)
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
  JOIN pg_type b ON b.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
 WHERE a.attrelid = ANY(%s) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attrelid, a.attnum
"""
REFERRING = (
    "regproc", "regprocedure", "regoper", "regoperator", "regclass", "regtype", "regrole", "regnamespace", "regconfig",
    "regdictionary", "regcollation", "aclitem",
)  # fmt: skip
"""Types whose binary form is the number of an object, which is another one in every server; their text is its name."""
_MATERIALIZED = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'm' AND c.relispopulated ORDER BY c.oid
"""
_SEQUENCES = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'S' AND c.relpersistence <> 't'
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY 1, 2
"""
_VECTORS = """
SELECT n.nspname, c.relname, a.attname, i.relname, m.amname, o.opcname, x.indisvalid AND x.indisready, a.atttypmod,
       c.reltuples::int8, t.typname
  FROM pg_index x
  JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am m ON m.oid = i.relam
  JOIN pg_class c ON c.oid = x.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0]
  JOIN pg_type t ON t.oid = a.atttypid
  JOIN pg_opclass o ON o.oid = x.indclass[0]
 WHERE m.amname IN ('hnsw', 'ivfflat') AND x.indkey[0] <> 0 AND x.indpred IS NULL
 ORDER BY 1, 2, 4
"""
# Roles that own something here or may do something here, with the groups they are in.
_ROLES = """
WITH RECURSIVE named AS (
    SELECT DISTINCT d.refobjid AS oid FROM pg_shdepend d
     WHERE d.refclassid = 'pg_authid'::regclass
       AND (d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
            OR (d.classid = 'pg_database'::regclass
                AND d.objid = (SELECT oid FROM pg_database WHERE datname = current_database())))
    UNION SELECT datdba FROM pg_database WHERE datname = current_database()
    UNION SELECT m.member FROM pg_auth_members m JOIN named ON named.oid = m.roleid
)
SELECT r.rolname FROM named JOIN pg_roles r USING (oid) WHERE r.rolname NOT LIKE 'pg\\_%' ORDER BY 1
"""
_MEMBERSHIPS = """
SELECT g.rolname, m.rolname FROM pg_auth_members a
  JOIN pg_roles g ON g.oid = a.roleid JOIN pg_roles m ON m.oid = a.member
 WHERE g.rolname = ANY(%s) AND m.rolname = ANY(%s) ORDER BY 1, 2
"""
_DATABASE = """
SELECT pg_encoding_to_char(encoding), datlocprovider::text, datcollate, datctype, datlocale,
       pg_get_userbyid(datdba)
  FROM pg_database WHERE datname = current_database()
"""
_GRANTS = """
SELECT CASE WHEN a.grantee = 0 THEN '' ELSE pg_get_userbyid(a.grantee) END, a.privilege_type, a.is_grantable
  FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
 WHERE d.datname = current_database() ORDER BY 1, 2
"""
_SETTINGS = """
SELECT CASE WHEN s.setrole = 0 THEN '' ELSE pg_get_userbyid(s.setrole) END, unnest(s.setconfig)
  FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
 WHERE d.datname = current_database() ORDER BY 1, 2
"""

Connection = psycopg.Connection[Any]


def verbatim(text: str) -> sql.SQL:
    """SQL that the server's own catalogue gave, or a constant of these modules; never what a user wrote."""
    return sql.SQL(cast("LiteralString", text))


@dataclass(frozen=True)
class Column:
    name: str
    type_oid: int
    generated: bool
    binary: bool
    """Its values can be carried in binary: its type says how, and they mean the same in another server."""


@dataclass(frozen=True)
class Table:
    """An ordinary table, or one partition. Views have no rows of their own."""

    oid: int
    schema: str
    relation: str
    logged: bool
    """Whether its rows are in the log; those of others are gone after a crash, and in a physical backup."""
    blocks: int
    size_bytes: int
    """With what is stored out of line, without indexes."""
    columns: tuple[Column, ...]

    @property
    def name(self) -> str:
        return f"{self.schema}.{self.relation}"

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.relation)

    @property
    def stored(self) -> tuple[Column, ...]:
        """Columns whose values have to be carried; the server computes the others."""
        return tuple(column for column in self.columns if not column.generated)

    @property
    def format(self) -> str:
        return "binary" if all(column.binary for column in self.stored) else "text"


@dataclass(frozen=True)
class VectorIndex:
    schema: str
    relation: str
    column: str
    index: str
    method: str
    operators: str
    """Operator class: ``vector_cosine_ops``, …"""
    valid: bool
    dimensions: int
    rows: int
    """As the server estimates."""
    type: str


def tables(connection: Connection) -> tuple[Table, ...]:
    found = connection.execute(_TABLES).fetchall()
    columns: dict[int, list[Column]] = {row[0]: [] for row in found}
    for oid, name, type_oid, generated, binary in connection.execute(
        _COLUMNS, (list(REFERRING), list(columns))
    ).fetchall():
        columns[oid].append(Column(name, type_oid, generated, binary))
    return tuple(Table(oid, *rest, columns=tuple(columns[oid])) for oid, *rest in found)


def sequences(connection: Connection) -> tuple[tuple[str, str], ...]:
    return tuple((schema, name) for schema, name in connection.execute(_SEQUENCES).fetchall())


def vector_indexes(connection: Connection) -> tuple[VectorIndex, ...]:
    return tuple(VectorIndex(*row) for row in connection.execute(_VECTORS).fetchall())


def surroundings(connection: Connection) -> dict[str, Any]:
    """What a database needs around it and ``pg_dump`` leaves out: roles by name, never their passwords; who may
    connect; settings of the database; its encoding and locale; which views hold rows."""
    roles = [row[0] for row in connection.execute(_ROLES).fetchall()]
    encoding, provider, collate, ctype, locale, owner = _row(connection, _DATABASE)
    return {
        "roles": roles,
        "memberships": [list(row) for row in connection.execute(_MEMBERSHIPS, (roles, roles)).fetchall()],
        "owner": owner,
        "encoding": encoding,
        "locale": {"provider": provider, "collate": collate, "ctype": ctype, "name": locale},
        "grants": [list(row) for row in connection.execute(_GRANTS).fetchall()],
        "materialized": [list(row) for row in connection.execute(_MATERIALIZED).fetchall()],
        "settings": [list(row) for row in connection.execute(_SETTINGS).fetchall()],
    }


def extensions(connection: Connection) -> dict[str, str]:
    found = connection.execute("SELECT extname, extversion FROM pg_extension ORDER BY 1").fetchall()
    return dict(found)


def has_large_objects(connection: Connection) -> bool:
    return bool(connection.execute("SELECT 1 FROM pg_largeobject_metadata LIMIT 1").fetchone())


def one(connection: Connection, query: Any, *parameters: object) -> Any:
    row = connection.execute(query, parameters or None).fetchone()
    return row[0] if row else None


def _row(connection: Connection, query: Any) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    if row is None:
        raise LookupError("the catalogue has no row where it must have one")
    return row
