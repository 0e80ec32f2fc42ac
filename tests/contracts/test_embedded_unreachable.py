"""A machine that reaches no registry and has not got what a server needs: an answer with a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from dr_platform.databases.embedded import cassandra_jars, ferretdb_build, redis_program
from dr_platform.databases.embedded.cache import EngineCache
from dr_platform.databases.embedded.port import EngineUnavailable
from dr_platform.verdict import silent

pytestmark = pytest.mark.contract


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


def test_without_a_module_proxy_ferretdb_is_unavailable_and_says_what_to_look_at(nowhere: EngineCache) -> None:
    with pytest.raises(EngineUnavailable, match="GOPROXY") as failure:
        ferretdb_build.ensure_program(nowhere, silent)
    assert "module lookup disabled" in failure.value.why


def test_without_any_go_ferretdb_is_unavailable(nowhere: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(EngineUnavailable, match=r"no Go 1\.24 or newer"):
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
    with pytest.raises(EngineUnavailable, match=r"redis-server 6\.2 or newer"):
        redis_program.ensure_program(nowhere, silent)
