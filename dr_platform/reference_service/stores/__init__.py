"""Databases as the reference service uses them: one small class per engine, its driver imported on use."""

from dr_platform.reference_service.stores.port import Login, Store, StoreUnavailable, open_store

__all__ = ["Login", "Store", "StoreUnavailable", "open_store"]
