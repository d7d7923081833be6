"""An observed store takes what a store takes: handlers do not know which of the two they have."""

from __future__ import annotations

import inspect

import pytest

from kvcd.observed import ObservedStore
from storage.interface import StoreInterface
from tests.model import ModelStore

OBSERVED = [name for name in vars(ObservedStore) if not name.startswith("_") and hasattr(StoreInterface, name)]


@pytest.mark.parametrize("name", OBSERVED)
@pytest.mark.parametrize("other", [ObservedStore, ModelStore])
def test_its_methods_take_the_same_arguments(name: str, other: type) -> None:
    wanted = inspect.signature(getattr(StoreInterface, name)).parameters
    assert list(inspect.signature(getattr(other, name)).parameters) == list(wanted)


def test_writing_is_observed() -> None:
    assert {"write", "write_many", "replace", "delete"} <= set(OBSERVED)
