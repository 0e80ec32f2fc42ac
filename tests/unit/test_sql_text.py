"""Taking PostgreSQL's text apart: where statements end, and what in them is no code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.databases.sql_text import statements_of

pytestmark = pytest.mark.unit


def texts(text: str) -> list[str]:
    return [statement.text for statement in statements_of(text)]


@pytest.mark.parametrize(
    "quoted", ["'a;b'", "'it''s; --'", '"a;b"', "E'\\';'", "$$a;'b$$", "$tag$ $$;$$ $tag$", "'/* ; */'"]
)
def test_a_semicolon_in_quotes_ends_nothing(quoted: str) -> None:
    assert texts(f"SELECT {quoted};\nSELECT 2;") == [f"SELECT {quoted}", "SELECT 2"]


@pytest.mark.parametrize("comment", ["-- a; b\n", "/* a; /* b; */ c; */"])
def test_comments_are_taken_out_and_nest(comment: str) -> None:
    assert [s.code for s in statements_of(f"SELECT 1 {comment} + 2; {comment}")] == ["SELECT 1 + 2"]


def test_what_stands_in_quotes_is_no_code_and_bodies_are_kept() -> None:
    (statement,) = statements_of("DO $x$ DROP TABLE a; $x$ LANGUAGE 'DELETE FROM b'")
    assert statement.code == "DO $$ LANGUAGE ''"
    assert statement.bodies == (" DROP TABLE a; ",)


def test_the_body_of_a_function_in_plain_sql_is_one_statement() -> None:
    text = "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END; SELECT 3;"
    assert [statement.code[:8] for statement in statements_of(text)] == ["CREATE F", "SELECT 3"]


def test_statements_know_their_line() -> None:
    assert [s.line for s in statements_of("-- one\n\nSELECT 1;\n\n  SELECT\n2;")] == [3, 5]


@given(st.text(alphabet="ab;'\"$-/* \n", max_size=60))
def test_any_text_is_taken_apart_without_an_end_or_an_error(text: str) -> None:
    statements_of(text)


@given(st.text(alphabet='ab;"$-/* \n', max_size=40))
def test_any_text_in_quotes_comes_back_whole(text: str) -> None:
    statement = f"SELECT '{text}'"
    assert texts(f"{statement};{statement};") == [statement, statement]
