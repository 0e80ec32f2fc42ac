"""How the suite is spread over workers."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file together, because they share servers, and all end-to-end tests,
    because they share a platform; begin with the longest, so that no worker waits for it at the end."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=lambda item: 0 if item.get_closest_marker("e2e") else 1)
