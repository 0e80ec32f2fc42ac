"""A healthcare platform as one graph of Dagster assets: infrastructure, databases, services, knowledge."""
