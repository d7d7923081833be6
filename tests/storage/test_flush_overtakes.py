"""A write that a flush overtakes takes effect once: before the flush or after it, never on both sides."""

from __future__ import annotations

import pytest

from storage.fabric import waiting
from storage.fabric.sim import SimulatedFabric
from storage.interface import Condition
from storage.pool import Pool
from storage.store import Store
from tests.storage.pools import NOW_MS, finish, make_pool


@pytest.mark.parametrize("condition", [Condition.NX, Condition.ALWAYS])
def test_what_was_seen_before_a_flush_does_not_come_back_after_it(condition: Condition) -> None:
    pool = make_pool("sim")
    fabric = pool.fabric
    assert isinstance(fabric, SimulatedFabric)
    slow = Store(Pool.attach(fabric.share(2), 1), "noeviction")
    other = Store(pool, "noeviction")
    for store in (slow, other):
        store.set_clock(NOW_MS)
    slow_fabric = slow.pool.fabric
    assert isinstance(slow_fabric, SimulatedFabric)
    slow_fabric.suspends = True
    waiting.run(lambda: finish(slow.write(0, b"key", b"value", condition=condition)))
    while not finish(other.exists(0, [b"key"]))[0]:
        assert slow_fabric.advance(), "it ended unseen"
        waiting.resume_ready()
    finish(other.flush(0))
    assert finish(other.exists(0, [b"key"])) == [False]
    while slow_fabric.advance():
        waiting.resume_ready()
    assert finish(other.exists(0, [b"key"])) == [False], "seen, flushed, and there again"
