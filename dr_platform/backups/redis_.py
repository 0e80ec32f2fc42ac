"""Backups of Redis (or Valkey): its own snapshot format, proved by a server that loads it.

The file comes over the replication protocol and holds one instant of the whole server. It is kept in a
private folder while it is read, because a second request would be answered with a later instant. Facts are
measured by a scratch server that loads the file, with Redis' own digest over keys, values and whether they
expire; the live server is spared a command that would stop it for as long as it counts. A scratch server is
a replica of nobody: only so are keys kept whose time has come since the snapshot, and the copy can be compared.

A new database is another logical database of the live server, so its name is a number. It receives the one
logical database that the backup holds; keys whose time has come are not brought back there. A cluster has
one file for each master and no numbers; that is refused.

Here: taking, loading and comparing that file. Not here: how it comes over the network (``redis_replica``).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import subprocess
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dr_platform.backups.port import Facts, Kind, Piece, Probe, Restoration, Snapshot, StoredBackup, TableFacts
from dr_platform.backups.redis_replica import Position, fetch
from dr_platform.backups.redis_switch import RedisSwitching
from dr_platform.backups.scratch_server import ScratchServer, scratch_server, workplace
from dr_platform.backups.source import RestoreFailed, SnapshotFailed, Source, TargetRefused
from dr_platform.backups.spool import SpooledPiece
from dr_platform.backups.switch import NoSwitch, by_hand
from dr_platform.clock import Clock, SystemClock
from dr_platform.databases.access import CONNECT_TIMEOUT_S, Login, certificate_authorities, is_loopback
from dr_platform.databases.embedded import redis_program
from dr_platform.databases.embedded.cache import EngineCache
from dr_platform.databases.port import Endpoint, ServerInfo
from dr_platform.databases.redis_ import HISTORY_KEY, RedisDatabase, free_numbers, logical_databases
from dr_platform.databases.schema import version_key
from dr_platform.identity import new_id

HEARTBEAT_KEY = "drp:heartbeat"
ALGORITHM = "Redis DEBUG DIGEST of the file as a replica loads it"
PIECE = "rdb/0000"
FILE = "dump.rdb"
TABLE = "keys"
_QUERY_S = 600.0
"""The digest of a large scratch server is one command."""
_KEYS_AT_ONCE = 200
_COMPARISONS = 3
_TOO_NEW = "Can't handle RDB format version"


@dataclass(frozen=True)
class RedisBackups:
    """A ``BackupEngine``. ``base`` is where working folders are made."""

    source: Source
    base: Path
    clock: Clock = field(default_factory=SystemClock)
    make_id: Callable[[str], str] = new_id

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (Kind.RDB,)

    def snapshot(self, kind: Kind, parent: StoredBackup | None = None) -> AbstractContextManager[Snapshot]:
        if kind is not Kind.RDB or parent is not None:
            raise SnapshotFailed(self.source.name, f"Redis has no {kind} backups, and none with a parent")
        return self._snapshot()

    @contextlib.contextmanager
    def _snapshot(self) -> Generator[RdbSnapshot]:
        source = self.source
        live = RedisDatabase(source.database, source.endpoint, source.login, clock=self.clock)
        with contextlib.closing(live), workplace(self.base) as folder:
            _refuse_cluster(source, live)
            live.client.set(HEARTBEAT_KEY, self.make_id("hb"))
            modules = {str(module["name"]): str(module["ver"]) for module in _untyped(live).module_list()}
            position = fetch(source, folder / FILE)
            if fault := fault_of(folder / FILE):
                raise SnapshotFailed(source.name, fault)
            yield RdbSnapshot(self, folder / FILE, live.server(), modules, position)

    @contextlib.contextmanager
    def scratch(self) -> Generator[Restoration]:
        with contextlib.ExitStack() as held:
            yield ScratchRestoration(self, held)

    @contextlib.contextmanager
    def new_database(self, name: str) -> Generator[Restoration]:
        source = self.source
        live = RedisDatabase(source.database, source.endpoint, source.login, clock=self.clock)
        with contextlib.closing(live):
            _refuse_cluster(source, live)
            number = _free_number(source, live, name)
        with _client(source.endpoint, source.login, number) as target, contextlib.ExitStack() as held:
            try:
                yield LogicalRestoration(self, number, target, held)
            except BaseException:
                target.flushdb(asynchronous=True)
                raise

    def switching(self) -> RedisSwitching:
        source = self.source
        with contextlib.closing(
            RedisDatabase(source.database, source.endpoint, source.login, clock=self.clock)
        ) as live:
            if "cluster" in live.server().capabilities:
                raise NoSwitch(source.name, "because a Redis cluster has one key space", by_hand(source.name))
        return RedisSwitching(source, self.clock, partial(_client, source.endpoint, source.login))


def _refuse_cluster(source: Source, live: RedisDatabase) -> None:
    if "cluster" in live.server().capabilities:
        raise SnapshotFailed(source.name, "it is a cluster, whose masters have one file each")


def _free_number(source: Source, live: RedisDatabase, name: str) -> int:
    client = _untyped(live)
    databases, free = logical_databases(client), free_numbers(client)
    remedy = f"name a free one: {', '.join(map(str, free[:10])) or 'there is none'}"
    if not name.isdecimal() or int(name) >= databases:
        why = f"Redis numbers its databases from 0 to {databases - 1}"
        raise TargetRefused(source.name, name, why, remedy)
    if int(name) not in free:
        raise TargetRefused(source.name, name, "it is the live database or has keys", remedy)
    return int(name)


def _client(endpoint: Endpoint, login: Login, number: int = 0) -> Any:
    """Speaks bytes: keys and values need not be text."""
    encryption: dict[str, Any] = {}
    if not is_loopback(endpoint.host):
        encryption = {"ssl": True, "ssl_cert_reqs": "required", "ssl_ca_certs": certificate_authorities()}
    return redis.Redis(
        host=endpoint.host,
        port=endpoint.port,
        db=number,
        username=login.username,
        password=login.password,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=_QUERY_S,
        retry=Retry(NoBackoff(), 0),
        **encryption,
    )


def _untyped(live: RedisDatabase) -> Any:
    """The driver declares each answer as perhaps awaitable."""
    return live.client


# The file


def fault_of(file: Path) -> str:
    """What Redis' own checker says against a file, in words that quote none of it; empty where it is sound."""
    program = redis_program.ensure_program(EngineCache(), lambda _: None)
    # The checker is the server under another name.
    done = subprocess.run(
        ["redis-check-rdb", str(file)],
        executable=program,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return ""
    if _TOO_NEW in done.stdout:
        return "the file is of a newer Redis than the one on this machine, which cannot prove it: install that one"
    return f"the file is damaged: redis-check-rdb ended with code {done.returncode}"


def has_checksum(file: Path) -> bool:
    """Whether the server wrote one; with ``rdbchecksum no`` the last eight bytes are zero."""
    with file.open("rb") as opened:
        opened.seek(-8, 2)
        return any(opened.read(8))


@dataclass(frozen=True)
class RdbSnapshot:
    engine: RedisBackups
    path: Path
    info: ServerInfo
    modules: Mapping[str, str]
    position: Position

    def pieces(self) -> Sequence[Piece]:
        return (SpooledPiece(PIECE, self.path, {"format": "rdb"}),)

    def facts(self) -> Facts:
        coordinates = {"replication_id": self.position.replication_id, "offset": self.position.offset}
        with _serving(self.engine, self.path) as server:
            return _measure(self.engine.source, server, self.info, coordinates, self.modules)


# Loading it


@contextlib.contextmanager
def _serving(engine: RedisBackups, path: Path) -> Generator[ScratchServer]:
    """A scratch server that has loaded the file, expired keys included."""

    def link(data: Path) -> None:
        (data / FILE).hardlink_to(path)

    with _nobody() as port:
        # With the append-only file switched on Redis would ignore the snapshot and start empty.
        options = ["--appendonly", "no", "--save", "", "--dbfilename", FILE, "--replicaof", "127.0.0.1", str(port)]
        # Whoever is let in may write: masking plants what it searches for afterwards.
        options += ["--replica-read-only", "no"]
        with scratch_server(
            engine.source.database, engine.base, engine.clock, fill=link, options=[*options, *_debugging()]
        ) as server:
            yield server


@contextlib.contextmanager
def _nobody() -> Generator[int]:
    """A port that is taken and on which nobody listens: the master that a scratch server never finds."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def _debugging() -> list[str]:
    """From version 7 on the digest has to be allowed."""
    program = redis_program.program_file(EngineCache())
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    found = re.search(r"v=(\d+)", text)
    return ["--enable-debug-command", "local"] if found and int(found[1]) >= 7 else []


def _measure(
    source: Source,
    server: ScratchServer,
    info: ServerInfo,
    coordinates: Mapping[str, str],
    modules: Mapping[str, str],
    number: int = 0,
) -> Facts:
    with _client(server.endpoint, server.login, number) as client:
        digest = _text(client.execute_command("DEBUG", "DIGEST"))
        counts = keyspace(client)
        history = {_text(version): _text(kept) for version, kept in client.hgetall(HISTORY_KEY).items()}
        heartbeat = _text(client.get(HEARTBEAT_KEY) or b"")
    newest = max(history, key=version_key, default="")
    return Facts(
        server=info.server,
        server_version=info.version,
        database=source.endpoint.database,
        migration_version=newest,
        schema_fingerprint=_schema(history),
        tables=(TableFacts(TABLE, sum(keys for keys, _ in counts.values()), digest),),
        algorithm=ALGORITHM,
        heartbeat=heartbeat,
        position={**coordinates, **{name: f"{keys} keys, {mortal} expire" for name, (keys, mortal) in counts.items()}},
        extensions=modules,
    )


def _schema(history: Mapping[str, str]) -> str:
    """Redis has no schema; what was applied to it stands for one."""
    steps = sorted((version, json.loads(kept)["checksum"]) for version, kept in history.items())
    return hashlib.sha256(json.dumps(steps).encode()).hexdigest()


def keyspace(client: Any) -> Mapping[str, tuple[int, int]]:
    """Keys, and how many of them expire, of each logical database that has any."""
    found = client.info("keyspace")
    return {name: (int(said["keys"]), int(said["expires"])) for name, said in sorted(found.items())}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _fetch_piece(address: str, chain: Sequence[StoredBackup], file: Path) -> StoredBackup:
    """The last backup's file, whole."""
    if not chain or chain[-1].kind is not Kind.RDB or [piece.name for piece in chain[-1].pieces] != [PIECE]:
        raise RestoreFailed(address, f"it is no backup of kind {Kind.RDB} with the piece {PIECE}")
    with file.open("xb") as opened:
        file.chmod(0o600)
        for chunk in chain[-1].pieces[0].read():
            opened.write(chunk)
    if fault := fault_of(file):
        raise RestoreFailed(address, fault)
    return chain[-1]


@dataclass
class ScratchRestoration:
    """A server of its own. It starts when there is something to load."""

    engine: RedisBackups
    held: contextlib.ExitStack
    _server: ScratchServer | None = None
    _backup: StoredBackup | None = None
    _checksum: bool = False

    @property
    def address(self) -> str:
        return self._server.endpoint.address if self._server else "a scratch server"

    @property
    def server(self) -> ScratchServer:
        if self._server is None:
            raise RestoreFailed(self.address, "nothing was restored yet")
        return self._server

    @property
    def way_in(self) -> tuple[Endpoint, Login]:
        return self.server.endpoint, self.server.login

    def restore(self, chain: Sequence[StoredBackup]) -> None:
        file = self.held.enter_context(workplace(self.engine.base)) / FILE
        self._backup = _fetch_piece(self.address, chain, file)
        self._checksum = has_checksum(file)
        self._server = self.held.enter_context(_serving(self.engine, file))

    def facts(self) -> Facts:
        source = self.engine.source
        with contextlib.closing(
            RedisDatabase(source.database, self.server.endpoint, self.server.login, clock=self.engine.clock)
        ) as loaded:
            return _measure(source, self.server, loaded.server(), {}, {})

    def probes(self) -> Sequence[Probe]:
        backup = self._backup
        if backup is None:
            return ()
        with _client(self.server.endpoint, self.server.login) as client:
            found = {name: f"{keys} keys, {mortal} expire" for name, (keys, mortal) in keyspace(client).items()}
        wanted = {name: said for name, said in backup.facts.position.items() if re.fullmatch(r"db\d+", name)}
        checked = "Redis' checker found the file sound"
        return (
            Probe("checksum", True, f"{checked}, its CRC-64 included")
            if self._checksum
            else Probe("checksum", None, f"{checked}, but the source writes no checksum (rdbchecksum no)"),
            Probe("expiry", found == wanted, f"{found} in the copy, {wanted} at the source"),
        )


@dataclass
class LogicalRestoration:
    """Another logical database of the live server."""

    engine: RedisBackups
    number: int
    target: Any
    held: contextlib.ExitStack
    _origin: int = 0
    _wanted: int = 0
    _mortal: int = 0
    _gone: int = 0

    @property
    def address(self) -> str:
        return f"{self.engine.source.endpoint.address}, database {self.number}"

    def restore(self, chain: Sequence[StoredBackup]) -> None:
        with workplace(self.engine.base) as folder:
            _fetch_piece(self.address, chain, folder / FILE)
            with _serving(self.engine, folder / FILE) as server:
                self._copy_from(server)
                if not any(self._is_like(server) for _ in range(_COMPARISONS)):
                    raise RestoreFailed(self.address, "its keys are not those of the backup")

    def _copy_from(self, server: ScratchServer) -> None:
        with _client(server.endpoint, server.login) as whole:
            counts = keyspace(whole)
        if len(counts) > 1:
            raise RestoreFailed(self.address, f"the backup holds {len(counts)} logical databases, and it is one")
        for name, (keys, mortal) in counts.items():
            self._origin, self._wanted, self._mortal = int(name.removeprefix("db")), keys, mortal
            with _client(server.endpoint, server.login, self._origin) as origin:
                self._gone = keys - copy_keys(origin, self.target)

    def _is_like(self, server: ScratchServer) -> bool:
        """Whether the target has all that has not expired. A key may expire between the two looks."""
        with _client(server.endpoint, server.login, self._origin) as origin:
            origin.execute_command("REPLICAOF", "NO", "ONE")  # from now on it lets keys expire
            for _ in origin.scan_iter(count=_KEYS_AT_ONCE):
                pass
            wanted = origin.execute_command("DEBUG", "DIGEST")
        with self._carried_back() as carried, _client(carried.endpoint, carried.login) as place:
            return place.execute_command("DEBUG", "DIGEST") == wanted

    @contextlib.contextmanager
    def _carried_back(self) -> Generator[ScratchServer]:
        """What the live server gives back, in a scratch server that may take its digest."""
        options = ["--appendonly", "no", *_debugging()]
        engine = self.engine
        with scratch_server(engine.source.database, engine.base, engine.clock, options=options) as server:
            with _client(server.endpoint, server.login, self._origin) as place:
                copy_keys(self.target, place)
            yield server

    def facts(self) -> Facts:
        source = self.engine.source
        with (
            self._carried_back() as server,
            contextlib.closing(
                RedisDatabase(source.database, source.endpoint, source.login, clock=self.engine.clock)
            ) as live,
        ):
            measured = _measure(source, server, live.server(), {}, {}, self._origin)
        # Fewer keys are no fault as long as no more are missing than could have expired.
        expired = 0 < self._wanted - measured.tables[0].rows <= self._mortal
        return replace(measured, exact=not expired, database=str(self.number))

    def probes(self) -> Sequence[Probe]:
        return (Probe("expired", True, f"{self._gone} keys had expired since the snapshot and were left out"),)


def copy_keys(origin: Any, target: Any) -> int:
    """Every key with its value and the moment at which it expires; how many. None may exist in the target."""
    copied = 0
    cursor = 0
    done: set[bytes] = set()
    while True:
        cursor, keys = origin.scan(cursor, count=_KEYS_AT_ONCE)
        # A key may be given twice while the server's table grows or shrinks; digests keep memory flat.
        fresh = {key: hashlib.blake2b(key, digest_size=12).digest() for key in dict.fromkeys(keys)}
        wanted = [key for key, digest in fresh.items() if digest not in done]
        done.update(fresh.values())
        copied += _copy(origin, target, wanted)
        if cursor == 0:
            return copied


def _copy(origin: Any, target: Any, keys: Sequence[bytes]) -> int:
    reading = origin.pipeline(transaction=False)
    reading.time()
    for key in keys:
        reading.dump(key)
        reading.pttl(key)
    (seconds, micros), *answers = reading.execute()
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    writing = target.pipeline(transaction=False)
    for key, value, left in zip(keys, answers[::2], answers[1::2], strict=True):
        if value is not None:
            writing.restore(key, now_ms + left if left > 0 else 0, value, absttl=left > 0)
    written = len(writing.command_stack)
    writing.execute()
    return written
