"""Data quality: what each table and collection must be like, and whether it is."""
