"""Embedding models of the catalog: every contradiction is told with file and field, and questions of users, which may
hold PHI, go nowhere that the catalog does not state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dr_platform.catalog import CatalogError, load_catalog
from dr_platform.catalog.rules import within_platform
from dr_platform.clock import ManualClock
from dr_platform.embedding import WordVectors
from dr_platform.knowledge.embedders import Embedders, QuestionsRefused, UnknownModel, entries_of
from dr_platform.knowledge.http_embedder import HttpEmbedder
from tests.catalogs import shipped_copy

pytestmark = pytest.mark.unit

OUTSIDE = "https://embeddings.example.org"
BASE: dict[str, Any] = {
    "name": "acme-1.5",
    "title": "Acme",
    "description": "A model of a server.",
    "owner": "team:ai",
    "kind": "http",
    "dimensions": 384,
}
SERVER = {"api": "tei", "url": "http://127.0.0.1:8080"}


def with_model(tmp_path: Path, server: dict[str, Any] | None = None, **changes: Any) -> Path:
    """The shipped catalog and one more model."""
    root = shipped_copy(tmp_path)
    model = {**BASE, **({"server": server} if server is not None else {}), **changes}
    (root / "embedders/acme-1.5.yaml").write_text(yaml.safe_dump(model), encoding="utf-8")
    return root


def faults(root: Path) -> list[tuple[str, str, str]]:
    with pytest.raises(CatalogError) as caught:
        load_catalog(root)
    return [(fault.file, fault.field, fault.problem) for fault in caught.value.faults]


@pytest.mark.parametrize(
    "server",
    [
        pytest.param(SERVER, id="loopback"),
        pytest.param({**SERVER, "questions": "allowed"}, id="loopback may have questions"),
        pytest.param({**SERVER, "url": "http://localhost:8080", "questions": "allowed"}, id="localhost"),
        pytest.param({**SERVER, "url": "http://[::1]:8080", "questions": "allowed"}, id="IPv6"),
        pytest.param({**SERVER, "url": "http://bge-host:8080", "questions": "allowed"}, id="a service of the catalog"),
        pytest.param({**SERVER, "url": OUTSIDE}, id="outside without questions"),
        pytest.param({**SERVER, "url": OUTSIDE, "questions": "allowed", "agreement": "BAA 2026-14"}, id="agreed"),
        pytest.param({**SERVER, "api": "openai", "model": "BAAI/bge-small-en-v1.5", "shortened": True}, id="openai"),
        pytest.param({**SERVER, "secret": "embedders/acme", "batch": 128, "timeout": "120 s"}, id="all fields"),
    ],
)
def test_what_a_server_may_be_loads(tmp_path: Path, server: dict[str, Any]) -> None:
    model = load_catalog(with_model(tmp_path, server)).embedders["acme-1.5"]
    assert model.server is not None
    assert model.server.url == server["url"]


@pytest.mark.parametrize(
    ("server", "changes", "field"),
    [
        pytest.param(None, {}, "server", id="no server"),
        pytest.param(SERVER, {"kind": "words", "dimensions": 128}, "server", id="a server of words"),
        pytest.param(None, {"kind": "words"}, "dimensions", id="words of a size they do not have"),
        pytest.param(SERVER, {"dimensions": 2001}, "dimensions", id="more than the index takes"),
        pytest.param(SERVER, {"dimensions": 0}, "dimensions", id="no numbers"),
        pytest.param(SERVER, {"name": "Acme 1.5"}, "name", id="no name"),
        pytest.param(SERVER, {"kind": "local"}, "kind", id="no kind"),
        pytest.param({**SERVER, "api": "openai"}, {}, "server.model", id="openai without a model"),
        pytest.param({**SERVER, "shortened": True}, {}, "server.shortened", id="tei cannot cut"),
        pytest.param({**SERVER, "api": "grpc"}, {}, "server.api", id="no interface"),
        pytest.param({"api": "tei"}, {}, "server.url", id="no address"),
        pytest.param({**SERVER, "batch": 129}, {}, "server.batch", id="a batch too large"),
        pytest.param({**SERVER, "timeout": "10 min"}, {}, "server.timeout", id="a timeout too long"),
        pytest.param({**SERVER, "timeout": 10}, {}, "server.timeout", id="a timeout without unit"),
        pytest.param({**SERVER, "secret": "sk-abcdef"}, {}, "server.secret", id="a key in place of its name"),
        pytest.param({**SERVER, "key": "abc"}, {}, "server.key", id="a key"),
        pytest.param({**SERVER, "url": "ftp://127.0.0.1"}, {}, "server.url", id="no HTTP"),
        pytest.param({**SERVER, "url": "http://user:word@127.0.0.1"}, {}, "server.url", id="a password"),
        pytest.param({**SERVER, "url": OUTSIDE + "?key=abc"}, {}, "server.url", id="a key in the query"),
        pytest.param({**SERVER, "url": "http://127.0.0.1:65536"}, {}, "server.url", id="no port"),
        pytest.param({**SERVER, "url": "http://[::1]:65536/a"}, {}, "server.url", id="no port of IPv6"),
        pytest.param({**SERVER, "url": "http://embeddings.example.org"}, {}, "server.url", id="outside without TLS"),
        pytest.param({**SERVER, "url": "http://10.0.0.5"}, {}, "server.url", id="a private address is outside"),
        pytest.param({**SERVER, "url": OUTSIDE, "questions": "allowed"}, {}, "server.agreement", id="no agreement"),
        pytest.param({**SERVER, "questions": "allowed"}, {"first": True}, "first", id="a second first"),
        pytest.param({**SERVER, "questions": "yes"}, {}, "server.questions", id="neither allowed nor refused"),
    ],
)
def test_one_mistake_is_told_with_its_field(
    tmp_path: Path, server: dict[str, Any] | None, changes: dict[str, Any], field: str
) -> None:
    told = {(file, where) for file, where, _ in faults(with_model(tmp_path, server, **changes))}
    first = "wordllama-l2-supercat-256" if field == "first" else "acme-1.5"
    assert told == {(f"embedders/{first}.yaml", field)}


def test_all_mistakes_of_all_models_are_told_at_once(tmp_path: Path) -> None:
    server = {**SERVER, "api": "openai", "url": "http://embeddings.example.org", "questions": "allowed"}
    root = with_model(tmp_path, server)
    file = root / "embedders/wordllama-l2-supercat-128.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("128\n", "100\n").replace("-100\n", "-128\n"), "utf-8")
    assert {(name, field) for name, field, _ in faults(root)} == {
        ("embedders/acme-1.5.yaml", "server.agreement"),
        ("embedders/acme-1.5.yaml", "server.model"),
        ("embedders/acme-1.5.yaml", "server.url"),
        ("embedders/wordllama-l2-supercat-128.yaml", "dimensions"),
    }


def test_some_model_is_the_first_one_and_it_may_have_questions(tmp_path: Path) -> None:
    root = with_model(tmp_path, SERVER, first=True)
    (root / "embedders/wordllama-l2-supercat-256.yaml").unlink()
    assert faults(root) == [("embedders/acme-1.5.yaml", "first", "is true although questions may not be sent to it")]
    (root / "embedders/acme-1.5.yaml").unlink()
    (told,) = faults(root)
    assert told == ("embedders/wordllama-l2-supercat-128.yaml", "first", "is true in no file")
    (root / "embedders/wordllama-l2-supercat-128.yaml").unlink()
    assert faults(root) == [("embedders", "(file)", "holds no embedder")]


def test_a_file_that_cannot_be_read_is_not_told_to_be_missing_as_the_first(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    (root / "embedders/wordllama-l2-supercat-256.yaml").write_text("name: [", encoding="utf-8")
    assert [file for file, *_ in faults(root)] == ["embedders/wordllama-l2-supercat-256.yaml"]


@pytest.mark.parametrize(
    ("url", "within"),
    [
        ("http://127.0.0.1:1", True),
        ("http://127.8.9.1", True),
        ("https://[::1]/x", True),
        ("http://localhost", True),
        ("http://bge-host", True),
        ("http://bge-host.ai-processing.svc.cluster.local:80", True),
        ("http://bge-host.ai-processing.svc", True),
        ("http://other-host", False),
        ("http://bge-host.example.org", False),
        ("http://bge-host.svc.example.org", False),
        ("http://localhost.example.org", False),
        ("http://127.0.0.1.example.org", False),
        ("http://10.0.0.1", False),
        ("http://[fd00::1]", False),
    ],
)
def test_only_loopback_and_services_of_the_catalog_are_within_the_platform(url: str, within: bool) -> None:
    assert within_platform(url, {"bge-host"}) is within


def embedders(tmp_path: Path, server: dict[str, Any]) -> Embedders:
    return Embedders(entries_of(load_catalog(with_model(tmp_path, server))), lambda _: None, ManualClock())


def test_each_model_is_made_as_its_file_says_and_once(tmp_path: Path) -> None:
    made = embedders(tmp_path, SERVER)
    assert made.first == "wordllama-l2-supercat-256"
    short = made.named("wordllama-l2-supercat-128")
    assert isinstance(short, WordVectors)
    assert (short.model_id, short.dimensions) == ("wordllama-l2-supercat-128", 128)
    remote = made.named("acme-1.5")
    assert isinstance(remote, HttpEmbedder)
    assert (remote.model_id, remote.dimensions) == ("acme-1.5", 384)
    assert made.named("acme-1.5") is remote


def test_a_model_is_not_asked_what_users_ask_unless_the_catalog_allows_it(tmp_path: Path) -> None:
    made = embedders(tmp_path / "a", SERVER)
    with pytest.raises(QuestionsRefused):
        made.for_questions("acme-1.5")
    assert made.for_questions(made.first) is made.named(made.first)
    allowed = embedders(tmp_path / "b", {**SERVER, "questions": "allowed"})
    assert allowed.for_questions("acme-1.5").model_id == "acme-1.5"


def test_a_model_that_the_catalog_does_not_have_is_refused_with_those_it_has(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="wordllama-l2-supercat-128"):
        embedders(tmp_path, SERVER).named("no-such-model")


def test_the_example_on_the_page_is_a_model_that_may_have_questions(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/knowledge.md").read_text(encoding="utf-8")
    written = page.partition("```yaml\n")[2].partition("```")[0]
    root = shipped_copy(tmp_path)
    (root / "embedders/bge-small-en-1.5.yaml").write_text(written, encoding="utf-8")
    assert entries_of(load_catalog(root))["bge-small-en-1.5"].questions
