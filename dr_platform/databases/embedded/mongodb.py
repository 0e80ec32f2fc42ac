"""FerretDB on loopback, which speaks MongoDB's protocol, for a database of the catalog.

Here: its accounts and its program. Not here: how the program is built (``ferretdb_build``), or what
it cannot do that MongoDB can, which the adapter finds out by asking it.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dr_platform.databases.embedded import ferretdb_build, launch
from dr_platform.databases.embedded.accounts import Account, secret_name
from dr_platform.databases.embedded.cache import EngineCache
from dr_platform.databases.embedded.catalog_server import CatalogServer
from dr_platform.databases.embedded.files import invoking_user, private_directory
from dr_platform.databases.embedded.waiting import until_it_answers
from dr_platform.runtime.local.programs import Program
from dr_platform.verdict import Progress

if TYPE_CHECKING:
    from pymongo import MongoClient

AUTHENTICATION_DATABASE = "admin"


@dataclass(frozen=True)
class EmbeddedFerretDB(CatalogServer):
    """See ``EmbeddedServer``. Both accounts authenticate against the database ``admin``. FerretDB
    has no rights per account: each may read and write everything on the server."""

    cache: EngineCache = field(default_factory=EngineCache)

    def acquire(self, progress: Progress) -> None:
        ferretdb_build.ensure_program(self.cache, progress)

    def missing(self) -> str:
        if ferretdb_build.program_path(self.cache).exists():
            return ""
        with tempfile.TemporaryDirectory() as scratch:
            ferretdb_build.find_go(Path(scratch))
        return "FerretDB is built once, about a minute on 2 cores"

    def prepare(self) -> None:
        me = invoking_user()
        private_directory(self.data, me)
        private_directory(self.data / "store", me)
        self.accounts()

    def program(self) -> Program:
        """The first account is made by the server itself at its first start, from variables that the
        launcher takes out of the secret store; without it the server would let everybody in."""
        admin = secret_name(self.name, "admin")
        secrets = ("--secret", f"FERRETDB_SETUP_USERNAME={admin}#username")
        secrets += ("--secret", f"FERRETDB_SETUP_PASSWORD={admin}#password")
        command = (
            str(ferretdb_build.program_path(self.cache)),
            "--handler=sqlite",
            f"--sqlite-url=file:{self.data / 'store'}/",
            f"--listen-addr=127.0.0.1:{self.endpoint().port}",
            f"--state-dir={self.data}",
            "--debug-addr=-",
            "--telemetry=disable",
            "--log-level=error",
            "--test-enable-new-auth",
            f"--setup-database={AUTHENTICATION_DATABASE}",
        )
        return Program(
            self.name,
            (*launch.COMMAND, *secrets, "--", *command),
            environment={"DO_NOT_TRACK": "1", "GOMEMLIMIT": "256MiB"},
            directory=self.data,
            priority=100,
        )

    def initialise(self, within_s: float) -> None:
        from pymongo.errors import PyMongoError

        admin, application = self.accounts()
        until_it_answers(
            self.name, lambda: self._ensure_user(admin, application), (PyMongoError,), within_s, self.clock
        )

    def _ensure_user(self, admin: Account, application: Account) -> None:
        """A user that exists keeps its password: it may have been rotated."""
        with self._connect(admin) as client:
            accounts = client[AUTHENTICATION_DATABASE]
            if accounts.command("usersInfo", application.username)["users"]:
                return
            accounts.command("createUser", application.username, pwd=application.password, roles=[])

    def _connect(self, account: Account) -> MongoClient[dict[str, Any]]:
        from pymongo import MongoClient

        endpoint = self.endpoint()
        return MongoClient(
            endpoint.host,
            endpoint.port,
            username=account.username,
            password=account.password,
            authSource=AUTHENTICATION_DATABASE,
            serverSelectionTimeoutMS=2000,
            directConnection=True,
        )
