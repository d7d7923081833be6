"""Tears: the places of a pool at which exhaustive exploration lets READs and WRITEs fall to pieces."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from tests.exploration.scenarios import Scenario
from tests.exploration.world import layout_of
from tests.storage.pools import PAGE_BYTES

NEXT_SLOTS = 2  # beside those that the setup fills: two inserts take no more
SLOT_HALVES = range(0, 17, 4)  # words are changed as a whole, so finer pieces would show nothing more
CELL_BYTES = 64  # of a small value with its key
CELL_CUTS = (4, 8, 40)  # behind the slot, behind the echo, within the value
CELLS_OF_PAGE = 3


def word_places(scenario: Scenario) -> list[int]:
    """Return every half word of the slots that the scripts change."""
    layout = layout_of(scenario.index_entries, scenario.pages)
    written = list(dict.fromkeys(key for _, step in scenario.setup if step.name == "write" for key in step.keys))
    changed = {key for script in scenario.scripts for step in script if step.name not in ("read", "exists") for key in step.keys}
    slots = [slot for slot in range(len(written) + NEXT_SLOTS) if slot >= len(written) or written[slot] in changed]
    return sorted({layout["sets"] + 16 + slot * 16 + half for slot in slots for half in SLOT_HALVES})


def cell_places(scenario: Scenario) -> list[int]:
    """Return a few places of each of the first cells of every front end."""
    first = layout_of(scenario.index_entries, scenario.pages)["pages"] + 128
    pages = range(first, first + len(scenario.scripts) * PAGE_BYTES, PAGE_BYTES)
    return [page + cell * CELL_BYTES + cut for page in pages for cell in range(CELLS_OF_PAGE) for cut in CELL_CUTS]


def tears(scenario: Scenario, at_once: int) -> Iterator[list[int]]:
    """Yield places to tear at: so many of the half words at once, in every choice of them, those in cells being one; or all with 0."""
    groups = [[place] for place in word_places(scenario)] + [cell_places(scenario)]
    for chosen in combinations(groups, at_once or len(groups)):
        yield sorted(place for group in chosen for place in group)
