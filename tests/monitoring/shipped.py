"""The shipped catalog as it is monitored, and one stricter service, for all tests of monitoring."""

from __future__ import annotations

from functools import cache

from dr_platform.catalog import Catalog, Slo, load_catalog
from dr_platform.monitoring.scope import Scope, namespaces_of
from tests.catalogs import SHIPPED


@cache
def shipped() -> Catalog:
    return load_catalog(SHIPPED)


def scope(environment: str) -> Scope:
    """Everything of the catalog in this environment; `local` has a router of its own."""
    catalog = shipped()
    services = tuple(catalog.services.values())
    if environment == "local":
        return Scope(environment, "local", services, router="127.0.0.1:21999")
    namespaces = namespaces_of(catalog.environments[environment], services)
    return Scope(environment, "kubernetes", services, namespaces)


def strict_scope() -> Scope:
    """A single service that promises 99.9 %."""
    billing = shipped().services["billing"]
    slo = Slo.model_validate({"error_ratio": "0.1 %"})
    strict = billing.model_copy(update={"name": "strict", "slo": slo})
    return Scope("production", "kubernetes", (strict,))
