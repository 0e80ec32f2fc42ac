"""Reading knowledge from folders and files: what is understood, and that bad input is told whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_platform.knowledge import sources
from dr_platform.knowledge.documents import Document
from dr_platform.knowledge.formats import READERS, Draft, FormatFault, slug_of
from dr_platform.knowledge.sources import SourceError, phi_warnings, read_source

pytestmark = pytest.mark.unit


def write(folder: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".", 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def faults(path: Path) -> list[tuple[str, int | None, str]]:
    with pytest.raises(SourceError) as refused:
        read_source(path)
    return [(fault.file, fault.line, fault.problem) for fault in refused.value.faults]


def test_markdown_with_front_matter_is_read_whole(tmp_path: Path) -> None:
    write(
        tmp_path,
        naps_md="---\ntitle: Napping wisely\nlanguage: pt-BR\nreviewed: 2026-11-01\ntags: [rest, day]\nlayout: x\n---\n"
        "Short.\n\nEarly.\n",
    )
    assert read_source(tmp_path) == (
        Document("naps", "Napping wisely", "Short.\n\nEarly.", "pt-BR", "2026-11-01", ("rest", "day"), "naps.md"),
    )


def test_markdown_without_front_matter_takes_its_title_from_its_heading_or_its_name(tmp_path: Path) -> None:
    write(tmp_path, day__naps_md="# On napping\n\nShort.", **{"late-meals_md": "Eat early.\r\nThen rest."})
    found = {d.slug: (d.title, d.text) for d in read_source(tmp_path)}
    assert found == {
        "day-naps": ("On napping", "# On napping\n\nShort."),
        "late-meals": ("Late meals", "Eat early.\nThen rest."),
    }


def test_json_lines_are_read_with_either_vocabulary(tmp_path: Path) -> None:
    lines = '{"title": "Café at night?", "text": "No."}\n\n'
    lines += '{"id": "q-2", "question": "Why?", "answer": "Sleep.", "tags": ["a"]}\n'
    write(tmp_path, faq_jsonl=lines)
    assert [(d.slug, d.title, d.text, d.tags) for d in read_source(tmp_path)] == [
        ("cafe-at-night", "Café at night?", "No.", ()),
        ("q-2", "Why?", "Sleep.", ("a",)),
    ]


def test_csv_is_read_with_quotes_and_line_breaks(tmp_path: Path) -> None:
    path = write(tmp_path, faq_csv='﻿Title,Text,Tags\r\nOne,"First, then\nsecond",a;b\r\nTwo,Next,\r\n') / "faq.csv"
    assert [(d.slug, d.text, d.tags, d.place) for d in read_source(path)] == [
        ("one", "First, then\nsecond", ("a", "b"), "faq.csv:2"),
        ("two", "Next", (), "faq.csv:4"),
    ]


def test_question_and_answer_xml_is_read_with_its_identifiers(tmp_path: Path) -> None:
    write(
        tmp_path,
        one_xml='<?xml version="1.0" encoding="ISO-8859-1"?>\n<Document id="0000559" source="x">'
        "<Focus>Sleep apnea</Focus>"
        '<QAPairs><QAPair pid="1"><Question qid="0000559-1" qtype="information">What is sleep apnea ?</Question>'
        "<Answer>Pauses &amp; snoring.\n</Answer></QAPair>"
        '<QAPair pid="2"><Question>Who is at risk?</Question><Answer>Many é.</Answer></QAPair></QAPairs></Document>',
    )
    assert [(d.slug, d.title, d.text) for d in read_source(tmp_path)] == [
        ("0000559-1", "What is sleep apnea ?", "Pauses & snoring."),
        ("0000559-2", "Who is at risk?", "Many é."),
    ]


def test_xml_of_another_vocabulary_is_read_too(tmp_path: Path) -> None:
    write(
        tmp_path,
        faq_xml="<faq xmlns='urn:x'><title>All</title>"
        "<entry><title>One <b>two</b></title><body><p>First.</p> <p>Next.</p></body></entry></faq>",
    )
    assert [(d.slug, d.title, d.text) for d in read_source(tmp_path)] == [("one-two", "One two", "First. Next.")]


def test_formats_stand_side_by_side_and_other_files_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, a_md="Aa.", b_jsonl='{"title": "b", "text": "Bb."}', c_txt="x", **{".hidden/d_md": "Dd."})
    assert [d.slug for d in read_source(tmp_path)] == ["a", "b"]


def test_all_faults_of_all_files_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    write(
        tmp_path,
        a_md="---\ntitle: [unclosed\n---\nText",
        b_md="---\ntitle: B\nreviewed: 2026-02-30\nlanguage: English please\n---\n",
        c_jsonl='{"title": "C", "text": "ok"}\n{"title": "D"\n[1]\n'
        '{"title": "E", "text": ""}\n{"title": {}, "text": "x"}\n',
        d_csv="title,text\nC,again\nF\n",
        e_xml="<faq><qa><question>Why?</question></qa>\n<qa></faq>",
        f_md=b"caf\xe9\n",
        g_md=b"one\ntwo\0\n",
    )
    found = faults(tmp_path)
    assert ("c.jsonl", 2, "is not JSON") in found
    assert ("c.jsonl", 3, "is not a JSON object") in found
    assert ("c.jsonl", 4, "has no text") in found
    assert ("c.jsonl", 5, "has no plain text in title") in found
    assert ("d.csv", 3, "has 1 fields, the header has 2") in found
    assert ("d.csv", 2, "has the slug c of c.jsonl:1") in found
    assert ("e.xml", 1, "has a question and no answer") in found
    assert ("f.md", 1, "is not UTF-8 text") in found
    assert ("g.md", 2, "holds a NUL byte") in found
    assert {p for f, _, p in found if f == "b.md"} == {
        "has no text",
        "has a review day that cannot be read",
        "has a language that cannot be read",
    }
    assert any(f == "a.md" and line in (2, 3) and "front matter" in p for f, line, p in found)
    assert any(f == "e.xml" and line == 2 and "not well-formed" in p for f, line, p in found)


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]><faq>&b;</faq>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><qa><question>q</question><answer>&a;</answer></qa>',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1/x.dtd"><qa><question>q</question><answer>a</answer></qa>',
    ],
    ids=["entity bomb", "external entity", "external subset"],
)
def test_xml_with_a_document_type_is_refused_before_anything_is_expanded(tmp_path: Path, text: str) -> None:
    assert faults(write(tmp_path, x_xml=text)) == [("x.xml", 1, "declares a document type")]


def test_xml_that_nests_without_end_is_refused(tmp_path: Path) -> None:
    assert faults(write(tmp_path, x_xml="<a>" * 5000))[0] == ("x.xml", 1, "nests more than 64 elements")


def test_an_alias_bomb_in_front_matter_is_refused(tmp_path: Path) -> None:
    (fault,) = faults(write(tmp_path, a_md="---\na: &a [x]\ntitle: *a\n---\nText"))
    assert fault[:2] == ("a.md", 2)


def test_a_fault_never_quotes_the_text(tmp_path: Path) -> None:
    write(tmp_path, a_jsonl='{"title": "T", "text": "", "slug": "Patient Jane Roe"}\n{"answer": "MRN 4711"}\n')
    with pytest.raises(SourceError) as refused:
        read_source(tmp_path)
    assert "4711" not in str(refused.value)


def test_what_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 100)
    monkeypatch.setattr(sources, "MAX_TEXT", 20)
    write(tmp_path, a_md="x" * 101, b_md="y" * 21, c_jsonl='{"title": "' + "t" * 40 + '", "text": "x"}')
    assert [(f, p) for f, _, p in faults(tmp_path)] == [
        ("a.md", "is larger than 100 bytes"),
        ("b.md", "has more than 20 characters"),
    ]


def test_too_many_documents_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_DOCUMENTS", 2)
    write(tmp_path, a_jsonl="".join(f'{{"title": "t{n}", "text": "x"}}\n' for n in range(3)))
    assert faults(tmp_path)[0][2] == "holds more than 2 documents"


def test_links_out_of_the_source_and_things_that_are_no_files_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write(tmp_path, secret_md="Secret.")
    (source / "a.md").symlink_to(tmp_path / "secret.md")
    os.mkfifo(source / "b.md")
    assert faults(source) == [
        ("a.md", None, "is a link that leads out of the source"),
        ("b.md", None, "is not a regular file"),
    ]


@pytest.mark.parametrize("name", ["missing", "empty", "notes.txt"])
def test_a_source_without_documents_is_a_fault(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path, notes_txt="x")
    assert len(faults(tmp_path / name)) == 1


def test_many_faults_are_counted_and_the_first_ones_shown(tmp_path: Path) -> None:
    write(tmp_path, a_jsonl="x\n" * 80)
    with pytest.raises(SourceError) as refused:
        read_source(tmp_path)
    assert len(refused.value.faults) == 80
    assert "has 80 faults" in refused.value.what
    assert "and 30 more" in refused.value.what


@given(st.sampled_from(sorted(READERS)), st.text(max_size=200))
def test_a_reader_answers_any_text_with_drafts_or_faults(suffix: str, text: str) -> None:
    assert all(isinstance(found, Draft | FormatFault) for found in READERS[suffix](f"x{suffix}", text))


@given(st.text(max_size=200))
def test_a_slug_is_usable_or_empty(text: str) -> None:
    slug = slug_of(text)
    assert slug == slug_of(slug)
    assert len(slug) <= 120


def test_warnings_about_identifiers_name_the_place_and_the_kinds_only() -> None:
    documents = [Document("a", "A", "SSN 078-05-1120", place="a.md"), Document("b", "B", "Rest.", place="b.md")]
    lines = phi_warnings(documents, lambda text: ["SSN"] if "078" in text else [])
    assert lines == ("a.md: may hold identifiers of a patient (SSN)",)


@pytest.mark.parametrize("change", ["title", "text", "language", "reviewed", "tags"])
def test_everything_stored_is_part_of_the_content_hash(change: str) -> None:
    base = {"slug": "a", "title": "A", "text": "x", "language": "en", "reviewed": None, "tags": ()}
    changed = {**base, change: ("t",) if change == "tags" else "2026-01-01"}
    assert Document(**base).content_hash != Document(**changed).content_hash  # type: ignore[arg-type]
    assert Document(**base, place="x").content_hash == Document(**base).content_hash  # type: ignore[arg-type]
