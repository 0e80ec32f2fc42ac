"""What the platform consists of, as frozen values: one model per kind of catalog file.

Here: shapes and the rules that one file alone can break. Not here: reading files (``load``) and
the rules between files (``rules``), nor how a runtime starts anything.

A ``ValueError`` raised here reads ``problem: remedy`` and never quotes the value.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dr_platform.catalog.fields import (
    BranchPattern,
    ContractNumber,
    ContractRange,
    Count,
    DatabaseName,
    DatabasePort,
    Day,
    DaySpan,
    EmbedderKey,
    HostPort,
    ImageRepository,
    InnerFolder,
    InnerJsonLines,
    KubernetesVersion,
    LanguageTag,
    ModelName,
    Name,
    Number,
    Owner,
    Region,
    RepositoryName,
    Sentence,
    ServedName,
    ServerAddress,
    ServicePort,
    Settings,
    Title,
    UrlPath,
    VersionText,
    WeeklyWindow,
)
from dr_platform.catalog.quantities import Duration, Memory, Ratio

UI_PORT = 3000
"""The Dagster UI, plus the environment's offset; no service or database may stand on it."""


INTAKE_PORT = 3010
"""Where CI tells what was merged and pushed, plus the environment's offset; nothing else may stand on it."""


class Model(BaseModel):
    # Values stay out of messages: one of them may be a secret pasted into the wrong field.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Tier(StrEnum):
    """Where a service stands (architecture chart of the first guide); names its namespace."""

    FRONTEND = "frontend"
    BACKEND = "backend"
    AI_PROCESSING = "ai-processing"
    DATA = "data"
    MONITORING = "monitoring"
    SECURITY = "security"


class DataClass(StrEnum):
    """The most sensitive data that may be present, in rising order."""

    NONE = "none"
    SYNTHETIC = "synthetic"
    DE_IDENTIFIED = "de-identified"
    ANONYMISED = "anonymised"
    PHI = "phi"

    @property
    def rank(self) -> int:
        return list(DataClass).index(self)


class ComplianceLevel(StrEnum):
    """Which HIPAA checks an environment is held to (environment table of the second guide)."""

    NONE = "none"
    BASIC = "basic"
    HIPAA_LIKE = "hipaa-like"
    HIPAA = "hipaa"

    @property
    def rank(self) -> int:
        return list(ComplianceLevel).index(self)


class Role(StrEnum):
    """Work that other parts of the platform rely on; they look services up by role, never by name."""

    GATEWAY = "gateway"
    AI_GATEWAY = "ai-gateway"
    AUTHENTICATION = "authentication"
    EMBEDDING = "embedding"
    SEARCH = "search"
    GENERATION = "generation"
    CHAT_HISTORY = "chat-history"
    AUDIT_LOG = "audit-log"
    CONTENT_SAFETY = "content-safety"
    BACKGROUND_TASKS = "background-tasks"


class Language(StrEnum):
    """What a service is written in, or that it is a host for a model on a GPU."""

    GO = "go"
    PYTHON = "python"
    GPU_HOST = "gpu-host"
    WEB = "web"


class Range(Model):
    """CPU cores: a request and a limit, as Kubernetes resources have them."""

    request: Number = Field(gt=0, le=256, description="cores that are set aside")
    limit: Number = Field(gt=0, le=256, description="cores that may be used")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.limit < self.request:
            raise ValueError("limit is below request: raise the limit or lower the request")
        return self


class MemoryRange(Model):
    """Memory: a request and a limit, as Kubernetes resources have them."""

    request: Memory = Field(description="memory that is set aside")
    limit: Memory = Field(description="memory that may be used; a replica above it is ended")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.limit < self.request:
            raise ValueError("limit is below request: raise the limit or lower the request")
        return self


class Resources(Model):
    """What one replica needs (component table of the first guide)."""

    cpu: Range = Field(description="CPU cores")
    memory: MemoryRange = Field(description="memory")
    gpu: Count = Field(default=0, ge=0, le=16, description="GPU devices per replica")
    storage: Memory | None = Field(default=None, description="persistent volume per replica")


class Autoscaling(Model):
    """Bounds of a Horizontal Pod Autoscaler in production."""

    min: Count = Field(ge=1, le=100, description="replicas that always run")
    max: Count = Field(ge=1, le=100, description="replicas that run at most")
    cpu: Ratio = Field(description="average CPU use that adds a replica, for example 70 %")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.min:
            raise ValueError("max is below min: raise max or lower min")
        return self


class Probe(Model):
    """An HTTP request that a runtime repeats."""

    path: UrlPath = Field(description="path on the service's own port")
    initial_delay: Duration = Field(description="from the start of a replica to the first probe")
    period: Duration = Field(description="between two probes")
    timeout: Duration = Field(default=1.0, description="a probe without an answer by then has failed")
    failures: Count = Field(default=3, ge=1, le=30, description="failed probes in a row that count")


class Probes(Model):
    """The second guide's probes: ready to accept traffic, and alive."""

    readiness: Probe = Field(
        default=Probe.model_validate({"path": "/health/ready", "initial_delay": "10 s", "period": "5 s"}),
        description="whether a replica may get traffic",
    )
    liveness: Probe = Field(
        default=Probe.model_validate({"path": "/health/live", "initial_delay": "30 s", "period": "10 s"}),
        description="whether a replica runs correctly",
    )


class Slo(Model):
    """What a service promises (key metrics of the second guide). Latencies are at the 95th percentile."""

    error_ratio: Ratio = Field(default=0.01, description="errors over requests must stay below")
    latency_p95: Duration | None = Field(default=None, description="answers must come within")
    gpu_utilisation: Ratio | None = Field(default=None, description="average use must stay below")
    queue_depth: Count | None = Field(default=None, ge=1, description="waiting tasks must stay below")
    cache_hit_ratio: Ratio | None = Field(default=None, description="must stay above")


class Needs(Model):
    """What a service calls. Keys of its ``/health`` dependencies are these names."""

    services: tuple[Name, ...] = Field(default=(), description="names of services; no cycles")
    databases: tuple[Name, ...] = Field(default=(), description="names of databases")

    @field_validator("services", "databases")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError("names the same entry twice: keep one")
        return names


EnvironmentName = Literal["local", "development", "integration", "staging", "production"]


class Service(Model):
    """One deployable service; the file's stem is its name."""

    name: Name = Field(description="the file's stem; also the host name in a cluster")
    title: Title = Field(description="for people")
    description: Sentence = Field(description="what it does, in a sentence")
    language: Language = Field(description="what it is written in, or gpu-host")
    tier: Literal[Tier.FRONTEND, Tier.BACKEND, Tier.AI_PROCESSING] = Field(description="names its namespace")
    port: ServicePort = Field(description="documented port, before the environment's offset")
    owner: Owner = Field(description="team that is called, as team:<name>")
    image: ImageRepository = Field(description="repository without tag; a release adds the version")
    roles: tuple[Role, ...] = Field(default=(), description="work the platform itself relies on; one holder each")
    needs: Needs = Field(default=Needs(), description="what it calls")
    data_class: DataClass = Field(description="the most sensitive data it handles in production")
    resources: Resources = Field(description="per replica")
    autoscaling: Autoscaling | None = Field(default=None, description="in production; none where left out")
    replicas: dict[EnvironmentName, Annotated[Count, Field(ge=0, le=100)]] = Field(
        default_factory=dict, description="per environment; 1 where nothing is said"
    )
    probes: Probes = Field(default=Probes(), description="how a runtime looks at a replica")
    slo: Slo = Field(default=Slo(), description="what it promises")
    request_timeout: Duration = Field(
        default=30.0, description="the router gives up after; request_timeout_seconds of the production ConfigMap"
    )
    drain: Duration = Field(default=20.0, description="how long requests under way may take when a replica ends")
    public: bool = Field(default=False, description="reachable from outside the cluster")

    def replicas_in(self, environment: str) -> int:
        """Replicas by the service's own file; an environment may override them (``Environment.services``)."""
        return next((count for name, count in self.replicas.items() if name == environment), 1)


class Engine(StrEnum):
    """What a database is, and so which adapter talks to it."""

    POSTGRESQL = "postgresql"
    MONGODB = "mongodb"
    REDIS = "redis"
    SCYLLADB = "scylladb"


class Database(Model):
    """One database server (or cluster) and the database on it; the folder's name is its name."""

    name: Name = Field(description="the folder's name; also the host name in a cluster")
    title: Title = Field(description="for people")
    description: Sentence = Field(description="what is kept in it, in a sentence")
    engine: Engine = Field(description="which adapter talks to it")
    port: DatabasePort = Field(description="documented port, before the environment's offset")
    database: DatabaseName = Field(description="database or keyspace on the server")
    owner: Owner = Field(description="team that is called, as team:<name>")
    data_class: DataClass = Field(description="the most sensitive data it holds in production")
    resources: Resources = Field(description="per replica")
    replicas: dict[EnvironmentName, Annotated[Count, Field(ge=1, le=15)]] = Field(
        default_factory=dict, description="per environment; 1 where nothing is said"
    )
    latency: Duration = Field(description="one simple query must answer within")
    max_connections: Count = Field(default=100, ge=1, le=10000, description="per service")
    topology: Settings = Field(default_factory=dict, description="engine settings of the production ConfigMap")

    def replicas_in(self, environment: str) -> int:
        return next((count for name, count in self.replicas.items() if name == environment), 1)

    embedded_waivers: dict[str, str] = Field(
        default_factory=dict,
        description="security properties that the embedded server cannot have, each with its reason; "
        "they count only where databases are embedded, on synthetic data",
    )


class Approvals(Model):
    """Who must agree before a release may enter an environment."""

    required: Count = Field(default=0, ge=0, le=5, description="approvers, different from the requester")
    valid_for: Duration = Field(default=86400.0, description="an approval counts this long")


Remedial = Literal["re-materialise", "restart", "roll-back", "page"]
"""What may be done about a check that fails."""


class RemedyRule(Model):
    """What is done about one failing check of a layer or of one part of it. What is left out is as the
    environment has it; of several rules that fit, the one that names the part counts, else the first."""

    layer: Literal["services", "databases", "infrastructure"] = Field(description="where the check stands")
    part: Name | None = Field(default=None, description="one service, database or router; all where left out")
    check: Literal["healthy", "hipaa", "smoke", "access"] = Field(default="healthy", description="the check that fails")
    actions: tuple[Remedial, ...] = Field(
        default=("re-materialise",),
        min_length=1,
        max_length=10,
        description="one an attempt, in this order, the last again and again; page calls a person at once",
    )
    attempts: int | None = Field(default=None, ge=1, le=10, description="before a person is called")
    failing_for: Duration | None = Field(default=None, description="failing this long before anything is tried")
    first_pause: Duration | None = Field(default=None, description="after the first attempt; doubles with each one")
    well_for: Duration | None = Field(default=None, description="good this long gives the whole budget back")
    attempts_in_window: int | None = Field(default=None, ge=1, le=100, description="attempts within the window")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if "roll-back" in self.actions and self.layer != "services":
            raise ValueError("only services are rolled back: take roll-back out")
        if "page" in self.actions[:-1]:
            raise ValueError("nothing is tried after a person was called: put page at the end")
        if self.layer == "infrastructure" and (self.check != "healthy" or self.part not in (None, "router")):
            raise ValueError("of the infrastructure the router's health alone is mended: name the part router")
        if self.layer == "databases" and self.check not in ("healthy", "hipaa"):
            raise ValueError("databases have the checks healthy and hipaa: choose one of them")
        return self


class Remediation(Model):
    """How much is tried for something unhealthy before a person is called."""

    attempts: int = Field(default=3, ge=1, le=10, description="materialisations before a person is called")
    failing_for: Duration = Field(default=12.0, description="unhealthy this long before anything is tried")
    database_failing_for: Duration = Field(default=40.0, description="the same for databases, which start slowly")
    first_pause: Duration = Field(default=10.0, description="after the first attempt; doubles with each further one")
    well_for: Duration = Field(default=60.0, description="healthy this long gives the whole budget back")
    window: Duration = Field(default=3600.0, description="what is well and ill in turn is counted over this time")
    attempts_in_window: int = Field(default=9, ge=1, le=100, description="attempts within the window")
    rules: tuple[RemedyRule, ...] = Field(
        default=(), description="what is done about which check; without a rule only health is mended"
    )


class Windows(Model):
    """When risky work is wanted, and when nothing may change."""

    maintenance: tuple[WeeklyWindow, ...] = Field(
        default=(), description="'Sun 02:00-06:00 UTC'; migrations and risky work"
    )
    freeze: tuple[DaySpan, ...] = Field(default=(), description="'2026-12-20/2027-01-02'; no deployment")


class Strategy(StrEnum):
    """How a new version takes over."""

    BLUE_GREEN = "blue-green"
    CANARY = "canary"
    ROLLING = "rolling"
    RECREATE = "recreate"


Suite = Literal["health", "smoke", "integration", "hipaa", "ai", "security", "performance", "recovery", "data"]
"""Check suites of ``drp check --suite``."""


class Entry(Model):
    """What must hold before a release may enter an environment (both guides' checklists)."""

    event: Literal["none", "pull-request-merge", "feature-branch-merge", "release-branch", "hipaa-validation"] = Field(
        default="none", description="what starts a deployment here"
    )
    suites: tuple[Suite, ...] = Field(default=(), description="check suites that must have passed")
    attestations: tuple[Sentence, ...] = Field(default=(), description="what a person must have confirmed")
    fresh_for: Duration = Field(default=86400.0, description="what a suite found counts this long")
    soak: Duration | None = Field(default=None, description="time in the environment before, verified, without end")


class Intake(Model):
    """Which events of CI deploy here (environment sections of both guides)."""

    merged_into: tuple[BranchPattern, ...] = Field(
        default=(), description="a pull request that was merged into one of these branches deploys"
    )
    merged_from: tuple[BranchPattern, ...] = Field(
        default=("*",), min_length=1, description="of those, the branches that it may come from"
    )
    pushed_to: tuple[BranchPattern, ...] = Field(default=(), description="a push to one of these branches deploys")
    repositories: tuple[RepositoryName, ...] = Field(
        default=(), description="owner/name of those that count; all where left out"
    )


class Capacity(Model):
    """What an environment needs in sum: of a machine for ``local``, of a cluster elsewhere."""

    nodes: Count | None = Field(default=None, ge=1, le=1000, description="worker nodes at least")
    cpu: Number | None = Field(default=None, gt=0, description="cores in sum")
    memory: Memory = Field(description="at least, in sum")
    memory_recommended: Memory | None = Field(default=None, description="for pleasant work")
    storage: Memory = Field(description="free or persistent storage, in sum")


class Cluster(Model):
    """The Kubernetes cluster of an environment and what stands in it beside the platform."""

    name: Name = Field(description="name of the cluster at its provider")
    context: Name = Field(description="context of the kubeconfig")
    version: KubernetesVersion = Field(default="1.22", description="oldest minor version that will do")
    network: Literal["local", "shared", "private-vpc"] = Field(description="where its nodes stand")
    components: tuple[Name, ...] = Field(default=(), description="what must be installed in it")


class ServiceOverride(Model):
    """What one environment changes for one service."""

    replicas: Count | None = Field(default=None, ge=0, le=100, description="instead of the service's own figure")
    strategy: Strategy | None = Field(default=None, description="instead of the environment's default")
    settings: Settings = Field(default_factory=dict, description="added to the environment's settings")


class Environment(Model):
    """One of the five environments; the file's stem is its name."""

    name: EnvironmentName = Field(description="the file's stem")
    title: Title = Field(description="for people")
    purpose: Sentence = Field(description="what it is for, in a sentence")
    order: Count = Field(ge=0, le=4, description="place on the promotion path")
    port_offset: Count = Field(ge=0, le=4000, description="added to every documented port")
    runtime: Literal["local", "kubernetes"] = Field(description="where its workloads run")
    data_class: DataClass = Field(description="the most sensitive data that may be in it")
    compliance: ComplianceLevel = Field(description="which HIPAA checks it is held to")
    namespaces: Literal["by-tier", "single"] = Field(default="by-tier", description="how services share namespaces")
    namespace: Name = Field(default="therapeutic-ai", description="the namespace where there is a single one")
    ephemeral: bool = Field(default=False, description="made and removed as a whole, one per pull request")
    high_availability: bool = Field(default=False, description="must survive the loss of a node")
    deployment: Literal["manual", "automatic", "automatic-with-approval"] = Field(
        default="manual", description="who starts a deployment"
    )
    strategies: tuple[Strategy, ...] = Field(min_length=1, description="allowed; the first is the default")
    entry: Entry = Field(default=Entry(), description="what must hold before a release may enter")
    intake: Intake | None = Field(default=None, description="which events of CI deploy here; none where left out")
    approvals: Approvals = Field(default=Approvals(), description="who must agree before a release may enter")
    secrets: Literal["embedded", "vault"] = Field(description="where its secrets are kept")
    databases: Literal["embedded", "endpoints"] = Field(description="servers of our own, or given ones")
    database_topology: Literal["single", "containers", "shared", "replicated", "multi-region"] = Field(
        default="single", description="how the database servers are laid out"
    )
    endpoints: dict[Name, HostPort] = Field(
        default_factory=dict,
        description="database name to host:port, or host:port/database where it is not the database's own `database`",
    )
    external_services: Literal["mock", "test", "staging", "live"] = Field(description="which instances are called")
    access: tuple[Literal["loopback", "vpn", "jump-host", "team", "demo", "public", "restricted-admin"], ...] = Field(
        min_length=1, description="how people reach it"
    )
    regions: tuple[Region, ...] = Field(min_length=1, description="where it runs; the first is the main one")
    windows: Windows = Field(default=Windows(), description="when to work and when not to")
    release: VersionText | None = Field(default=None, description="name of a release; the newest where left out")
    capacity: Capacity | None = Field(default=None, description="what it needs in sum, where that is laid down")
    cluster: Cluster | None = Field(default=None, description="the Kubernetes cluster it runs in")
    settings: Settings = Field(default_factory=dict, description="handed to every service")
    services: dict[Name, ServiceOverride] = Field(default_factory=dict, description="what it changes per service")
    service_start: Duration = Field(default=45.0, description="a service started alone must be ready within")
    backup_before_change: Literal["real-data", "always"] = Field(
        default="real-data", description="where a schema is changed only after a verified backup"
    )
    remediation: Remediation = Field(default=Remediation(), description="how unhealthy parts are mended")
    bake: Duration = Field(default=5.0, description="how long each step of a rollout is watched")
    look: Duration = Field(default=1.0, description="between two looks of the rollout controller")
    keep_previous: Duration = Field(default=60.0, description="the version before stays warm this long")


class SecretCategory(Model):
    """A kind of secret, how long it may live, and where it is kept (second guide's table)."""

    name: Name = Field(description="the file's stem")
    title: Title = Field(description="for people")
    examples: tuple[Sentence, ...] = Field(min_length=1, description="what belongs to it")
    rotation: Duration = Field(description="a secret is replaced before it is this old")
    storage: tuple[Literal["vault", "kubernetes-secret", "hsm", "cert-manager"], ...] = Field(
        min_length=1, description="where it is kept outside the local environment"
    )


class RetrievalGoal(Model):
    """What the questions of a knowledge set must reach; each question has one article that answers it."""

    recall: Ratio = Field(default=0.85, ge=0, le=1, description="share whose article is among the first 5 found")
    reciprocal_rank: Ratio = Field(default=0.6, ge=0, le=1, description="mean of 1/rank of that article")
    p95: Duration = Field(default=0.25, gt=0, description="95 of 100 searches are answered in this time")


class KnowledgeQuality(Model):
    """What a set's articles must be like; shares are of its articles."""

    duplicates: Ratio = Field(default=0.0, ge=0, le=1, description="share that may repeat a passage of another one")
    near: Ratio = Field(default=0.85, gt=0, le=1, description="passages count as repeated from this cosine on")
    foreign: Ratio = Field(default=0.0, ge=0, le=1, description="share that may be in another language than declared")
    identifiers: Count = Field(default=0, ge=0, description="findings that may look like identifiers of a patient")
    review_days: Count = Field(default=365, ge=1, le=3650, description="an article is reviewed again before this")
    stale: Ratio = Field(default=0.0, ge=0, le=1, description="share whose review may be older")


class KnowledgeSet(Model):
    """A set of articles; the folder's name is its name."""

    name: Name = Field(description="the folder's name")
    title: Title = Field(description="for people")
    description: Sentence = Field(description="what it is about, in a sentence")
    owner: Owner = Field(description="team that reviews it, as team:<name>")
    license: Title = Field(description="SPDX identifier of the articles' license")
    language: LanguageTag = Field(default="en", description="of the articles, for example en")
    freshness_days: Count = Field(default=30, ge=1, le=3650, description="it is seeded again before it is this old")
    source: InnerFolder = Field(default="articles", description="folder of the articles, inside the set's own")
    questions: InnerJsonLines | None = Field(
        default="questions.jsonl", description="questions with the article that answers them; none where null"
    )
    retrieval: RetrievalGoal = Field(default=RetrievalGoal(), description="what its questions must reach")
    quality: KnowledgeQuality = Field(default=KnowledgeQuality(), description="what its articles must be like")


class EmbeddingServer(Model):
    """Where vectors are made, and what may be sent there."""

    api: Literal["openai", "tei"] = Field(
        description="POST /v1/embeddings as OpenAI has it, or POST /embed of Text Embeddings Inference"
    )
    url: ServerAddress = Field(description="its address without that path")
    model: ServedName | None = Field(default=None, description="what the server calls it; openai needs it")
    shortened: bool = Field(
        default=False, description="ask for vectors cut to `dimensions`, where the model allows it; openai alone"
    )
    batch: Count = Field(default=32, ge=1, le=128, description="texts in one request")
    timeout: Duration = Field(default=10.0, le=120, description="one request is answered within")
    secret: EmbedderKey | None = Field(
        default=None, description="name of a secret whose field key is sent as bearer; none where left out"
    )
    questions: Literal["allowed", "refused"] = Field(
        default="refused", description="whether users' questions, which may hold PHI, may be sent there"
    )
    agreement: Title | None = Field(
        default=None, description="reference of the business associate agreement (45 CFR 164.504(e)) with who runs it"
    )


class EmbeddingModel(Model):
    """What makes vectors of texts; the file's stem is its name. Vectors are kept under the name, so another
    model, version or size has another name."""

    name: ModelName = Field(description="the file's stem, with the model's version")
    title: Title = Field(description="for people")
    description: Sentence = Field(description="what it is, in a sentence")
    owner: Owner = Field(description="team that is called, as team:<name>")
    kind: Literal["words", "http"] = Field(description="the platform's own word vectors, or a server")
    dimensions: Count = Field(ge=1, le=2000, description="numbers of a vector; the store's index takes 2,000 at most")
    first: bool = Field(default=False, description="an empty store is loaded with it; true for one of them")
    server: EmbeddingServer | None = Field(default=None, description="of the kind http")


class Contract(Model):
    """What one service promises its callers, and what it takes from those it calls."""

    provides: ContractNumber = Field(default="1", description="rises with each change that breaks callers")
    requires: dict[Name, ContractRange] = Field(
        default_factory=dict, description="service name to what it must provide, for example '>=2'"
    )


class Release(Model):
    """Which version of every service belongs together; the file's stem is its name."""

    name: VersionText = Field(description="the file's stem; in quotes, or 3.0 is a number")
    released: Day = Field(description="day, as 2025-09-01")
    next_release: Day | None = Field(default=None, description="day on which the next one is planned")
    description: Annotated[str, Field(max_length=400)] = Field(default="", description="what is new, in a sentence")
    default_version: VersionText = Field(description="for services that are not named below")
    services: dict[Name, VersionText] = Field(default_factory=dict, description="service name to version")
    contracts: dict[Name, Contract] = Field(
        default_factory=dict, description="service name to its contract; '1', and no requirement, where left out"
    )
    data_contract: ContractNumber = Field(
        default="1", description="rises when data that is handed on, such as events and exports, changes its form"
    )

    def version_of(self, service: str) -> str:
        return self.services.get(service, self.default_version)

    def contract_of(self, service: str) -> Contract:
        return self.contracts.get(service, Contract())
