"""A program of its own, shipped into buckets. Nothing here imports the platform, and nothing imports it."""
