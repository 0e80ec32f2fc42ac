"""What is to be promoted, named so that no part of it can change unnoticed.

Here: digests over plain facts. Not here: where these facts come from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A release on its way into an environment.

    ``digest`` names what is released and is the same in every environment; ``plan_digest`` names what
    would be changed in this one.
    """

    release: str
    digest: str
    environment: str
    plan_digest: str


def release_digest(release: str, images: Mapping[str, str], schemas: Mapping[str, str]) -> str:
    """``images``: service name to version and image digest; ``schemas``: database name to the digest
    of its migrations."""
    return _digest({"release": release, "images": dict(images), "schemas": dict(schemas)})


def plan_digest(released: str, environment: str, workloads: Mapping[str, str]) -> str:
    """``workloads``: service name to everything that the environment decides of it, such as its
    configuration's hash and its number of replicas."""
    return _digest({"released": released, "environment": environment, "workloads": dict(workloads)})


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
