"""Bringing the operations database to the newest schema."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dr_platform.operations.engine import operations_engine, unavailable_when_down

if TYPE_CHECKING:
    from sqlalchemy import URL

MIGRATIONS = Path(__file__).parent / "migrations"
_UPGRADE_LOCK = 0x6472705F75  # "drp_u": one upgrade at a time per database


def upgrade(url: str | URL) -> None:
    """Apply what is missing, all of it in one transaction or nothing; a repetition changes nothing.

    Of several processes at once one applies and the others wait for it.
    """
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import func, select

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    engine = operations_engine(url)
    try:
        with unavailable_when_down(), engine.begin() as connection:
            connection.execute(select(func.pg_advisory_xact_lock(_UPGRADE_LOCK)))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()
