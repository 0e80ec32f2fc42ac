"""Redis (or Valkey) through redis-py.

A ``.redis`` step has one command a line, words separated by spaces and quoted as in a shell; ``#``
starts a comment line. Only commands that give the same result when repeated are taken, so that a
step that stopped half-way is finished by running it again.

Here: the adapter of ``ManagedDatabase``. Not here: the keys themselves, or starting a server.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dr_platform.databases.access import (
    ACCESS_CONTROL,
    AUTHENTICATION,
    CONNECT_TIMEOUT_S,
    INTEGRITY,
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
    Endpoint,
    Finding,
    SchemaStep,
    Script,
    ServerInfo,
    fingerprint_of,
)
from dr_platform.databases.repeatable import RepeatableSteps
from dr_platform.databases.schema import MigrationFailed, version_key

HISTORY_KEY = "drp:schema:history"
"""A hash: version to the JSON of its record."""
LOCK_KEY = "drp:schema:lock"
SHAPE_KEY = "drp:schema:shapes"
"""A hash: version to the lines of what the server looked like after it."""
SWITCH_KEY = "drp:switch"
"""A hash: what this logical database was called, and until or since when it was live."""
_KEPT = "drp:*"
"""Keys that steps make: settings and conventions. Everything else here is a cache."""
_OWN = ("drp:schema:", "drp:heartbeat", SWITCH_KEY)
"""What the platform notes for itself: the history of the schema, what a backup is recognised by, what was switched."""

REPEATABLE = frozenset(
    {
        "DEL",
        "EXPIREAT",
        "HDEL",
        "HSET",
        "HSETNX",
        "PERSIST",
        "PEXPIREAT",
        "SADD",
        "SET",
        "SETNX",
        "SREM",
        "UNLINK",
        "ZADD",
        "ZREM",
    }
)
"""Commands that leave the same data however often they run. ``EXPIRE`` is none of them: it counts
from the repetition."""

_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_GIVE_UP = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
_DEFAULT_LOGINS = tuple(Login("default", guess) for guess in ("redis", "foobared", "default", "password", "admin"))


def commands_of(text: str) -> tuple[tuple[str, ...], ...]:
    """The commands of a ``.redis`` file. Raises ``ValueError`` naming the line."""
    commands: list[tuple[str, ...]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            words = tuple(shlex.split(line))
        except ValueError as exc:
            raise ValueError(f"line {number}: {str(exc).lower()}") from None
        if words[0].upper() not in REPEATABLE:
            raise ValueError(f"line {number}: {words[0]} is not taken; repeatable are {', '.join(sorted(REPEATABLE))}")
        commands.append(words)
    return tuple(commands)


def number_of(endpoint: Endpoint) -> int:
    """The logical database: 0 has the live data, whose name in the catalog is none; a copy's name is its number."""
    return int(endpoint.database) if endpoint.database.isdecimal() else 0


def logical_databases(client: Any) -> int:
    """How many a server has; where a provider lets nobody ask, as many as the server's default."""
    if client.info("cluster")["cluster_enabled"]:
        return 1
    try:
        told = client.config_get("databases")
    except redis.ResponseError:
        return 16
    return int(told.get("databases") or told[b"databases"])


def free_numbers(client: Any) -> list[int]:
    """Logical databases without keys, besides that of the live data."""
    used = {int(name.removeprefix("db")) for name in client.info("keyspace")} | {0}
    return [number for number in range(logical_databases(client)) if number not in used]


class RedisDatabase(RepeatableSteps[tuple[str, ...]]):
    """A ``ManagedDatabase`` on Redis. Connects at once and again by itself; for any number of threads."""

    extension = ".redis"
    default_logins = _DEFAULT_LOGINS

    def _connect(self) -> None:
        self._client = self._open(self._login)
        try:
            self.ping(CONNECT_TIMEOUT_S)
        except Exception:
            self._client.close()
            raise

    @property
    def client(self) -> redis.Redis:
        """The driver's client, for commands the port has no word for."""
        return self._client

    def _open(self, login: Login | None, timeout_s: float = QUERY_TIMEOUT_S) -> redis.Redis:
        encryption: dict[str, Any] = {}
        if not is_loopback(self.endpoint.host):
            encryption = {"ssl": True, "ssl_cert_reqs": "required", "ssl_ca_certs": certificate_authorities()}
        return redis.Redis(
            host=self.endpoint.host,
            port=self.endpoint.port,
            db=number_of(self.endpoint),
            username=login.username if login else None,
            password=login.password if login else None,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=timeout_s,
            # One attempt: a silent server would cost the timeout once for each. Whoever wants to, tries again.
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
            client_name="dr-platform",
            **encryption,
        )

    @contextlib.contextmanager
    def _answering(self) -> Generator[redis.Redis]:
        with self._errors():
            yield self._client

    @contextlib.contextmanager
    def _errors(self) -> Generator[None]:
        """Driver errors become those of the port."""
        try:
            yield
        except (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError):
            raise AccessDenied(self.database.name, self._role) from None
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as exc:
            reason = "no answer in time" if isinstance(exc, redis.exceptions.TimeoutError) else type(exc).__name__
            raise DatabaseUnreachable(self.database.name, self.endpoint.address, reason) from exc

    def ping(self, timeout_s: float = 2.0) -> float:
        # A connection of its own, made beforehand: the limit of a pooled one cannot be changed.
        with self._errors(), self._open(self._login, timeout_s) as client, client.client() as connection:
            connection.ping()
            started = self._clock.monotonic()
            connection.ping()
            return (self._clock.monotonic() - started) * 1000

    def close(self) -> None:
        self._client.close()

    # What it is

    def server(self) -> ServerInfo:
        with self._answering() as client:
            try:
                info: dict[str, Any] = client.info("server")  # type: ignore[assignment]
            except redis.exceptions.NoPermissionError:
                info = _pairs(client.execute_command("HELLO"))
                info = {"redis_version": info["version"], "redis_mode": info["mode"]}
        server, version = (
            ("Valkey", info["valkey_version"]) if "valkey_version" in info else ("Redis", info["redis_version"])
        )
        functions = int(str(info["redis_version"]).split(".")[0]) >= 7
        clustered = info.get("redis_mode") == "cluster"
        reduced = []
        if not functions:
            reduced.append(f"{server} {version} is older than 7: no functions, no dry run of access rules")
        if self.database.topology.get("cluster_mode") == "true" and not clustered:
            reduced.append("one server instead of a cluster: no shards, no fail-over")
        able = (
            {"acl", "streams", "scripts"}
            | ({"functions"} if functions else set())
            | ({"cluster"} if clustered else set())
        )
        return ServerInfo(server, str(version), frozenset(able), tuple(reduced))

    # Schema

    def applied(self) -> Sequence[AppliedStep]:
        with self._answering() as client:
            records = client.hgetall(HISTORY_KEY)
        steps = [AppliedStep(**json.loads(record)) for record in records.values()]  # type: ignore[union-attr]
        return tuple(sorted(steps, key=lambda step: version_key(step.version)))

    def shape(self) -> tuple[str, ...]:
        """Keys of settings and conventions, with a digest for each value."""
        with self._answering() as client:
            keys = [key for key in map(str, client.scan_iter(_KEPT, count=10_000)) if not key.startswith(_OWN)]
            return tuple(sorted(line for key in keys for line in _lines(client, key)))

    def _kept_shape(self, version: str) -> tuple[str, ...] | None:
        with self._answering() as client:
            kept = client.hget(SHAPE_KEY, version)
        return None if kept is None else tuple(json.loads(str(kept)))

    def _lease(self) -> LeaseStore:
        return _RedisLease(self._answering)

    def _parsed(self, text: str) -> tuple[tuple[str, ...], ...]:
        return commands_of(text)

    def _run(self, step: SchemaStep, script: SchemaStep | Script, number: int, words: tuple[str, ...]) -> None:
        with self._answering() as client:
            try:
                client.execute_command(*words)
            except (redis.exceptions.NoPermissionError, redis.exceptions.AuthenticationError):
                raise
            except redis.exceptions.ResponseError as exc:
                reason = str(exc).split(" ", 1)[0]  # the error's code, such as WRONGTYPE
                left = "the commands before it stay applied; repeating them changes nothing"
                where = f"{script.path.name} command {number} ({words[0]})"
                raise MigrationFailed(self.database.name, step.version, where, reason, left) from None

    def _keep(self, record: AppliedStep, shape: tuple[str, ...]) -> bool:
        with self._answering() as client:
            written = bool(client.hsetnx(HISTORY_KEY, record.version, _record_of(record)))
            if written:
                client.hset(SHAPE_KEY, record.version, json.dumps(shape))
        return written

    def _keep_shape(self, record: AppliedStep, shape: tuple[str, ...]) -> None:
        with self._answering() as client:
            client.hset(HISTORY_KEY, record.version, _record_of(replace(record, fingerprint=fingerprint_of(shape))))
            client.hset(SHAPE_KEY, record.version, json.dumps(shape))

    def _begin_undo(self, record: AppliedStep) -> None:
        with self._answering() as client:
            client.hset(HISTORY_KEY, record.version, _record_of(replace(record, undoing=True)))

    def _forget(self, record: AppliedStep) -> None:
        with self._answering() as client, client.pipeline(transaction=True) as both:
            both.hdel(HISTORY_KEY, record.version)
            both.hdel(SHAPE_KEY, record.version)
            both.execute()

    def admit_application(self) -> None:
        """Nothing: an access rule names key patterns, not schema objects, and is made with the login."""

    # Findings

    def findings(self) -> Sequence[Finding]:
        """Ask as ``admin``: as ``application`` the access rules and the configuration cannot be seen."""
        looks: tuple[Look, ...] = (
            ("anonymous_access_refused", AUTHENTICATION, self._anonymous_refused),
            ("default_credentials_refused", AUTHENTICATION, self._defaults_refused),
            ("every_user_has_a_password", AUTHENTICATION, self._passwords),
            ("transmission_protected", TRANSMISSION, lambda: transmission(self.endpoint)),
            ("application_cannot_administer", ACCESS_CONTROL, self._application_limited),
            ("writes_are_logged_to_disk", INTEGRITY, self._append_only_file),
        )
        return measure(looks)

    def _admits(self, login: Login | None) -> bool:
        with self._errors(), self._open(login, CONNECT_TIMEOUT_S) as client:
            try:
                client.ping()
            except (redis.exceptions.AuthenticationError, redis.exceptions.ResponseError):
                return False
        return True

    def _anonymous_refused(self) -> Answer:
        return all_refused("logins without a password", 1, int(self._admits(None)))

    def _defaults_refused(self) -> Answer:
        admitted = sum(self._admits(guess) for guess in self._guesses)
        return all_refused("well-known logins", len(self._guesses), admitted)

    def _passwords(self) -> Answer:
        with self._answering() as client:
            rules = [str(rule) for rule in client.acl_list()]
        enabled = [rule.split() for rule in rules if " on " in f"{rule} "]
        without = [words[1] for words in enabled if "nopass" in words]
        if without:
            return False, f"{len(without)} enabled users need no password"
        return True, f"all {len(enabled)} enabled users have a password, kept as SHA-256"

    def _application_limited(self) -> Answer:
        """Try as the application. What destroys is queued in a transaction that is then discarded:
        the server asks for the privilege when it queues, and runs nothing."""
        login = self._application or (self._login if self._role == "application" else None)
        if login is None:
            return None, "the login of the application is not known"
        tries: tuple[tuple[str, ...], ...] = (
            ("CONFIG", "GET", "maxmemory"),
            ("ACL", "LIST"),
            ("FLUSHALL",),
            ("FLUSHDB",),
            ("SHUTDOWN",),
            ("KEYS", "*"),
            ("CONFIG", "SET", "maxmemory", "0"),
        )
        with self._errors(), self._open(login) as client, client.client() as connection:
            admitted = [words for words in tries if not _refuses(connection, words)]
        return all_refused("administrative commands by the application", len(tries), len(admitted))

    def _append_only_file(self) -> Answer:
        with self._answering() as client:
            info: dict[str, Any] = client.info("persistence")  # type: ignore[assignment]
        kept, well = info.get("aof_enabled") == 1, info.get("aof_last_write_status", "ok") == "ok"
        return kept and well, f"append-only file {'on' if kept else 'off'}, last write {'ok' if well else 'failed'}"


def _record_of(step: AppliedStep) -> str:
    """What is not said is left out, so that an older platform reads the record too."""
    return json.dumps({name: value for name, value in vars(step).items() if value not in ("", False)})


def _lines(client: redis.Redis, key: str) -> list[str]:
    """One line for every member of a key, values as digests: settings are no secrets, but need not be read."""
    kind = str(client.type(key))
    held: Any = {}
    match kind:
        case "hash":
            held = client.hgetall(key)
        case "set":
            held = dict.fromkeys(client.sscan_iter(key), "")
        case "zset":
            held = dict(client.zscan_iter(key))
        case "string":
            held = {"": client.get(key)}
    return [f"{kind} {key} {member} {_digest(value)}" for member, value in held.items()]


def _digest(value: object) -> str:
    return hashlib.sha256(str(value).encode()).hexdigest()[:16]


def _refuses(connection: redis.Redis, words: tuple[str, ...]) -> bool:
    connection.execute_command("MULTI")
    try:
        connection.execute_command(*words)
    except redis.exceptions.NoPermissionError:
        return True
    except redis.exceptions.ResponseError:  # not allowed in a transaction, but not for want of privilege
        return False
    finally:
        connection.execute_command("DISCARD")
    return False


def _pairs(reply: Any) -> dict[str, Any]:
    """A map of the older protocol comes as a flat list."""
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))


class _RedisLease:
    """A key with an expiry; the server compares owner and value in one step."""

    def __init__(self, answering: Callable[[], contextlib.AbstractContextManager[redis.Redis]]) -> None:
        self._answering = answering

    def take(self, owner: str, ttl_s: float) -> bool:
        with self._answering() as client:
            return bool(client.set(LOCK_KEY, owner, nx=True, px=int(ttl_s * 1000)))

    def renew(self, owner: str, ttl_s: float) -> bool:
        with self._answering() as client:
            return bool(client.eval(_RENEW, 1, LOCK_KEY, owner, str(int(ttl_s * 1000))))

    def give_up(self, owner: str) -> None:
        with self._answering() as client:
            client.eval(_GIVE_UP, 1, LOCK_KEY, owner)
