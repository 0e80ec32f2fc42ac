"""The steps a strategy takes, fixed when a rollout begins.

Here: weights, replicas and times of each step as values. Not here: what happens in a step
(``decide``), or which strategy a service uses (``catalog``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dr_platform.catalog.models import Strategy

CANARY_WEIGHTS = (5, 25, 50, 100)
ROLLING_WEIGHTS = (25, 50, 75, 100)
IMMEDIATE_WEIGHTS = (100,)
GRADUAL_WEIGHTS = (25, 50, 100)
"""A gradual rollback (second guide): each step only as far as there is ready capacity."""


@dataclass(frozen=True)
class Step:
    """``weight`` percent of the requests go to the candidate, which needs ``replicas`` ready ones
    for it; then it is watched for ``bake_s`` seconds."""

    weight: int
    replicas: int
    bake_s: float


def steps_of(strategy: Strategy, replicas: int, bake_s: float) -> tuple[Step, ...]:
    """The steps of a deployment. A service that cannot run twice takes one, without its predecessor."""
    match strategy:
        case Strategy.CANARY:
            return canary(CANARY_WEIGHTS, replicas, bake_s)
        case Strategy.ROLLING:
            return canary(ROLLING_WEIGHTS, replicas, bake_s)
        case Strategy.BLUE_GREEN | Strategy.RECREATE:
            return (Step(100, replicas, bake_s),)


def canary(weights: tuple[int, ...], replicas: int, bake_s: float) -> tuple[Step, ...]:
    """Capacity grows with the weight: never less than the share of the requests asks for."""
    return tuple(Step(weight, max(1, math.ceil(replicas * weight / 100)), bake_s) for weight in weights)


def rollback_steps(weights: tuple[int, ...], replicas: int) -> tuple[Step, ...]:
    """Back at once (``IMMEDIATE_WEIGHTS``) or in steps (``GRADUAL_WEIGHTS``), without a bake: the
    guards go on watching, the target was good before."""
    return tuple(Step(weight, replicas, 0.0) for weight in weights)


def first_deployment(replicas: int, bake_s: float) -> tuple[Step, ...]:
    """Without a stable revision there is nothing to compare with and nowhere else to send requests."""
    return (Step(100, replicas, bake_s),)
