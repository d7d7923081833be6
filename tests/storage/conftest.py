"""Store tests over verbs: all of them in `make test-long`, the quickest in every guest run."""

from __future__ import annotations

import pytest

from tests.storage.in_guest import IN_EVERY_RUN


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what takes long in the guest."""
    for item in items:
        if item.get_closest_marker("verbs") and item.path.parent.name == "storage" and item.path.stem not in IN_EVERY_RUN:
            item.add_marker(pytest.mark.long)
