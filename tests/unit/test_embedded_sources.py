"""The pinned sources of servers that are built or downloaded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dr_platform.databases.embedded import cassandra_jars, ferretdb_build
from dr_platform.databases.embedded.cassandra_jars import Jar, read_list, wanted_jars

pytestmark = pytest.mark.unit
PINNED = (cassandra_jars.LIST, *(ferretdb_build.SOURCES / name for name in ("go.mod", "go.sum", "programs.go")))


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
