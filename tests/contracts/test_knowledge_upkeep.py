"""Guards that sets are seeded again by themselves, and that models are changed and recorded, as the platform does it
on a real PostgreSQL with pgvector."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from dr_platform import knowledge_upkeep
from dr_platform.bring_up import seed_knowledge
from dr_platform.clock import ManualClock
from dr_platform.databases.connect import connect_database
from dr_platform.databases.port import DatabaseUnreachable, ManagedDatabase
from dr_platform.definitions import build_definitions
from dr_platform.embedding import WordVectors
from dr_platform.evidence import MemoryEvidenceLog, RefusedEvidence
from dr_platform.health import retrieval_verdict
from dr_platform.knowledge.embedder import EmbedderUnreachable
from dr_platform.knowledge.embedders import QuestionsRefused, UnknownModel
from dr_platform.platform import Platform
from tests.contracts.embedded_servers import Running, running_with_schema
from tests.embedding_server import EmbeddingServer, Fault, embedding_server, model_file

pytestmark = pytest.mark.contract

CATALOG = Path(__file__).parents[2] / "catalog"
LONG, SHORT = WordVectors(), WordVectors("wordllama-l2-supercat-128", 128)


class Placed(Platform):
    """A platform whose databases are where a test has started them."""

    placed: Running

    def connect(self, name: str, role: str = "application") -> ManagedDatabase:
        if name != self.placed.database.name:
            raise DatabaseUnreachable(name, "127.0.0.1", "not started")
        return connect_database(self.placed.database, self.placed.endpoint, self.placed.secrets, role)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running_with_schema() as server:
        yield server


@pytest.fixture
def platform(server: Running, tmp_path: Path) -> Placed:
    """Every set of a catalog that a test may edit is seeded; the clock stands still."""
    shutil.copytree(CATALOG, tmp_path / "catalog")
    return seeded(placed(server, tmp_path))


def placed(server: Running, folder: Path) -> Placed:
    clock = ManualClock(datetime.now(UTC))
    found = Placed.open("local", catalog=folder / "catalog", state=folder / "state", runtime="local", clock=clock)
    found.placed = server
    found.__dict__["evidence"] = MemoryEvidenceLog(clock)
    return found


def seeded(platform: Placed) -> Placed:
    with platform.knowledge("admin") as connection:
        connection.execute(
            "TRUNCATE knowledge.documents, knowledge.seeds, knowledge.term_vectors, knowledge.vectors,"
            " knowledge.models CASCADE"
        )
    for name in platform.catalog.knowledge:
        seed_knowledge(platform, name)
    return platform


def tick(platform: Platform, cursor: str | None = None) -> dg.SensorResult:
    definition = next(s for s in build_definitions(platform).sensors or () if s.name == "knowledge")
    with dg.DagsterInstance.ephemeral() as instance:
        result = definition(dg.build_sensor_context(instance=instance, cursor=cursor))
    assert isinstance(result, dg.SensorResult)
    return result


def asked(result: dg.SensorResult) -> list[str]:
    return [request.asset_selection[0].path[1] for request in result.run_requests or [] if request.asset_selection]


def test_an_edited_article_is_seeded_once_by_itself(platform: Placed) -> None:
    assert asked(tick(platform)) == []
    article = platform.catalog.knowledge_folder("sleep") / "articles" / "napping-wisely.md"
    article.write_text(article.read_text("utf-8") + "\n\nOne more sentence.\n", "utf-8")
    first = tick(platform)
    assert asked(first) == ["sleep"]
    assert asked(tick(platform, first.cursor)) == [], "the run that was asked for has not begun yet"
    seed_knowledge(platform, "sleep")
    platform.clock.sleep(3600)
    assert asked(tick(platform, first.cursor)) == []


def test_every_set_is_compared_again_after_a_day(platform: Placed) -> None:
    platform.clock.sleep(timedelta(hours=23).total_seconds())
    assert asked(tick(platform)) == []
    platform.clock.sleep(timedelta(hours=1).total_seconds())
    assert asked(tick(platform)) == list(platform.catalog.knowledge)
    for name in platform.catalog.knowledge:
        seed_knowledge(platform, name)
    assert asked(tick(platform)) == []


def test_a_set_whose_source_cannot_be_used_is_left_and_the_others_are_not(platform: Placed) -> None:
    (platform.catalog.knowledge_folder("sleep") / "articles" / "broken.md").write_bytes(b"\xff")
    article = next((platform.catalog.knowledge_folder("privacy") / "articles").glob("*.md"))
    article.unlink()
    assert asked(tick(platform)) == ["privacy"]


def test_a_switch_is_recorded_and_sets_are_seeded_with_the_new_model_from_then_on(platform: Placed) -> None:
    done = knowledge_upkeep.switch(platform, SHORT.model_id, "somebody", chosen="half the room")
    assert done.before is not None
    assert done.before.questions > 100
    kinds = [entry.kind for entry in platform.evidence.entries()]
    assert kinds == [knowledge_upkeep.CHOSEN, knowledge_upkeep.SWITCHED]
    outcome = seed_knowledge(platform, "sleep")
    assert outcome.measurements()["documents_unchanged"] == 14
    found = {model.model: model.state for model in knowledge_upkeep.models(platform)}
    assert found == {SHORT.model_id: "active", LONG.model_id: "ready"}
    assert knowledge_upkeep.retire(platform, LONG.model_id, "somebody") > 300
    assert [entry.kind for entry in platform.evidence.entries()][-1] == knowledge_upkeep.RETIRED


def test_a_reason_that_may_not_be_kept_changes_nothing(platform: Placed) -> None:
    with pytest.raises(RefusedEvidence):
        knowledge_upkeep.switch(platform, SHORT.model_id, "somebody", chosen="for SSN 078-05-1120")
    assert [model.state for model in knowledge_upkeep.models(platform)] == ["active", "absent"]


def test_a_model_that_nobody_ships_is_refused(platform: Placed) -> None:
    with pytest.raises(UnknownModel):
        knowledge_upkeep.reindex(platform, "no-such-model")


def test_the_job_builds_and_switches_as_it_is_told(platform: Placed) -> None:
    job = build_definitions(platform).resolve_job_def("reindex_knowledge")
    config = {"ops": {"build_vectors": {"config": {"model": SHORT.model_id}}}}
    assert job.execute_in_process(run_config=config).success
    assert [m.state for m in knowledge_upkeep.models(platform)] == ["active", "ready"]
    assert knowledge_upkeep.models(platform)[0].model == LONG.model_id


# A model on a server: a file of the catalog, and nothing else

KEY = "t0p-secret-key"


@pytest.fixture
def acme(server: Running, tmp_path: Path) -> Iterator[tuple[Placed, EmbeddingServer]]:
    """The catalog has two models on one server: one that may have questions and wants a key, one that may not. Of the
    sets one is left."""
    shutil.copytree(CATALOG, tmp_path / "catalog")
    for folder in (tmp_path / "catalog" / "knowledge").iterdir():
        if folder.name != "sleep":
            shutil.rmtree(folder)
    with embedding_server(key=KEY) as served:
        models = tmp_path / "catalog" / "embedders"
        (models / "acme-1.yaml").write_text(
            model_file("acme-1", served, secret="embedders/acme", questions="allowed"), "utf-8"
        )
        (models / "acme-2.yaml").write_text(model_file("acme-2", served, secret="embedders/acme"), "utf-8")
        found = placed(server, tmp_path)
        assert knowledge_upkeep.store_key(found, "acme-1", "a-former-key") == 1
        assert knowledge_upkeep.store_key(found, "acme-1", KEY) == 2
        yield seeded(found), served


def test_a_server_is_built_switched_to_seeded_with_and_measured_as_any_model(
    acme: tuple[Placed, EmbeddingServer], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    platform, served = acme
    caplog.set_level(logging.DEBUG)
    assert [(m.model, m.state) for m in knowledge_upkeep.models(platform)] == [
        (LONG.model_id, "active"),
        ("acme-1", "absent"),
        ("acme-2", "absent"),
        (SHORT.model_id, "absent"),
    ]
    job = build_definitions(platform).resolve_job_def("reindex_knowledge")
    config = {
        "ops": {
            "build_vectors": {"config": {"model": "acme-1"}},
            "use_model": {"config": {"switch": "if_no_worse"}},
        }
    }
    ran = job.execute_in_process(run_config=config)
    assert ran.success
    assert knowledge_upkeep.models(platform)[0].model == "acme-1"
    with platform.knowledge() as connection:
        assert platform.embedder_of(connection).model_id == "acme-1"
    verdict = retrieval_verdict(platform, "sleep")
    assert verdict.measurements["fused_recall_at_5_ratio"] > 0.85
    article = platform.catalog.knowledge_folder("sleep") / "articles" / "napping-wisely.md"
    article.write_text(article.read_text("utf-8") + "\n\nOne more sentence about quokkas.\n", "utf-8")
    served.forever = Fault(503)
    with pytest.raises(EmbedderUnreachable):
        seed_knowledge(platform, "sleep")
    assert retrieval_verdict(platform, "sleep").passed is None, "could not look is neither good nor bad"
    assert knowledge_upkeep.standings(platform)[0].pending == 1
    served.forever = None
    platform.clock.sleep(60)
    assert seed_knowledge(platform, "sleep").measurements()["documents_changed"] == 1
    told = caplog.text + "".join(capfd.readouterr()) + str(platform.evidence.entries()) + str(ran.all_events)
    assert "httpcore" in told
    assert KEY not in told
    assert "quokka" not in told
    assert served.keys[-1] == f"Bearer {KEY}"


def test_a_server_that_may_not_have_questions_is_built_and_not_switched_to(
    acme: tuple[Placed, EmbeddingServer],
) -> None:
    platform, served = acme
    with pytest.raises(QuestionsRefused):
        knowledge_upkeep.switch(platform, "acme-2", "somebody", chosen="all the same")
    assert served.asked == []
    assert knowledge_upkeep.reindex(platform, "acme-2").embedded > 14
    assert [m.state for m in knowledge_upkeep.models(platform)] == ["active", "ready", "absent", "absent"]


def test_a_server_that_may_not_have_phi_gets_no_article_while_one_seems_to_hold_some(
    acme: tuple[Placed, EmbeddingServer],
) -> None:
    platform, served = acme
    article = platform.catalog.knowledge_folder("sleep") / "articles" / "napping-wisely.md"
    article.write_text(article.read_text("utf-8") + "\n\nWrite to jane.roe@example.org, SSN 536-22-8145.\n", "utf-8")
    seed_knowledge(platform, "sleep")
    with pytest.raises(knowledge_upkeep.HoldsIdentifiers, match="sleep") as refused:
        knowledge_upkeep.reindex(platform, "acme-2")
    assert "jane" not in str(refused.value)
    assert served.asked == []


@pytest.mark.parametrize(("model", "key"), [(LONG.model_id, "abc"), ("acme-1", ""), ("acme-1", "two words")])
def test_what_is_no_key_is_not_kept(acme: tuple[Placed, EmbeddingServer], model: str, key: str) -> None:
    platform, _ = acme
    with pytest.raises(knowledge_upkeep.NoKeyWanted):
        knowledge_upkeep.store_key(platform, model, key)
    assert platform.secrets.read("embedders/acme") == {"key": KEY}
