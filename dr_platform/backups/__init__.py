"""Backups: taken, encrypted, stored, and proved by a restore."""
