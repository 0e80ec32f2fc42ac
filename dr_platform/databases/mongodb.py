"""MongoDB, or a server that speaks its protocol, through PyMongo.

A ``.json`` step is a list of database commands in MongoDB's extended JSON, each with the command's
name as first key, run in order in the catalog's database. Taken are ``create``, ``createIndexes``,
``dropIndexes``, ``collMod``, ``drop``, ``update`` and ``delete``: they can be repeated, so that a
step that stopped half-way is finished by running it again. What a server cannot do (validators,
expiring or partial indexes) is left out of a command where the rest still stands, and ``server()``
names it as reduced.

Here: the adapter of ``ManagedDatabase``. Not here: the collections themselves, or starting a server.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pymongo
from bson import json_util
from bson.errors import BSONError
from pymongo import errors
from pymongo.database import Database as MongoSchema

from dr_platform.databases.access import (
    ACCESS_CONTROL,
    AUTHENTICATION,
    CONNECT_TIMEOUT_S,
    QUERY_TIMEOUT_S,
    TRANSMISSION,
    Answer,
    Login,
    Look,
    all_refused,
    certificate_authorities,
    is_loopback,
    measure,
    transmission,
)
from dr_platform.databases.lease import LeaseStore
from dr_platform.databases.port import (
    AccessDenied,
    AppliedStep,
    DatabaseUnreachable,
    Finding,
    SchemaStep,
    Script,
    ServerInfo,
    fingerprint_of,
)
from dr_platform.databases.repeatable import RepeatableSteps
from dr_platform.databases.schema import MigrationFailed, version_key

Document = dict[str, Any]
_FIELDS = ("description", "checksum", "applied_at", "duration_ms", "fingerprint", "undoing")
"""Of a record besides its version; it also has the shape, which is long and read by itself."""

HISTORY = "drp_schema_history"
LOCK = "drp_schema_lock"
AUTHENTICATION_DATABASE = "admin"

_UNAUTHORIZED = frozenset({13, 18})
_NAMESPACE_NOT_FOUND, _NAMESPACE_EXISTS, _INDEX_NOT_FOUND = 26, 48, 27
_NOT_IMPLEMENTED = frozenset({59, 115, 238})
"""CommandNotFound, CommandNotSupported, NotImplemented."""

REPEATABLE: Mapping[str, frozenset[int]] = {
    "create": frozenset({_NAMESPACE_EXISTS}),
    "createIndexes": frozenset(),
    "dropIndexes": frozenset({_INDEX_NOT_FOUND, _NAMESPACE_NOT_FOUND}),
    "collMod": frozenset(),
    "drop": frozenset({_NAMESPACE_NOT_FOUND}),
    "update": frozenset(),
    "delete": frozenset(),
}
"""Commands of a step, and the error codes with which a server says that it was done already."""

_VALIDATION = ("validator", "validationLevel", "validationAction")
_MISSING = "drp_no_such_collection"
_PROBES: Mapping[str, tuple[Document, str]] = {
    "validators": (
        {"collMod": _MISSING, "validator": {}},
        "no validators: documents are checked by the services alone",
    ),
    "lookup": (
        {
            "aggregate": _MISSING,
            "pipeline": [{"$lookup": {"from": _MISSING, "localField": "a", "foreignField": "b", "as": "c"}}],
            "cursor": {},
        },
        "no $lookup: collections are joined by the services",
    ),
}
"""Harmless commands on a collection that does not exist, and what it means where one is not known."""

_DEFAULT_LOGINS = (
    Login("admin", "admin"),
    Login("root", "root"),
    Login("root", "example"),
    Login("admin", "password"),
    Login("mongo", "mongo"),
    Login("user", "pass"),
)


def commands_of(text: str) -> tuple[Document, ...]:
    """The commands of a ``.json`` step. Raises ``ValueError`` that names the place."""
    try:
        found = json_util.loads(text)
    except (ValueError, TypeError, BSONError) as exc:
        place = f"line {exc.lineno}: " if hasattr(exc, "lineno") else ""
        raise ValueError(f"{place}not valid JSON") from None
    if not isinstance(found, list) or not all(isinstance(command, dict) and command for command in found):
        raise ValueError('must be a list of commands, such as [{"create": "care_plans"}]')
    for number, command in enumerate(found, start=1):
        name = next(iter(command))
        if name not in REPEATABLE:
            raise ValueError(f"command {number}: {name} is not taken; repeatable are {', '.join(REPEATABLE)}")
    return tuple(found)


class MongoDatabase(RepeatableSteps[Document]):
    """A ``ManagedDatabase`` on MongoDB. Connects at once and again by itself; for any number of threads.

    Users authenticate against the database ``admin``.
    """

    extension = ".json"
    default_logins = _DEFAULT_LOGINS

    def _connect(self) -> None:
        self._client = self._open(self._login)
        try:
            with self._answering() as schema:
                schema.command("ping")
                self._build: Document = schema.command("buildInfo")
                self._capabilities, self._reduced = self._probe(schema)
        except Exception:
            self._client.close()
            raise

    @property
    def client(self) -> pymongo.MongoClient[Document]:
        """The driver's client, for what the port has no word for."""
        return self._client

    @property
    def schema(self) -> MongoSchema[Document]:
        return self._client[self.endpoint.database]

    def _open(self, login: Login | None) -> pymongo.MongoClient[Document]:
        credentials: dict[str, Any] = {}
        if login is not None:
            credentials = {
                "username": login.username,
                "password": login.password,
                "authSource": AUTHENTICATION_DATABASE,
            }
        loopback = is_loopback(self.endpoint.host)
        if not loopback:
            credentials |= {"tls": True} | ({"tlsCAFile": ca} if (ca := certificate_authorities()) else {})
        return pymongo.MongoClient(
            self.endpoint.host,
            self.endpoint.port,
            directConnection=loopback,  # elsewhere the driver finds the members of a replica set by itself
            serverSelectionTimeoutMS=int(CONNECT_TIMEOUT_S * 1000),
            connectTimeoutMS=int(CONNECT_TIMEOUT_S * 1000),
            socketTimeoutMS=int(QUERY_TIMEOUT_S * 1000),
            tz_aware=True,
            appname="dr-platform",
            **credentials,
        )

    @contextlib.contextmanager
    def _answering(self) -> Generator[MongoSchema[Document]]:
        with self._errors():
            yield self.schema

    @contextlib.contextmanager
    def _errors(self) -> Generator[None]:
        """Driver errors become those of the port."""
        try:
            yield
        except errors.OperationFailure as exc:
            if exc.code in _UNAUTHORIZED:
                raise AccessDenied(self.database.name, self._role) from None
            raise
        except (errors.ConnectionFailure, errors.WTimeoutError) as exc:
            reason = "no answer in time" if exc.timeout else type(exc).__name__
            raise DatabaseUnreachable(self.database.name, self.endpoint.address, reason) from exc

    def ping(self, timeout_s: float = 2.0) -> float:
        with self._errors(), pymongo.timeout(timeout_s):
            self.schema.command("ping")  # may open a connection, which is not what is measured
            started = self._clock.monotonic()
            self.schema.command("ping")
            return (self._clock.monotonic() - started) * 1000

    def close(self) -> None:
        self._client.close()

    # What it is

    def server(self) -> ServerInfo:
        return ServerInfo(*self._product(), self._capabilities, self._reduced)

    def _product(self) -> tuple[str, str]:
        ferret = self._build.get("ferretdbVersion") or self._build.get("ferretdb", {}).get("version")
        return ("FerretDB", str(ferret).removeprefix("v")) if ferret else ("MongoDB", str(self._build["version"]))

    def _probe(self, schema: MongoSchema[Document]) -> tuple[frozenset[str], tuple[str, ...]]:
        """What this server can do, by asking it."""
        able, reduced = {"documents", "unique_indexes"}, []
        for capability, (command, lack) in _PROBES.items():
            if _knows(schema, command):
                able.add(capability)
            else:
                reduced.append(lack)
        hello = schema.command("hello")
        if "setName" in hello or hello.get("msg") == "isdbgrid":
            able |= {"transactions", "change_streams"}
        else:
            reduced.append("no replica set: no transactions, no change streams, no fail-over")
        # Listing search indexes is answered by the search process only, so it must succeed.
        if _succeeds(schema, {"aggregate": _MISSING, "pipeline": [{"$listSearchIndexes": {}}], "cursor": {}}):
            able.add("vector_search")
        else:
            reduced.append("no vector search: it is done in PostgreSQL")
        if self._product()[0] == "FerretDB":
            reduced.append("no rights per user: every login may read and write everything")
            reduced.append("no expiring, partial or text indexes: the services remove and check themselves")
        else:
            able |= {"roles", "ttl_indexes", "partial_indexes"}
        return frozenset(able), tuple(reduced)

    # Schema

    def applied(self) -> Sequence[AppliedStep]:
        with self._answering() as schema:
            records = list(schema[HISTORY].find({}, {"shape": 0}))
        steps = [
            AppliedStep(version=record["_id"], **{name: record[name] for name in _FIELDS if name in record})
            for record in records
        ]
        return tuple(sorted(steps, key=lambda step: version_key(step.version)))

    def shape(self) -> tuple[str, ...]:
        lines: list[str] = []
        with self._answering() as schema:
            for collection in schema.list_collections():
                name = collection["name"]
                if name.startswith(("drp_", "system.")):
                    continue
                options = {key: value for key, value in collection.get("options", {}).items() if value}
                lines.append(f"collection {name} {_canonical(options)}")
                for index in schema[name].list_indexes():
                    shown = {key: value for key, value in dict(index).items() if key not in ("v", "ns", "background")}
                    lines.append(f"index {name} {_canonical(shown)}")
        return tuple(sorted(lines))

    def _kept_shape(self, version: str) -> tuple[str, ...] | None:
        with self._answering() as schema:
            kept = schema[HISTORY].find_one({"_id": version}) or {}
        return tuple(kept["shape"]) if "shape" in kept else None

    def _lease(self) -> LeaseStore:
        return _MongoLease(self._answering)

    def _parsed(self, text: str) -> tuple[Document, ...]:
        return commands_of(text)

    def _run(self, step: SchemaStep, script: SchemaStep | Script, number: int, command: Document) -> None:
        possible = self._possible(command)
        if possible is None:
            return
        name = next(iter(command))
        where = f"{script.path.name} command {number} ({name})"
        with self._answering() as schema:
            try:
                answer = schema.command(possible)
            except errors.OperationFailure as exc:
                if exc.code in REPEATABLE[name]:
                    return
                if exc.code in _UNAUTHORIZED:
                    raise
                raise self._failed(step, where, f"{type(exc).__name__} (code {exc.code})") from None
        if answer.get("writeErrors"):
            raise self._failed(step, where, f"write error (code {answer['writeErrors'][0].get('code')})")

    def _failed(self, step: SchemaStep, where: str, reason: str) -> MigrationFailed:
        left = "the commands before it stay applied; repeating them changes nothing"
        return MigrationFailed(self.database.name, step.version, where, reason, left)

    def _possible(self, command: Document) -> Document | None:
        """The command without what this server cannot do; ``None`` where nothing is left of it."""
        name = next(iter(command))
        if "validators" not in self._capabilities:
            if name == "collMod" and set(command) <= {"collMod", *_VALIDATION}:
                return None
            command = {key: value for key, value in command.items() if key not in _VALIDATION}
        if name != "createIndexes" or "ttl_indexes" in self._capabilities:
            return command
        indexes = [
            {key: value for key, value in index.items() if key != "expireAfterSeconds"}
            for index in command["indexes"]
            # A unique index without its condition would refuse documents that the condition lets pass.
            if "partialFilterExpression" not in index and all(isinstance(way, int) for way in index["key"].values())
        ]
        return {**command, "indexes": indexes} if indexes else None

    def _keep(self, record: AppliedStep, shape: tuple[str, ...]) -> bool:
        fields = {name: getattr(record, name) for name in _FIELDS if name != "undoing"}
        with self._answering() as schema:
            try:
                schema[HISTORY].insert_one({"_id": record.version, **fields, "shape": list(shape)})
            except errors.DuplicateKeyError:
                return False
        return True

    def _keep_shape(self, record: AppliedStep, shape: tuple[str, ...]) -> None:
        self._change(record, {"fingerprint": fingerprint_of(shape), "shape": list(shape)})

    def _begin_undo(self, record: AppliedStep) -> None:
        self._change(record, {"undoing": True})

    def _change(self, record: AppliedStep, fields: Document) -> None:
        with self._answering() as schema:
            schema[HISTORY].update_one({"_id": record.version}, {"$set": fields})

    def _forget(self, record: AppliedStep) -> None:
        with self._answering() as schema:
            schema[HISTORY].delete_one({"_id": record.version})

    def admit_application(self) -> None:
        """Nothing: a user's role names the database, not its collections, and is given with the login."""

    # Findings

    def findings(self) -> Sequence[Finding]:
        looks: tuple[Look, ...] = (
            ("anonymous_access_refused", AUTHENTICATION, self._anonymous_refused),
            ("default_credentials_refused", AUTHENTICATION, self._defaults_refused),
            ("password_hashing", AUTHENTICATION, self._mechanisms),
            ("transmission_protected", TRANSMISSION, lambda: transmission(self.endpoint)),
            ("application_cannot_administer", ACCESS_CONTROL, self._application_limited),
        )
        return measure(looks)

    def _admits(self, login: Login | None) -> bool:
        """Whether this login may read. A client without credentials may always say hello."""
        with self._errors_but_refusals(), self._open(login) as client:
            client[self.endpoint.database][HISTORY].find_one({})
            client[self.endpoint.database].list_collection_names()
            return True
        return False

    @contextlib.contextmanager
    def _errors_but_refusals(self) -> Generator[None]:
        with contextlib.suppress(AccessDenied), self._errors():
            yield

    def _anonymous_refused(self) -> Answer:
        return all_refused("reads without credentials", 1, int(self._admits(None)))

    def _defaults_refused(self) -> Answer:
        admitted = sum(self._admits(guess) for guess in self._guesses)
        return all_refused("well-known logins", len(self._guesses), admitted)

    def _mechanisms(self) -> Answer:
        """How the server keeps our own password: SCRAM with SHA-1 counts as weak."""
        user = f"{AUTHENTICATION_DATABASE}.{self._login.username}"
        with self._answering() as schema:
            offered = schema.client.admin.command("hello", saslSupportedMechs=user).get("saslSupportedMechs")
        if not offered:
            return None, "the server does not say how it keeps passwords"
        return set(offered) == {"SCRAM-SHA-256"}, f"passwords are kept for {', '.join(sorted(offered))}"

    def _application_limited(self) -> Answer:
        """Try, as the application, to read what only an administrator may."""
        login = self._application or (self._login if self._role == "application" else None)
        if login is None:
            return None, "the login of the application is not known"
        tries = ({"usersInfo": 1}, {"listDatabases": 1}, {"getParameter": "*"})
        with self._errors(), self._open(login) as client:
            client[self.endpoint.database].command("ping")
            admitted = sum(_allows(client.admin, command) for command in tries)
        return all_refused("administrative reads by the application", len(tries), admitted)


def _canonical(document: Document) -> str:
    """Fields in a fixed order, but those of a key: an index over (a, b) is another one than over (b, a)."""
    kept = {name: list(value.items()) if name == "key" else value for name, value in document.items()}
    return json_util.dumps(kept, sort_keys=True)


def _knows(schema: MongoSchema[Document], command: Document) -> bool:
    try:
        schema.command(command)
    except errors.OperationFailure as exc:
        return exc.code not in _NOT_IMPLEMENTED
    return True


def _succeeds(schema: MongoSchema[Document], command: Document) -> bool:
    try:
        schema.command(command)
    except errors.OperationFailure:
        return False
    return True


def _allows(schema: MongoSchema[Document], command: Document) -> bool:
    try:
        schema.command(command)
    except errors.OperationFailure as exc:
        return exc.code not in _UNAUTHORIZED
    return True


class _MongoLease:
    """One document with a fixed ``_id``: of two that insert it, one succeeds. Time is the server's.

    A document that has expired is removed by exact match first, then inserted anew.
    """

    _ID = "schema"  # text: look-ups by other kinds of _id are slow on the embedded server

    def __init__(self, answering: Callable[[], contextlib.AbstractContextManager[MongoSchema[Document]]]) -> None:
        self._answering = answering

    def take(self, owner: str, ttl_s: float) -> bool:
        with self._answering() as schema:
            now = _server_time(schema)
            found = schema[LOCK].find_one({"_id": self._ID})
            if found is not None:
                if found["expires_at"] > now:
                    return False
                schema[LOCK].delete_one({"_id": self._ID, "owner": found["owner"], "expires_at": found["expires_at"]})
            try:
                schema[LOCK].insert_one({"_id": self._ID, "owner": owner, "expires_at": now + timedelta(seconds=ttl_s)})
            except errors.DuplicateKeyError:
                return False
            return True

    def renew(self, owner: str, ttl_s: float) -> bool:
        with self._answering() as schema:
            until = _server_time(schema) + timedelta(seconds=ttl_s)
            return (
                schema[LOCK]
                .update_one({"_id": self._ID, "owner": owner}, {"$set": {"expires_at": until}})
                .matched_count
                == 1
            )

    def give_up(self, owner: str) -> None:
        with self._answering() as schema:
            schema[LOCK].delete_one({"_id": self._ID, "owner": owner})


def _server_time(schema: MongoSchema[Document]) -> datetime:
    return schema.command("hello", codec_options=schema.codec_options)["localTime"]  # aware, as find() gives times
