"""Migrations: how schemas change, forwards and back, and what is known before they do."""
