"""What a plan says of a step. Lock levels are compared with a server in ``tests/contracts``."""

from __future__ import annotations

import json

import pytest

from dr_platform.catalog import Engine
from dr_platform.migrations.effects import Effects, effects_of

pytestmark = pytest.mark.unit


def sql(text: str) -> Effects:
    return effects_of(Engine.POSTGRESQL, text)


@pytest.mark.parametrize(
    ("text", "lock"),
    [
        ("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON work.a (b)", "SHARE UPDATE EXCLUSIVE on work.a"),
        ("CREATE INDEX ON ONLY a (b)", "SHARE on a"),
        ("DROP INDEX CONCURRENTLY IF EXISTS s.i", "SHARE UPDATE EXCLUSIVE on the table of s.i"),
        ("DROP INDEX i", "ACCESS EXCLUSIVE on the table of i"),
        ("ALTER TABLE a DETACH PARTITION b CONCURRENTLY", "ACCESS EXCLUSIVE on b"),
        ("VACUUM a", "SHARE UPDATE EXCLUSIVE on a"),
        ("VACUUM (FULL, ANALYZE) a", "ACCESS EXCLUSIVE on a"),
        ("REINDEX TABLE CONCURRENTLY a", "SHARE UPDATE EXCLUSIVE on a"),
        ('alter table "Odd Name"."T" add column c int', "ACCESS EXCLUSIVE on Odd Name.T"),
        ("SELECT 1; ALTER TABLE IF EXISTS ONLY a ADD c int", "ACCESS EXCLUSIVE on a"),
    ],
)
def test_a_lock_is_named_with_its_table(text: str, lock: str) -> None:
    assert lock in sql(text).locks


def test_the_strongest_lock_of_a_table_is_named_once() -> None:
    text = "UPDATE a SET b = 1; ALTER TABLE a ADD c int; CREATE INDEX ON a (c); UPDATE d SET e = 2;"
    assert sql(text).locks == ("ACCESS EXCLUSIVE on a", "ROW EXCLUSIVE on d")


def test_tables_that_the_step_itself_makes_keep_nobody_waiting() -> None:
    text = "CREATE TABLE s.a (id int); CREATE INDEX ON s.a (id); ALTER TABLE s.a ADD b int; DROP TABLE s.a;"
    assert sql(text) == Effects()


@pytest.mark.parametrize("text", ["FROBNICATE a", "IMPORT FOREIGN SCHEMA s FROM SERVER x INTO y", "DO $$ SELECT 1 $$"])
def test_what_is_not_understood_is_named_and_does_not_pass_for_harmless(text: str) -> None:
    assert sql(text).locks[0].startswith("UNKNOWN")


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        ("DROP TABLE a, s.b", "TABLE s.b"),
        ("DROP TABLE IF EXISTS a CASCADE", "TABLE a"),
        ("DROP SCHEMA s CASCADE", "SCHEMA s"),
        ("DROP TYPE t CASCADE", "TYPE t"),
        ("ALTER TABLE a DROP COLUMN IF EXISTS b", "column a.b"),
        ("ALTER TABLE a ADD c int, DROP b", "column a.b"),
        ("ALTER TABLE a ALTER b TYPE int", "type of column a.b"),
        ("ALTER TABLE a ALTER COLUMN b SET DATA TYPE numeric(10, 2)", "type of column a.b"),
        ("TRUNCATE a", "rows of a"),
        ("DELETE FROM a", "rows of a"),
        ("WITH x AS (DELETE FROM a RETURNING id) SELECT 1", "rows of a"),
        ("DO $$ BEGIN DELETE FROM a; END $$", "DELETE FROM in a DO block"),
        ("DO $$ BEGIN EXECUTE 'drop table a'; END $$", "DROP in a DO block"),
    ],
)
def test_what_cannot_be_brought_back_is_destructive(text: str, loss: str) -> None:
    assert loss in sql(text).losses
    assert sql(text).destructive


@pytest.mark.parametrize(
    "text",
    [
        "ALTER TABLE a DROP CONSTRAINT b",
        "DROP INDEX a",
        "DROP VIEW a",
        "DROP FUNCTION f()",
        "DROP TRIGGER t ON a",
        "DROP TYPE t",
        "UPDATE a SET b = 'DELETE FROM a'",
        "COMMENT ON TABLE a IS 'DROP TABLE a'",
        "ALTER TABLE a ALTER b DROP NOT NULL",
        "CREATE TABLE a (b int REFERENCES c ON DELETE CASCADE)",
        "INSERT INTO a VALUES (1) -- DELETE FROM a",
    ],
)
def test_what_loses_no_data_is_not(text: str) -> None:
    assert not sql(text).destructive


@pytest.mark.parametrize(
    ("text", "rewritten"),
    [
        ("ALTER TABLE a ADD c int DEFAULT 1", False),
        ("ALTER TABLE a ADD c uuid DEFAULT gen_random_uuid()", True),
        ("ALTER TABLE a ADD c bigint GENERATED ALWAYS AS IDENTITY", True),
        ("ALTER TABLE a ADD c bigserial", True),
        ("ALTER TABLE a ADD CONSTRAINT k CHECK (b > 0)", True),
        ("ALTER TABLE a ADD CONSTRAINT k CHECK (b > 0) NOT VALID", False),
        ("ALTER TABLE a ADD CONSTRAINT k PRIMARY KEY USING INDEX i", False),
        ("ALTER TABLE a ALTER b SET NOT NULL", True),
        ("ALTER TABLE a ALTER b TYPE bigint", True),
        ("ALTER TABLE a ALTER b SET DEFAULT 3", False),
        ("CREATE INDEX ON a (b)", True),
        ("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON a (b)", False),
    ],
)
def test_a_table_that_is_read_whole_under_its_lock_is_named(text: str, rewritten: bool) -> None:
    assert bool(sql(text).rewrites) is rewritten


@pytest.mark.parametrize(
    ("engine", "text", "losses"),
    [
        (Engine.SCYLLADB, "CREATE TABLE IF NOT EXISTS a (id int PRIMARY KEY);", ()),
        (Engine.SCYLLADB, "DROP TABLE IF EXISTS a;", ("DROP TABLE IF EXISTS",)),
        (Engine.SCYLLADB, "ALTER TABLE a DROP b;", ("ALTER TABLE a DROP",)),
        (Engine.SCYLLADB, "ALTER TABLE a ADD b int;", ()),
        (Engine.REDIS, "HSET drp:config:a b c", ()),
        (Engine.REDIS, "del a\nHDEL b c", ("DEL a", "HDEL b")),
        (Engine.MONGODB, json.dumps([{"create": "a"}, {"createIndexes": "a", "indexes": []}]), ()),
        (Engine.MONGODB, json.dumps([{"drop": "a"}, {"delete": "b", "deletes": []}]), ("drop a", "delete b")),
    ],
)
def test_the_other_engines_lose_by_dropping_and_deleting(engine: Engine, text: str, losses: tuple[str, ...]) -> None:
    assert effects_of(engine, text).losses == losses


def test_an_index_of_mongodb_locks_its_collection_unless_the_step_made_it() -> None:
    index = {"createIndexes": "a", "indexes": []}
    assert effects_of(Engine.MONGODB, json.dumps([index])).locks == ("EXCLUSIVE on a at begin and end",)
    assert effects_of(Engine.MONGODB, json.dumps([{"create": "a"}, index])).locks == ()
