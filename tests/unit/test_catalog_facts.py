"""The shipped catalog holds what both deployment guides say, figure by figure."""

from __future__ import annotations

import pytest

from dr_platform.catalog import Catalog, Engine, Language, Role, Tier, load_catalog
from dr_platform.catalog.models import UI_PORT
from tests.catalogs import SHIPPED

pytestmark = pytest.mark.unit

GB = 10**9
GIB = 1 << 30
DAY = 86400


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog(SHIPPED)


DOCUMENTED_PORTS = {
    "api-gateway": 8090,
    "auth-rbac": 8080,
    "chat-history": 8002,
    "search-service": 8001,
    "billing": 8081,
    "audit-logging": 8084,
    "content-safety": 8007,
    "consent": 8083,
    "emergency-access": 8085,
    "background-tasks": 8086,
    "relationship-mgmt": 8087,
    "user-subscription": 8088,
    "ai-gateway": 8000,
    "embedding-service": 8005,
    "generation-service": 8006,
    "bge-host": 8008,
    "qwen-host": 8009,
    # The guides name these without a port; the design gives them one.
    "voice-transcription": 8010,
    "nlp-processing": 8011,
    "ml-model-server": 8012,
    "web-app": 8100,
    "mobile-api": 8101,
}
PRODUCTION_CONFIG_MAP = {
    "api-gateway": 5,
    "auth-rbac": 3,
    "chat-history": 3,
    "search-service": 3,
    "billing": 2,
    "audit-logging": 3,
    "content-safety": 2,
    "consent": 2,
    "emergency-access": 2,
    "background-tasks": 2,
    "relationship-mgmt": 2,
    "user-subscription": 2,
    "ai-gateway": 3,
    "embedding-service": 2,
    "generation-service": 2,
    "bge-host": 2,
    "qwen-host": 2,
}


def test_ports(catalog: Catalog) -> None:
    assert {name: service.port for name, service in catalog.services.items()} == DOCUMENTED_PORTS
    assert {name: database.port for name, database in catalog.databases.items()} == {
        "postgres": 5432,
        "mongodb": 27017,
        "redis": 6379,
        "scylladb": 9042,
    }
    assert UI_PORT == 3000


def test_production_replicas(catalog: Catalog) -> None:
    assert {
        name: catalog.services[name].replicas_in("production") for name in PRODUCTION_CONFIG_MAP
    } == PRODUCTION_CONFIG_MAP
    assert catalog.databases["postgres"].replicas_in("production") == 3
    assert catalog.databases["mongodb"].topology["replica_set"] == "true"
    assert catalog.databases["redis"].topology["cluster_mode"] == "true"
    assert catalog.databases["scylladb"].topology["datacenter_count"] == "3"
    assert len(catalog.environments["production"].regions) == 3


def test_one_of_each_on_a_developers_machine(catalog: Catalog) -> None:
    assert {s.replicas_in(e) for s in catalog.services.values() for e in ("local", "development", "integration")} == {1}
    assert {d.replicas_in("local") for d in catalog.databases.values()} == {1}


def test_languages(catalog: Catalog) -> None:
    """12 Go microservices, 6 Python AI services, 2 GPU hosts; the mobile API of the other guide is Go too."""
    named = {language: {n for n, s in catalog.services.items() if s.language is language} for language in Language}
    assert named[Language.GO] - {"mobile-api"} == {n for n, port in DOCUMENTED_PORTS.items() if port in GO_PORTS}
    assert len(named[Language.PYTHON]) == 6
    assert named[Language.GPU_HOST] == {"bge-host", "qwen-host"}
    assert named[Language.WEB] == {"web-app"}


GO_PORTS = {8090, 8080, 8002, 8001, 8081, 8084, 8007, 8083, 8085, 8086, 8087, 8088}


def test_resources_of_the_component_table(catalog: Catalog) -> None:
    for service in catalog.services.values():
        found = service.resources
        figures = (found.cpu.request, found.cpu.limit, found.memory.request, found.memory.limit)
        if service.tier is Tier.AI_PROCESSING:
            assert figures == (2, 4, 2 * GB, 8 * GB), service.name
        elif Role.GATEWAY in service.roles:
            assert figures == (1, 2, 1 * GB, 2 * GB), service.name
        else:
            assert figures == (0.5, 1, 0.512 * GB, 1 * GB), service.name
        assert service.autoscaling is not None, service.name
    gpu = {name for name, service in catalog.services.items() if service.resources.gpu}
    assert gpu == {"bge-host", "qwen-host", "ml-model-server", "voice-transcription"}


def test_resources_of_databases(catalog: Catalog) -> None:
    for database in catalog.databases.values():
        found = database.resources
        figures = (found.cpu.request, found.cpu.limit, found.memory.request, found.memory.limit, found.storage)
        if database.engine is Engine.REDIS:
            assert figures == (1, 2, 2 * GB, 4 * GB, 20 * GIB)
        else:
            assert figures == (2, 4, 4 * GB, 8 * GB, 100 * GIB)
        assert database.database == "therapeutic_ai"


def test_key_metrics(catalog: Catalog) -> None:
    latencies = {name: s.slo.latency_p95 for name, s in catalog.services.items() if s.slo.latency_p95 is not None}
    assert latencies == {
        "api-gateway": 0.1,
        "ai-gateway": 2,
        "auth-rbac": 0.05,
        "search-service": 0.5,
        "embedding-service": 1,
        "generation-service": 2,
    }
    assert {s.slo.error_ratio for s in catalog.services.values()} == {0.01}
    assert {n: s.slo.gpu_utilisation for n, s in catalog.services.items() if s.slo.gpu_utilisation} == {
        "bge-host": 0.8,
        "qwen-host": 0.8,
    }
    assert {n: s.slo.queue_depth for n, s in catalog.services.items() if s.slo.queue_depth} == {"background-tasks": 100}
    assert {s.slo.cache_hit_ratio for s in catalog.services.values() if s.slo.cache_hit_ratio} == {0.85}
    limits = {name: database.latency for name, database in catalog.databases.items()}
    assert limits == {"postgres": 0.01, "mongodb": 0.02, "redis": 0.005, "scylladb": 0.005}


def test_every_role_has_one_service(catalog: Catalog) -> None:
    assert {role: catalog.with_role(role) is not None for role in Role} == dict.fromkeys(Role, True)


def test_services_have_the_databases_their_work_needs(catalog: Catalog) -> None:
    def engines(role: Role) -> set[Engine]:
        service = catalog.with_role(role)
        assert service is not None
        return {catalog.databases[name].engine for name in service.needs.databases}

    assert engines(Role.GATEWAY) == set(Engine), "its /health/database tells of all of them"
    assert Engine.POSTGRESQL in engines(Role.SEARCH)
    assert Engine.POSTGRESQL in engines(Role.AUDIT_LOG)
    assert Engine.SCYLLADB in engines(Role.CHAT_HISTORY)
    assert Engine.REDIS in engines(Role.BACKGROUND_TASKS)


def test_probes_are_those_of_the_guide(catalog: Catalog) -> None:
    for service in catalog.services.values():
        ready, live = service.probes.readiness, service.probes.liveness
        assert (ready.path, ready.initial_delay, ready.period) == ("/health/ready", 10, 5)
        assert (live.path, live.initial_delay, live.period) == ("/health/live", 30, 10)


def test_only_the_front_and_the_gateway_are_public(catalog: Catalog) -> None:
    assert {name for name, service in catalog.services.items() if service.public} == {
        "web-app",
        "mobile-api",
        "api-gateway",
    }


@pytest.mark.parametrize(
    ("name", "offset", "data", "level", "runtime", "external"),
    [
        ("local", 0, "synthetic", "none", "local", "mock"),
        ("development", 1000, "de-identified", "basic", "kubernetes", "mock"),
        ("integration", 2000, "de-identified", "basic", "kubernetes", "test"),
        ("staging", 3000, "anonymised", "hipaa-like", "kubernetes", "staging"),
        ("production", 4000, "phi", "hipaa", "kubernetes", "live"),
    ],
)
def test_environments(
    catalog: Catalog, name: str, offset: int, data: str, level: str, runtime: str, external: str
) -> None:
    found = catalog.environments[name]
    assert (found.port_offset, found.order) == (offset, offset // 1000)
    assert (found.data_class, found.compliance, found.runtime, found.external_services) == (
        data,
        level,
        runtime,
        external,
    )
    assert (found.secrets, found.databases) == (("embedded", "embedded") if name == "local" else ("vault", "endpoints"))


def test_what_is_said_of_single_environments(catalog: Catalog) -> None:
    local, staging, production = (catalog.environments[n] for n in ("local", "staging", "production"))
    assert local.capacity is not None
    assert (local.capacity.memory, local.capacity.memory_recommended, local.capacity.storage) == (
        8 * GB,
        16 * GB,
        20 * GB,
    )
    assert staging.capacity is not None
    assert (staging.capacity.nodes, staging.capacity.cpu, staging.capacity.memory) == (3, 16, 64 * GB)
    assert staging.capacity.storage == 500 * GB
    assert (staging.namespaces, staging.namespace) == ("single", "therapeutic-ai")
    assert staging.strategies[0] == production.strategies[0] == "blue-green"
    assert "canary" in production.strategies
    assert catalog.environments["integration"].ephemeral
    assert production.approvals.required >= 1
    assert production.keep_previous == DAY, "the previous colour is removed after 24 h of monitoring"


def test_performance_settings_of_the_config_map(catalog: Catalog) -> None:
    production = catalog.environments["production"]
    assert production.settings == {
        "max_connections_per_service": "100",
        "cache_ttl_seconds": "3600",
        "request_timeout_seconds": "30",
        "confidence_threshold": "0.7",
    }
    assert {s.request_timeout for s in catalog.services.values()} == {
        float(production.settings["request_timeout_seconds"])
    }
    per_service = {str(d.max_connections) for d in catalog.databases.values()}
    assert per_service == {production.settings["max_connections_per_service"]}
    assert {frozenset(e.settings) for e in catalog.environments.values()} == {frozenset(production.settings)}


def test_secret_categories(catalog: Catalog) -> None:
    assert {n: (c.rotation / DAY, c.storage) for n, c in catalog.secret_categories.items()} == {
        "database-credentials": (90, ("vault", "kubernetes-secret")),
        "api-keys": (180, ("vault",)),
        "encryption-keys": (90, ("hsm", "vault")),
        "tls-certificates": (90, ("cert-manager",)),
        "jwt-signing-keys": (30, ("vault",)),
    }


def test_the_release(catalog: Catalog) -> None:
    release = catalog.release_of(catalog.environments["local"])
    assert (release.name, release.released, release.next_release) == ("3.0", "2025-09-01", "2025-09-08")
    assert {release.version_of(name) for name in catalog.services} == {"1.0.0"}


def test_services_start_in_few_waves(catalog: Catalog) -> None:
    assert sum(map(len, catalog.waves)) == len(catalog.services)
    assert len(catalog.waves) <= 7
