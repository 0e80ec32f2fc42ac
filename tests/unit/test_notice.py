"""Guards that a notice is bounded, cannot smuggle anything into its page, and is read back as it was."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.runtime.notice import (
    MAX_FORM_BYTES,
    MAX_RETRY_AFTER_S,
    MAX_TEXT,
    MAX_TITLE,
    Notice,
    document,
    from_document,
    page,
)
from dr_platform.runtime.port import is_health_path

pytestmark = pytest.mark.unit

_printable = st.characters(exclude_categories=("C", "Z")) | st.just(" ")
titles = st.text(_printable, min_size=1, max_size=MAX_TITLE).filter(str.strip).filter(str.isprintable)
texts = (
    st.text(_printable | st.just("\n"), min_size=1, max_size=MAX_TEXT)
    .filter(str.strip)
    .filter(lambda text: text.replace("\n", "").isprintable())
)
notices = st.builds(Notice, titles, texts, st.integers(1, MAX_RETRY_AFTER_S))


class Outline(HTMLParser):
    """The tags of a page in order, and the text below each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: dict[str, str] = {}
        self.language: str | None = None
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "html":
            self.language = dict(attrs).get("lang")
        if tag != "meta":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self._open.remove(tag)

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]] = self.texts.get(self._open[-1], "") + data


_PLAIN = ["html", "head", "meta", "meta", "meta", "title", "style", "body", "main", "h1", "p", "p"]


@given(notices)
def test_no_notice_brings_a_tag_of_its_own_and_its_words_come_through(notice: Notice) -> None:
    outline = Outline(page(notice))
    assert outline.tags == _PLAIN
    assert outline.language == "en"
    assert outline.texts["h1"] == outline.texts["title"] == notice.title
    assert outline.texts["p"].startswith(notice.text)


@given(notices)
def test_a_notice_is_read_back_from_its_json(notice: Notice) -> None:
    assert from_document(document("svc", notice)) == notice


@pytest.mark.parametrize("widest", ['"', "&", "\U0001f6e0", "…", "\\"])
def test_the_longest_notice_fits_into_what_a_router_answers(widest: str) -> None:
    notice = Notice(widest * MAX_TITLE, widest * MAX_TEXT, MAX_RETRY_AFTER_S)
    assert len(page(notice).encode()) <= MAX_FORM_BYTES
    assert len(document("s" * 40, notice).encode()) <= MAX_FORM_BYTES


@pytest.mark.parametrize(
    ("title", "text", "retry_after_s"),
    [
        pytest.param("", "text", 1, id="no title"),
        pytest.param("  ", "text", 1, id="an empty title"),
        pytest.param("t" * (MAX_TITLE + 1), "text", 1, id="too long a title"),
        pytest.param("two\nlines", "text", 1, id="a title of two lines"),
        pytest.param("title", "", 1, id="no text"),
        pytest.param("title", "t" * (MAX_TEXT + 1), 1, id="too long a text"),
        pytest.param("title", "a\x00b", 1, id="a control character"),
        pytest.param("title", "a\ud800b", 1, id="half a character"),
        pytest.param("title", "text", 0, id="no patience"),
        pytest.param("title", "text", MAX_RETRY_AFTER_S + 1, id="more than a day"),
    ],
)
def test_a_notice_out_of_bounds_is_refused(title: str, text: str, retry_after_s: int) -> None:
    with pytest.raises(ValueError, match="notice"):
        Notice(title, text, retry_after_s)


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"title": "t", "text": 3, "retry_after_s": 1}', "nonsense"])
def test_somebody_elses_json_is_no_notice(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_document(text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "a minute"),
        (60, "a minute"),
        (61, "2 minutes"),
        (1800, "30 minutes"),
        (7201, "3 hours"),
        (86400, "24 hours"),
    ],
)
def test_the_page_says_how_long_to_wait_rounded_up(seconds: int, words: str) -> None:
    assert f"try again in {words}." in page(Notice("t", "t", seconds))


@pytest.mark.parametrize(
    ("path", "served"),
    [
        ("/health", True), ("/health/", True), ("/health?deep=1", True), ("/health/ready", True),
        ("/", False), ("/healthy", False), ("/v1/health", False), ("/?next=/health", False), ("/Health", False),
    ],
)  # fmt: skip
def test_only_health_and_what_lies_below_it_is_for_probes(path: str, served: bool) -> None:
    assert is_health_path(path) == served
