"""Slow motion: a front end whose operations reach the pool one by one, while others act in between."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from storage.fabric import waiting
from storage.fabric.sim import SimulatedFabric
from storage.pool import Pool
from storage.store import Store
from tests.storage.pools import NOW_MS, finish

SET_BYTES, SET_HEADER_BYTES, SLOT_BYTES, SLOTS_PER_SET = 128, 16, 16, 7
FREE, RESERVED, LIVE = 0, 1, 2

Call = Callable[[Store], Coroutine[Any, Any, Any]]


def simulated(store: Store) -> SimulatedFabric:
    """Return the store's fabric."""
    fabric = store.pool.fabric
    assert isinstance(fabric, SimulatedFabric)
    return fabric


class SlowStore:
    """Another front end of a simulated pool; one call at a time."""

    def __init__(self, of: Store, front_end: int, *, seed: int = 2, tears: bool = False, policy: str = "noeviction") -> None:
        """Attach to the pool of ``of``."""
        self.store = Store(Pool.attach(simulated(of).share(seed), front_end), policy)
        self.store.set_clock(NOW_MS)
        self.fabric = simulated(self.store)
        self.fabric.tears = tears
        self.answers: list[Any] = []

    def begin(self, call: Call) -> None:
        """Post the call's first doorbell."""
        self.answers = []
        self.fabric.suspends = True
        waiting.run(lambda: self.answers.append(finish(call(self.store))))

    def perform(self, count: int = 1) -> int:
        """Perform some operations of what is posted, without telling the call; how many there were."""
        return sum(self.fabric.advance() for _ in range(count))

    def perform_posted(self) -> None:
        """Perform all of what is posted, without telling the call."""
        while self.fabric.pending:
            self.fabric.advance()

    def go_on(self) -> bool:
        """Let the call see its results and post the next doorbell; True when it has ended."""
        waiting.resume_ready()
        return bool(self.answers)

    def end(self) -> Any:
        """Run the call to its end and return its answer."""
        for _ in range(10_000):
            self.perform_posted()
            if self.go_on():
                self.perform_posted()
                self.fabric.suspends = False
                return self.answers[0]
        raise AssertionError("the call never ends")


def slot_words(store: Store, slot: int) -> tuple[int, int]:
    """Return a slot's two words."""
    data = store.pool.read(slot_offset(store, slot), SLOT_BYTES)
    return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little")


def slot_offset(store: Store, slot: int) -> int:
    """Return where a slot lies in the pool."""
    number, index = divmod(slot, SLOTS_PER_SET)
    return int(store.pool.layout()["sets"]) + number * SET_BYTES + SET_HEADER_BYTES + index * SLOT_BYTES


def states(store: Store) -> list[int]:
    """Return the state of every slot."""
    return [slot_words(store, slot)[0] & 3 for slot in range(int(store.pool.layout()["set_count"]) * SLOTS_PER_SET)]


def binding(word: int) -> int:
    """Return the binding of a slot's first word."""
    return word >> 10 & 0xFF


def version(word: int) -> int:
    """Return the version of a slot's first word."""
    return word >> 18 & 0x3FFF
