"""Cassandra's jars, fetched once by their Maven coordinates and compared with the committed digests.

Here: the list, and two tools that can fetch it: the machine's ``mvn``, which knows the mirrors of
the user's settings, else the resolver of the Python package jgo. Not here: how the server runs
(``cql``). Run as a module, it fetches into a repository folder with jgo and prints a line per jar.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dr_platform.databases.embedded.cache import EngineCache, StepFailed, Workshop
from dr_platform.databases.embedded.port import EngineUnavailable
from dr_platform.verdict import Progress

if TYPE_CHECKING:
    from jgo.maven import MavenContext

ENGINE = "Cassandra"
VERSION = "5.0.9"
LIST = Path(__file__).parent / "cassandra" / "jars.txt"
FETCH_LIMIT_S = 300.0
ATTEMPTS = 3
"""A connection that breaks costs one jar, which the next attempt gets."""


@dataclass(frozen=True)
class Jar:
    sha256: str
    group: str
    artifact: str
    version: str
    classifier: str

    @property
    def file_name(self) -> str:
        suffix = f"-{self.classifier}" if self.classifier else ""
        return f"{self.artifact}-{self.version}{suffix}.jar"

    def within(self, repository: Path) -> Path:
        return repository.joinpath(*self.group.split("."), self.artifact, self.version, self.file_name)

    def is_whole(self, file: Path) -> bool:
        try:
            return hashlib.sha256(file.read_bytes()).hexdigest() == self.sha256
        except FileNotFoundError:
            return False


def read_list(text: str) -> tuple[Jar, ...]:
    """Lines of ``SHA-256  group:artifact:version[:jar:classifier]``."""
    jars = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            digest, coordinates = line.split()
            group, artifact, version, *rest = coordinates.split(":")
            jars.append(Jar(digest, group, artifact, version, rest[1] if rest else ""))
    return tuple(jars)


def wanted_jars() -> tuple[Jar, ...]:
    return read_list(LIST.read_text(encoding="utf-8"))


def content_digest() -> str:
    return hashlib.sha256("".join(jar.sha256 for jar in wanted_jars()).encode()).hexdigest()


def jars_folder(cache: EngineCache) -> Path:
    return cache.folder("cassandra", content_digest())


def ensure_jars(cache: EngineCache, progress: Progress) -> Path:
    """The folder of jars, fetched where it is missing: 57 MB."""
    try:
        return cache.ensure(ENGINE, "cassandra", content_digest(), _fetch, progress)
    except StepFailed as failure:
        raise EngineUnavailable(
            ENGINE,
            failure.what + (f" ({failure.detail})" if failure.detail else ""),
            "see that a Maven repository can be reached (mirrors: ~/.m2/settings.xml for mvn, "
            "~/.config/jgo.conf for jgo), then run `drp up` again; what was fetched is kept",
        ) from failure


def _fetch(workshop: Workshop) -> None:
    jars = wanted_jars()
    repository = workshop.scratch / "repository"
    if missing := _without_damaged(jars, repository):
        with contextlib.suppress(StepFailed):  # the other tool follows
            _with_mvn(workshop, missing, repository)
    for attempt in range(1, ATTEMPTS + 1):
        missing = _without_damaged(jars, repository)
        if not missing:
            break
        try:
            _with_jgo(workshop, missing, repository)
        except StepFailed:
            if attempt == ATTEMPTS:
                raise
    if differing := _without_damaged(jars, repository):
        raise StepFailed(f"{len(differing)} jars differ from their digest", differing[0].file_name)
    for jar in jars:
        shutil.copyfile(jar.within(repository), workshop.draft / jar.file_name)


def _without_damaged(jars: Iterable[Jar], repository: Path) -> tuple[Jar, ...]:
    """The jars still missing. A file cut short by an earlier attempt is removed: both tools would
    take it for complete."""
    missing = tuple(jar for jar in jars if not jar.is_whole(jar.within(repository)))
    for jar in missing:
        jar.within(repository).unlink(missing_ok=True)
    return missing


def _arrived(jars: tuple[Jar, ...], repository: Path) -> str:
    return f", {sum(jar.within(repository).exists() for jar in jars)} of {len(jars)} jars"


def _with_mvn(workshop: Workshop, jars: tuple[Jar, ...], repository: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        return
    project = workshop.scratch / "pom.xml"
    project.write_text(_project(jars), encoding="utf-8")
    command = [maven, "-B", "-q", f"-Dmaven.repo.local={repository}", "-f", str(project)]
    workshop.run(
        [*command, "dependency:copy-dependencies", f"-DoutputDirectory={workshop.scratch / 'copies'}"],
        f"Cassandra {VERSION}: getting the jars with mvn",
        environment=os.environ,
        directory=workshop.scratch,
        limit_s=FETCH_LIMIT_S,
        detail=lambda: _arrived(jars, repository),
    )


def _project(jars: Iterable[Jar]) -> str:
    """A project that depends on exactly these jars: what they depend on in turn is in the list."""
    nothing_else = "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"
    dependencies = "".join(
        f"<dependency><groupId>{jar.group}</groupId><artifactId>{jar.artifact}</artifactId>"
        f"<version>{jar.version}</version><classifier>{jar.classifier}</classifier>{nothing_else}</dependency>\n"
        for jar in jars
    )
    return (
        "<project><modelVersion>4.0.0</modelVersion>"
        "<groupId>dr-platform</groupId><artifactId>cassandra</artifactId><version>1</version><packaging>pom</packaging>"
        f"\n<dependencies>\n{dependencies}</dependencies></project>\n"
    )


def _with_jgo(workshop: Workshop, jars: tuple[Jar, ...], repository: Path) -> None:
    workshop.run(
        [sys.executable, "-m", __name__, str(repository), *(jar.file_name for jar in jars)],
        f"Cassandra {VERSION}: getting the jars",
        environment=os.environ,
        directory=workshop.scratch,
        limit_s=FETCH_LIMIT_S,
        detail=lambda: _arrived(jars, repository),
    )


def download(repository: Path, names: frozenset[str]) -> int:
    """Fetch the named jars of the list with jgo; returns how many could not be had."""
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext

    remotes = dict(GlobalSettings.load().repositories) or None
    context = MavenContext(repo_cache=repository, remote_repos=remotes, timeout=20)
    failed = 0
    with ThreadPoolExecutor(max_workers=6) as pool:
        wanted = {pool.submit(_download_one, context, jar): jar for jar in wanted_jars() if jar.file_name in names}
        for done in as_completed(wanted):
            error = done.exception()
            failed += error is not None
            outcome = f"failed ({type(error).__name__})" if error else "here"
            sys.stdout.write(f"{wanted[done].file_name}: {outcome}\n")
    return failed


def _download_one(context: MavenContext, jar: Jar) -> None:
    project = context.project(jar.group, jar.artifact)
    project.at_version(jar.version).artifact(jar.classifier, "jar").resolve()


if __name__ == "__main__":
    sys.exit(1 if download(Path(sys.argv[1]), frozenset(sys.argv[2:])) else 0)
