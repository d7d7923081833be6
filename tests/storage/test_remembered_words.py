"""A remembered slot whose word came back: with another key in the same cell it is read from its sets."""

from __future__ import annotations

from storage.fabric.sim import SimulatedFabric
from storage.pool import Pool
from storage.store import Store
from tests.storage.pools import NOW_MS, finish, make_pool


def test_another_key_in_a_remembered_cell_is_not_the_end() -> None:
    pool = make_pool("sim", pages=12, index_entries=7, binding_bits=1, version_bits=1)
    fabric = pool.fabric
    assert isinstance(fabric, SimulatedFabric)
    first = Store(pool, "noeviction")
    second = Store(Pool.attach(fabric.share(2), 1), "noeviction")
    for store in (first, second):
        store.set_clock(NOW_MS)
    finish(first.write(0, b"w0", b"1"))
    finish(first.write(0, b"key", b"2"))
    for _ in range(2):
        assert finish(second.read(0, b"key")) is not None
    for key in (b"key", b"yek"):  # after two more inserts the slot's one bit of binding and one of version are what they were
        finish(first.delete(0, [b"key"]))
        first.release_spares()
        finish(first.write(0, key, b"3"))
    assert finish(second.read(0, b"key")) is None
    assert finish(second.read(0, b"yek")) is not None
