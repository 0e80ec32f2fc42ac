"""What a step does to those who use the database meanwhile: the locks it takes, and what it destroys.

Here: a pure reading of statements. Lock levels of PostgreSQL are those its manual gives for each command and
each form of ``ALTER TABLE`` (``tests/contracts/test_migration_effects.py`` compares them with a server's own
``pg_locks``). What is not understood is named as unknown and never passes for harmless. Not here: whether
anything is allowed (``lint``), or measuring (``rehearsal``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from dr_platform.catalog import Engine
from dr_platform.databases.sql_text import Statement, statements_of


class Lock(IntEnum):
    """PostgreSQL's table locks, weakest first. From ``SHARE`` on writers wait, from ``ACCESS_EXCLUSIVE``
    readers too."""

    ROW_EXCLUSIVE = 3
    SHARE_UPDATE_EXCLUSIVE = 4
    SHARE = 5
    SHARE_ROW_EXCLUSIVE = 6
    EXCLUSIVE = 7
    ACCESS_EXCLUSIVE = 8

    @property
    def title(self) -> str:
        return self.name.replace("_", " ")


@dataclass(frozen=True)
class Effects:
    """``locks`` in words, the strongest for each table; ``losses``: what cannot be brought back by going
    back; ``rewrites``: tables that are rewritten or read whole while the lock is held."""

    locks: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()
    rewrites: tuple[str, ...] = ()

    @property
    def destructive(self) -> bool:
        return bool(self.losses)


def effects_of(engine: Engine, text: str) -> Effects:
    """Of a file in the engine's format. Raises ``ValueError`` where it cannot be taken apart."""
    match engine:
        case Engine.POSTGRESQL:
            return postgresql_effects(statements_of(text))
        case Engine.MONGODB:
            from dr_platform.databases.mongodb import commands_of

            return _mongodb_effects(commands_of(text))
        case Engine.SCYLLADB:
            from dr_platform.databases.cql import statements_of as cql_statements

            return Effects(losses=tuple(_shown(s) for s in cql_statements(text) if _CQL_LOSS.match(s)))
        case _:
            from dr_platform.databases.redis_ import commands_of as redis_commands

            lost = (
                f"{words[0].upper()} {words[1]}" for words in redis_commands(text) if words[0].upper() in _REDIS_LOSS
            )
            return Effects(losses=tuple(lost))


_CQL_LOSS = re.compile(r"DROP\s+(?:TABLE|TYPE)\b|ALTER\s+TABLE\s+\S+\s+DROP\b|DELETE\b", re.IGNORECASE)
_REDIS_LOSS = frozenset({"DEL", "UNLINK", "HDEL", "SREM", "ZREM"})
_MONGODB_LOCKS = {
    "createIndexes": "EXCLUSIVE on {} at begin and end",
    "dropIndexes": "EXCLUSIVE on {}",
    "collMod": "EXCLUSIVE on {}",
    "drop": "EXCLUSIVE on {}",
}


def _mongodb_effects(commands: Iterable[dict[str, Any]]) -> Effects:
    named = [(next(iter(command)), next(iter(command.values()))) for command in commands]
    created = {of for name, of in named if name == "create"}
    locks = [_MONGODB_LOCKS[name].format(of) for name, of in named if name in _MONGODB_LOCKS and of not in created]
    losses = [f"{name} {of}" for name, of in named if name in ("drop", "delete")]
    return Effects(tuple(dict.fromkeys(locks)), tuple(losses))


# PostgreSQL

_N = r'(?:"(?:[^"]|"")+"|[A-Za-z_][\w$]*)'
_T = rf"(?:{_N}\s*\.\s*)?{_N}"
_FLAGS = re.IGNORECASE | re.DOTALL
_VOLATILE = re.compile(
    r"\bDEFAULT\b.*\b(?:gen_random_uuid|uuid\w*|random|clock_timestamp|timeofday|nextval)\s*\("
    r"|\bGENERATED\b|\b(?:small|big)?serial\b",
    _FLAGS,
)
_HARMLESS = re.compile(
    r"(?:CREATE|ALTER|DROP)\s+(?:OR\s+REPLACE\s+)?(?:SCHEMA|FUNCTION|PROCEDURE|AGGREGATE|TYPE|DOMAIN|EXTENSION|ROLE|USER"
    r"|SEQUENCE|COLLATION|VIEW|RECURSIVE\s+VIEW|PUBLICATION|DEFAULT\s+PRIVILEGES)\b"
    r"|(?:GRANT|REVOKE|SET|RESET|SHOW|SELECT|VALUES|WITH|ANALYZE)\b"
    r"|COMMENT\s+ON\s+(?!TABLE|COLUMN)\w+",
    _FLAGS,
)
"""Commands that keep nobody from the rows of a table that was there before."""


@dataclass
class _Reading:
    """What was understood so far. Locks on tables that the step itself made keep nobody waiting."""

    locks: dict[str, Lock] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    rewrites: list[str] = field(default_factory=list)
    made: set[str] = field(default_factory=set)

    def lock(self, table: str, mode: Lock) -> None:
        name = _plain(table)
        if name not in self.made:
            self.locks[name] = max(mode, self.locks.get(name, mode))

    def rewrite(self, table: str) -> None:
        if _plain(table) not in self.made:
            self.rewrites.append(_plain(table))


def postgresql_effects(statements: Iterable[Statement]) -> Effects:
    reading = _Reading()
    for statement in statements:
        if not any(rule(statement, reading) for rule in _RULES):
            reading.unknown.append(f"UNKNOWN: {_shown(statement.code)}")
    held = [f"{mode.title} on {table}" for table, mode in sorted(reading.locks.items(), key=lambda item: -item[1])]
    once = lambda lines: tuple(dict.fromkeys(lines))  # noqa: E731 - in the order of the file, each line once
    return Effects((*held, *once(reading.unknown)), once(reading.losses), once(reading.rewrites))


def _plain(name: str) -> str:
    parts = re.findall(_N, name)
    return ".".join(part[1:-1] if part.startswith('"') else part.lower() for part in parts)


def _shown(text: str) -> str:
    return " ".join(text.split()[:4])


def _create_table(statement: Statement, reading: _Reading) -> bool:
    match = re.match(
        rf"CREATE\s+(?:(?:GLOBAL|LOCAL)\s+)?(?:TEMP|TEMPORARY|UNLOGGED)?\s*TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?({_T})",
        statement.code,
        _FLAGS,
    ) or re.match(rf"CREATE\s+MATERIALIZED\s+VIEW\s+(?:IF\s+NOT\s+EXISTS\s+)?({_T})", statement.code, _FLAGS)
    if match is None:
        return False
    reading.made.add(_plain(match[1]))
    _references(statement.code, reading)
    for parent in re.findall(rf"\bPARTITION\s+OF\s+({_T})", statement.code, _FLAGS):
        reading.lock(parent, Lock.ACCESS_EXCLUSIVE)
    for parent in re.findall(rf"\bINHERITS\s*\(\s*({_T})", statement.code, _FLAGS):
        reading.lock(parent, Lock.SHARE_UPDATE_EXCLUSIVE)
    return True


def _references(code: str, reading: _Reading) -> None:
    """A foreign key puts triggers on the table it points at too."""
    for target in re.findall(rf"\bREFERENCES\s+({_T})", code, _FLAGS):
        reading.lock(target, Lock.SHARE_ROW_EXCLUSIVE)


def _create_index(statement: Statement, reading: _Reading) -> bool:
    match = re.match(
        rf"CREATE\s+(?:UNIQUE\s+)?INDEX\s+(CONCURRENTLY\s+)?(?:(?:IF\s+NOT\s+EXISTS\s+)?{_N}\s+)?ON\s+(?:ONLY\s+)?({_T})",
        statement.code,
        _FLAGS,
    )
    if match is None:
        return False
    reading.lock(match[2], Lock.SHARE_UPDATE_EXCLUSIVE if match[1] else Lock.SHARE)
    if not match[1]:
        reading.rewrite(match[2])
    return True


def _drop(statement: Statement, reading: _Reading) -> bool:
    match = re.match(
        rf"DROP\s+(TABLE|INDEX|VIEW|MATERIALIZED\s+VIEW|SCHEMA|SEQUENCE|EXTENSION|DATABASE|OWNED|FOREIGN\s+TABLE|TYPE|DOMAIN)"
        rf"\s+(?:BY\s+)?(CONCURRENTLY\s+)?(?:IF\s+EXISTS\s+)?({_T}(?:\s*,\s*{_T})*)",
        statement.code,
        _FLAGS,
    )
    if match is None:
        return False
    kind, names = " ".join(match[1].upper().split()), match[3].split(",")
    if kind == "INDEX":
        mode = Lock.SHARE_UPDATE_EXCLUSIVE if match[2] else Lock.ACCESS_EXCLUSIVE
        reading.locks.update({f"the table of {_plain(name)}": mode for name in names})
        return True
    if kind in ("TABLE", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE"):
        for name in names:
            reading.lock(name, Lock.ACCESS_EXCLUSIVE)
    cascades = re.search(r"\bCASCADE\b", statement.code, _FLAGS) is not None
    if kind in ("TABLE", "SCHEMA", "SEQUENCE", "DATABASE", "OWNED") or cascades:
        reading.losses += [f"{kind} {_plain(name)}" for name in names if _plain(name) not in reading.made]
    return True


def _drop_on(statement: Statement, reading: _Reading) -> bool:
    match = re.match(
        rf"(CREATE|ALTER|DROP)\s+(?:OR\s+REPLACE\s+)?(?:CONSTRAINT\s+)?(TRIGGER|POLICY|RULE)\b.*?\b(?:ON|TO)\s+({_T})",
        statement.code,
        _FLAGS,
    )
    if match is None:
        return False
    added = match[1].upper() == "CREATE" and match[2].upper() == "TRIGGER"
    reading.lock(match[3], Lock.SHARE_ROW_EXCLUSIVE if added else Lock.ACCESS_EXCLUSIVE)
    return True


def _rows(statement: Statement, reading: _Reading) -> bool:
    """Statements about rows, also those inside ``WITH``."""
    found = re.findall(
        rf"(?<!FOR )(?<!KEY )\b(INSERT\s+INTO|MERGE\s+INTO|DELETE\s+FROM|UPDATE|COPY)\s+(?:ONLY\s+)?({_T})",
        statement.code,
        _FLAGS,
    )
    first = statement.code.split(None, 1)[0].upper()
    if first not in ("INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "WITH"):
        return False
    for verb, table in found:
        if _plain(table) in ("set", "nothing"):  # ON CONFLICT DO UPDATE SET
            continue
        reading.lock(table, Lock.ROW_EXCLUSIVE)
        if verb.upper().startswith("DELETE") and _plain(table) not in reading.made:
            reading.losses.append(f"rows of {_plain(table)}")
    return True


def _whole_tables(statement: Statement, reading: _Reading) -> bool:
    for pattern, mode, rewrites in _WHOLE:
        if match := re.match(pattern, statement.code, _FLAGS):
            for name in match["tables"].split(","):
                reading.lock(name, mode)
                if rewrites:
                    reading.rewrite(name)
                if statement.code.upper().startswith("TRUNCATE") and _plain(name) not in reading.made:
                    reading.losses.append(f"rows of {_plain(name)}")
            return True
    return False


_LIST = rf"(?P<tables>{_T}(?:\s*,\s*{_T})*)"
_WHOLE = (
    (rf"TRUNCATE\s+(?:TABLE\s+)?(?:ONLY\s+)?{_LIST}", Lock.ACCESS_EXCLUSIVE, False),
    (rf"VACUUM\s+(?:\([^)]*\bFULL\b[^)]*\)|FULL)\s+(?:ANALYZE\s+)?{_LIST}", Lock.ACCESS_EXCLUSIVE, True),
    (rf"CLUSTER\s+(?:VERBOSE\s+)?{_LIST}", Lock.ACCESS_EXCLUSIVE, True),
    (rf"VACUUM\s+(?:\([^)]*\)\s*)?(?:ANALYZE\s+)?{_LIST}", Lock.SHARE_UPDATE_EXCLUSIVE, False),
    (rf"ANALYZE\s+(?:\([^)]*\)\s*)?{_LIST}", Lock.SHARE_UPDATE_EXCLUSIVE, False),
    (rf"REINDEX\s+(?:\([^)]*\)\s*)?TABLE\s+CONCURRENTLY\s+{_LIST}", Lock.SHARE_UPDATE_EXCLUSIVE, False),
    (rf"REINDEX\s+(?:\([^)]*\)\s*)?TABLE\s+(?!CONCURRENTLY){_LIST}", Lock.SHARE, True),
    (rf"REFRESH\s+MATERIALIZED\s+VIEW\s+CONCURRENTLY\s+{_LIST}", Lock.EXCLUSIVE, False),
    (rf"REFRESH\s+MATERIALIZED\s+VIEW\s+{_LIST}", Lock.ACCESS_EXCLUSIVE, True),
    (rf"COMMENT\s+ON\s+TABLE\s+{_LIST}", Lock.SHARE_UPDATE_EXCLUSIVE, False),
    (rf"COMMENT\s+ON\s+COLUMN\s+(?P<tables>{_T})\s*\.\s*{_N}\s+IS", Lock.SHARE_UPDATE_EXCLUSIVE, False),
    (rf"CREATE\s+STATISTICS\b.*\bFROM\s+{_LIST}", Lock.SHARE_UPDATE_EXCLUSIVE, False),
    (rf"ALTER\s+SEQUENCE\s+(?:IF\s+EXISTS\s+)?{_LIST}", Lock.SHARE_ROW_EXCLUSIVE, False),
)


def _lock_table(statement: Statement, reading: _Reading) -> bool:
    match = re.match(rf"LOCK\s+(?:TABLE\s+)?(?:ONLY\s+)?{_LIST}(?:\s+IN\s+([\w\s]+?)\s+MODE)?", statement.code, _FLAGS)
    if match is None:
        return False
    named = "_".join((match[2] or "ACCESS EXCLUSIVE").upper().split())
    for name in match["tables"].split(","):
        if named in Lock.__members__:
            reading.lock(name, Lock[named])
    return True


# ALTER TABLE, form by form

_WEAK_FORMS = re.compile(
    r"VALIDATE\s+CONSTRAINT\b|CLUSTER\s+ON\b|SET\s+WITHOUT\s+CLUSTER\b|(?:RE)?SET\s*\("
    r"|ALTER\s+(?:COLUMN\s+)?\S+\s+(?:SET\s+STATISTICS\b|(?:RE)?SET\s*\()|ATTACH\s+PARTITION\b"
    r"|DETACH\s+PARTITION\b.*\b(?:CONCURRENTLY|FINALIZE)\b",
    _FLAGS,
)
_TRIGGER_FORMS = re.compile(r"(?:ENABLE|DISABLE)\s+(?:ALWAYS\s+|REPLICA\s+)?TRIGGER\b", _FLAGS)
_FOREIGN_KEY = re.compile(r"ADD\s+(?:CONSTRAINT\s+\S+\s+)?FOREIGN\s+KEY\b", _FLAGS)
_REWRITING = re.compile(
    r"ALTER\s+(?:COLUMN\s+)?\S+\s+(?:SET\s+DATA\s+)?TYPE\b|SET\s+(?:UN)?LOGGED\b|SET\s+ACCESS\s+METHOD\b|SET\s+TABLESPACE\b"
    r"|ALTER\s+(?:COLUMN\s+)?\S+\s+SET\s+NOT\s+NULL\b|ALTER\s+(?:COLUMN\s+)?\S+\s+SET\s+EXPRESSION\b",
    _FLAGS,
)
_CHECKED = re.compile(
    r"ADD\s+(?:CONSTRAINT\s+\S+\s+)?(?:CHECK|UNIQUE|PRIMARY\s+KEY|EXCLUDE|FOREIGN\s+KEY|NOT\s+NULL)\b", _FLAGS
)
_COLUMN = re.compile(
    r"ADD\s+(?:COLUMN\s+)?(?:IF\s+NOT\s+EXISTS\s+)?(?!CONSTRAINT\b|CHECK\b|UNIQUE\b|PRIMARY\b|FOREIGN\b|EXCLUDE\b)",
    _FLAGS,
)
_DROPS_COLUMN = re.compile(rf"DROP\s+(?!CONSTRAINT\b)(?:COLUMN\s+)?(?:IF\s+EXISTS\s+)?({_N})", _FLAGS)
_RETYPES = re.compile(rf"ALTER\s+(?:COLUMN\s+)?({_N})\s+(?:SET\s+DATA\s+)?TYPE\b", _FLAGS)


def _alter_table(statement: Statement, reading: _Reading) -> bool:
    match = re.match(
        rf"ALTER\s+(?:FOREIGN\s+)?TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?({_T})\s*\*?\s+(.*)", statement.code, _FLAGS
    )
    if match is None:
        return False
    for form in _forms(match[2]):
        reading.lock(match[1], _lock_of(form))
        _references(form, reading)
        if part := re.match(rf"(?:ATTACH|DETACH)\s+PARTITION\s+({_T})", form, _FLAGS):
            reading.lock(part[1], Lock.ACCESS_EXCLUSIVE)
        if _rewrites(form):
            reading.rewrite(match[1])
        for pattern, what in ((_DROPS_COLUMN, "column"), (_RETYPES, "type of column")):
            if (lost := pattern.match(form)) and _plain(match[1]) not in reading.made:
                reading.losses.append(f"{what} {_plain(match[1])}.{_plain(lost[1])}")
    return True


def _forms(text: str) -> Iterator[str]:
    """The comma-separated forms of one ``ALTER TABLE``; commas inside brackets separate none."""
    depth, start = 0, 0
    for at, letter in enumerate(text):
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            yield text[start:at].strip()
            start = at + 1
    yield text[start:].strip()


def _lock_of(form: str) -> Lock:
    if _WEAK_FORMS.match(form):
        return Lock.SHARE_UPDATE_EXCLUSIVE
    if _TRIGGER_FORMS.match(form) or _FOREIGN_KEY.match(form):
        return Lock.SHARE_ROW_EXCLUSIVE
    return Lock.ACCESS_EXCLUSIVE


def _rewrites(form: str) -> bool:
    if re.search(r"\bNOT\s+VALID\b|\bUSING\s+INDEX\b", form, _FLAGS):
        return False
    if _REWRITING.match(form) or _CHECKED.match(form):
        return True
    return bool(_COLUMN.match(form)) and bool(
        _VOLATILE.search(form) or re.search(r"\b(?:CHECK|UNIQUE)\b", form, _FLAGS)
    )


def _alter_other(statement: Statement, reading: _Reading) -> bool:
    match = re.match(
        rf"ALTER\s+(INDEX|VIEW|MATERIALIZED\s+VIEW)\s+(?:IF\s+EXISTS\s+)?({_T})\s+(.*)", statement.code, _FLAGS
    )
    if match is None:
        return False
    weak = match[1].upper() == "INDEX" and re.match(r"RENAME\b|ATTACH\b|SET\s*\(|ALTER\b", match[3], _FLAGS)
    reading.lock(match[2], Lock.SHARE_UPDATE_EXCLUSIVE if weak else Lock.ACCESS_EXCLUSIVE)
    return True


def _code(statement: Statement, reading: _Reading) -> bool:
    """A block of code may do anything; of what it destroys the words are looked for."""
    if not re.match(r"(?:DO|CALL)\b", statement.code, _FLAGS):
        return False
    reading.unknown.append(f"UNKNOWN: {statement.code.split()[0].upper()} block")
    for body in statement.bodies:
        for word in re.findall(r"\b(DROP|TRUNCATE|DELETE\s+FROM)\b", body, _FLAGS):
            reading.losses.append(f"{' '.join(word.upper().split())} in a DO block")
    return True


def _harmless(statement: Statement, _reading: _Reading) -> bool:
    return _HARMLESS.match(statement.code) is not None


_RULES = (
    _create_table,
    _create_index,
    _alter_table,
    _alter_other,
    _drop,
    _drop_on,
    _rows,
    _whole_tables,
    _lock_table,
    _code,
    _harmless,
)
