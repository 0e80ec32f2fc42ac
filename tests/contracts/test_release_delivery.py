"""A release on its way into an environment: gate, approvals, rollouts, evidence, the command and the job, with
a real operations database and controller, and services in memory."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from dr_platform import bring_up, delivery, release_delivery
from dr_platform.cli import promotion_verbs, release_verbs
from dr_platform.databases.port import AppliedStep, SchemaStep, ServerInfo
from dr_platform.errors import PlatformError
from dr_platform.operations import operations_engine, upgrade
from dr_platform.platform import Platform
from dr_platform.promotion import read_facts
from dr_platform.promotion.facts import VERIFIED, release_subject
from dr_platform.readiness import candidate_of, readiness
from dr_platform.release_delivery import NotReady, ReleaseNotDeployed
from dr_platform.releases.plan import RollbackRefused
from dr_platform.releases.tracker import EVIDENCE_KIND, KEY_SECRET, Outcome
from dr_platform.rollout import record as records
from dr_platform.runtime.memory import MemoryRuntime
from dr_platform.verdict import Progress, silent
from jobs.promotion import promotion_job
from tests.catalogs import generated
from tests.opened import Opened
from tests.postgres_server import PostgresServer, running_postgres
from tests.releases import BusyClock
from tests.rollouts import MemoryTraffic, answer, at_once

pytestmark = pytest.mark.contract

SERVICE = "service-0000"
DEPENDENT = "service-0001"
DAY_S = 86400.0


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


class MemoryDatabase:
    """What carrying out schema steps asks of a managed database."""

    def __init__(self, platform: Platform, name: str, log: list[str]) -> None:
        self.database = platform.catalog.databases[name]
        self._steps: list[AppliedStep] = []
        self._log = log

    def applied(self) -> tuple[AppliedStep, ...]:
        return tuple(self._steps)

    def apply(self, step: SchemaStep, progress: Progress = silent) -> AppliedStep:
        done = AppliedStep(step.version, step.description, step.checksum, "", 0.0)
        self._steps.append(done)
        self._log.append(f"{self.database.name} {step.version}")
        return done

    def admit_application(self) -> None: ...

    def adopt(self) -> None: ...

    def server(self) -> ServerInfo:
        return ServerInfo("PostgreSQL", "18.0")

    def missing(self) -> str | None:
        """Every machine can have it."""
        return None

    def close(self) -> None: ...


class PlatformInMemory(Platform):
    """Services and managed databases are in memory; operations database, secrets and objects are real."""

    def in_memory(self, clock: BusyClock, url: str) -> None:
        self.clock, self.log = clock, list[str]()
        self.memory = MemoryRuntime(clock)
        self.databases = {name: MemoryDatabase(self, name, self.log) for name in self.catalog.databases}
        self.operations = operations_engine(url)
        self.traffic = MemoryTraffic(self.memory, clock)

    @property
    def runtime(self) -> MemoryRuntime:
        return self.memory

    def embedded_server(self, name: str) -> MemoryDatabase:  # ty: ignore[invalid-method-override]
        return self.databases[name]

    def connect(self, name: str, role: str = "application") -> MemoryDatabase:  # ty: ignore[invalid-method-override]
        return self.databases[name]


@dataclass(frozen=True)
class Place:
    platform: PlatformInMemory
    clock: BusyClock

    def drp(self, *words: str) -> Result:
        app = typer.Typer()
        promotion_verbs.register(app)
        release_verbs.register(app)
        return CliRunner().invoke(app, list(words), obj=Opened(self.platform))

    def done(self, *words: str) -> str:
        result = self.drp(*words)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    def create(self, name: str, **versions: str) -> None:
        pairs = [f"{service.replace('_', '-')}={version}" for service, version in versions.items()]
        self.done("release", "create", name, *(word for pair in pairs for word in ("--set", pair)))

    def approve(self, release: str) -> str:
        asked = self.done("request", release, "--to", "local", "--reason", "weekly", "--as", "rita", "--json")
        request = json.loads(asked)["id"]
        self.done("approve", request, "--reason", "read it", "--as", "ada")
        return request

    def version(self, service: str = SERVICE) -> str:
        stable = records.read(self.platform.runtime, service).record.stable
        assert stable is not None
        return stable.revision.version

    def kinds(self, release: str) -> list[str]:
        return [entry.kind for entry in self.platform.evidence.entries(subject=release_subject(release))]


@pytest.fixture
def place(server: PostgresServer, tmp_path: Path) -> Iterator[Place]:
    catalog, clock = generated(tmp_path, 3), BusyClock()
    local = catalog / "environments" / "local.yaml"
    local.write_text(local.read_text() + "approvals: {required: 1, valid_for: 24 h}\n")
    migrations = catalog / "databases" / "postgres" / "migrations"
    migrations.mkdir()
    (migrations / "V1__first.sql").write_text("SELECT 1;")
    with tempfile.TemporaryDirectory(prefix="drp-r-") as folder:
        platform = PlatformInMemory.open("local", catalog=catalog, state=Path(folder), clock=clock)
        assert isinstance(platform, PlatformInMemory)
        platform.state.make()
        url = server.new_database()
        upgrade(url)
        platform.in_memory(clock, url)
        for version in ("1.0.0", "2.0.0", "3.0.0"):
            platform.memory.faults.answers[version] = answer(version)
        for service in platform.catalog.services.values():
            platform.runtime.declare(service)
        assert not bring_up.converge_fleet(platform).unsettled
        for name in platform.catalog.databases:
            bring_up.apply_schema(platform, name)
        platform.log.clear()
        clock.meanwhile = delivery.controller(platform, aside=at_once).tick
        yield Place(platform, clock)
        platform.operations.dispose()


def refused(place: Place, release: str) -> dict[str, str]:
    """Rows of the gate that refused, and that nothing was begun."""
    before = place.version()
    with pytest.raises(NotReady) as shut:
        release_delivery.promote(place.platform, release, "ana")
    assert shut.value.exit_code == 2
    assert place.version() == before
    assert "release-began" not in place.kinds(release)
    assert release_delivery.release_ledger(place.platform).last() is None
    return {row.name: row.answer.message for row in shut.value.table.rows if not row.answer.allow}


def test_a_release_that_was_approved_is_deployed_and_everybody_is_told_once(place: Place) -> None:
    place.create("4.0", service_0000="2.0.0")
    place.approve("4.0")
    ended = release_delivery.promote(place.platform, "4.0", "ana")
    assert ended.outcome is Outcome.DEPLOYED
    assert place.version() == "2.0.0"
    told = ["release-began", "release-changelog", VERIFIED, EVIDENCE_KIND, "release-ended"]
    assert [kind for kind in place.kinds("4.0") if not kind.startswith("approval")] == told
    changelog = place.platform.state.objects / "changelog" / "000001.md"
    assert "service-0000 | 1.0.0 | 2.0.0" in changelog.read_text()
    assert "replaces 3.0" in changelog.read_text()
    assert "service-0001" not in changelog.read_text()

    candidate = candidate_of(place.platform, "4.0", place.platform.environment)
    (verified,) = read_facts(place.platform.evidence, candidate).verified
    assert (verified.digest, verified.environment) == (candidate.digest, "local")
    assert release_delivery.running_release(place.platform) == "4.0"


def test_an_approval_for_one_plan_does_not_deploy_another(place: Place) -> None:
    place.create("4.0-a", service_0000="2.0.0")
    place.create("4.0-b", service_0000="3.0.0")
    place.approve("4.0-a")
    assert "has not been requested" in refused(place, "4.0-b")["approvals"]


def test_an_approval_of_the_catalogs_release_ends_when_one_is_created_under_its_name(place: Place) -> None:
    place.approve("3.0")
    place.create("3.0")
    assert "the plan has changed" in refused(place, "3.0")["approvals"]


def test_approvals_that_expired_were_voided_or_never_given_refuse_with_the_reason(place: Place) -> None:
    place.create("4.0", service_0000="2.0.0")
    assert "has not been requested" in refused(place, "4.0")["approvals"]
    request = place.approve("4.0")
    place.done("void", request, "--reason", "a defect was found", "--as", "olga")
    assert "a defect was found" in refused(place, "4.0")["approvals"]
    place.approve("4.0")
    place.clock.meanwhile = lambda: None
    place.clock.sleep(DAY_S + 1)
    assert "has expired" in refused(place, "4.0")["approvals"]
    asked = place.done("request", "4.0", "--to", "local", "--reason", "weekly", "--as", "rita", "--json")
    own = place.drp("approve", json.loads(asked)["id"], "--reason", "mine", "--as", "Rita")
    assert "nobody approves their own request" in str(own.exception)
    assert "1 more must agree" in refused(place, "4.0")["approvals"]


def run_job(place: Place, release: str, environment: str = "local") -> dg.ExecuteInProcessResult:
    config = {"ops": {"promote_release": {"config": {"release": release, "environment": environment}}}}
    with dg.DagsterInstance.ephemeral() as instance:
        return promotion_job(place.platform).execute_in_process(config, instance=instance, raise_on_error=False)


def failure(result: dg.ExecuteInProcessResult) -> dg.Failure:
    data = result.failure_data_for_node("promote_release")
    assert data is not None
    assert data.user_failure_data is not None
    return dg.Failure(data.user_failure_data.description, data.user_failure_data.metadata)


def test_the_launchpad_cannot_pass_the_gate(place: Place) -> None:
    place.create("4.0", service_0000="2.0.0")
    result = run_job(place, "4.0")
    assert not result.success
    told = failure(result)
    assert "approval has not been requested" in str(told.description)
    assert {"untouched", "next"} <= told.metadata.keys()
    assert place.version() == "1.0.0"
    assert release_delivery.release_ledger(place.platform).last() is None

    place.approve("4.0")
    assert run_job(place, "4.0").success
    assert place.version() == "2.0.0"


def test_the_job_serves_its_own_environment_only(place: Place) -> None:
    place.create("4.0", service_0000="2.0.0")
    place.approve("4.0")
    told = failure(run_job(place, "4.0", environment="production"))
    assert "this is local" in str(told.description)
    assert place.version() == "1.0.0"


def test_a_release_that_fails_goes_back_is_held_and_told_as_failed(place: Place) -> None:
    place.create("4.0", service_0000="2.0.0", service_0001="3.0.0")
    place.platform.memory.faults.unready_versions.add("3.0.0")
    place.approve("4.0")
    with pytest.raises(ReleaseNotDeployed) as failed:
        release_delivery.promote(place.platform, "4.0", "ana")
    assert DEPENDENT in str(failed.value)
    assert (place.version(), place.version(DEPENDENT)) == ("2.0.0", "1.0.0")
    (notice,) = place.platform.evidence.entries(kind=EVIDENCE_KIND)
    assert notice.body["outcome"] == "failed"
    (ended,) = place.platform.evidence.entries(kind="release-ended")
    assert (ended.body["cause"], ended.body["back"]) == (DEPENDENT, [DEPENDENT])
    assert VERIFIED not in place.kinds("4.0")
    table = readiness(place.platform, "4.0", place.platform.environment)
    assert not next(row for row in table.rows if row.name == "holds").answer.allow

    place.platform.memory.faults.unready_versions.clear()
    place.done("hold", "clear", "4.0", "--to", "local", "--reason", "mended", "--as", "olga")
    assert release_delivery.promote(place.platform, "4.0", "ana").outcome is Outcome.DEPLOYED
    assert place.version(DEPENDENT) == "3.0.0"


def test_schema_steps_surround_the_services_and_a_contract_step_ends_the_way_back(place: Place) -> None:
    migrations = place.platform.catalog.database_folder("postgres") / "migrations"
    (migrations / "V2__wider.sql").write_text("SELECT 2;")
    (migrations / "V3__narrower.sql").write_text("-- phase: contract\nSELECT 3;")
    place.create("4.0", service_0000="2.0.0", service_0001="2.0.0", service_0002="2.0.0")
    tick = place.clock.meanwhile

    def watching() -> None:
        tick()
        if place.version() == "2.0.0" and SERVICE not in place.platform.log:
            place.platform.log.append(SERVICE)

    place.clock.meanwhile = watching
    place.approve("4.0")
    release_delivery.promote(place.platform, "4.0", "ana")
    assert place.platform.log == ["postgres 2", SERVICE, "postgres 3"]
    used = [name for name, s in place.platform.catalog.services.items() if "postgres" in s.needs.databases]
    assert used
    refusal = place.drp("release", "rollback", "4.0", "--service", used[0])
    assert isinstance(refusal.exception, RollbackRefused)
    assert "roll forward" in str(refusal.exception)
    assert {place.version(name) for name in place.platform.catalog.services} == {"2.0.0"}


def test_migrations_that_are_not_those_of_the_release_begin_nothing(place: Place) -> None:
    migrations = place.platform.catalog.database_folder("postgres") / "migrations"
    (migrations / "V2__wider.sql").write_text("SELECT 2;")
    place.create("4.0", service_0000="2.0.0")
    (migrations / "V2__wider.sql").write_text("SELECT 4;")
    place.approve("4.0")
    with pytest.raises(release_delivery.OtherMigrations) as refusal:
        release_delivery.promote(place.platform, "4.0", "ana")
    assert "postgres 2" in str(refusal.value)
    assert place.platform.log == []
    assert release_delivery.release_ledger(place.platform).last() is None


def test_the_command_shows_the_whole_gate_when_it_refuses_and_takes_a_release_back(place: Place) -> None:
    place.create("4.0", service_0000="2.0.0")
    shut = place.drp("promote", "4.0", "--to", "local")
    assert isinstance(shut.exception, NotReady)
    assert "may not enter" in shut.stdout
    assert "approvals" in shut.stdout
    assert json.loads(place.drp("promote", "4.0", "--to", "local", "--json").stdout)["gate"]["passed"] is False
    assert place.drp("promote", "4.0", "--to", "production").exit_code == 2

    place.approve("4.0")
    assert json.loads(place.done("promote", "4.0", "--to", "local", "--json"))["outcome"] == "deployed"
    back = json.loads(place.done("release", "rollback", "4.0", "--json"))
    assert back["outcome"] == "rolled-back"
    assert place.version() == "1.0.0"
    assert release_delivery.running_release(place.platform) == "3.0"
    assert "holds" in refused_rows(place, "4.0")


def refused_rows(place: Place, release: str) -> set[str]:
    table = readiness(place.platform, release, place.platform.environment)
    return {row.name for row in table.rows if not row.answer.allow}


def test_what_a_suite_found_is_about_the_release_that_runs(place: Place) -> None:
    place.create("4.0", service_0000="2.0.0")
    place.approve("4.0")
    release_delivery.promote(place.platform, "4.0", "ana")
    release_delivery.record_suite(place.platform, "health", "ana", passed=True, checks=7, failed=0)
    candidate = candidate_of(place.platform, "4.0", place.platform.environment)
    (run,) = read_facts(place.platform.evidence, candidate).suites
    assert (run.suite, run.passed, run.checks, run.digest) == ("health", True, 7, candidate.digest)


def test_a_release_made_for_another_environment_is_refused(place: Place, server: PostgresServer) -> None:
    place.create("4.0", service_0000="2.0.0")
    store = release_delivery.release_store(place.platform)
    other = store.get("4.0").model_copy(update={"environment": "staging", "name": "4.1"})
    store.add(other)
    with pytest.raises(release_delivery.MadeForAnother):
        release_delivery.promote(place.platform, "4.1", "ana")


def test_the_digest_of_a_release_is_the_same_in_every_environment_and_its_plan_is_not(place: Place) -> None:
    place.create("3.0")
    catalog = place.platform.catalog
    here = candidate_of(place.platform, "3.0", catalog.environments["local"])
    there = candidate_of(place.platform, "3.0", catalog.environments["staging"])
    assert here.digest == there.digest
    assert here.plan_digest != there.plan_digest


def test_an_outage_of_the_operations_database_refuses(place: Place) -> None:
    place.create("4.0", service_0000="2.0.0")
    place.approve("4.0")
    place.platform.operations = operations_engine("postgresql://nobody@/none?host=/nonexistent")
    del place.platform.__dict__["evidence"]
    with pytest.raises(PlatformError) as shut:
        release_delivery.promote(place.platform, "4.0", "ana")
    assert "could not look" in str(shut.value)
    assert place.version() == "1.0.0"


@pytest.mark.parametrize("fails", [False, True])
def test_told_again_after_a_stop_nothing_is_added(place: Place, fails: bool) -> None:
    place.create("4.0", service_0000="2.0.0")
    if fails:
        place.platform.memory.faults.unready_versions.add("2.0.0")
    place.approve("4.0")
    with contextlib.suppress(ReleaseNotDeployed):
        release_delivery.promote(place.platform, "4.0", "ana")
    (place.platform.state.objects / "deployments" / "000001" / "ended.json").unlink()
    entries = place.platform.evidence.count()
    with contextlib.suppress(ReleaseNotDeployed):
        release_delivery.promote(place.platform, "4.0", "ana")
    last = release_delivery.release_ledger(place.platform).last()
    assert last is not None
    assert last.ended is not None
    assert last.ended.outcome is (Outcome.FAILED if fails else Outcome.DEPLOYED)
    assert place.platform.evidence.count() == entries


def test_a_webhook_is_told_where_its_secret_is_and_a_deployment_does_not_fail_by_it(place: Place) -> None:
    fields = {"url": "http://127.0.0.1:9/hook", "key": "0123456789abcdef"}
    place.platform.secrets.write(KEY_SECRET, fields, category="webhook", expected=None)
    place.create("4.0", service_0000="2.0.0")
    place.approve("4.0")
    told: list[str] = []
    assert release_delivery.promote(place.platform, "4.0", "ana", told.append).outcome is Outcome.DEPLOYED
    (line,) = [line for line in told if "tracker" in line]
    assert "127.0.0.1" in line
    assert "hook" not in line
