"""Masking: a production backup becomes data that a staging environment may hold."""
