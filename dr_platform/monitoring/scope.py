"""What is monitored in one environment, and the names on which everything generated from it agrees.

Here: values. Not here: rules (``rules``), where Prometheus scrapes (``prometheus``), panels
(``dashboard``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from dr_platform.catalog import Environment, Service

SCRAPE_S = 15
"""Seconds between two scrapes, and between two evaluations of a rule."""


@dataclass(frozen=True)
class Scope:
    """One environment as it is monitored.

    ``services`` run at least one replica: of others an absent metric is no news. ``router`` is the
    address of Envoy's admin port, where there is such a router. ``runbooks`` is put before the
    anchor of each alert.
    """

    environment: str
    runtime: Literal["local", "kubernetes"]
    services: tuple[Service, ...]
    namespaces: tuple[str, ...] = ()
    router: str | None = None
    runbooks: str = "docs/monitoring.md"

    def __post_init__(self) -> None:
        # Generated files are compared and reviewed: equal content must give equal text.
        object.__setattr__(self, "services", tuple(sorted(self.services, key=lambda service: service.name)))
        object.__setattr__(self, "namespaces", tuple(sorted(set(self.namespaces))))

    def gpu_gap(self, service: Service) -> str | None:
        """Why GPU use of this service cannot exist here; ``None`` where it must be measured."""
        if self.runtime == "local":
            return "the local runtime has no GPU"
        return None if service.resources.gpu else "the service asks for no GPU"


def namespaces_of(environment: Environment, services: Iterable[Service]) -> tuple[str, ...]:
    """Kubernetes namespaces of these services, as the environment lays them out."""
    if environment.namespaces == "single":
        return (environment.namespace,)
    return tuple(sorted({service.tier.value for service in services}))
