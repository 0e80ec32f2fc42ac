"""The pinned sources of servers that are built or downloaded, and how a machine without them answers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dr_platform.databases.embedded import cassandra_jars, ferretdb_build, redis_program
from dr_platform.databases.embedded.cache import EngineCache
from dr_platform.databases.embedded.cassandra_jars import Jar, read_list, wanted_jars
from dr_platform.databases.embedded.port import EngineUnavailable
from dr_platform.verdict import silent

pytestmark = pytest.mark.unit
PINNED = (cassandra_jars.LIST, *(ferretdb_build.SOURCES / name for name in ("go.mod", "go.sum", "programs.go")))


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineCache:
    """An empty cache on a machine that reaches no registry."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY", "JGO_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOPROXY", "off")
    monkeypatch.setenv("GOFLAGS", "-mod=mod")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/nonexistent")
    return EngineCache(tmp_path / "cache")


@pytest.mark.parametrize("file", PINNED, ids=lambda p: p.name)
def test_pinned_lists_name_modules_and_never_an_address(file: Path) -> None:
    assert "://" not in file.read_text(encoding="utf-8")


def test_every_jar_has_one_digest_and_one_file_name() -> None:
    jars = wanted_jars()
    assert len({jar.file_name for jar in jars}) == len(jars) > 80
    assert all(re.fullmatch(r"[0-9a-f]{64}", jar.sha256) for jar in jars)


def test_coordinates_become_the_path_in_a_repository() -> None:
    (jar,) = read_list("# why\n\nabc  org.example:tool:1.2:jar:native\n")
    assert jar == Jar("abc", "org.example", "tool", "1.2", "native")
    assert jar.within(Path("/r")) == Path("/r/org/example/tool/1.2/tool-1.2-native.jar")


def test_a_jar_cut_short_is_removed_so_that_it_is_fetched_again(tmp_path: Path) -> None:
    jar = wanted_jars()[0]
    file = jar.within(tmp_path)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"PK half a jar")
    assert cassandra_jars._without_damaged([jar], tmp_path) == (jar,)
    assert not file.exists()


def test_every_module_of_the_build_has_its_digest() -> None:
    required = re.findall(r"^\s+(\S+) (v\S+)", (ferretdb_build.SOURCES / "go.mod").read_text(), re.MULTILINE)
    digests = (ferretdb_build.SOURCES / "go.sum").read_text()
    assert len(required) > 50
    assert [m for m, v in required if f"{m} {v} h1:" not in digests] == []


def test_without_a_module_proxy_ferretdb_is_unavailable_and_says_what_to_look_at(nowhere: EngineCache) -> None:
    with pytest.raises(EngineUnavailable, match="GOPROXY") as failure:
        ferretdb_build.ensure_program(nowhere, silent)
    assert "module lookup disabled" in failure.value.why


def test_without_any_go_ferretdb_is_unavailable(nowhere: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(EngineUnavailable, match="no Go 1.24 or newer"):
        ferretdb_build.ensure_program(nowhere, silent)


def test_an_old_go_is_passed_over(nowhere: EngineCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ferretdb_build.find_go(tmp_path).program != old


def test_without_a_repository_cassandra_is_unavailable_and_says_where_mirrors_go(nowhere: EngineCache) -> None:
    with pytest.raises(EngineUnavailable, match=r"settings\.xml"):
        cassandra_jars.ensure_jars(nowhere, silent)


def test_without_a_program_redis_is_unavailable(nowhere: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(EngineUnavailable, match="redis-server 6.2 or newer"):
        redis_program.ensure_program(nowhere, silent)
