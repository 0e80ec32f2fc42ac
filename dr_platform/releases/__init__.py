"""Releases: which revisions, schema and contracts belong together, in which order they are deployed,
which of them go back together, and who is told."""
