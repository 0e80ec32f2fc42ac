"""The rules between files: a catalog whose files are fine one by one may still contradict itself."""

from __future__ import annotations

from collections.abc import Iterator

from dr_platform.catalog.catalog import Catalog
from dr_platform.catalog.faults import Fault


def faults_between_files(catalog: Catalog) -> Iterator[Fault]:
    """All contradictions, in the order of the files."""
    yield from ()
