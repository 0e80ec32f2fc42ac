"""Run by Alembic. The connection, its transaction and the lock belong to ``schema.upgrade``."""

from __future__ import annotations

from alembic import context

from dr_platform.operations.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
