"""Where Prometheus scrapes an environment, as its configuration and its target files.

Here: documents as values. Not here: finding out where replicas listen (the runtime), rules
(``rules``), nor where alerts are sent: that is the business of whoever runs an Alertmanager.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dr_platform.monitoring.scope import SCRAPE_S, Scope

Document = dict[str, Any]

TARGETS_FILE = "targets/replicas.json"
PART_OF = "dr-platform"
"""Value of the recommended label ``app.kubernetes.io/part-of`` on every pod of ours."""
_POD_LABEL = "__meta_kubernetes_pod_label_app_kubernetes_io_"
_CLUSTER = "(.+)--(blue|green)"
"""A service and its slot, as Envoy's statistics name them."""


@dataclass(frozen=True, order=True)
class Target:
    """One replica that can be scraped."""

    service: str
    slot: str
    version: str
    address: str


def prometheus_document(scope: Scope) -> Document:
    jobs = _local_jobs(scope) if scope.runtime == "local" else _kubernetes_jobs(scope)
    every = f"{SCRAPE_S}s"
    return {
        "global": {
            "scrape_interval": every,
            "scrape_timeout": "10s",
            "evaluation_interval": every,
            "external_labels": {"environment": scope.environment},
        },
        "rule_files": [f"rules/{service.name}.yaml" for service in scope.services],
        "scrape_configs": jobs,
    }


def targets_document(targets: Iterable[Target]) -> list[Document]:
    """What ``file_sd_configs`` reads. Prometheus notices a changed file by itself."""
    return [
        {
            "targets": [target.address],
            "labels": {"service": target.service, "slot": target.slot, "version": target.version},
        }
        for target in sorted(targets)
    ]


def _local_jobs(scope: Scope) -> list[Document]:
    """Replicas are scraped one by one: behind the router several would take turns to answer, and
    counters that jump between them count nothing."""
    replicas = {"job_name": "drp-replicas", "honor_labels": True, "file_sd_configs": [{"files": [TARGETS_FILE]}]}
    if scope.router is None:
        return [replicas]
    router = {
        "job_name": "drp-router",
        "metrics_path": "/stats/prometheus",
        "static_configs": [{"targets": [scope.router]}],
        "metric_relabel_configs": [
            _labelled("envoy_cluster_name", _CLUSTER, "$1", "service"),
            _labelled("envoy_cluster_name", _CLUSTER, "$2", "slot"),
        ],
    }
    return [replicas, router]


def _kubernetes_jobs(scope: Scope) -> list[Document]:
    pods = {"role": "pod", "namespaces": {"names": list(scope.namespaces)}}
    jobs: list[Document] = [
        {
            "job_name": "drp-replicas",
            "honor_labels": True,
            "kubernetes_sd_configs": [pods],
            "relabel_configs": [
                _kept(f"{_POD_LABEL}part_of", PART_OF),
                _kept("__meta_kubernetes_pod_container_port_name", "http"),
                # A pod that has run to its end has no server left that could be down.
                {"source_labels": ["__meta_kubernetes_pod_phase"], "regex": "Succeeded|Failed", "action": "drop"},
                _labelled(f"{_POD_LABEL}name", "(.+)", "$1", "service"),
                _labelled(f"{_POD_LABEL}version", "(.+)", "$1", "version"),
                _labelled(f"{_POD_LABEL}instance", ".+-(blue|green)", "$1", "slot"),
                _labelled("__meta_kubernetes_namespace", "(.+)", "$1", "namespace"),
                _labelled("__meta_kubernetes_pod_name", "(.+)", "$1", "pod"),
            ],
        }
    ]
    if any(s.slo.gpu_utilisation is not None and not scope.gpu_gap(s) for s in scope.services):
        jobs.append(_gpu_job())
    return jobs


def _gpu_job() -> Document:
    return {
        "job_name": "gpu-exporter",
        # Its own `pod` label names who holds the device; the target's names the exporter.
        "honor_labels": True,
        "kubernetes_sd_configs": [{"role": "pod"}],
        "relabel_configs": [
            _kept(f"{_POD_LABEL}name", "(nvidia-)?dcgm-exporter"),
            _kept("__meta_kubernetes_pod_container_port_name", "metrics"),
        ],
    }


def _kept(source: str, pattern: str) -> Document:
    return {"source_labels": [source], "regex": pattern, "action": "keep"}


def _labelled(source: str, pattern: str, value: str, label: str) -> Document:
    return {"source_labels": [source], "regex": pattern, "replacement": value, "target_label": label}
