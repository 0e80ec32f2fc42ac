"""Looks that use the platform as a user, an intruder or a crowd does: one module per suite.

Not here: what parts say about themselves (``health``), or which suite a look belongs to (``suites``).
"""
