"""Alembic's environment and the versions of the operations schema, shipped with the package."""
