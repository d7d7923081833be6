"""Pages that a crash run finds in use at its end: a spare page of each worker and class is none too many, any other is."""

from __future__ import annotations

import pytest

from tests.crash.pages import PagesInUse, judge


def info(payload: int, cells: int, **rows: str) -> dict[str, str]:
    """One worker's answer."""
    return {"pool_pages_payload": str(payload), "pool_pages_cells": str(cells), "pool_cell_fragmentation": "1", **rows}


def test_spare_pages_are_no_leak() -> None:
    small = {"pool_cells_64": "pages=1,used=0,total=1023"}
    large = {"pool_cells_32704": "pages=1,used=0,total=2"}
    found = judge({1: info(0, 3, **small, **large), 2: info(0, 3, **small)})
    assert found == PagesInUse(payload=0, cells=3, spare=3, cells_in_use=0)
    assert found.is_clean


@pytest.mark.parametrize(
    ("payload", "cells", "row", "leaked"),
    [
        (1, 1, "pages=1,used=0,total=1023", 1),  # a page of a value
        (0, 2, "pages=2,used=0,total=2046", 1),  # a second page of one class
        (0, 2, "pages=1,used=0,total=1023", 1),  # a page that no worker knows as its own
        (0, 1, "pages=1,used=1,total=1023", 0),  # a cell that nobody frees
    ],
)
def test_what_nobody_will_give_back_is_one(payload: int, cells: int, row: str, leaked: int) -> None:
    found = judge({1: info(payload, cells, pool_cells_64=row)})
    assert found.leaked == leaked
    assert not found.is_clean
