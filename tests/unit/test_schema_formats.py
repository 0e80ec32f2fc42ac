"""The file formats of schema steps: how each is taken apart, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.databases import mongodb, redis_
from dr_platform.databases.cql import added_columns, statements_of

pytestmark = pytest.mark.unit


class TestCql:
    def test_statements_end_at_semicolons_and_lose_their_comments(self) -> None:
        text = """
        -- one; -- two
        CREATE TABLE IF NOT EXISTS a (id int PRIMARY KEY); // three;
        /* four; */ DROP TABLE IF EXISTS b;
        """
        assert statements_of(text) == ("CREATE TABLE IF NOT EXISTS a (id int PRIMARY KEY)", "DROP TABLE IF EXISTS b")

    @pytest.mark.parametrize("quoted", ["'a;b'", "'it''s; --here'", '"a;b"', '"a"";b"', "$$a;'b$$", "'/* ; */'"])
    def test_what_is_quoted_is_left_alone(self, quoted: str) -> None:
        statement = f"INSERT INTO t (id) VALUES ({quoted})"
        assert statements_of(f"{statement};\n{statement};") == (statement, statement)

    @given(st.text(alphabet="ab;'-/* \n", max_size=40))
    def test_any_text_in_quotes_comes_back_whole(self, text: str) -> None:
        escaped = text.replace("'", "''")
        statement = f"INSERT INTO t (id) VALUES ('{escaped}')"
        assert statements_of(f"{statement};") == (statement,)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("DROP TABLE IF EXISTS a", "does not end with ;"),
            ("\nDROP TABLE IF EXISTS 'a;", "line 2: ' is never closed"),
            ("/* DROP TABLE IF EXISTS a;", "never closed"),
            ("\n\nCREATE TABLE a (id int PRIMARY KEY);", "line 3: CREATE TABLE a"),
            ("DROP TABLE a;", "cannot be repeated"),
            ("TRUNCATE a;", "cannot be repeated"),
            ("INSERT INTO t (id) VALUES (now());", "cannot be repeated"),
            ("INSERT INTO t (id) VALUES (uuid());", "cannot be repeated"),
            ("UPDATE t SET n = n + 1 WHERE id = 1;", "cannot be repeated"),
            ("BEGIN BATCH INSERT INTO t (id) VALUES (1); APPLY BATCH;", "cannot be repeated"),
            ("ALTER TABLE t RENAME a TO b;", "cannot be repeated"),
        ],
    )
    def test_what_is_unfinished_or_cannot_be_repeated_is_refused(self, text: str, problem: str) -> None:
        with pytest.raises(ValueError, match=problem):
            statements_of(text)

    @pytest.mark.parametrize(
        ("statement", "expected"),
        [
            ("ALTER TABLE t ADD a text", ("t", {"a"})),
            ("alter table ks.T add (A int, b map<text, int>)", ("t", {"a", "b"})),
            ("ALTER TABLE t ADD a frozen<map<text, int>>, b blob", ("t", {"a", "b"})),
            ("ALTER TABLE t WITH comment = 'x'", None),
            ("DROP TABLE IF EXISTS t", None),
        ],
    )
    def test_added_columns_are_known(self, statement: str, expected: tuple[str, set[str]] | None) -> None:
        assert added_columns(statement) == expected


class TestRedis:
    def test_one_command_a_line_quoted_as_in_a_shell(self) -> None:
        text = "# a comment\n\nHSET key field 'two words'\n  sadd set a \"b c\"\n"
        assert redis_.commands_of(text) == (("HSET", "key", "field", "two words"), ("sadd", "set", "a", "b c"))

    @pytest.mark.parametrize(
        "command", ["INCR n", "EXPIRE k 10", "FLUSHALL", "LPUSH l a", "EVAL x 0", "CONFIG SET a b"]
    )
    def test_what_cannot_be_repeated_is_refused_with_its_line(self, command: str) -> None:
        with pytest.raises(ValueError, match=f"line 2: {command.split(maxsplit=1)[0]} is not taken"):
            redis_.commands_of(f"SET a 1\n{command}\n")

    def test_an_open_quote_is_refused_with_its_line(self) -> None:
        with pytest.raises(ValueError, match="line 2: no closing quotation"):
            redis_.commands_of("SET a 1\nSET b 'x\n")


class TestMongo:
    def test_commands_keep_their_order_and_types(self) -> None:
        (command,) = mongodb.commands_of('[{"delete": "a", "deletes": [{"q": {"at": {"$date": 0}}, "limit": 0}]}]')
        assert list(command) == ["delete", "deletes"]
        assert command["deletes"][0]["q"]["at"].year == 1970

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("{", "line 1: not valid JSON"),
            ('[{"create": "a",}]', "not valid JSON"),
            ('{"create": "a"}', "list of commands"),
            ("[{}]", "list of commands"),
            ('["create"]', "list of commands"),
            ('[{"create": "a"}, {"insert": "a"}]', "command 2: insert is not taken"),
            ('[{"dropDatabase": 1}]', "command 1: dropDatabase is not taken"),
        ],
    )
    def test_anything_else_is_refused(self, text: str, problem: str) -> None:
        with pytest.raises(ValueError, match=problem):
            mongodb.commands_of(text)
