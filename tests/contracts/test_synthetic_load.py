"""Guards that synthetic data arrives in all four databases: whole, once, readable by the services, and resumable."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest

from dr_platform.catalog import DataClass, Role
from dr_platform.clock import SystemClock
from dr_platform.databases.connect import connect_database
from dr_platform.databases.embedded import embedded_server
from dr_platform.evidence import MemoryEvidenceLog
from dr_platform.platform import Platform
from dr_platform.reference_service.cipher import FieldCipher, Place
from dr_platform.reference_service.roles.chat_history import stable_id
from dr_platform.synthesis import synthesize
from dr_platform.synthetic.block import clinician_blocks, clinicians, patients
from dr_platform.synthetic.load import LoadReport, load
from dr_platform.synthetic.loading.cql import NODE
from dr_platform.synthetic.loading.mongodb import COLLECTIONS
from dr_platform.synthetic.loading.port import LoadRefused
from dr_platform.synthetic.loading.postgresql import PROFILE_SERVICE, TABLES
from dr_platform.synthetic.plan import Existing, Plan
from dr_platform.synthetic.progress import SERVICE, LoadInProgress, OtherData, Progress, RemovalUnfinished
from dr_platform.synthetic.rows import Block
from dr_platform.synthetic.worker import Server, Servers
from tests.reference_platform import Fleet, databases, fleet, until

pytestmark = [pytest.mark.contract, pytest.mark.timeout(300)]

PLAN = Plan(seed=3, scale=0.07)
"""Two blocks, the second of twenty patients."""
OTHER = Plan(seed=4, scale=0.02)


@dataclass
class Stack:
    """All databases of the catalog, with their schema."""

    fleet: Fleet
    servers: Servers
    open: dict[str, Any] = field(default_factory=dict)

    def load(self, plan: Plan = PLAN, existing: Existing = Existing.KEPT, processes: int = 1) -> LoadReport:
        return load(
            plan,
            self.servers,
            "local",
            DataClass.SYNTHETIC,
            SystemClock(),
            existing=existing,
            processes=processes,
        )

    def has(self, plan: Plan) -> None:
        """Bring it to hold this plan, whatever a test before has left."""
        with contextlib.suppress(OtherData):
            self.load(plan)
            return
        self.load(plan, Existing.REPLACED)

    def adapter(self, name: str) -> Any:
        if name not in self.open:
            server = next(each for each in self.servers.all if each.database.name == name)
            self.open[name] = connect_database(server.database, server.endpoint, self.servers.secrets, "admin")
        return self.open[name]

    def rows(self, query: Any, *parameters: object) -> list[Any]:
        return self.adapter("postgres").connection.execute(query, parameters or None).fetchall()

    def talks(self, table: str, columns: str) -> list[Any]:
        return list(self.adapter("scylladb").session.execute(f"SELECT {columns} FROM {table}", timeout=60))

    def conversations(self) -> list[Any]:
        """Without those of the canaries, which belong to nobody but themselves."""
        rows = self.talks("conversations", "conversation_id, account_id, days")
        return [row for row in rows if row.conversation_id != row.account_id]

    def messages(self, columns: str) -> list[Any]:
        """Without the canaries that services write to see that they encrypt."""
        return [row for row in self.talks("messages_by_conversation", columns) if row.message_id.node >> 24 == NODE]

    def contents(self) -> dict[str, str]:
        """A fingerprint of everything that the plan decides: all but what servers number themselves."""
        found: dict[str, list[Any]] = {}
        for table in TABLES:
            if table.name not in ("audit.events", "work.records"):
                found[table.name] = self.rows(f"SELECT {', '.join(table.columns)} FROM {table.name}")
        for name in COLLECTIONS:
            found[name] = [sorted(each.items()) for each in self.adapter("mongodb").schema[name].find()]
        found["conversations_by_account"] = self.talks(
            "conversations_by_account", "account_id, started_at, conversation_id, title_ciphertext, status"
        )
        found["conversations"] = [(*row[:2], sorted(map(str, row.days))) for row in self.conversations()]
        found["messages"] = self.messages("conversation_id, day, message_id, author, body_ciphertext, model, safety")
        found["sessions"] = sorted(self.adapter("redis").client.scan_iter(match="session:*"))
        found["profiles"] = self.rows(
            "SELECT id, body_ciphertext FROM work.records WHERE service = %s", PROFILE_SERVICE
        )
        return {name: _digest(rows) for name, rows in found.items()}

    def audit_events(self) -> int:
        return self.rows("SELECT count(*) FROM audit.events")[0][0]


def _digest(rows: list[Any]) -> str:
    return f"{len(rows)}:{hashlib.sha256(repr(sorted(map(repr, rows))).encode()).hexdigest()[:16]}"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with fleet() as made, databases(made, tuple(made.catalog.databases)):
        at = {
            name: Server(database, embedded_server(database, made.state, made.secrets).endpoint())
            for name, database in made.catalog.databases.items()
        }
        running = Stack(made, Servers(at.pop("postgres"), tuple(at.values()), made.secrets))
        yield running
        for adapter in running.open.values():
            adapter.close()


def expected(plan: Plan) -> list[Block]:
    parts = [clinicians(plan, number) for number in range(clinician_blocks(plan))]
    return parts + [patients(plan, number) for number in range(plan.blocks)]


def wanted_counts(plan: Plan) -> Counter[str]:
    """Rows that the generator makes, by table."""
    counts: Counter[str] = Counter()
    for block in expected(plan):
        counts["identity.accounts"] += len(block.accounts)
        counts["identity.sessions"] += len(block.sessions)
        counts["audit.events"] += len(block.audit)
        counts["care_plans"] += len(block.care_plans)
        counts["model_outputs"] += len(block.outputs)
        counts["session:token"] += sum(session.open for session in block.sessions)
        counts["conversations"] += len(block.conversations)
        counts["messages_by_conversation"] += sum(len(talk.messages) for talk in block.conversations)
    return counts


def loading(plan: Plan, servers: Servers) -> None:
    """What a process does that is going to be killed."""
    load(plan, servers, "local", DataClass.SYNTHETIC, SystemClock(), processes=2)


def test_a_load_that_is_killed_leaves_no_process_and_is_finished_by_the_next_one(stack: Stack) -> None:
    process = multiprocessing.get_context("spawn").Process(target=loading, args=(PLAN, stack.servers))
    process.start()
    assert process.pid is not None
    recorded = "SELECT count(*) FROM work.records WHERE service = %s AND kind = 'block'"
    # The second record is that of patients in PostgreSQL: the other databases are behind.

    def under_way() -> bool:
        assert process.is_alive()
        return stack.rows(recorded, SERVICE)[0][0] >= 2

    until("a block is recorded", under_way, 120)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert psutil.wait_procs(children, timeout=20)[1] == []
    before = stack.audit_events()
    report = stack.load()
    assert report.finished
    wanted = wanted_counts(PLAN)
    held = Counter({name: rows for tables in report.held.values() for name, rows in tables.items()})
    assert {name: held[name] for name in wanted} == dict(wanted)
    # Append-only events show best that nothing was loaded twice.
    assert before < stack.audit_events() == wanted["audit.events"]
    assert report.rows < sum(sum(tables.values()) for tables in report.held.values())
    assert stack.rows("SELECT * FROM audit.broken_links()") == []
    assert stack.rows(recorded, SERVICE)[0][0] == 0


def test_a_second_run_changes_nothing(stack: Stack) -> None:
    stack.has(PLAN)
    before, events = stack.contents(), stack.audit_events()
    report = stack.load(processes=2)
    assert (report.rows, report.removed, report.finished) == (0, 0, True)
    assert (stack.contents(), stack.audit_events()) == (before, events)
    assert report.held["scylladb"]["conversations"] == wanted_counts(PLAN)["conversations"]


def test_every_reference_holds_across_the_four_databases(stack: Stack) -> None:
    stack.has(PLAN)
    accounts = {row[0]: row[1] for row in stack.rows("SELECT id::text, kind FROM identity.accounts")}
    sessions = {row[0] for row in stack.rows("SELECT id::text FROM identity.sessions")}
    hashes = {row[0] for row in stack.rows("SELECT encode(token_hash, 'hex') FROM identity.sessions")}
    schema = stack.adapter("mongodb").schema
    plans, notes = list(schema.care_plans.find()), list(schema.session_notes.find())
    assert plans
    assert notes
    assert {accounts[each["patient_id"]] for each in plans + notes} == {"patient"}
    assert {accounts[each["clinician_id"]] for each in notes} == {"clinician"}
    assert {each["session_id"] for each in schema.transcripts.find()} <= sessions
    outputs = {each["_id"]: each["conversation_id"] for each in schema.model_outputs.find()}
    assert {each["output_id"] for each in schema.feedback.find()} <= outputs.keys()
    owners = {
        row.conversation_id: row.account_id for row in stack.talks("conversations", "conversation_id, account_id")
    }
    patients_of = {stable_id("account", account) for account, kind in accounts.items() if kind == "patient"}
    assert set(owners.values()) == patients_of
    assert {stable_id("conversation", name) for name in outputs.values()} <= owners.keys()
    messages = stack.messages("conversation_id, day, message_id")
    assert {row.conversation_id for row in messages} == owners.keys()
    flagged = stack.talks("flagged_messages_by_day", "message_id")
    assert {row.message_id for row in flagged} <= {row.message_id for row in messages}
    listed = stack.talks("conversations_by_account", "account_id, conversation_id")
    assert {(row.conversation_id, row.account_id) for row in listed} == set(owners.items())
    keys = {key.rpartition(":")[2] for key in stack.adapter("redis").client.scan_iter(match="session:token:*")}
    assert keys
    assert keys <= hashes
    actors = {row[0] for row in stack.rows("SELECT DISTINCT actor FROM audit.events")}
    assert actors <= accounts.keys()


def test_services_read_what_was_loaded(stack: Stack) -> None:
    stack.has(PLAN)
    block = patients(PLAN, 0)
    talk = max(block.conversations, key=lambda each: len(each.messages))
    service = stack.fleet.catalog.with_role(Role.CHAT_HISTORY)
    assert service is not None
    replica = stack.fleet.start(service.name)
    asked = {"conversation": talk.id, "account": talk.account, "limit": 500}
    answer = replica.ask("/v1/messages/list", asked, token=stack.fleet.token("chat:read"))
    assert answer.status == 200, answer.text
    assert [(m["author"], m["text"]) for m in answer.body["messages"]] == [(m.author, m.text) for m in talk.messages]
    stranger = replica.ask(
        "/v1/messages/list", {**asked, "account": block.accounts[-1].person.id}, token=stack.fleet.token("chat:read")
    )
    assert stranger.status == 404
    keeper = stack.fleet.start(PROFILE_SERVICE)
    path = f"/v1/records/{block.profiles[0].id}"
    answer = keeper.ask(path, token=stack.fleet.token("records:read"), method="GET")
    assert answer.status == 200, answer.text
    assert answer.body["content"] == block.profiles[0].body
    replica.stop()
    keeper.stop()


def test_what_no_service_reads_yet_opens_with_the_services_cipher(stack: Stack) -> None:
    stack.has(PLAN)
    cipher, block = FieldCipher(stack.servers.secrets, SystemClock()), patients(PLAN, 0)
    person = block.accounts[0].person
    row = stack.rows(
        "SELECT email_ciphertext, email_blind_index, display_name_ciphertext FROM identity.accounts WHERE id = %s",
        person.id,
    )[0]
    assert cipher.decrypt(bytes(row[0]), Place("identity.accounts", "email", person.id)) == person.email
    assert bytes(row[1]) == cipher.blind_index(person.email, "account")
    assert cipher.decrypt(bytes(row[2]), Place("identity.accounts", "display_name", person.id)) == person.name
    plan = block.care_plans[0]
    stored = stack.adapter("mongodb").schema.care_plans.find_one({"_id": plan.id})
    assert cipher.decrypt(bytes(stored["body"]), Place("care_plans", "body", plan.id)) == plan.body


def test_no_text_of_a_person_is_stored_as_it_is(stack: Stack) -> None:
    stack.has(PLAN)
    person = patients(PLAN, 0).accounts[0].person
    for table in TABLES:
        for name in (person.given, person.email, person.ssn, person.phone, person.mrn):
            found = stack.rows(f"SELECT count(*) FROM {table.name} t WHERE t::text LIKE %s", f"%{name}%")
            assert found == [(0,)], table.name


def test_another_seed_or_scale_is_refused_and_nothing_is_changed(stack: Stack) -> None:
    stack.has(PLAN)
    before = stack.contents()
    for other in (OTHER, Plan(PLAN.seed, 0.2)):
        with pytest.raises(OtherData, match="seed 3"):
            stack.load(other)
    assert stack.contents() == before


def test_a_row_that_the_server_refuses_leaves_nothing_of_its_block_and_is_not_tried_again(stack: Stack) -> None:
    stack.has(OTHER)
    connection = stack.adapter("postgres").connection
    taken = patients(PLAN, 0).accounts[-1].person
    cipher = FieldCipher(stack.servers.secrets, SystemClock())
    # Somebody real has the address of an invented person, which is in use once.
    connection.execute(
        "INSERT INTO identity.accounts (kind, email_ciphertext, email_blind_index) VALUES ('staff', 'x', %s)",
        (cipher.blind_index(taken.email, "account"),),
    )
    try:
        with pytest.raises(LoadRefused, match="UniqueViolation"):
            stack.load(PLAN, Existing.REPLACED)
        first = patients(PLAN, 0).accounts[0].person.id
        assert stack.rows("SELECT count(*) FROM identity.accounts WHERE id = %s", first) == [(0,)]
    finally:
        connection.execute("DELETE FROM identity.accounts WHERE kind = 'staff'")
    assert stack.load(PLAN).finished


def test_two_at_once_are_one(stack: Stack) -> None:
    stack.has(PLAN)
    other = connect_database(
        stack.servers.postgresql.database, stack.servers.postgresql.endpoint, stack.servers.secrets, "admin"
    )
    first = Progress(other.connection, FieldCipher(stack.servers.secrets, SystemClock()))
    with contextlib.closing(other), first.alone(SystemClock()), pytest.raises(LoadInProgress):
        stack.load()
    stack.load()


def test_replacing_takes_away_everything_but_audit_events_and_what_is_not_synthetic(stack: Stack) -> None:
    stack.has(PLAN)
    connection = stack.adapter("postgres").connection
    connection.execute(
        "INSERT INTO identity.accounts (id, kind, email_ciphertext, email_blind_index)"
        " VALUES ('00000000-0000-4000-8000-000000000001', 'staff', 'x', decode(repeat('00', 32), 'hex'))"
        " ON CONFLICT DO NOTHING"
    )
    events = stack.audit_events()
    report = stack.load(OTHER, Existing.REPLACED)
    assert report.removed > 500
    wanted = wanted_counts(OTHER)
    assert stack.rows("SELECT count(*) FROM identity.accounts")[0][0] == wanted["identity.accounts"] + 1
    assert stack.rows("SELECT count(*) FROM identity.sessions")[0][0] == wanted["identity.sessions"]
    assert stack.adapter("mongodb").schema.model_outputs.count_documents({}) == wanted["model_outputs"]
    assert len(stack.conversations()) == wanted["conversations"]
    assert len(stack.messages("message_id")) == wanted["messages_by_conversation"]
    assert len(list(stack.adapter("redis").client.scan_iter(match="session:token:*"))) == wanted["session:token"]
    assert stack.audit_events() == events + wanted["audit.events"]
    connection.execute("DELETE FROM identity.accounts WHERE kind = 'staff'")


def test_the_same_rows_come_from_one_process_and_from_several(stack: Stack) -> None:
    stack.has(PLAN)
    one = stack.contents()
    stack.load(existing=Existing.REPLACED, processes=2)
    assert stack.contents() == one


def test_a_removal_that_was_stopped_is_named_and_then_finished(stack: Stack) -> None:
    stack.has(OTHER)
    # What a process has done that ended as soon as it had begun to remove.
    Progress(stack.adapter("postgres").connection, FieldCipher(stack.servers.secrets, SystemClock())).begin_removal(
        OTHER
    )
    with pytest.raises(RemovalUnfinished, match="stopped half-way"):
        stack.load(OTHER)
    assert stack.load(PLAN, Existing.REPLACED).removed > 0
    assert len(stack.conversations()) == wanted_counts(PLAN)["conversations"]


def test_the_platform_fills_its_own_databases_and_leaves_one_entry_of_evidence(stack: Stack) -> None:
    stack.has(OTHER)
    catalog, clock = stack.fleet.catalog, SystemClock()
    platform = Platform(catalog, catalog.environments["local"], stack.fleet.state, clock=clock)
    evidence = MemoryEvidenceLog(clock)
    vars(platform)["evidence"] = evidence  # its own lies in the system database, which is not part of this
    again = synthesize(platform, OTHER, "tester")
    assert again.report.rows == 0
    assert evidence.count() == 0
    replaced = synthesize(platform, OTHER, "tester", existing=Existing.REPLACED, processes=1)
    figures = replaced.measurements()
    assert figures["finished"] is True
    assert figures["scylladb_rows"] == sum(replaced.report.held["scylladb"].values()) > 0
    assert [(entry.kind, entry.subject, entry.actor) for entry in evidence.entries()] == [
        ("synthetic-data", "local", "tester")
    ]
