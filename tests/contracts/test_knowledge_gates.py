"""Guards that articles that should not be answered from are found in the store, and the shipped ones are fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dr_platform.catalog import KnowledgeSet, load_catalog
from dr_platform.embedding import WordVectors
from dr_platform.knowledge.gates import (
    JUDGED,
    duplicates_verdict,
    language_verdict,
    phi_verdict,
    staleness_verdict,
)
from dr_platform.knowledge.seeding import identifiers, seed
from tests.contracts.embedded_servers import Running, running_with_schema
from tests.contracts.test_knowledge_store import address

pytestmark = pytest.mark.contract

CATALOG = Path(__file__).parents[2] / "catalog"
SETS = load_catalog(CATALOG).knowledge
SLEEP = SETS["sleep"]
NAP = (CATALOG / "knowledge" / "sleep" / "articles" / "napping-wisely.md").read_text("utf-8").split("\n\n")
TODAY = datetime(2026, 11, 26, tzinfo=UTC)
Connection = psycopg.Connection[Any]

TEXTS = {
    "en": "You do not have to be asleep at once when you go to bed. If the night is long and your thoughts keep"
    " coming back to the same worry, get up and do something that is quiet until you feel tired again.",
    "de": "Sie müssen nicht sofort einschlafen, wenn Sie zu Bett gehen. Wenn die Nacht lang ist und die Gedanken"
    " immer wieder zu der gleichen Sorge zurückkehren, stehen Sie auf und tun Sie etwas, das ruhig ist.",
    "fr": "Vous ne devez pas dormir tout de suite quand vous allez au lit. Si la nuit est longue et que les pensées"
    " reviennent à la même inquiétude, levez-vous et faites quelque chose de calme avec une lumière douce.",
    "es": "No tiene que dormirse en cuanto se acuesta. Si la noche es larga y los pensamientos vuelven a la misma"
    " preocupación, levántese y haga algo que sea tranquilo hasta que tenga sueño otra vez en la cama.",
    "pt": "Não tem de adormecer logo que se deita. Se a noite for longa e os pensamentos voltarem sempre para a"
    " mesma preocupação, levante-se e faça uma coisa que seja calma até que o sono volte para si.",
    "it": "Non deve addormentarsi subito quando va a letto. Se la notte è lunga e i pensieri tornano sempre alla"
    " stessa preoccupazione, si alzi e faccia qualcosa di calmo con una luce che non sia troppo forte.",
    "sv": "Du måste inte somna genast när du går och lägger dig. Om natten är lång och tankarna hela tiden kommer"
    " tillbaka till samma oro, gå upp och gör något som är lugnt tills du är trött igen och vill sova.",
    "ro": "Nu trebuie să adormiți imediat ce vă culcați. Dacă noaptea este lungă și gândurile se întorc mereu la"
    " aceeași grijă, ridicați-vă și faceți ceva liniștit până când vi se face din nou somn în pat.",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running_with_schema() as server:
        with psycopg.connect(address(server), autocommit=True) as connection:
            for knowledge_set in SETS.values():
                seed(connection, knowledge_set, CATALOG / "knowledge" / knowledge_set.name / "articles", WordVectors())
        yield server


@pytest.fixture
def reader(server: Running) -> Iterator[Connection]:
    """The application's login, by which the checks look."""
    with psycopg.connect(address(server, "application"), autocommit=True) as connection:
        yield connection


@pytest.fixture
def own(server: Running, tmp_path: Path) -> Iterator[Any]:
    """Loads articles of one's own as a set and gives the set; they are gone afterwards."""
    chosen = SLEEP.model_copy(update={"name": "own"})

    def load(*rows: dict[str, Any], **quality: Any) -> KnowledgeSet:
        source = tmp_path / "own.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        with psycopg.connect(address(server), autocommit=True) as connection:
            seed(connection, chosen, source, WordVectors())
        return chosen.model_copy(update={"quality": chosen.quality.model_copy(update=quality)})

    yield load
    with psycopg.connect(address(server), autocommit=True) as connection:
        connection.execute("DELETE FROM knowledge.documents WHERE set_name = 'own'")
        connection.execute("DELETE FROM knowledge.seeds WHERE set_name = 'own'")


@pytest.mark.parametrize("name", sorted(SETS))
def test_the_shipped_sets_pass_every_gate(reader: Connection, name: str) -> None:
    chosen = SETS[name]
    for verdict in (
        duplicates_verdict(reader, chosen),
        language_verdict(reader, chosen),
        phi_verdict(reader, chosen, identifiers),
        staleness_verdict(reader, chosen, TODAY),
    ):
        assert verdict.passed, verdict
    assert language_verdict(reader, chosen).measurements["unjudged"] == 0
    assert staleness_verdict(reader, chosen, TODAY).measurements["undated"] == 0


def test_a_passage_of_another_article_is_found_word_for_word_and_nearly(reader: Connection, own: Any) -> None:
    nearly = NAP[2].replace("skipping", "leaving out").replace("a few", "some").replace("chat with", "talk to")
    chosen = own(
        {"slug": "copied", "title": "A copy", "text": NAP[1]},
        {"slug": "edited", "title": "Changed a little", "text": nearly},
        {
            "slug": "fresh",
            "title": "Something else",
            "text": "Quokkas graze on the island after sunset and rest in thickets.",
        },
    )
    verdict = duplicates_verdict(reader, chosen)
    assert verdict.passed is False
    assert (verdict.measurements["equal"], verdict.measurements["near"]) == (1, 1)
    assert "copied, edited" in verdict.why
    assert "fresh" not in verdict.why
    assert duplicates_verdict(reader, SLEEP).measurements["equal"] == 1, "the other side of the pair is told too"
    assert duplicates_verdict(reader, own({"slug": "fresh", "title": "x", "text": "y"})).passed


def test_a_set_may_allow_a_share_of_repetitions(reader: Connection, own: Any) -> None:
    rows = ({"slug": "copied", "title": "A copy", "text": NAP[1]}, {"slug": "fresh", "title": "Q", "text": "Quokkas."})
    assert duplicates_verdict(reader, own(*rows, duplicates=0.5)).passed
    assert not duplicates_verdict(reader, own(*rows, duplicates=0.4)).passed


@pytest.mark.parametrize("language", sorted(TEXTS))
def test_an_article_in_its_own_language_passes(reader: Connection, own: Any, language: str) -> None:
    verdict = language_verdict(reader, own({"slug": "a", "title": "x", "text": TEXTS[language], "language": language}))
    assert verdict.passed, verdict
    assert verdict.measurements["unjudged"] == (0 if language in JUDGED else 1)


@pytest.mark.parametrize(
    ("declared", "written"), [("en", "de"), ("de", "en"), ("fr", "es"), ("ro", "en"), ("es", "sv")]
)
def test_an_article_in_another_language_is_found(reader: Connection, own: Any, declared: str, written: str) -> None:
    chosen = own({"slug": "a", "title": "x", "text": TEXTS[written], "language": declared})
    verdict = language_verdict(reader, chosen)
    assert verdict.passed is False
    assert f"a ({declared}, seems {written})" in verdict.why


def test_identifiers_in_stored_passages_are_counted_and_never_quoted(reader: Connection, own: Any) -> None:
    text = "The patient with SSN 078-05-1120 slept well. Write to jo.doe@example.org."
    verdict = phi_verdict(reader, own({"slug": "a", "title": "A case", "text": text}), identifiers)
    assert verdict.passed is False
    assert (verdict.measurements["ssn_found"], verdict.measurements["email_found"]) == (1, 1)
    told = f"{verdict.why} {dict(verdict.measurements)}"
    assert "078" not in told
    assert "jo.doe" not in told


def test_old_reviews_are_stale_and_missing_ones_are_counted(reader: Connection, own: Any) -> None:
    chosen = own(
        {"slug": "old", "title": "x", "text": "y", "reviewed": "2025-11-25"},
        {"slug": "just", "title": "x", "text": "z", "reviewed": "2025-11-26"},
        {"slug": "undated", "title": "x", "text": "w"},
    )
    verdict = staleness_verdict(reader, chosen, TODAY)
    assert verdict.passed is False
    assert verdict.why.endswith(": old")
    assert (verdict.measurements["stale"], verdict.measurements["undated"]) == (1, 1)
    assert staleness_verdict(reader, own(*[{"slug": "a", "title": "x", "text": "y"}], stale=0.0), TODAY).passed


def test_of_a_set_that_is_not_stored_nothing_is_known(reader: Connection) -> None:
    nobody = SLEEP.model_copy(update={"name": "nobody"})
    for verdict in (
        duplicates_verdict(reader, nobody),
        language_verdict(reader, nobody),
        phi_verdict(reader, nobody, identifiers),
        staleness_verdict(reader, nobody, TODAY),
    ):
        assert verdict.passed is None
