"""Catalogs for tests and benchmarks: small ones to break, generated ones of any size."""

from __future__ import annotations

import shutil
from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "catalog"
FIRST_GENERATED_PORT = 15000
"""From here on 1,000 ports in a row clash with no shipped database at any environment's offset."""


def shipped_copy(folder: Path) -> Path:
    """A copy of the shipped catalog, without articles and migrations, that a test may change."""
    root = folder / "catalog"
    shutil.copytree(SHIPPED, root, ignore=shutil.ignore_patterns("articles", "migrations", "*.jsonl"))
    return root


def generated(folder: Path, services: int) -> Path:
    """A valid catalog of so many services, each of which needs up to two earlier ones, with the
    shipped databases, environments and release."""
    if services > 1000:
        raise ValueError("more than 1,000 services meet on ports of other environments")
    root = shipped_copy(folder)
    shutil.rmtree(root / "services")
    (root / "services").mkdir()
    databases = sorted(path.name for path in (root / "databases").iterdir())
    for number in range(services):
        (root / "services" / f"service-{number:04}.yaml").write_text(_service(number, databases), encoding="utf-8")
    return root


def _service(number: int, databases: list[str]) -> str:
    earlier = sorted({number // 2, number // 3} - {number})
    return f"""\
name: service-{number:04}
title: Service {number}
description: One of many generated services.
language: {"go" if number % 3 else "python"}
tier: {("backend", "frontend", "ai-processing")[number % 3]}
port: {FIRST_GENERATED_PORT + number}
owner: team:generated
image: dr-assistant/service-{number:04}
needs:
  services: [{", ".join(f"service-{n:04}" for n in earlier)}]
  databases: [{databases[number % len(databases)]}]
data_class: phi
resources:
  cpu: {{request: 0.5, limit: 1}}
  memory: {{request: 512 MB, limit: 1 GB}}
autoscaling: {{min: 2, max: 6, cpu: 70 %}}
replicas: {{local: 1, development: 1, integration: 1, staging: 2, production: 2}}
slo:
  error_ratio: 1 %
  latency_p95: 100 ms
"""
