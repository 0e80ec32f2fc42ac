"""Guards what the services do with real databases: answers, records, audit, encryption, outages."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from dr_platform.catalog import Engine, Role
from dr_platform.clock import SystemClock
from dr_platform.databases.connect import connect_database
from dr_platform.databases.embedded import embedded_server
from dr_platform.embedding import WordVectors
from dr_platform.identity import new_id
from dr_platform.knowledge.embedder import Embedder
from dr_platform.knowledge.evaluate import Figures, RetrievalReport
from dr_platform.knowledge.http_embedder import HttpEmbedder, OpenAi
from dr_platform.knowledge.models import Answers, switch
from dr_platform.reference_service.client import ServiceClient
from dr_platform.reference_service.peers import PeerRefused
from dr_platform.reference_service.roles.authentication import demo_secret
from dr_platform.reference_service.settings import Paths
from dr_platform.reference_service.stores.cql import CqlStore
from dr_platform.reference_service.stores.mongodb import MongoStore
from dr_platform.reference_service.stores.port import open_store
from dr_platform.reference_service.stores.postgresql import PostgresStore
from dr_platform.reference_service.stores.redis_ import RedisStore
from dr_platform.reference_service.topology import read_topology
from dr_platform.reference_service.traffic import Sender, Traffic, plan, read_questions, send_all
from dr_platform.validation import ai, hipaa, integration, performance, security
from tests.embedding_server import SERVED, Fault, embedding_server, model_file
from tests.reference_platform import ROOT, Answer, Fleet, Process, databases, fleet, until

pytestmark = [pytest.mark.contract, pytest.mark.timeout(240)]

WORDS = "my neighbour Rumpelstiltskin knows"
"""A text that occurs nowhere else, to be looked for in raw storage."""


@dataclass
class Platform:
    """All services of the catalog with all their databases."""

    fleet: Fleet
    replicas: Mapping[str, Process]
    client: ServiceClient

    def named(self, role: Role) -> Process:
        service = self.fleet.catalog.with_role(role)
        assert service is not None
        return self.replicas[service.name]

    def ask(
        self, role: Role, path: str, document: Mapping[str, Any] | None, *scopes: str, who: str = "tester"
    ) -> Answer:
        return self.named(role).ask(path, document, token=self.fleet.token(*scopes, subject=who))

    def store(self, engine: Engine) -> Any:
        name = next(d.name for d in self.fleet.catalog.databases.values() if d.engine is engine)
        entry = read_topology(self.fleet.catalog.root, "local", self.fleet.state.root / "test").databases[name]
        return open_store(entry, self.fleet.secrets, 2)


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with fleet() as made, databases(made, tuple(made.catalog.databases), tuple(made.catalog.knowledge)):
        replicas = made.start_all(tuple(made.catalog.services))
        running = Platform(made, replicas, ServiceClient(made.catalog, made.secrets, 0, subject="tester"))
        until("all services are healthy", lambda: not unwell(running), 60)
        yield running


def unwell(platform: Platform) -> list[str]:
    """Services that are not healthy, or say that a part of the compliance block does not hold."""
    bodies = {name: replica.ask("/health").body for name, replica in platform.replicas.items()}
    return [n for n, b in bodies.items() if b["status"] != "healthy" or not all(b["compliance"].values())]


def test_all_services_are_healthy_and_measure_all_of_their_compliance(platform: Platform) -> None:
    assert unwell(platform) == []
    for name, replica in platform.replicas.items():
        needs = platform.fleet.catalog.services[name].needs
        assert set(replica.ask("/health").body["dependencies"]) == {*needs.services, *needs.databases}


def test_the_gateway_reports_latency_and_state_of_all_databases(platform: Platform) -> None:
    answer = platform.named(Role.GATEWAY).ask("/health/database")
    assert (answer.status, answer.body["status"]) == (200, "healthy")
    assert set(answer.body["databases"]) == set(platform.fleet.catalog.databases)
    for seen in answer.body["databases"].values():
        assert seen["status"] == "healthy"
        assert 0 < seen["latency_ms"] < 1000


# Conversations


def test_a_question_is_answered_with_sentences_of_its_sources(platform: Platform) -> None:
    answer = platform.client.converse("I lie awake for hours at night, what can I do?", new_id("talk"))
    assert answer["known"]
    assert answer["stored"]
    articles = {
        path.stem: path.read_text("utf-8") for path in platform.fleet.catalog.root.glob("knowledge/*/articles/*.md")
    }
    quoted = " ".join(" ".join(articles[source["document"]].split()) for source in answer["sources"])
    generated = platform.ask(
        Role.GENERATION,
        "/generate",
        {
            "question": "I lie awake for hours at night, what can I do?",
            "passages": [{"document": "d", "title": "t", "text": "Get up when you lie awake at night in bed."}],
        },
        "generate:use",
    )
    assert set(generated.body["sentences"]) <= {"Get up when you lie awake at night in bed."}
    assert answer["answer"].split(". ")[0] in quoted
    assert {"safety", "search", "generation", "total"} <= set(answer["timings_ms"])


def test_what_no_article_answers_is_not_answered(platform: Platform) -> None:
    answer = platform.client.converse("Who won the football world cup in 1998?", new_id("talk"))
    assert not answer["known"]
    assert answer["sources"] == []
    assert answer["answer"].startswith("I do not know")


def test_in_a_crisis_a_number_comes_first(platform: Platform) -> None:
    answer = platform.client.converse("I want to kill myself", new_id("talk"))
    assert answer["safety"]["crisis"]
    assert "988" in answer["answer"].partition("\n")[0]


def test_identifiers_do_not_pass_the_safety_check(platform: Platform) -> None:
    message = "My name is John Smith, my SSN is 123-45-6789 and I cannot sleep"
    checked = platform.ask(Role.CONTENT_SAFETY, "/check", {"text": message}, "safety:use").body
    assert "SSN" in checked["phi"]
    assert "123-45-6789" not in checked["redacted"]
    answer = platform.client.converse(message, new_id("talk"))
    assert "SSN" in answer["safety"]["phi"]


def test_a_conversation_is_read_back_in_order_by_its_owner_alone(platform: Platform) -> None:
    conversation = new_id("talk")
    for message in ("How do I fall asleep?", "And if I wake up at night?"):
        platform.client.converse(message, conversation)
    scopes = ("conversation:read",)
    path = f"/v1/conversation/{conversation}"
    messages = platform.ask(Role.GATEWAY, path, None, *scopes).body["messages"]
    assert [m["author"] for m in messages] == ["patient", "assistant", "patient", "assistant"]
    assert [m["text"] for m in messages[::2]] == ["How do I fall asleep?", "And if I wake up at night?"]
    assert platform.ask(Role.GATEWAY, path, None, *scopes, who="somebody-else").status == 404
    with pytest.raises(PeerRefused):
        ServiceClient(platform.fleet.catalog, platform.fleet.secrets, 0, subject="intruder").converse(
            "Hi you", conversation
        )


def test_a_message_that_is_sent_twice_is_stored_once(platform: Platform) -> None:
    message = {
        "conversation": new_id("talk"),
        "account": "tester",
        "author": "patient",
        "text": WORDS,
        "client_token": new_id("sent"),
    }
    first, second = (platform.ask(Role.CHAT_HISTORY, "/v1/messages", message, "chat:write").body for _ in range(2))
    assert (first["stored"], second["stored"]) == (True, False)
    assert first["message"] == second["message"]
    listed = platform.ask(Role.CHAT_HISTORY, "/v1/messages/list", message, "chat:read").body["messages"]
    assert [m["text"] for m in listed] == [WORDS]


# Encryption at rest


def test_nothing_that_was_said_is_readable_in_the_chat_history(platform: Platform) -> None:
    platform.client.converse(f"{WORDS} that I cannot sleep", new_id("talk"))
    store: CqlStore = platform.store(Engine.SCYLLADB)
    rows = list(store.execute("SELECT body_ciphertext, author FROM messages_by_conversation"))
    store.close()
    assert len(rows) > 4
    assert not [
        row
        for row in rows
        if b"Rumpelstiltskin" in bytes(row.body_ciphertext) or b"sleep" in bytes(row.body_ciphertext)
    ]


@pytest.mark.parametrize("engine", [Engine.POSTGRESQL, Engine.MONGODB, Engine.REDIS])
def test_records_are_kept_encrypted_and_change_by_revision(platform: Platform, engine: Engine) -> None:
    replica = keeper_of_records(platform, engine)
    read, write = platform.fleet.token("records:read"), platform.fleet.token("records:write")
    added = replica.ask("/v1/records", {"kind": "note", "content": WORDS}, token=write).body
    one = f"/v1/records/{added['id']}"
    assert replica.ask(one, token=read).body["content"] == WORDS
    assert WORDS.encode() not in raw_records(platform, engine)
    assert b"Rumpelstiltskin" not in raw_records(platform, engine)
    assert replica.ask(one, {"content": "changed", "revision": 1}, token=write, method="PUT").status == 200
    assert replica.ask(one, {"content": "too late", "revision": 1}, token=write, method="PUT").status == 409
    assert replica.ask(one, token=read).body["content"] == "changed"
    listed = replica.ask("/v1/records?kind=note", token=read).body["records"]
    assert added["id"] in [r["id"] for r in listed]
    assert replica.ask(one, {"revision": 1}, token=write, method="DELETE").status == 409
    assert replica.ask(one, {"revision": 2}, token=write, method="DELETE").status == 200
    assert replica.ask(one, token=read).status == 404


def keeper_of_records(platform: Platform, engine: Engine) -> Process:
    """A service without a role whose most durable database is of this engine."""
    catalog = platform.fleet.catalog
    order = [Engine.POSTGRESQL, Engine.MONGODB, Engine.REDIS]
    for service in catalog.services.values():
        engines = {catalog.databases[name].engine for name in service.needs.databases}
        if not service.roles and engines and min(engines & set(order), key=order.index) is engine:
            return platform.replicas[service.name]
    raise AssertionError(f"no service keeps records in {engine}")


def raw_records(platform: Platform, engine: Engine) -> bytes:
    """Everything that is stored of records, as the server has it."""
    store = platform.store(engine)
    try:
        if isinstance(store, PostgresStore):
            with store.connection() as connection:
                found = connection.execute("SELECT body_ciphertext FROM work.records").fetchall()
            return b"\n".join(bytes(row[0]) for row in found)
        if isinstance(store, MongoStore):
            with store.database() as database:
                return b"\n".join(bytes(row["body"]) for row in database["service_records"].find())
        assert isinstance(store, RedisStore)
        with store.client() as client:
            keys = list(client.scan_iter("cache:record:*"))
            assert keys
            return b"\n".join(value for key in keys for value in client.hgetall(key).values())
    finally:
        store.close()


def test_an_identifier_that_is_none_is_no_record(platform: Platform) -> None:
    replica = keeper_of_records(platform, Engine.POSTGRESQL)
    read = platform.fleet.token("records:read")
    for name in ("x", str(uuid.uuid4()), "..", "'%3B--"):
        assert replica.ask(f"/v1/records/{name}", token=read).status == 404


# Audit


def test_what_is_done_with_data_is_audited_and_the_chain_is_whole(platform: Platform) -> None:
    replica = keeper_of_records(platform, Engine.POSTGRESQL)
    actor = new_id("actor")
    replica.ask("/v1/records?kind=note", token=platform.fleet.token("records:read", subject=actor))
    replica.ask("/v1/records", {"kind": "note", "content": WORDS})

    def audited() -> list[dict[str, Any]]:
        answer = platform.named(Role.AUDIT_LOG).ask("/v1/events?limit=200", token=platform.fleet.token("audit:read"))
        return [e for e in answer.body["events"] if e["service"] == replica.service]

    until("it was audited", lambda: any(e["actor"] == actor and e["outcome"] == "allowed" for e in audited()))
    until(
        "the refusal was audited",
        lambda: any(e["action"] == "record:add" and e["outcome"] == "denied" for e in audited()),
    )
    assert platform.client.verify_audit() == {"whole": True, "looked_at": 10_000, "broken": []}
    assert WORDS not in json.dumps(audited())


@pytest.mark.parametrize(
    "statement", ["UPDATE audit.events SET actor = 'x'", "DELETE FROM audit.events", "TRUNCATE audit.events"]
)
def test_the_application_cannot_change_the_audit_log(platform: Platform, statement: str) -> None:
    import psycopg

    store: PostgresStore = platform.store(Engine.POSTGRESQL)
    with pytest.raises(psycopg.errors.InsufficientPrivilege), store.connection() as connection:
        connection.execute(statement.encode())
    store.close()


def test_nobody_can_speak_for_another_service_in_the_audit_log(platform: Platform) -> None:
    event = {"actor": "a", "action": "forged:action", "outcome": "allowed", "service": "somebody-else"}
    sent = platform.ask(Role.AUDIT_LOG, "/v1/events", {"events": [event]}, "audit:write", who="honest-name")
    assert sent.status == 200
    newest = platform.named(Role.AUDIT_LOG).ask("/v1/events?limit=50", token=platform.fleet.token("audit:read"))
    assert {e["service"] for e in newest.body["events"] if e["action"] == "forged:action"} == {"honest-name"}


# Search, vectors, tasks, log-in


def test_search_finds_the_article_and_a_second_search_comes_from_the_cache(platform: Platform) -> None:
    question = f"What happens when I call 988? ({new_id('q')})"
    first = platform.client.search(question, 3)
    assert "calling-988" in [hit["document"] for hit in first]
    assert len(first) <= 3
    assert first == sorted(first, key=lambda hit: -hit["score"])
    hits = 'drp_cache_hits_total{service="search-service"'

    def count() -> float:
        lines = platform.named(Role.SEARCH).ask("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(hits))

    before = count()
    assert platform.client.search(question, 3) == first
    assert count() == before + 1


def test_vectors_are_of_length_1_and_equal_for_equal_texts(platform: Platform) -> None:
    answer = platform.client.embed(["sleep", "sleep", "tax return"])
    first, second, third = answer["vectors"]
    assert len(first) == 256
    assert first == second != third
    assert sum(x * x for x in first) == pytest.approx(1, abs=1e-5)


def test_vectors_of_another_model_are_given_when_asked_for_and_unknown_ones_refused(platform: Platform) -> None:
    wanted = {"texts": ["sleep"], "model": SHORT.model_id}
    answer = platform.ask(Role.EMBEDDING, "/embed", wanted, "embed:use")
    assert (answer.body["model"], len(answer.body["vectors"][0])) == (SHORT.model_id, 128)
    assert platform.ask(Role.EMBEDDING, "/embed", {**wanted, "model": "no-such-model"}, "embed:use").status == 400


LONG, SHORT = WordVectors(), WordVectors("wordllama-l2-supercat-128", 128)
NOTHING = Answers(RetrievalReport("no question", 0, *[Figures(0, 0, 0)] * 3, ()))


def test_search_follows_the_store_to_another_model_and_back(platform: Platform) -> None:
    made = platform.fleet
    entry = next(d for d in made.catalog.databases.values() if d.engine is Engine.POSTGRESQL)
    endpoint = embedded_server(entry, made.state, made.secrets).endpoint()

    def use(embedder: Embedder) -> None:
        with contextlib.closing(connect_database(entry, endpoint, made.secrets, "admin")) as database:
            connection: Any = database.connection  # type: ignore[attr-defined]
            switch(connection, embedder, None, lambda _asked: NOTHING, SystemClock(), chosen="a test")

    def found() -> str:
        wanted = {"question": f"I forgot my tablet last night {new_id('q')}", "limit": 3}
        answer = platform.ask(Role.SEARCH, "/search", wanted, "search:use").body
        assert len(answer["results"]) == 3
        return answer["mode"]

    use(SHORT)
    assert found() == "hybrid"
    file = made.catalog.root / "embedders" / "acme-1.yaml"
    with embedding_server() as served:
        file.write_text(model_file("acme-1", served, questions="allowed"), encoding="utf-8")
        use(HttpEmbedder("acme-1", 256, served.url, OpenAi(SERVED), SystemClock()))
        until("its server is asked", lambda: found() == "hybrid")
        assert any(text.startswith("I forgot my tablet") for text in served.texts)
        served.forever = Fault(503)
        assert found() == "words", "a server that is down costs meaning, not the answer"
    use(LONG)
    assert found() == "hybrid"
    file.unlink()


def test_a_task_is_worked_off_and_the_depth_of_the_queue_is_told(platform: Platform) -> None:
    added = platform.ask(Role.BACKGROUND_TASKS, "/v1/tasks", {"kind": "embed", "texts": ["a", "b"]}, "tasks:write").body

    def done() -> Any:
        found = platform.ask(Role.BACKGROUND_TASKS, f"/v1/tasks/{added['task']}", None, "tasks:read").body
        return found if found["state"] == "done" else None

    assert until("it is done", done)["result"].startswith("2 vectors")
    metrics = platform.named(Role.BACKGROUND_TASKS).ask("/metrics").text
    assert any(line.startswith("drp_queue_depth{") and line.endswith(" 0") for line in metrics.splitlines())


def test_a_task_of_a_worker_that_died_is_done_by_its_successor(platform: Platform) -> None:
    replica = platform.named(Role.BACKGROUND_TASKS)
    store = platform.store(Engine.REDIS)
    added = platform.ask(
        Role.BACKGROUND_TASKS, "/v1/tasks", {"kind": "count-words", "texts": ["one two"]}, "tasks:write"
    ).body
    until("it was done", lambda: state_of(store, added["task"]) == b"done")
    replica.process.kill()
    replica.process.wait(10)
    with store.client() as client:  # what a worker leaves that is killed between taking and finishing
        client.hset(f"queue:task:{added['task']}", "state", "running")
        client.lpush(f"queue:tasks:running:blue-{replica.port}", added["task"])
    again = platform.fleet.start(replica.service)
    platform.replicas[replica.service].process = again.process  # type: ignore[index]
    until("it is done after all", lambda: state_of(store, added["task"]) == b"done")
    with store.client() as client:
        assert client.llen(f"queue:tasks:running:blue-{replica.port}") == 0
    store.close()


def state_of(store: RedisStore, task: str) -> bytes:
    with store.client() as client:
        return client.hget(f"queue:task:{task}", "state") or b""


def test_a_demo_account_signs_in_with_its_generated_password_and_gets_its_roles_scopes(platform: Platform) -> None:
    account = until("the account was made", lambda: platform.fleet.secrets.read(demo_secret("patient")))
    document = {"account": account["username"], "password": account["password"]}

    def signed_in() -> Any:
        answer = platform.named(Role.AUTHENTICATION).ask("/v1/login", document)
        return answer.body if answer.status == 200 else None

    granted = until("the account is there", signed_in)
    assert "conversation:write" in granted["scopes"]
    said = {"message": "How do I fall asleep?", "conversation": new_id("talk")}
    assert platform.named(Role.GATEWAY).ask("/v1/conversation", said, token=granted["token"]).status == 200
    assert platform.named(Role.AUDIT_LOG).ask("/v1/events", token=granted["token"]).status == 403


def test_a_wrong_password_is_refused_like_an_unknown_account_and_counted(platform: Platform) -> None:
    name = f"{new_id('nobody')}@example.org"
    answers = [
        platform.named(Role.AUTHENTICATION).ask("/v1/login", {"account": name, "password": "guess"}) for _ in range(12)
    ]
    assert [a.status for a in answers[:10]] == [401] * 10
    assert {a.status for a in answers[10:]} == {429}
    account = platform.fleet.secrets.read(demo_secret("auditor"))
    assert account is not None
    wrong = platform.named(Role.AUTHENTICATION).ask("/v1/login", {"account": account["username"], "password": "guess"})
    assert (wrong.status, wrong.body) == (401, answers[0].body)


# Load and outages


def test_traffic_reaches_all_services_without_an_error_and_tells_what_it_measured(platform: Platform) -> None:
    paths, root = Paths(platform.fleet.state.root), platform.fleet.catalog.root
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DRP_STATE_ROOT": str(paths.root),
        "DRP_CATALOG": str(root),
        "DRP_ENVIRONMENT": "local",
    }
    words = (sys.executable, "-m", "dr_platform.reference_service.traffic", "--rate", "40", "--seed", "7")
    process = subprocess.Popen(words, env=environment, cwd=paths.root)
    summary = paths.root / "traffic.json"
    try:

        def enough() -> Any:
            found = json.loads(summary.read_text()) if summary.exists() else {}
            return found if len(found.get("services", {})) == len(platform.replicas) else None

        seen = until("every service had traffic", enough, 60)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert seen["totals"]["failed"] == 0
    last = json.loads(summary.read_text())["totals"]
    assert last["due"] == last["answered"] + last["failed"] + last["dropped"]


# Validation suites, on services that stand on their documented ports without a router


def test_a_conversation_and_a_task_pass_through_all_services_that_they_need(platform: Platform) -> None:
    said = integration.conversation_verdict(platform.client, random.Random(1))
    assert said.passed, said.why
    assert {"safety_ms", "search_ms", "generation_ms", "total_ms"} <= set(said.measurements)
    worked = integration.queue_verdict(platform.client, SystemClock())
    assert worked.passed, worked.why


def test_every_kind_of_crisis_is_escalated_and_other_matters_are_declined(platform: Platform) -> None:
    for verdict in (ai.crisis_verdict(platform.client), ai.refusal_verdict(platform.client)):
        assert verdict.passed, verdict.why


def test_every_access_leaves_a_trace_and_identifiers_are_replaced(platform: Platform) -> None:
    gateway = platform.named(Role.GATEWAY).service
    for verdict in (
        hipaa.audit_verdict(platform.client, gateway, SystemClock()),
        hipaa.identifiers_verdict(platform.client),
    ):
        assert verdict.passed, verdict.why


@pytest.mark.parametrize("role", ai.TIMED)
def test_latency_is_measured_on_what_no_cache_knows(platform: Platform, role: Role) -> None:
    questions = read_questions(platform.fleet.catalog.root)
    service = platform.named(role)
    before = requests_to(service)
    found = ai.latency_verdict(platform.client, role, questions, 10.0, random.Random(2), SystemClock())
    assert found.passed, found.why
    assert requests_to(service) - before >= ai.CALLS
    too_slow = ai.latency_verdict(platform.client, role, questions, 0.0, random.Random(3), SystemClock())
    assert too_slow.passed is False


def requests_to(service: Process) -> float:
    """Requests that did the service's own work."""
    counted = re.findall(r'drp_requests_total\{[^}]*route="/(?:search|embed|generate)"[^}]*\} (\S+)', metrics(service))
    return sum(map(float, counted))


def metrics(service: Process) -> str:
    return service.ask("/metrics").text


def test_every_service_refuses_wrong_tokens_and_nobody_gets_in_with_a_well_known_login(platform: Platform) -> None:
    for name in platform.replicas:
        verdict = security.access_verdict(platform.client, platform.fleet.secrets, name, SystemClock())
        assert verdict.passed, f"{name}: {verdict.why}"
    entry = platform.named(Role.AUTHENTICATION)
    verdict = security.default_credentials_verdict(platform.client, entry.service)
    assert verdict.passed, verdict.why


def test_the_secrets_of_a_running_platform_are_for_their_owner_alone(platform: Platform) -> None:
    verdict = security.judge_files(platform.fleet.state.secrets, os.getuid())
    assert verdict.passed, verdict.why


def test_the_stated_load_reaches_every_service_and_its_gauges_are_read(platform: Platform) -> None:
    chance, clock = random.Random(4), SystemClock()
    client = platform.client
    requests = plan(client.topology, read_questions(platform.fleet.catalog.root)[:3], 2, chance)
    assert len(requests) == 2 * 2 * len(platform.replicas)
    assert min(Counter(request.service for request in requests)[name] for name in platform.replicas) >= 2
    sender = Sender(client.peers, clock)
    send_all(sender, requests, 40, chance, clock)
    assert sender.tally.totals == {"due": len(requests), "answered": len(requests), "failed": 0, "dropped": 0}
    seen = performance.parse(iter([metrics(platform.named(Role.SEARCH))]))
    assert 0 < seen.cache_hits < seen.cache_asked
    assert performance.parse(iter([metrics(platform.named(Role.BACKGROUND_TASKS))])).queue_depth is not None


def test_a_service_that_stands_still_fails_and_is_not_merely_unseen(platform: Platform) -> None:
    stopped = platform.named(Role.BACKGROUND_TASKS)
    os.kill(stopped.process.pid, signal.SIGSTOP)
    try:
        client = ServiceClient(platform.fleet.catalog, platform.fleet.secrets, 0, subject="tester")
        verdict = integration.queue_verdict(client, SystemClock())
    finally:
        os.kill(stopped.process.pid, signal.SIGCONT)
    assert verdict.passed is False
    assert stopped.service in verdict.why


def test_equal_seeds_send_the_same(platform: Platform) -> None:
    def first_requests() -> list[object]:
        traffic = Traffic(Paths(platform.fleet.state.root), platform.fleet.catalog.root, "local", 5, 3, SystemClock())
        chance = traffic._chance
        return [chance.choices(traffic._makers, traffic._weights)[0](chance) for _ in range(50)]

    assert first_requests() == first_requests()


@pytest.mark.parametrize("engine", [Engine.REDIS, Engine.POSTGRESQL])
def test_a_database_that_stands_still_makes_unready_whoever_needs_it_and_comes_back(
    platform: Platform, engine: Engine
) -> None:
    stopped = next(d.name for d in platform.fleet.catalog.databases.values() if d.engine is engine)
    services = platform.fleet.catalog.services
    needing = [name for name, service in services.items() if stopped in service.needs.databases]
    with standing_still(platform, stopped):
        for name in needing:
            until(f"{name} is unready", lambda n=name: platform.replicas[n].ask("/health/ready").status == 503, 30)
        body = platform.replicas[needing[0]].ask("/health").body
        assert body["status"] == "unhealthy"
        assert body["dependencies"][stopped] == "unhealthy"
        for name in set(services) - set(needing):
            assert platform.replicas[name].ask("/health/ready").status == 200, name
        if engine is Engine.REDIS:  # search works without its cache for whoever still reaches it
            assert platform.client.search("How do I fall asleep?", 2)
        else:  # and ends with an answer where it cannot work
            wanted = {"question": new_id("q")}
            assert platform.ask(Role.SEARCH, "/search", wanted, "search:use").status == 503
    until("all are well again", lambda: not unwell(platform), 60)


@contextlib.contextmanager
def standing_still(platform: Platform, name: str) -> Iterator[None]:
    """Every process of the server stops: its sockets accept, and nobody answers."""
    server = psutil.Process(server_pid(platform, name))
    family = [server, *server.children(recursive=True)]
    for process in family:
        process.suspend()
    try:
        yield
    finally:
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def server_pid(platform: Platform, name: str) -> int:
    port = platform.fleet.catalog.databases[name].port
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            return connection.pid
    raise AssertionError(f"nobody listens for {name}")


def test_without_the_embedding_service_words_alone_are_searched(platform: Platform) -> None:
    replica = platform.named(Role.EMBEDDING)
    replica.stop()
    wanted = {"question": f"reminders for tablets {new_id('q')}", "limit": 3}
    found = platform.ask(Role.SEARCH, "/search", wanted, "search:use").body
    assert found["mode"] == "words"
    assert found["results"]
    health = platform.named(Role.SEARCH).ask("/health").body
    assert health["status"] in ("healthy", "degraded")
    platform.replicas[replica.service].process = platform.fleet.start(replica.service).process  # type: ignore[index]
    until("all are well again", lambda: not unwell(platform), 60)


def test_without_the_audit_log_nobody_says_that_audit_is_enabled(platform: Platform) -> None:
    replica = platform.named(Role.AUDIT_LOG)
    replica.stop()
    other = keeper_of_records(platform, Engine.MONGODB)
    until("it is told", lambda: not other.ask("/health").body["compliance"]["hipaa_audit_enabled"], 30)
    assert other.ask("/health").body["compliance"]["encryption_active"]
    platform.replicas[replica.service].process = platform.fleet.start(replica.service).process  # type: ignore[index]
    until("all are well again", lambda: not unwell(platform), 60)


def test_no_log_holds_what_was_said(platform: Platform) -> None:
    for log in Path(platform.fleet.state.logs).glob("*.log"):
        assert b"Rumpelstiltskin" not in log.read_bytes(), log.name
