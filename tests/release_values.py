"""Releases and catalogs as values for tests: one line says what matters, the rest is filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache

from dr_platform.catalog import Catalog, Contract, load_catalog
from dr_platform.databases.port import Phase
from dr_platform.releases.bundle import Member, ReleaseBundle, Step
from dr_platform.runtime.port import Revision
from tests.catalogs import SHIPPED

MADE_AT = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


def a_revision(version: str, config: str = "0123456789abcdef") -> Revision:
    return Revision(version, f"sha256:{version.replace('.', ''):0<64}", config)


def a_member(version: str = "1.0.0", provides: str = "1", **requires: str) -> Member:
    """``embedding_service=">=2"`` requires that of ``embedding-service``."""
    required = {name.replace("_", "-"): wanted for name, wanted in requires.items()}
    return Member(revision=a_revision(version), contract=Contract(provides=provides, requires=required))


def a_step(version: str, phase: Phase = Phase.EXPAND) -> Step:
    return Step(version=version, phase=phase, checksum=f"sum of {version}")


def a_bundle(
    services: Mapping[str, Member], databases: Mapping[str, Sequence[Step]] | None = None, name: str = "4.0"
) -> ReleaseBundle:
    return ReleaseBundle(
        name=name,
        environment="staging",
        services=dict(services),
        databases={database: tuple(steps) for database, steps in (databases or {}).items()},
        data_contract="1",
        created_at=MADE_AT,
        created_by="ana",
    )


@cache
def shipped() -> Catalog:
    return load_catalog(SHIPPED)


def a_catalog(needs: Mapping[str, Sequence[str]], databases: Mapping[str, Sequence[str]] | None = None) -> Catalog:
    """A catalog of these services alone, with the shipped databases."""
    model = next(iter(shipped().services.values()))
    services = {
        name: model.model_copy(
            update={
                "name": name,
                "needs": model.needs.model_copy(
                    update={"services": tuple(needed), "databases": tuple((databases or {}).get(name, ()))}
                ),
            }
        )
        for name, needed in needs.items()
    }
    return replace(shipped(), services=services)
