"""Job definitions: what can be started as a whole. No logic."""
