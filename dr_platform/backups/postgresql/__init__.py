"""Backups of PostgreSQL: logical, physical, and to any second in between."""
