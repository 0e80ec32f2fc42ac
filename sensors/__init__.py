"""Sensor definitions, running from the start: reading, asking the platform for a decision, requesting. No decisions."""
