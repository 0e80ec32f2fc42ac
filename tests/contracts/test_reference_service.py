"""Guards the health contract, tokens, faults and the drain of a replica as a real process, without databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dr_platform.catalog import Engine, Role
from dr_platform.clock import ManualClock, SystemClock
from dr_platform.faults import FaultStore
from dr_platform.knowledge.http_embedder import ANSWERING
from dr_platform.reference_service.access import Tokens, make_key
from dr_platform.reference_service.roles.search import EMBEDDING_S
from dr_platform.reference_service.stores.port import open_store
from dr_platform.reference_service.topology import Topology, Work, read_topology
from tests.embedding_server import EmbeddingServer, Fault, embedding_server, model_file
from tests.reference_platform import Fleet, Process, fleet, until

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]

COMPLIANCE = {"hipaa_audit_enabled", "encryption_active", "access_controls_active"}


@pytest.fixture(scope="module")
def services() -> Iterator[Fleet]:
    with fleet() as made:
        yield made


@pytest.fixture
def faults(services: Fleet) -> Iterator[FaultStore]:
    store = FaultStore(services.state.faults, runtime="local")
    yield store
    store.clear()
    for replica in services.replicas:
        if replica.process.poll() is None:
            # Of so many in a row one would fail if the fault were still there, also one of few errors.
            until("it behaves again", lambda r=replica: all(r.ask("/nothing").status == 404 for _ in range(12)), 10)


@pytest.fixture(autouse=True)
def tidy(services: Fleet) -> Iterator[None]:
    """What a test started ends with it, also where it failed; ``alone`` stays."""
    yield
    for replica in services.replicas:
        if replica.service != "web-app":
            replica.stop()


@pytest.fixture(scope="module")
def alone(services: Fleet) -> Process:
    """A replica that needs no database."""
    return services.start("web-app")


@pytest.fixture
def own(services: Fleet) -> Process:
    """A replica for one test, which may do with it what it likes."""
    return services.start("mobile-api", version="2.0.0")


# The health contract


def test_the_health_response_has_exactly_the_documented_fields(services: Fleet, alone: Process) -> None:
    body = alone.ask("/health").body
    assert {"status", "service", "version", "timestamp", "dependencies", "compliance"} == set(body) - {"reasons"}
    assert (body["service"], body["version"]) == ("web-app", "1.0.0")
    at = datetime.strptime(body["timestamp"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - at) < timedelta(seconds=5)
    needs = services.catalog.services["web-app"].needs
    assert set(body["dependencies"]) == {*needs.services, *needs.databases}
    assert set(body["compliance"]) == COMPLIANCE
    assert all(isinstance(value, bool) for value in body["compliance"].values())


def test_an_unreachable_peer_is_told_and_does_not_make_a_service_unready(alone: Process) -> None:
    answer = alone.ask("/health")
    assert answer.status == 200
    assert answer.body["status"] == "degraded"
    assert answer.body["dependencies"] == {"api-gateway": "unhealthy"}
    assert alone.ask("/health/ready").status == 200


def test_a_peer_that_comes_up_is_seen(services: Fleet) -> None:
    caller = services.start("nlp-processing")
    assert caller.ask("/health").body["dependencies"]["ml-model-server"] == "unhealthy"
    peer = services.start("ml-model-server")
    assert peer.ask("/health").body["status"] == "healthy"
    until("the peer is seen", lambda: caller.ask("/health").body["dependencies"]["ml-model-server"] == "healthy", 10)
    peer.stop()
    until("its end is seen", lambda: caller.ask("/health").body["dependencies"]["ml-model-server"] == "unhealthy", 10)


def test_without_its_database_a_service_is_unready_and_says_why(services: Fleet) -> None:
    replica = services.start("billing")
    ready = until("an answer", lambda: (a := replica.ask("/health/ready")).status == 503 and a)
    assert ready.body["reasons"] == {"postgres": "no credentials yet"}
    health = replica.ask("/health")
    assert (health.status, health.body["status"]) == (503, "unhealthy")
    assert health.body["dependencies"]["postgres"] == "unhealthy"
    assert health.body["compliance"]["encryption_active"] is False  # it could not be measured
    assert replica.ask("/health/live").status == 200
    assert replica.ask("/v1/records?kind=note", token=services.token("records:read")).status == 503


def test_compliance_is_measured(alone: Process) -> None:
    def measured() -> bool:
        block = alone.ask("/health").body["compliance"]
        return block["encryption_active"] and block["access_controls_active"]

    until("encryption and access control were measured", measured)
    assert alone.ask("/health").body["compliance"]["hipaa_audit_enabled"] is False  # nobody keeps the audit log here


def test_the_planted_canary_is_ciphertext_where_it_is_stored(services: Fleet, alone: Process) -> None:
    until("measured", lambda: alone.ask("/health").body["compliance"]["encryption_active"])
    (file,) = (services.state.root / "reference-service" / "canaries").glob("web-app-*")
    assert b"canary" not in file.read_bytes()
    assert len(file.read_bytes()) > 60


def test_only_the_gateway_reports_all_databases(services: Fleet, alone: Process) -> None:
    assert alone.ask("/health/database").status == 404
    gateway = services.start("api-gateway")
    answer = gateway.ask("/health/database")
    assert answer.status == 503
    assert set(answer.body["databases"]) == set(services.catalog.databases)
    assert {one["status"] for one in answer.body["databases"].values()} == {"unhealthy"}


def test_metrics_count_requests_errors_and_latency(alone: Process, services: Fleet, faults: FaultStore) -> None:
    def count(line: str) -> float:
        text = alone.ask("/metrics").text
        return next((float(one.rpartition(" ")[2]) for one in text.splitlines() if one.startswith(line)), 0.0)

    route = 'service="web-app",version="1.0.0",slot="blue",route="/v1/protected",method="GET"'
    admitted = f'drp_requests_total{{{route},status="200"}}'
    before = count(admitted), count(f"drp_request_duration_seconds_count{{{route}}}")
    for _ in range(3):
        alone.ask("/v1/protected", token=services.token("self:check"))
    assert count(admitted) >= before[0] + 3
    assert count(f"drp_request_duration_seconds_count{{{route}}}") >= before[1] + 3
    faults.inject("web-app", "1.0.0", error_ratio=1)
    until("it fails", lambda: alone.ask("/v1/protected").status == 500)
    # An injected failure is answered before the request has a route.
    assert count(f"drp_request_errors_total{{{route.replace('/v1/protected', 'unmatched')}}}") >= 1


def test_paths_of_strangers_do_not_become_labels(alone: Process) -> None:
    alone.ask("/jane.doe@example.org/secret")
    assert "jane" not in alone.ask("/metrics").text
    assert 'route="unmatched"' in alone.ask("/metrics").text


# Tokens


def test_data_endpoints_refuse_whoever_may_not(services: Fleet, alone: Process) -> None:
    good = services.token("self:check")
    head, body, signature = good.split(".")
    unsigned = f"{'eyJhbGciOiJub25lIiwia2lkIjoiMSJ9'}.{body}."
    stranger = Tokens(services.secrets, "drp-production", SystemClock()).issue("x", ("self:check",))
    for token, status in (
        (None, 401),
        ("", 401),
        ("nonsense", 401),
        ("a.b.c", 401),
        (f"{head}.{body}.{signature[:-6]}AAAAAA", 401),
        (unsigned, 401),
        (stranger, 401),
        (services.token("self:check", life_s=-3600), 401),
        (services.token("other:scope"), 403),
        (services.token(), 403),
        (good, 200),
        ("x" * 10_000, 401),
    ):
        answer = alone.ask("/v1/protected", token=token)
        assert answer.status == status, f"{str(token)[:60]}…"
        if status == 401:
            assert answer.headers["www-authenticate"] == "Bearer"
            assert good not in answer.text


def test_a_rotated_signing_key_signs_and_the_one_before_it_is_still_accepted(services: Fleet) -> None:
    clock = ManualClock(datetime.now(UTC) - timedelta(seconds=60))
    tokens = Tokens(services.secrets, "drp-local", clock)
    kept = [tokens.issue("tester", ("self:check",))]
    for _ in range(2):
        found = services.secrets.metadata("jwt/signing")
        assert found is not None
        services.secrets.write("jwt/signing", make_key(), category=found.category, expected=found.version)
        clock.sleep(20)
        kept.append(tokens.issue("tester", ("self:check",)))
    assert [tokens.check(token).subject for token in kept[1:]] == ["tester", "tester"]
    with pytest.raises(Exception, match="wrong signature"):
        tokens.check(kept[0])
    replica = services.start("qwen-host")
    assert replica.ask("/v1/protected", token=kept[2]).status == 200


@pytest.mark.parametrize(
    ("raw", "status"),
    [(b"{", 400), (b"[]", 400), (b"\xff", 400), (b"[" * 100_000, 400), (b'"' + b"x" * (1 << 20) + b'"', 413)],
)
def test_a_body_that_cannot_be_read_is_refused(services: Fleet, alone: Process, raw: bytes, status: int) -> None:
    answer = alone.ask("/v1/protected", raw=raw, method="GET", token=services.token("self:check"))
    assert answer.status == status


# Faults


def test_errors_and_latency_spare_probes_and_metrics(own: Process, faults: FaultStore) -> None:
    faults.inject("mobile-api", "2.0.0", error_ratio=1.0, latency_ms=300)
    until("it fails", lambda: own.ask("/health").status == 500, 2)
    for path in ("/health/live", "/metrics"):
        assert own.ask(path).status == 200
    assert own.ask("/health/ready").body["status"] == "unready"  # by its missing database, not by the fault
    assert "process" not in own.ask("/health/ready").body["reasons"]
    faults.clear("mobile-api")
    until("it answers again", lambda: own.ask("/health").status != 500, 2)


def test_a_share_of_requests_fails(alone: Process, faults: FaultStore) -> None:
    faults.inject("web-app", "1.0.0", error_ratio=0.2)
    until("it begins", lambda: alone.ask("/nothing").status == 500, 2)
    failed = sum(alone.ask("/nothing").status == 500 for _ in range(100))
    assert 17 <= failed <= 23


def test_another_version_is_left_alone(alone: Process, faults: FaultStore) -> None:
    faults.inject("web-app", "1.0.1", error_ratio=1.0, unready=True)
    faults.inject("web-app", "1.0.0", compliance_flags={"access_controls_active": False})
    until("flagged", lambda: not alone.ask("/health").body["compliance"]["access_controls_active"], 2)
    assert alone.ask("/health").status == 200
    assert alone.ask("/health/ready").status == 200


def test_unready_until_restart_is_healed_by_a_restart(services: Fleet, faults: FaultStore) -> None:
    replica = services.start("bge-host")
    assert replica.ask("/health/ready").status == 200
    faults.inject("bge-host", "1.0.0", unready=True, until_restart=True)
    until("unready", lambda: replica.ask("/health/ready").status == 503, 2)
    assert replica.stop() == 0
    again = services.start("bge-host")
    assert again.ask("/health/ready").status == 200


def test_unready_for_ever_is_not_healed_by_a_restart(services: Fleet, faults: FaultStore) -> None:
    faults.inject("bge-host", "1.0.0", unready=True)
    for _ in range(2):
        replica = services.start("bge-host")
        assert replica.ask("/health/ready").body["reasons"] == {"process": "told to be unready"}
        replica.stop()


# Ending


def test_told_to_end_it_becomes_unready_serves_on_finishes_and_exits_with_0(
    services: Fleet, faults: FaultStore
) -> None:
    replica = services.start("qwen-host", version="3.0.0")
    token = services.token("self:check")
    faults.inject("qwen-host", "3.0.0", latency_ms=4_000)
    until("slow", lambda: _takes_long(replica), 10)
    replica.ask("/health/ready")  # somebody asks, so a router may be sending
    answers: list[int] = []
    slow = threading.Thread(target=lambda: answers.append(replica.ask("/v1/protected", token=token).status))
    slow.start()
    until("the request is under way", lambda: _under_way(replica) >= 1)
    replica.process.terminate()
    until("unready", lambda: replica.ask("/health/ready").status == 503, 1)
    assert replica.ask("/health/ready").body["reasons"] == {"process": "draining"}
    assert replica.ask("/health/live").status == 200
    slow.join(10)
    assert answers == [200]
    assert replica.process.wait(10) == 0


def _takes_long(replica: Process) -> bool:
    began = datetime.now(UTC)
    replica.ask("/nothing")
    return datetime.now(UTC) - began > timedelta(seconds=3)


def _under_way(replica: Process) -> float:
    lines = replica.ask("/metrics").text.splitlines()
    # The request for the metrics is under way as well.
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith("drp_requests_under_way{")) - 1


def test_nobody_is_waited_for_where_nobody_asks(services: Fleet) -> None:
    replica = services.start("qwen-host", version="3.0.1")
    began = datetime.now(UTC)
    assert replica.stop() == 0
    assert datetime.now(UTC) - began < timedelta(seconds=2)


# Starting


def test_an_unknown_service_ends_at_once_with_the_remedy(services: Fleet) -> None:
    replica = services.spawn("no-such-service", port=1)
    assert replica.process.wait(20) == 2
    assert "drp catalog show" in replica.log.read_text()


def test_the_snapshot_of_the_topology_follows_the_catalog(services: Fleet, tmp_path: Path) -> None:
    root = services.catalog.root
    first = read_topology(root, "local", tmp_path)
    assert set(first.services) == set(services.catalog.services)
    assert read_topology(root, "local", tmp_path) == first
    file = root / "services" / "web-app.yaml"
    text = file.read_text(encoding="utf-8")
    try:
        file.write_text(text.replace("api-gateway", "content-safety"), encoding="utf-8")
        assert read_topology(root, "local", tmp_path).services["web-app"].services == ("content-safety",)
        file.write_text("broken: [", encoding="utf-8")
        kept = read_topology(root, "local", tmp_path)  # a crashed replica must come back while somebody edits
        assert kept.services["web-app"].services == ("content-safety",)
    finally:
        file.write_text(text, encoding="utf-8")


def test_roles_and_engines_are_those_of_the_catalog(services: Fleet) -> None:
    assert {work.value for work in Work} == {role.value for role in Role}
    topology: Topology = read_topology(services.catalog.root, "local", services.state.root / "x")
    assert {entry.engine for entry in topology.databases.values()} == {engine.value for engine in Engine}
    for entry in topology.databases.values():
        open_store(entry, services.secrets, 1).close()


# Embedding models


def embed(services: Fleet, replica: Process, model: str | None) -> tuple[int, int]:
    """The status, and how many numbers the vector of a question has."""
    wanted = {"texts": ["a question of a patient"]} | ({"model": model} if model else {})
    answer = replica.ask("/embed", wanted, token=services.token("embed:use"))
    return answer.status, len(answer.body["vectors"][0]) if answer.status == 200 else 0


@pytest.fixture
def acme(services: Fleet) -> Iterator[tuple[Path, EmbeddingServer]]:
    """Where the file of a model on a server stands, and the server, which wants the key of the secret store."""
    file = services.catalog.root / "embedders" / "acme-1.yaml"
    services.secrets.ensure("embedders/acme", lambda: {"key": "the-right-one"}, category="api-keys")
    with embedding_server(key="the-right-one") as server:
        yield file, server
    file.unlink(missing_ok=True)


def test_a_model_added_to_the_catalog_is_asked_by_a_running_service_as_its_file_allows(
    services: Fleet, acme: tuple[Path, EmbeddingServer]
) -> None:
    file, server = acme
    replica = services.start("embedding-service")
    assert embed(services, replica, None) == (200, 256)
    assert embed(services, replica, "acme-1") == (400, 0)

    def write(**fields: str) -> None:
        file.write_text(model_file("acme-1", server, 256, secret="embedders/acme", **fields), encoding="utf-8")

    write(questions="allowed")
    until("it has the new model", lambda: embed(services, replica, "acme-1") == (200, 256))
    assert server.keys[-1] == "Bearer the-right-one"
    assert embed(services, replica, "wordllama-l2-supercat-128") == (200, 128)
    write(questions="refused")
    until("it sends no questions there any more", lambda: embed(services, replica, "acme-1")[0] == 403)
    told = replica.log.read_text()
    assert "patient" not in told
    assert "the-right-one" not in told


def test_a_model_s_server_is_given_up_before_the_search_gives_up_waiting() -> None:
    pauses = (ANSWERING.attempts - 1) * ANSWERING.longest_pause_s
    assert ANSWERING.attempts * ANSWERING.request_s + pauses < EMBEDDING_S


def test_a_server_that_is_down_costs_a_search_its_patience_once(
    services: Fleet, acme: tuple[Path, EmbeddingServer]
) -> None:
    file, server = acme
    file.write_text(model_file("acme-1", server, 256, secret="embedders/acme", questions="allowed"), encoding="utf-8")
    server.forever = Fault(hangs=True)
    replica = services.start("embedding-service")
    assert embed(services, replica, "acme-1") == (503, 0)
    asked = len(server.asked)
    assert asked == 2
    assert embed(services, replica, "acme-1") == (503, 0)
    assert len(server.asked) == asked
    assert replica.ask("/health/live").status == 200
