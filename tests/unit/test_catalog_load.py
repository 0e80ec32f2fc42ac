"""Wrong catalogs: each kind of mistake is named with file, field, problem and remedy, and nothing is quoted."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dr_platform.catalog import Catalog, CatalogError, Fault, documents, load_catalog
from dr_platform.catalog.load import KINDS
from dr_platform.errors import ExitCode
from tests.catalogs import SHIPPED, generated, shipped_copy

pytestmark = pytest.mark.unit

SECRET = "Tr0ub4dor&3!"
SERVICE = "services/billing.yaml"
DATABASE = "databases/redis/database.yaml"
PRODUCTION = "environments/production.yaml"
RELEASE = "releases/3.0.yaml"


def faults_of(root: Path) -> tuple[Fault, ...]:
    with pytest.raises(CatalogError) as caught:
        load_catalog(root)
    return caught.value.faults


def edit(root: Path, file: str, **changes: Any) -> None:
    """Change fields of one file; ``None`` removes a field, ``a__b`` reaches into a mapping."""
    path = root / file
    data = documents.read_document(path).data
    for dotted, value in changes.items():
        *inner, last = dotted.split("__")
        place = data
        for key in inner:
            place = place.setdefault(key, {})
        if value is None:
            place.pop(last)
        else:
            place[last] = value
    path.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")


def requiring(needed: str, requirement: str) -> dict[str, Any]:
    return {"contracts": {"billing": {"requires": {needed: requirement}}}}


def test_the_shipped_catalog_loads() -> None:
    catalog = load_catalog(SHIPPED)
    assert len(catalog.services) == 22
    assert list(catalog.databases) == ["mongodb", "postgres", "redis", "scylladb"]
    assert set(catalog.environments) == {"local", "development", "integration", "staging", "production"}


def test_the_same_catalog_without_the_c_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    with_c = load_catalog(SHIPPED)
    monkeypatch.setattr(documents, "_LOADER", yaml.SafeLoader)
    assert load_catalog(SHIPPED) == with_c


def test_an_edited_copy_without_changes_still_loads(tmp_path: Path) -> None:
    """Guards the table below: its helper alone breaks nothing."""
    root = shipped_copy(tmp_path)
    for file in (SERVICE, PRODUCTION, DATABASE):
        edit(root, file)
    assert load_catalog(root).services == load_catalog(SHIPPED).services


WRONG_FIELDS = [
    (SERVICE, {"replica_count": 3}, "replica_count", "is no field here", "did you mean replicas?"),
    (SERVICE, {"zzz": 3}, "zzz", "is no field here", "choose one of: autoscaling"),
    (SERVICE, {"resources__gpus": 1}, "resources.gpus", "is no field here", "did you mean gpu?"),
    (SERVICE, {"db_password": "x"}, "db_password", "reads like a secret", "secret store"),
    (SERVICE, {"port": None}, "port", "is missing", "add it (documented port"),
    (SERVICE, {"port": 80}, "port", "is too small", "write 1024 or more"),
    (SERVICE, {"port": 20000}, "port", "is too large", "write 19999 or less"),
    (SERVICE, {"port": "http"}, "port", "must be a whole number", "in digits"),
    (SERVICE, {"port": "08081"}, "port", "leading zero", "without it"),
    (
        SERVICE,
        {"port": 8080},
        "port",
        "8080 is also the port of auth-rbac",
        "choose another for one of them, such as 80",
    ),
    (SERVICE, {"port": 6379}, "port", "6379 is also the port of redis", "such as 6380"),
    (SERVICE, {"port": 3000}, "port", "3000 is also the port of the Dagster UI", "such as 3001"),
    (DATABASE, {"port": 8000}, "port", None, None),
    (SERVICE, {"tier": "backed"}, "tier", "is none of the values", "did you mean backend?"),
    (SERVICE, {"tier": "data"}, "tier", "is none of the values", "choose one of: ai-processing, backend, frontend"),
    (SERVICE, {"language": "rust"}, "language", "is none of the values", "choose one of: go, gpu-host, python, web"),
    (SERVICE, {"owner": "billing"}, "owner", "not written as it must be", "team:platform"),
    (SERVICE, {"image": "user:pw@registry/x"}, "image", "not written as it must be", "without tag or user"),
    (SERVICE, {"title": ["a"]}, "title", "must be text", "one value"),
    (SERVICE, {"title": 3}, "title", "must be text", "in quotes"),
    (SERVICE, {"description": ""}, "description", "is empty", "write at least 1"),
    (SERVICE, {"public": "perhaps"}, "public", "true or false", "write true or false"),
    (SERVICE, {"needs": "postgres"}, "needs", "a mapping of fields", "indented"),
    (SERVICE, {"needs__services": "auth-rbac"}, "needs.services", "must be a list", "[one, two]"),
    (SERVICE, {"needs__services": ["auth-rbak"]}, "needs.services.0", "names no service", "did you mean auth-rbac?"),
    (SERVICE, {"needs__databases": ["oracle"]}, "needs.databases.0", "names no database", "choose one of: mongodb"),
    (SERVICE, {"needs__services": ["billing"]}, "needs.services.0", "names the service itself", "remove it"),
    (SERVICE, {"needs__databases": ["redis", "redis"]}, "needs.databases", "twice", "keep one"),
    (
        "services/bge-host.yaml",
        {"needs__services": ["embedding-service"]},
        "needs.services",
        "closes the cycle bge-host -> embedding-service -> bge-host",
        "remove one of these needs",
    ),
    (SERVICE, {"roles": ["gateway"]}, "roles.0", "a role that api-gateway has already", "one service"),
    (SERVICE, {"slo": {"latency_p95": 100}}, "slo.latency_p95", "has no unit", "for example 100 ms"),
    (SERVICE, {"slo": {"latency_p95": "100"}}, "slo.latency_p95", "has no unit", "for example 100 ms"),
    (SERVICE, {"slo": {"latency_p95": "3 fortnights"}}, "slo.latency_p95", "has an unknown unit", "ms, s, min, h, d"),
    (SERVICE, {"slo": {"latency_p95": "0 ms"}}, "slo.latency_p95", "no time at all", "more than 0"),
    (SERVICE, {"slo": {"latency_p95": "soon"}}, "slo.latency_p95", "is not a quantity", "for example 100 ms"),
    (SERVICE, {"slo": {"error_ratio": "101 %"}}, "slo.error_ratio", "is more than 100 %", "between 0 % and 100 %"),
    (SERVICE, {"slo": {"error_ratio": 0.01}}, "slo.error_ratio", "has no unit", "for example 1 %"),
    (SERVICE, {"slo": {"latency": "1 s"}}, "slo.latency", "is no field here", "did you mean latency_p95?"),
    (
        SERVICE,
        {"resources__memory": {"request": "2 GB", "limit": "1 GB"}},
        "resources.memory",
        "below request",
        "raise",
    ),
    (SERVICE, {"resources__memory__limit": "1 Gb"}, "resources.memory.limit", "unknown unit", "GiB"),
    (SERVICE, {"resources__cpu__request": "500m"}, "resources.cpu.request", "must be a number", "digits"),
    (SERVICE, {"autoscaling": {"min": 5, "max": 4, "cpu": "70 %"}}, "autoscaling", "max is below min", "raise max"),
    (SERVICE, {"autoscaling__min": 3}, "autoscaling", "does not include the 2 replicas", "include 2"),
    (SERVICE, {"replicas__production": 0}, "replicas.production", "is 0", "1 or more"),
    (SERVICE, {"replicas": {"prod": 2}}, "replicas.prod", "is none of the values", "did you mean production?"),
    (SERVICE, {"replicas__staging": -1}, "replicas.staging", "too small", "write 0 or more"),
    (SERVICE, {"name": "other"}, "name", "differs from the name of its file", "give both the same name"),
    (SERVICE, {"name": "Billing!"}, "name", "not written as it must be", "lower-case letters"),
    (SERVICE, {"data_class": "secret"}, "data_class", "is none of the values", "anonymised"),
    (DATABASE, {"engine": "oracle"}, "engine", "is none of the values", "mongodb, postgresql, redis, scylladb"),
    (DATABASE, {"name": "cache"}, "name", "differs from the name of its folder", "redis"),
    (DATABASE, {"replicas__production": 0}, "replicas.production", "is too small", "write 1 or more"),
    (DATABASE, {"topology__admin_password": "x"}, "topology", "reads like a secret", "secret store"),
    (PRODUCTION, {"approvals": {"required": 0}}, "approvals.required", "is 0 in production", "a person must agree"),
    (PRODUCTION, {"approvals": None}, "approvals.required", "is 0 in production", "a person must agree"),
    (PRODUCTION, {"compliance": "basic"}, "compliance", "too little where data_class is phi", "write hipaa"),
    (PRODUCTION, {"endpoints__redis": None}, "endpoints.redis", "is missing", "host:port"),
    (PRODUCTION, {"endpoints__redys": "redis:6379"}, "endpoints.redys", "names no database", "did you mean redis?"),
    (PRODUCTION, {"endpoints__redis": "me:pw@redis:6379"}, "endpoints.redis", "not written", "without user"),
    (PRODUCTION, {"endpoints__redis": "redis:70000"}, "endpoints.redis", "above 65535", "host:port"),
    (PRODUCTION, {"release": "9.9"}, "release", "names no release", "3.0"),
    (PRODUCTION, {"services": {"biling": {}}}, "services.biling", "names no service", "did you mean billing?"),
    (PRODUCTION, {"services": {"billing": {"replicas": 0}}}, "services.billing.replicas", "is 0 in production", "1"),
    (
        PRODUCTION,
        {"services": {"billing": {"strategy": "recreate"}}},
        "services.billing.strategy",
        "not allowed",
        "canary",
    ),
    (PRODUCTION, {"port_offset": 3000}, "port_offset", "is also the offset of staging", "1000 apart"),
    (PRODUCTION, {"port_offset": 3001}, "port_offset", "on the port of", "change the offset"),
    ("environments/staging.yaml", {"order": 4}, "order", "is also the place of production", "its own place"),
    (PRODUCTION, {"strategies": []}, "strategies", "is empty", "at least 1"),
    (
        PRODUCTION,
        {"windows": {"maintenance": ["Sunday"]}},
        "windows.maintenance.0",
        "not written",
        "Sun 02:00-06:00 UTC",
    ),
    (
        PRODUCTION,
        {"windows": {"freeze": ["2026-12-20/2026-12-01"]}},
        "windows.freeze.0",
        "is no span",
        "2026-12-20/2027-01-02",
    ),
    (PRODUCTION, {"settings__confidence_threshold": "1.5"}, "settings", "confidence_threshold", "from 0 to 1"),
    (PRODUCTION, {"settings__api_key": "x"}, "settings", "reads like a secret", "secret store"),
    (
        "environments/local.yaml",
        {"data_class": "phi", "compliance": "hipaa"},
        "data_class",
        "developer's machine",
        "synthetic",
    ),
    ("environments/local.yaml", {"databases": "endpoints"}, "databases", "must be embedded", "write embedded"),
    ("releases/3.0.yaml", {"released": "2025-02-30"}, "released", "no day of the calendar", "2025-09-01"),
    ("releases/3.0.yaml", {"next_release": "2025-01-01"}, "next_release", "not after released", "later day"),
    (
        "releases/3.0.yaml",
        {"services": {"biling": "1"}},
        "services.biling",
        "names no service",
        "did you mean billing?",
    ),
    (RELEASE, {"contracts": {"biling": {}}}, "contracts.biling", "names no service", "did you mean billing?"),
    (RELEASE, {"contracts": {"billing": {"provides": 2}}}, "contracts.billing.provides", "must be text", "in quotes"),
    (RELEASE, {"contracts": {"billing": {"provides": "2.1"}}}, "contracts.billing.provides", "not written", "'2'"),
    (RELEASE, {"contracts": {"billing": {"needs": {}}}}, "contracts.billing.needs", "is no field", "requires"),
    (RELEASE, requiring("auth-rbak", "1"), "contracts.billing.requires.auth-rbak", "names no service", "auth-rbac?"),
    (RELEASE, requiring("billing", "1"), "contracts.billing.requires.billing", "names the service itself", "remove"),
    (RELEASE, requiring("consent", "~2"), "contracts.billing.requires.consent", "not written as it must be", "'>=2'"),
    (RELEASE, requiring("consent", ">=3 <2"), "contracts.billing.requires.consent", "admits no contract", "'>=2 <4'"),
    (RELEASE, requiring("consent", "<1"), "contracts.billing.requires.consent", "admits no contract", "'>=2 <4'"),
    (
        RELEASE,
        requiring("consent", ">=2"),
        "contracts.billing.requires.consent",
        "is not met: consent provides 1 in this release",
        "change the range, or what contracts.consent provides",
    ),
    (
        RELEASE,
        requiring("user-subscription", "1"),
        "contracts.billing.requires.user-subscription",
        "closes the cycle billing -> user-subscription -> billing",
        "remove one of these requirements",
    ),
    (RELEASE, {"data_contract": 2}, "data_contract", "must be text", "in quotes"),
    ("secrets/api-keys.yaml", {"rotation": "180"}, "rotation", "has no unit", "ms, s, min, h, d"),
    ("knowledge/sleep/set.yaml", {"source": "../.."}, "source", "not written as it must be", "inside the set's own"),
    ("knowledge/sleep/set.yaml", {"freshness_days": "30 d"}, "freshness_days", "must be a whole number", "without"),
]


@pytest.mark.parametrize(
    ("file", "changes", "field", "problem", "remedy"),
    [pytest.param(*row, id=f"{row[0]} {row[1]}"[:90]) for row in WRONG_FIELDS],
)
def test_a_wrong_field_is_named_with_problem_and_remedy(
    tmp_path: Path, file: str, changes: dict[str, Any], field: str, problem: str | None, remedy: str | None
) -> None:
    root = shipped_copy(tmp_path)
    edit(root, file, **changes)
    faults = faults_of(root)
    if problem is None:  # databases come first, so the service that meets them carries the fault
        assert [(f.file, f.field) for f in faults] == [("services/ai-gateway.yaml", "port")]
        return
    found = [f for f in faults if (f.file, f.field) == (file, field)]
    assert found, "\n".join(map(str, faults))
    assert problem in found[0].problem
    assert remedy is not None
    assert remedy in found[0].remedy
    assert len(faults) == len(found) == 1, "\n".join(map(str, faults))


def test_a_breaking_contract_is_accepted_where_its_callers_ask_for_it(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    breaking = {"embedding-service": {"provides": "2"}, "search-service": {"requires": {"embedding-service": ">=2 <4"}}}
    edit(root, RELEASE, contracts=breaking)
    release = load_catalog(root).releases["3.0"]
    assert release.contract_of("embedding-service").provides == "2"
    assert release.contract_of("billing").provides == "1"


def test_two_contracts_that_need_each_other_are_one_cycle(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    edit(
        root, RELEASE, contracts={"billing": {"requires": {"consent": "1"}}, "consent": {"requires": {"billing": "1"}}}
    )
    assert [(f.field, f.problem) for f in faults_of(root)] == [
        ("contracts.billing.requires.consent", "closes the cycle billing -> consent -> billing")
    ]


GOOD = (SHIPPED / SERVICE).read_bytes()
WRONG_BYTES = [
    ("an empty file", b"", "(file)", "is empty"),
    ("only comments", b"# nothing\n", "(file)", "is empty"),
    ("only null", b"~\n", "(file)", "is empty"),
    ("a scalar", b"hello\n", "line 1", "is not a mapping of fields"),
    ("a list", b"- name: billing\n", "line 1", "is not a mapping of fields"),
    ("a NUL byte", GOOD + b"a: \0\n", f"line {len(GOOD.splitlines()) + 1}", "holds a NUL byte"),
    ("another control character", GOOD + b"a: \x07\n", None, "holds a control character"),
    ("an escaped NUL", GOOD.replace(b"Billing", b'"Bil\\0ing"', 1), "title", "holds a control character"),
    ("an escaped terminal sequence", GOOD.replace(b"Billing", b'"\\e[31m"', 1), "title", "holds a control character"),
    ("Latin-1", GOOD.replace(b"Billing", b"B\xe4lling", 1), "line 2", "is not UTF-8"),
    ("UTF-16", GOOD.decode().encode("utf-16"), "line 1", "is not UTF-8"),
    ("a line of 2 MB", GOOD + b"x: " + b"a" * 2_000_000 + b"\n", "(file)", "has 2,000,"),
    ("a comment over the limit", b"#" * 262_145, "(file)", "has 262,145 bytes"),
    ("two documents", GOOD + b"---\n" + GOOD, None, "holds a second document"),
    ("an anchor", b"name: &a billing\n", "line 1", "uses an anchor"),
    ("an alias", b"name: billing\ntitle: *a\n", "line 2", "uses an alias"),
    ("an alias bomb", b"a: &a [x]\n" + b"".join(b"b%d: [*a,*a,*a,*a]\n" % n for n in range(9)), "line 1", "anchor"),
    ("a merge key", b"<<: {name: billing}\n" + GOOD, "(key)", "is no field here"),
    ("a Python tag", b"name: !!python/object/apply:os.system ['true']\n", "line 1", "uses a tag"),
    ("a private tag", b"name: !mine x\n", "line 1", "uses a tag"),
    ("a duplicate key", GOOD + b"port: 8081\n", "port", "is written twice"),
    (
        "a nested duplicate key",
        GOOD + b"slo: {error_ratio: 1 %, error_ratio: 2 %}\n",
        "slo.error_ratio",
        "written twice",
    ),
    ("a list as key", b"? [a, b]\n: c\n", "line 1", "uses a list or mapping as a key"),
    ("deep nesting", b"name: " + b"[" * 50_000 + b"]" * 50_000, "line 1", "is nested more than 16"),
    ("deep nesting by lines", b"\n".join(b" " * n + b"a:" for n in range(500)), None, "is nested more than 16"),
    ("a tab", b"name: billing\n\ttitle: x\n", "line 2", "is not valid YAML"),
    ("an open quote", b"name: 'billing\ntitle: x\n", None, "is not valid YAML"),
    ("an open bracket", b"name: [billing\n", None, "is not valid YAML"),
    ("a colon in a value", b"name: a: b\n", "line 1", "is not valid YAML"),
    ("an unknown directive", b"%TAG x\n---\nname: x\n", "line 1", "is not valid YAML"),
]


@pytest.mark.parametrize(("content", "field", "problem"), [pytest.param(*row[1:], id=row[0]) for row in WRONG_BYTES])
@pytest.mark.parametrize("loader", [getattr(yaml, "CSafeLoader", yaml.SafeLoader), yaml.SafeLoader])
def test_a_file_that_is_no_catalog_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: type, content: bytes, field: str | None, problem: str
) -> None:
    monkeypatch.setattr(documents, "_LOADER", loader)
    root = shipped_copy(tmp_path)
    (root / SERVICE).write_bytes(content)
    faults = [f for f in faults_of(root) if f.file == SERVICE]
    assert any(problem in f.problem and field in (None, f.field) for f in faults), "\n".join(map(str, faults))
    assert all(f.remedy for f in faults)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    (root / SERVICE).write_bytes(b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n"))
    assert load_catalog(root).services == load_catalog(SHIPPED).services


@pytest.mark.parametrize(("written", "expected"), [("yes", True), ("on", True), ("no", False), ("True", True)])
def test_a_yes_is_true_where_truth_is_asked_for(tmp_path: Path, written: str, expected: bool) -> None:
    root = shipped_copy(tmp_path)
    (root / SERVICE).write_bytes(GOOD + f"public: {written}\n".encode())
    assert load_catalog(root).services["billing"].public is expected


def test_words_of_older_yaml_stay_text(tmp_path: Path) -> None:
    """A title ``No`` is no boolean and a day is no date object."""
    root = shipped_copy(tmp_path)
    (root / SERVICE).write_bytes(GOOD.replace(b"title: Billing", b"title: No", 1))
    catalog = load_catalog(root)
    assert catalog.services["billing"].title == "No"
    assert catalog.releases["3.0"].released == "2025-09-01"


def a_directory(path: Path) -> None:
    path.mkdir()


def a_loop(path: Path) -> None:
    path.symlink_to(path.name)


def a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere.yaml")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket ends at 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize("make", [a_directory, a_loop, a_dangling_link, a_pipe, a_socket])
def test_what_is_no_regular_file_is_refused_without_waiting_for_it(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    root = shipped_copy(tmp_path)
    (root / SERVICE).unlink()
    make(root / SERVICE)
    (fault,) = faults_of(root)
    assert (fault.file, fault.field) == (SERVICE, "(file)")


def test_a_file_nobody_may_read_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = shipped_copy(tmp_path_factory.mktemp("open", numbered=True))
    for parent in root.parents:
        if parent.owner() == root.owner() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    (root / SERVICE).chmod(0)
    if is_root := os.geteuid() == 0:
        os.seteuid(65534)  # root may read everything
    try:
        (fault,) = faults_of(root)
    finally:
        if is_root:
            os.seteuid(0)
    assert (fault.file, fault.problem) == (SERVICE, "cannot be read (permission denied)")


def test_a_missing_folder_and_an_empty_one_are_named(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    for file in (root / "releases").iterdir():
        file.unlink()
    for file in (root / "secrets").iterdir():
        file.unlink()
    (root / "secrets").rmdir()
    told = {(f.file, f.problem) for f in faults_of(root)}
    assert told == {("releases", "holds no release"), ("secrets", "cannot be read (no such file or directory)")}


def test_a_folder_that_is_not_there_is_one_fault(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path / "nowhere")
    assert fault.problem == "is no folder that can be entered"
    assert "--catalog" in fault.remedy


def test_a_catalog_without_knowledge_is_fine(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    (root / "knowledge").rename(tmp_path / "elsewhere")
    assert load_catalog(root).knowledge == {}


def test_a_file_with_another_ending_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    (root / SERVICE).rename(root / "services/billing.yml")
    (fault,) = [f for f in faults_of(root) if f.file == "services/billing.yml"]
    assert fault.remedy == "rename it to billing.yaml"


def test_editors_and_readers_files_are_left_alone(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    for name in (".billing.yaml.swp", "billing.yaml~", "README.md", ".hidden.yaml"):
        (root / "services" / name).write_text("not a service")
    assert len(load_catalog(root).services) == 22


def test_a_database_folder_without_its_file_is_named(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    (root / "databases/oracle").mkdir()
    assert "databases/oracle/database.yaml" in {f.file for f in faults_of(root)}


def test_a_database_folder_that_is_a_link_to_itself_is_named(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    (root / "databases/oracle").symlink_to("oracle")
    (fault, *missing_endpoints) = faults_of(root)
    assert fault.file == "databases/oracle/database.yaml"
    assert {f.field for f in missing_endpoints} == {"endpoints.oracle"}


@pytest.mark.parametrize("name", [b"two\nlines", b"\xff\xfe", b"\x1b[31m", b"a b", b"a" * 70, "ä".encode()])
def test_a_file_name_that_could_disturb_a_terminal_is_told_without_it(tmp_path: Path, name: bytes) -> None:
    root = shipped_copy(tmp_path)
    (Path(os.fsdecode(os.fsencode(root) + b"/services/" + name + b".yaml"))).write_bytes(GOOD)
    (fault,) = faults_of(root)
    assert fault.problem == "has a name that no entry can have"
    assert str(fault).isprintable()


def test_the_error_survives_being_sent_to_another_process(tmp_path: Path) -> None:
    with pytest.raises(CatalogError) as caught:
        load_catalog(tmp_path)
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert (str(again), again.faults) == (str(caught.value), caught.value.faults)


def test_a_broken_file_does_not_make_its_users_look_wrong(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    (root / "services/audit-logging.yaml").write_text("name: [")
    (root / "databases/postgres/database.yaml").write_text("")
    assert {f.file for f in faults_of(root)} == {"services/audit-logging.yaml", "databases/postgres/database.yaml"}


def test_all_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    edit(root, SERVICE, port=80, tier="nowhere", owner="x")
    edit(root, DATABASE, engine="oracle", latency=5)
    edit(root, PRODUCTION, approvals=None, order=3)
    edit(root, "services/consent.yaml", needs__databases=["oracle"])
    (root / "services/extra.yaml").write_text("")
    told = {(f.file, f.field) for f in faults_of(root)}
    assert told == {
        (SERVICE, "port"),
        (SERVICE, "tier"),
        (SERVICE, "owner"),
        (DATABASE, "engine"),
        (DATABASE, "latency"),
        (PRODUCTION, "approvals.required"),
        ("services/consent.yaml", "needs.databases.0"),
        ("services/extra.yaml", "(file)"),
        ("environments/staging.yaml", "order"),
    }


def test_the_error_is_one_line_a_fault_and_refuses(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    edit(root, SERVICE, port=80, tier="nowhere")
    with pytest.raises(CatalogError) as caught:
        load_catalog(root)
    assert caught.value.exit_code is ExitCode.REFUSED
    lines = str(caught.value).splitlines()
    assert lines[0] == "the catalog has 2 faults:"
    assert lines[1].strip().startswith("services/billing.yaml:5: tier: is none of the values it may have; ")
    assert lines[2].strip().startswith("services/billing.yaml:6: port: is too small; write 1024 or more")
    assert lines[3].startswith("Untouched: everything that runs")
    assert "drp catalog validate" in lines[4]


def test_a_thousand_faults_in_one_file_are_counted_and_not_all_listed(tmp_path: Path) -> None:
    root = shipped_copy(tmp_path)
    (root / SERVICE).write_bytes(GOOD + b"".join(b"unknown%d: 1\n" % n for n in range(1000)))
    faults = faults_of(root)
    assert len(faults) == 51
    assert "has 950 more faults" in {f.problem for f in faults}


def test_two_cycles_are_both_told(tmp_path: Path) -> None:
    root = generated(tmp_path, 12)
    for first, second in ((2, 5), (7, 9)):
        for one, other in ((first, second), (second, first)):
            edit(root, f"services/service-{one:04}.yaml", needs__services=[f"service-{other:04}"])
    told = [f.problem for f in faults_of(root)]
    assert told == [
        "closes the cycle service-0002 -> service-0005 -> service-0002",
        "closes the cycle service-0007 -> service-0009 -> service-0007",
    ]


def scalars(data: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(data, dict):
        return [found for key, value in data.items() for found in scalars(value, (*place, key))]
    if isinstance(data, list):
        return [found for at, value in enumerate(data) for found in scalars(value, (*place, at))]
    return [place]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_secret_pasted_into_any_field_is_never_repeated(tmp_path: Path, kind: Any) -> None:
    """Each value of one file of each kind is replaced in turn; most places refuse it, none quotes it."""
    root = shipped_copy(tmp_path)
    name = {"service": "search-service", "database": "redis", "environment": "production"}.get(kind.name)
    file = root / kind.path_of(name) if name else next(root.glob(f"{kind.folder}/**/*.yaml"))
    before = yaml.safe_load(file.read_text(encoding="utf-8"))
    refused = 0
    for place in scalars(before):
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
        *inner, last = place
        target = data
        for key in inner:
            target = target[key]
        target[last] = SECRET
        refused += refuses_without_quoting(root, file, data)
    assert refused > len(scalars(before)) / 2


def refuses_without_quoting(root: Path, file: Path, data: Any) -> bool:
    kept = file.read_bytes()
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    try:
        load_catalog(root)
    except CatalogError as exc:
        assert SECRET not in str(exc)  # noqa: PT017 - the other outcome, accepted, is also fine
        assert SECRET not in repr(exc)  # noqa: PT017
        return True
    finally:
        file.write_bytes(kept)
    return False


def test_a_thousand_services_load_in_well_under_two_seconds(tmp_path: Path) -> None:
    root = generated(tmp_path, 1000)
    before = os.times()
    catalog = load_catalog(root)
    after = os.times()
    assert len(catalog.services) == 1000
    assert (after.user - before.user) + (after.system - before.system) < 2.0  # 0.2 s measured; CPU, not wall time


def test_equal_files_give_equal_catalogs(tmp_path: Path) -> None:
    def contents(catalog: Catalog) -> object:
        return catalog.services, catalog.databases, catalog.environments, catalog.releases, catalog.secret_categories

    assert contents(load_catalog(shipped_copy(tmp_path))) == contents(load_catalog(SHIPPED))
