"""Synthetic data: patients, sessions, messages, consents and audit events that never were."""
