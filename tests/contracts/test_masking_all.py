"""One run over the catalog's four databases on real servers: references stay whole, nobody is left."""

# ruff: noqa: E501 - statements of three query languages are read as a whole

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from redis import Redis

from dr_platform.catalog import Engine
from dr_platform.clock import SystemClock
from dr_platform.databases.access import Login, read_login
from dr_platform.databases.cql import CqlDatabase
from dr_platform.databases.mongodb import MongoDatabase
from dr_platform.databases.port import Endpoint
from dr_platform.databases.redis_ import HISTORY_KEY, RedisDatabase
from dr_platform.databases.schema import migrate, read_steps
from dr_platform.masking import postgresql as pg
from dr_platform.masking.canaries import Canaries
from dr_platform.masking.classification import Unclassified, read_classifications
from dr_platform.masking.mongodb import MongoMasking
from dr_platform.masking.people import derived_key
from dr_platform.masking.port import Access
from dr_platform.masking.recipe import Profile, Recipe
from dr_platform.masking.redis_ import open_client
from dr_platform.masking.run import Order, Part, Report, engines, mask, refuse
from dr_platform.masking.seals import KeyRing
from dr_platform.masking.values import masked_key, time_of, token_timeuuid
from dr_platform.reference_service.cipher import FieldCipher, Place, make_key
from tests.catalogs import SHIPPED
from tests.contracts.embedded_servers import Running, running
from tests.embedded_programs import a_database
from tests.postgres_server import running_postgres

pytestmark = pytest.mark.contract

KNOWN = read_classifications(SHIPPED)
RECIPE = Recipe(Profile.EXPERT_DETERMINATION, b"k" * 32, date(2026, 11, 26))
OPENED, SEALING = KeyRing({1: make_key()}), KeyRing({1: make_key()})
PEOPLE = [uuid.UUID(int=0x1000 + n, version=4) for n in range(6)]
NAMES = [
    "Abelard Achterberg",
    "Brunhild Bruckmann",
    "Casimira Czernowitz",
    "Dagobert Dorfmeister",
    "Eulalia Ebert",
    "Fridolin Finster",
]
BEGAN = datetime(2025, 3, 14, 10, 30, tzinfo=UTC)


def steps(name: str) -> Any:
    return read_steps(SHIPPED / "databases" / name / "migrations")


def of_server(server: Running, database: str) -> Access:
    endpoint = Endpoint(server.endpoint.host, server.endpoint.port, database)
    return Access(server.database, endpoint, read_login(server.database.name, "admin", server.secrets))


def fill_postgres(access: Access, cipher: FieldCipher) -> None:
    with pg.connect(access) as connection:
        for person, name in zip(PEOPLE, NAMES, strict=True):
            email = f"{name.replace(' ', '.').lower()}@mail.example.com"
            connection.execute(
                "INSERT INTO identity.accounts (id, kind, email_ciphertext, email_blind_index, display_name_ciphertext,"
                " created_at, updated_at) VALUES (%s, 'patient', %s, %s, %s, %s, %s)",
                (
                    person,
                    cipher.encrypt(email, Place("identity.accounts", "email", str(person))),
                    cipher.blind_index(email, "account"),
                    cipher.encrypt(name, Place("identity.accounts", "display_name", str(person))),
                    BEGAN,
                    BEGAN + timedelta(days=3),
                ),
            )
            connection.execute(
                "INSERT INTO consent.consents (account_id, purpose, policy_version, granted_at) VALUES (%s, 'research', '1', %s)",
                (person, BEGAN),
            )
            connection.execute(
                "INSERT INTO billing.usage (account_id, metric, units, at, report_id) VALUES (%s, 'tokens', 5, %s, gen_random_uuid())",
                (person, BEGAN),
            )
            connection.execute(
                "INSERT INTO audit.events (actor, action, resource, outcome) VALUES (%s, 'account:read', %s, 'allowed')",
                (str(person), f"account:{person}"),
            )
        connection.execute(
            "INSERT INTO identity.relationships (patient_id, other_id, kind, started_at) VALUES (%s, %s, 'partner', %s)",
            (PEOPLE[0], PEOPLE[1], BEGAN),
        )


def conversation_of(person: uuid.UUID) -> uuid.UUID:
    return uuid.uuid5(person, "conversation")


def fill_cql(database: CqlDatabase, cipher: FieldCipher) -> None:
    for person, name in zip(PEOPLE, NAMES, strict=True):
        account, conversation = derived_key("account", str(person)), conversation_of(person)
        session = database.session
        session.execute(
            "INSERT INTO conversations (conversation_id, account_id, started_at, status, days) VALUES (%s, %s, %s, 'open', %s)",
            (conversation, account, BEGAN, {BEGAN.date()}),
        )
        session.execute(
            "INSERT INTO conversations_by_account (account_id, started_at, conversation_id, status) VALUES (%s, %s, %s, 'open')",
            (account, BEGAN, conversation),
        )
        for number in range(3):
            message = token_timeuuid(bytes([number] * 32), BEGAN + timedelta(minutes=number))
            text = f"{name.split()[0]} here again, message {number}, mail me at {name.split()[1].lower()}@home.example"
            session.execute(
                "INSERT INTO messages_by_conversation (conversation_id, day, message_id, author, body_ciphertext, key_version)"
                " VALUES (%s, %s, %s, 'patient', %s, 1)",
                (
                    conversation,
                    BEGAN.date(),
                    message,
                    cipher.encrypt(text, Place("messages_by_conversation", "body", str(message))),
                ),
            )


def fill_mongo(database: MongoDatabase, cipher: FieldCipher) -> None:
    for person, name in zip(PEOPLE, NAMES, strict=True):
        note = str(uuid.uuid5(person, "plan"))
        database.schema.care_plans.insert_one(
            {
                "_id": note,
                "patient_id": str(person),
                "revision": 1,
                "status": "active",
                "body": cipher.encrypt(f"Plan of {name}", Place("care_plans", "body", note)),
                "key_version": 1,
                "created_at": BEGAN,
            }
        )
        database.schema.model_outputs.insert_one(
            {
                "_id": f"req-{person}",
                "request_id": f"req-{person}",
                "conversation_id": str(conversation_of(person)),
                "model": "m",
                "output": cipher.encrypt(f"Dear {name}", Place("model_outputs", "output", f"req-{person}")),
                "key_version": 1,
                "sources": ["sleep", "breathing"],
                "created_at": BEGAN,
            }
        )


def fill_redis(database: RedisDatabase, cipher: FieldCipher) -> None:
    for person, name in zip(PEOPLE, NAMES, strict=True):
        task = str(uuid.uuid5(person, "task"))
        database.client.set(f"presence:{person}", BEGAN.isoformat(), ex=3600)
        database.client.set(f"cache:answer:{person.hex}", "ciphertext", ex=3600)
        sealed = cipher.encrypt(f'["{name}"]', Place("tasks", "texts", task))
        database.client.hset(f"queue:task:{task}", mapping={"kind": "embed", "state": "waiting", "texts": sealed})
        database.client.rpush("queue:tasks:waiting", task)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Part]]:
    cipher = OPENED.cipher()
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(running_postgres())
        mongo = stack.enter_context(running(Engine.MONGODB, "mongodb", ready_s=120))
        cassandra = stack.enter_context(running(Engine.SCYLLADB, "scylladb", ready_s=240))
        redis = stack.enter_context(running(Engine.REDIS, "redis", ready_s=60))
        staging_redis = stack.enter_context(running(Engine.REDIS, "redis", ready_s=60))
        database = a_database(Engine.POSTGRESQL, "postgres")

        def of_postgres(name: str) -> Access:
            return Access(database, Endpoint(str(postgres.folder), 5432, name), Login("tester", ""))

        from dr_platform.databases.postgresql import PostgresDatabase

        source = of_postgres(postgres.new_database().split("@/")[1].split("?")[0])
        with contextlib.closing(PostgresDatabase(source.database, source.endpoint, source.login)) as db:
            migrate(db, steps("postgres"))
        fill_postgres(source, cipher)
        found = {"postgres": Part(source, of_postgres("masked_postgres"), KNOWN["postgres"], steps("postgres"))}
        for name, server, target, adapter, fill in (
            ("mongodb", mongo, of_server(mongo, "masked"), MongoDatabase, fill_mongo),
            ("scylladb", cassandra, of_server(cassandra, "masked"), CqlDatabase, fill_cql),
            ("redis", redis, of_server(staging_redis, "therapy"), RedisDatabase, fill_redis),
        ):
            access = of_server(server, server.endpoint.database)
            with contextlib.closing(adapter(access.database, access.endpoint, access.login)) as db:
                migrate(db, steps(name))
                fill(db, cipher)
            found[name] = Part(access, target, KNOWN[name], steps(name))
        with open_client(found["redis"].target) as live:
            live.set("presence:somebody", "in staging")
        yield found


def masked_redis(parts: dict[str, Part]) -> Redis:
    """The highest number of sixteen, none of which has keys but the one of what is live there."""
    target = parts["redis"].target
    return open_client(replace(target, endpoint=replace(target.endpoint, database="15")))


@pytest.fixture(scope="module")
def order() -> Order:
    return Order("mask-test", RECIPE, OPENED, SEALING, Canaries.made_from(b"a run over all four"))


@pytest.fixture(scope="module")
def report(parts: dict[str, Part], order: Order) -> Report:
    source = parts["mongodb"].source

    def written_meanwhile(line: str) -> None:
        if line.startswith("mongodb: care_plans: "):
            with contextlib.closing(MongoDatabase(source.database, source.endpoint, source.login)) as live:
                late = live.schema.care_plans.find_one({})
                live.schema.care_plans.insert_one({**(late or {}), "_id": "after it was read", "revision": 9})

    return mask(list(parts.values()), order, SystemClock(), written_meanwhile)


def test_documents_that_were_not_read_fail_the_gate(report: Report, parts: dict[str, Part]) -> None:
    part = parts["mongodb"]
    target = replace(part.target, endpoint=replace(part.target.endpoint, database=report.databases["mongodb"]))
    with contextlib.closing(MongoMasking(part.source, target, part.known, part.steps, OPENED, SEALING)) as engine:
        (read,) = [one for one in report.tables["mongodb"] if one.name == "care_plans"]
        assert engine.gates((read,))[0].passed
        in_part = engine.gates((replace(read, whole=False),))[0]
        assert not in_part.passed
        assert in_part.detail.startswith(f"care_plans: {read.rows} were read, the source had another number")
        lost = engine.gates((replace(read, rows=read.rows + 1),))[0]
        assert not lost.passed
        assert lost.detail == f"care_plans: {read.rows + 1} were read, {read.rows} arrived"


def test_every_gate_passes_and_no_canary_is_found_in_any_database(report: Report) -> None:
    assert {gate.name: gate.detail for gate in report.gates if gate.passed is not True} == {}
    searched = {gate.name: gate.counts for gate in report.gates if gate.name.endswith("canaries")}
    assert set(searched) == {f"{name}: canaries" for name in ("postgres", "mongodb", "scylladb", "redis")}
    assert all(counts["found"] == 0 and counts["values"] > 20 for counts in searched.values())
    assert report.passed
    assert not any(one.unopened for found in report.tables.values() for one in found)


def test_one_person_is_one_person_in_all_four_databases(report: Report, parts: dict[str, Part]) -> None:
    del report
    masked = {str(masked_key(RECIPE, "account", person)) for person in PEOPLE}
    with pg.connect(parts["postgres"].target) as connection:
        accounts = {str(row[0]) for row in connection.execute("SELECT id FROM identity.accounts")}
        actors = {row[0] for row in connection.execute("SELECT actor FROM audit.events")}
        assert connection.execute("SELECT count(*) FROM audit.broken_links()").fetchone() == (0,)
    assert masked <= accounts
    assert masked <= actors
    mongo = parts["mongodb"].target
    with contextlib.closing(MongoDatabase(mongo.database, mongo.endpoint, mongo.login)) as db:
        assert masked <= set(db.schema.care_plans.distinct("patient_id"))
        talked = set(db.schema.model_outputs.distinct("conversation_id"))
    cql = parts["scylladb"].target
    with contextlib.closing(CqlDatabase(cql.database, cql.endpoint, cql.login)) as db:
        rows = list(db.session.execute("SELECT conversation_id, account_id FROM conversations"))
        assert {derived_key("account", one) for one in masked} <= {row.account_id for row in rows}
        assert talked <= {str(row.conversation_id) for row in rows}
    client = masked_redis(parts)
    present = {key.decode().partition(":")[2] for key in client.scan_iter("presence:*")}
    assert masked <= present
    assert not list(client.scan_iter("cache:answer:*"))
    waiting = {f"queue:task:{task.decode()}" for task in client.lrange("queue:tasks:waiting", 0, -1)}
    assert waiting <= {key.decode() for key in client.scan_iter("queue:task:*")}
    client.close()


def test_what_is_live_in_the_redis_of_staging_stays_and_the_report_names_the_number_beside_it(
    report: Report, parts: dict[str, Part]
) -> None:
    assert report.databases["redis"] == "15"
    with open_client(parts["redis"].target) as live, masked_redis(parts) as masked:
        assert live.keys() == [b"presence:somebody"]
        assert masked.hkeys(HISTORY_KEY)


def test_staging_opens_what_is_sealed_and_reads_no_name_in_it(report: Report, parts: dict[str, Part]) -> None:
    del report
    cipher = SEALING.cipher()
    cql = parts["scylladb"].target
    with contextlib.closing(CqlDatabase(cql.database, cql.endpoint, cql.login)) as db:
        rows = list(db.session.execute("SELECT day, message_id, body_ciphertext FROM messages_by_conversation"))
        texts = [
            cipher.decrypt(r.body_ciphertext, Place("messages_by_conversation", "body", str(r.message_id)))
            for r in rows
        ]
        # Canaries have identifiers of any time.
        told = [r for r, text in zip(rows, texts, strict=True) if "here again" in text]
        assert len(told) == 3 * len(PEOPLE)
        assert all(r.day.date() == time_of(r.message_id).date() for r in told)
    assert sum("[NAME] here again, message 1, mail me at [EMAIL]" in text for text in texts) == len(PEOPLE)
    with pg.connect(parts["postgres"].target) as connection:
        found = connection.execute(
            "SELECT id::text, email_ciphertext, email_blind_index FROM identity.accounts"
        ).fetchall()
    for account, sealed, index in found:
        email = cipher.decrypt(sealed, Place("identity.accounts", "email", account))
        assert email.endswith("@example.invalid")
        assert bytes(index) == cipher.blind_index(email, "account")  # log-in finds the account by it


def test_what_nobody_classified_stops_the_run_before_it_writes(
    report: Report, parts: dict[str, Part], order: Order
) -> None:
    del report
    mongo, cql, redis = (parts[name].source for name in ("mongodb", "scylladb", "redis"))
    with contextlib.closing(MongoDatabase(mongo.database, mongo.endpoint, mongo.login)) as db:
        db.schema.care_plans.update_one({}, {"$set": {"extra": {"nick": ["x"]}}})
    with contextlib.closing(CqlDatabase(cql.database, cql.endpoint, cql.login)) as db:
        db.session.execute("ALTER TABLE conversations ADD nickname text")
    client = open_client(redis)
    client.set("whois:Brunhild", "x")
    client.close()
    with engines(list(parts.values()), order) as found, pytest.raises(Unclassified) as stopped:
        refuse(found)
    assert set(stopped.value.args[0]) == {
        "mongodb: care_plans.extra.nick[]",
        "scylladb: conversations.nickname",
        "redis: whois:… (whole)",
    }
