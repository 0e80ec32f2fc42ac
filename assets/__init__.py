"""Asset and check definitions, made from the catalog: names, owners, wiring. No logic."""
