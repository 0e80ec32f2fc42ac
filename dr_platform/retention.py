"""How long Dagster's own history is kept, and its removal. Evidence lives elsewhere and stays."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagster import DagsterInstance

KEEP = timedelta(days=30)
BATCH = 500
"""Runs removed per call: bounds how long one look at the tables takes."""


def purge_runs(instance: DagsterInstance, now: datetime, keep: timedelta = KEEP) -> int:
    """Remove ended runs that are older than ``keep`` and return how many. Runs that may still be
    working are never removed; an interrupted removal is finished by the next one."""
    from dagster import DagsterRunStatus, RunsFilter

    ended: Sequence[DagsterRunStatus] = [
        DagsterRunStatus.SUCCESS,
        DagsterRunStatus.FAILURE,
        DagsterRunStatus.CANCELED,
    ]
    old = RunsFilter(statuses=ended, created_before=now - keep)
    records = instance.get_run_records(filters=old, limit=BATCH)
    for record in records:
        instance.delete_run(record.dagster_run.run_id)
    return len(records)
