"""Dagster's own processes and files on this machine: code location, webserver, daemon.

Here: command lines and configuration text. Not here: definitions (``dr_platform.definitions``) or
talking to a running Dagster (``dagster_client``). Nothing of Dagster is imported.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

import yaml

from dr_platform.catalog.models import UI_PORT
from dr_platform.runtime.local.programs import Program
from dr_platform.state import StateDirectory

CODE_LOCATION = "dagster-code"
WEBSERVER = "dagster-webserver"
DAEMON = "dagster-daemon"
LOCATION_NAME = "dr_platform"
CONFIGURATION = ("dagster.yaml", "workspace.yaml")
_STORE = {"module": "dr_platform.dagster_store", "class": "KeptConnectionsStorage"}


def instance_configuration(state: StateDirectory, storage_url: str) -> dict:
    """``dagster.yaml``. ``storage_url`` carries no password: the server asks the kernel who connects."""
    return {
        "storage": {"custom": {**_STORE, "config": {"postgres_url": storage_url}}},
        "run_coordinator": {
            "module": "dagster.core.run_coordinator",
            "class": "QueuedRunCoordinator",
            "config": {
                "dequeue_interval_seconds": 1,
                # A run that is queued while the code location starts anew waits for it; by default it fails.
                "max_user_code_failure_retries": 30,
                "user_code_failure_retry_delay": 2,
            },
        },
        "concurrency": {
            # Two runs never work on the same service; a run of the whole platform holds no slot.
            "pools": {"default_limit": 1, "granularity": "op"},
            "runs": {"max_concurrent_runs": 6},
        },
        "run_monitoring": {
            "enabled": True,
            "start_timeout_seconds": 120,
            "cancel_timeout_seconds": 60,
            "max_runtime_seconds": 3600,
            "max_resume_run_attempts": 0,
            "poll_interval_seconds": 15,
            # Without this a killed run keeps its pool slots, and later runs of that service hang.
            "free_slots_after_run_end_seconds": 1,
        },
        "run_retries": {"enabled": False},
        "retention": {
            "schedule": {"purge_after_days": {"skipped": 1, "success": 30, "failure": 90, "started": 7}},
            "sensor": {"purge_after_days": {"skipped": 1, "success": 7, "failure": 30, "started": 7}},
        },
        # One slow sensor must not stop the others.
        "sensors": {"use_threads": True, "num_workers": 6},
        "schedules": {"use_threads": True, "num_workers": 2},
        "freshness": {"enabled": True},
        "telemetry": {"enabled": False},
        # No invitation to sign up in front of the graph.
        "nux": {"enabled": False},
        "compute_logs": {
            "module": "dagster.core.storage.local_compute_log_manager",
            "class": "LocalComputeLogManager",
            "config": {"base_dir": str(state.dagster_home / "compute_logs")},
        },
        "local_artifact_storage": {
            "module": "dagster.core.storage.root",
            "class": "LocalArtifactStorage",
            "config": {"base_dir": str(state.dagster_home)},
        },
    }


def workspace(state: StateDirectory) -> dict:
    """``workspace.yaml``: one code location, served by its own process on a unix socket."""
    server = {"socket": str(code_socket(state)), "location_name": LOCATION_NAME}
    return {"load_from": [{"grpc_server": server}]}


def code_socket(state: StateDirectory) -> Path:
    return state.run / "dagster-code.sock"


def _digest(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


def write_configuration(state: StateDirectory, storage_url: str) -> None:
    """Write both files; unchanged files are left alone."""
    documents = (instance_configuration(state, storage_url), workspace(state))
    for name, document in zip(CONFIGURATION, documents, strict=True):
        path, text = state.dagster_home / name, yaml.safe_dump(document, sort_keys=False)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def programs(
    state: StateDirectory, environment: dict[str, str], port_offset: int, definitions: str
) -> tuple[Program, ...]:
    """The three processes, once their configuration is written: when that changes, all are started
    anew. ``definitions`` identifies what the code location loads: when it changes, that one is."""
    home = {
        **environment,
        "DAGSTER_HOME": str(state.dagster_home),
        "PYTHONPATH": str(source_root()),
        "DRP_CONFIGURATION": _digest(state.dagster_home / name for name in CONFIGURATION),
    }
    code = (sys.executable, "-m", "dagster", "api", "grpc", "--socket", str(code_socket(state)))
    spaces = str(state.dagster_home / "workspace.yaml")
    return (
        Program(
            name=CODE_LOCATION,
            argv=(
                *code,
                *("--module-name", "dr_platform.definitions", "--location-name", LOCATION_NAME),
                *("--max-workers", "8", "--heartbeat-timeout", "60"),
            ),
            environment={**home, "DRP_DEFINITIONS": definitions},
            start_s=5.0,
            priority=300,
        ),
        Program(
            name=WEBSERVER,
            argv=(
                *(sys.executable, "-m", "dagster_webserver", "--host", "127.0.0.1"),
                *("--port", str(UI_PORT + port_offset), "--workspace", spaces),
                *("--code-server-log-level", "warning", "--log-level", "warning"),
            ),
            environment=home,
            start_s=5.0,
            priority=310,
        ),
        Program(
            name=DAEMON,
            argv=(sys.executable, "-m", "dagster._daemon", "run", "--workspace", spaces, "--log-level", "warning"),
            environment=home,
            start_s=5.0,
            stop_s=20.0,
            priority=320,
        ),
    )


def source_root() -> Path:
    """Where ``assets``, ``jobs``, ``sensors`` and ``schedules`` are imported from."""
    return Path(__file__).resolve().parent.parent.parent
