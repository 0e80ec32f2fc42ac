"""Guards that sets are seeded again by themselves, and that models are changed and recorded, as the platform does it
on a real PostgreSQL with pgvector."""

from __future__ import annotations

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
from dr_platform.embedding import ShortWordVectors, UnknownModel, WordVectors
from dr_platform.evidence import MemoryEvidenceLog, RefusedEvidence
from dr_platform.platform import Platform
from tests.contracts.embedded_servers import Running, running_with_schema

pytestmark = pytest.mark.contract

CATALOG = Path(__file__).parents[2] / "catalog"


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
    clock = ManualClock(datetime.now(UTC))
    found = Placed.open("local", catalog=tmp_path / "catalog", state=tmp_path / "state", runtime="local", clock=clock)
    found.placed = server
    found.__dict__["evidence"] = MemoryEvidenceLog(clock)
    with found.knowledge("admin") as connection:
        connection.execute(
            "TRUNCATE knowledge.documents, knowledge.seeds, knowledge.term_vectors, knowledge.vectors,"
            " knowledge.models CASCADE"
        )
    for name in found.catalog.knowledge:
        seed_knowledge(found, name)
    return found


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
    done = knowledge_upkeep.switch(platform, ShortWordVectors.model_id, "somebody", chosen="half the room")
    assert done.before is not None
    assert done.before.questions > 100
    kinds = [entry.kind for entry in platform.evidence.entries()]
    assert kinds == [knowledge_upkeep.CHOSEN, knowledge_upkeep.SWITCHED]
    outcome = seed_knowledge(platform, "sleep")
    assert outcome.measurements()["documents_unchanged"] == 14
    found = {model.model: model.state for model in knowledge_upkeep.models(platform)}
    assert found == {ShortWordVectors.model_id: "active", WordVectors.model_id: "ready"}
    assert knowledge_upkeep.retire(platform, WordVectors.model_id, "somebody") > 300
    assert [entry.kind for entry in platform.evidence.entries()][-1] == knowledge_upkeep.RETIRED


def test_a_reason_that_may_not_be_kept_changes_nothing(platform: Placed) -> None:
    with pytest.raises(RefusedEvidence):
        knowledge_upkeep.switch(platform, ShortWordVectors.model_id, "somebody", chosen="for SSN 078-05-1120")
    assert [model.state for model in knowledge_upkeep.models(platform)] == ["active"]


def test_a_model_that_nobody_ships_is_refused(platform: Placed) -> None:
    with pytest.raises(UnknownModel):
        knowledge_upkeep.reindex(platform, "no-such-model")


def test_the_job_builds_and_switches_as_it_is_told(platform: Placed) -> None:
    job = build_definitions(platform).resolve_job_def("reindex_knowledge")
    config = {"ops": {"build_vectors": {"config": {"model": ShortWordVectors.model_id}}}}
    assert job.execute_in_process(run_config=config).success
    assert [m.state for m in knowledge_upkeep.models(platform)] == ["active", "ready"]
    assert knowledge_upkeep.models(platform)[0].model == WordVectors.model_id
