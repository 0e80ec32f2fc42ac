"""How long Dagster's own history is kept, and removing what belongs to no run. Evidence stays.

Here: the limit, and the events that sensors report outside of runs, for which Dagster offers no
removal: about 5,000 a day. Not here: removing runs (``resources``).
"""

from __future__ import annotations

from datetime import datetime, timedelta

KEEP = timedelta(days=30)

# The newest answer of each check stays, however old it is: it is what the graph shows.
_CHECKS = """
DELETE FROM asset_check_executions WHERE create_timestamp < :before AND id NOT IN
  (SELECT max(id) FROM asset_check_executions GROUP BY asset_key, check_name)
"""
_EVENTS = """
DELETE FROM event_logs WHERE run_id = '' AND timestamp < :before AND id NOT IN
  (SELECT evaluation_event_storage_id FROM asset_check_executions WHERE evaluation_event_storage_id IS NOT NULL)
"""


def trim_events(url: str, older_than: datetime) -> int:
    """Remove events outside of runs and superseded check results; returns how many rows.

    ``url`` is that of Dagster's database. Repeating it removes nothing more.
    """
    from sqlalchemy import create_engine, text

    engine = create_engine(url)
    # Both columns are timestamps without a zone, in UTC.
    before = {"before": older_than.replace(tzinfo=None)}
    try:
        with engine.begin() as connection:
            return sum(connection.execute(text(statement), before).rowcount for statement in (_CHECKS, _EVENTS))
    finally:
        engine.dispose()
