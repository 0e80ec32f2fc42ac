"""Schedule definitions, running from the start. No logic."""
