"""Which of PostgreSQL's statements belong into a transaction, and which must be outside of any.

Here: a pure judgement of a file's text. Not here: running it (``postgresql_steps``).
"""

from __future__ import annotations

import re

from dr_platform.databases.port import SchemaStep, Script
from dr_platform.databases.schema import MalformedMigrations
from dr_platform.databases.sql_text import statements_of

_ENDS_TRANSACTION = re.compile(
    r"^(BEGIN|COMMIT|ROLLBACK|START)(\s+(TRANSACTION|WORK|ISOLATION)[^;]*)?\s*;", re.MULTILINE | re.IGNORECASE
)
_NAME = r'(?:"(?:[^"]|"")+"|[\w$]+)'
INDEX = re.compile(
    rf"CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+IF\s+NOT\s+EXISTS\s+(?P<index>{_NAME})\s+ON\s+"
    rf"(?:ONLY\s+)?(?P<table>{_NAME}(?:\.{_NAME})?)",
    re.IGNORECASE,
)
_REPEATABLE = re.compile(
    rf"""{INDEX.pattern}
      | DROP\s+INDEX\s+CONCURRENTLY\s+IF\s+EXISTS\b
      | REINDEX\s+(?:\(.*\)\s*)?(?:INDEX|TABLE)\s+CONCURRENTLY\b
      | (?:VACUUM|ANALYZE)\b (?!\s*\(?[^)]*\bFULL\b)
      | ALTER\s+TYPE\s+\S+\s+ADD\s+VALUE\s+IF\s+NOT\s+EXISTS\b
      | ALTER\s+TABLE\s+(?:ONLY\s+)?\S+\s+VALIDATE\s+CONSTRAINT\b
      | SET\s+(?!LOCAL\b)\w+\b""",
    re.IGNORECASE | re.VERBOSE,
)
_OUTSIDE = re.compile(
    r"(?:CREATE|DROP)\b.*?\bINDEX\s+CONCURRENTLY\b|REINDEX\b.*\bCONCURRENTLY\b|VACUUM\b"
    r"|ALTER\s+TABLE\b.*\bDETACH\s+PARTITION\b.*\bCONCURRENTLY\b|(?:CREATE|DROP)\s+DATABASE\b|ALTER\s+SYSTEM\b",
    re.IGNORECASE | re.DOTALL,
)


def misplaced(text: str, *, transactional: bool) -> tuple[int, str] | None:
    """Line and problem of the first statement that cannot run where the file puts it, and ``None`` where all can."""
    if transactional:
        if ends := _ENDS_TRANSACTION.search(text):
            line = text.count("\n", 0, ends.start()) + 1
            return line, "ends a transaction itself: a step is one transaction, leave BEGIN and COMMIT out"
        for statement in statements_of(text):
            if _OUTSIDE.match(statement.code):
                return statement.line, (
                    f"{_shown(statement.code)} … cannot run in a transaction: put it into a file of its own with"
                    " `-- transactional: false` above it"
                )
        return None
    for statement in statements_of(text):
        if not _REPEATABLE.match(statement.code):
            return statement.line, (
                f"{_shown(statement.code)} … cannot be repeated outside of a transaction; taken are CREATE INDEX"
                " CONCURRENTLY IF NOT EXISTS, DROP INDEX CONCURRENTLY IF EXISTS, REINDEX … CONCURRENTLY, VACUUM,"
                " ANALYZE, ALTER TYPE … ADD VALUE IF NOT EXISTS, VALIDATE CONSTRAINT and SET"
            )
    return None


def check_transaction(script: SchemaStep | Script, text: str) -> None:
    """Raise ``MalformedMigrations`` for what ``misplaced`` finds. Batches have transactions of their own."""
    if isinstance(script, SchemaStep) and script.batches is not None:
        return
    if (found := misplaced(text, transactional=script.transactional)) is not None:
        line, problem = found
        raise MalformedMigrations(script.path.parent.name, ((script.path.name, f"line {line}: {problem}"),))


def _shown(code: str) -> str:
    return " ".join(code.split()[:4])
