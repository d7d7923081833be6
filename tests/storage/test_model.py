"""The store against the plain model: random operations over every fabric, any sizes, tokens, times and databases."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from storage.cells import cell_sizes
from storage.interface import NO_EXPIRY, Condition, Entry, WriteResult
from storage.store import Store
from tests.model import ModelStore
from tests.storage.pools import HAS_VERBS, HEAD_BYTES, NOW_MS, PAGE_BYTES, filler, finish, make_store, pages_used, sweep

KEYS = [b"k%d" % number for number in range(24)] + [b"", b"\0\xff", b"long" * 75, b"m" * 4095, b"L" * 16_384, b"M" * 16_384]
# Both sides of every border: a cell's classes, one cell, one page, the tail in the cell or in a page of its own.
LENGTHS = sorted(
    {0, 1, 63, 511, 512, 513, 32_767, 32_768, 100_000, 2 * PAGE_BYTES + 40, 1024 * 1024 + 7, 16_296, 16_297}
    | {size - HEAD_BYTES - 2 + step for size in cell_sizes() for step in (-8, -1, 0, 1)}
    | {PAGE_BYTES + step for step in (-1, 0, 1)}
)



def key_number(number: int) -> bytes:
    """Return one of the keys; a function's name is all that Hypothesis prints of it."""
    return KEYS[number]


def length_number(number: int) -> int:
    """Return one of the lengths."""
    return LENGTHS[number]


keys = st.integers(0, len(KEYS) - 1).map(key_number)
databases = st.sampled_from([0, 0, 0, 1, 15])
lengths = st.integers(0, len(LENGTHS) - 1).map(length_number) | st.integers(0, 200)
expiries = st.sampled_from([None, None, -5, 0, 1, 50, 1_000, 100_000])


def seen(entry: Entry | None) -> tuple[bytes, int, int] | None:
    """Return what two stores must agree on."""
    return None if entry is None else (entry.payload, entry.size_bytes, entry.expire_at_ms)


class StoreMachine(RuleBasedStateMachine):
    """Every answer of the store is the model's, and nothing leaks at the end."""

    kind = "shm"
    index_entries = 1022

    @initialize(seed=st.integers(1, 1000))
    def begin(self, seed: int) -> None:
        """Make both stores."""
        self.store: Store = make_store(self.kind, pages=400, index_entries=self.index_entries, seed=seed)
        self.model = ModelStore(now_ms=NOW_MS)
        self.tokens: dict[tuple[int, bytes], list[tuple[int, int]]] = {}
        self.writes = 0

    def value(self, length: int) -> bytes:
        """Return bytes that no other write has."""
        self.writes += 1
        return filler(length, self.writes)

    def expire_at(self, after_ms: int | None) -> int:
        """Return an expiry this far from now."""
        return NO_EXPIRY if after_ms is None else self.model.now_ms + after_ms

    @rule(database=databases, key=keys, payload=st.booleans(), touch=st.booleans())
    def read(self, database: int, key: bytes, payload: bool, touch: bool) -> None:
        """Read one key and remember both tokens."""
        mine = finish(self.store.read(database, key, payload=payload, touch=touch))
        other = finish(self.model.read(database, key, payload=payload, touch=touch))
        assert seen(mine) == seen(other)
        if mine is not None and other is not None:
            self.tokens.setdefault((database, key), []).append((mine.token, other.token))

    @rule(database=databases, several=st.lists(keys, max_size=40), payload=st.booleans())
    def read_many(self, database: int, several: list[bytes], payload: bool) -> None:
        """Read many keys, some of them twice."""
        mine = finish(self.store.read_many(database, several, payload=payload))
        assert [seen(entry) for entry in mine] == [
            seen(entry) for entry in finish(self.model.read_many(database, several, payload=payload))
        ]

    @rule(
        database=databases, key=keys, length=lengths, condition=st.sampled_from(list(Condition)), after_ms=expiries,
        keep_ttl=st.booleans(), want_previous=st.booleans(),
    )  # fmt: skip
    def write(
        self, database: int, key: bytes, length: int, condition: Condition, after_ms: int | None, keep_ttl: bool, want_previous: bool
    ) -> None:
        """Write under every condition."""
        options: dict[str, Any] = {
            "condition": condition, "expire_at_ms": self.expire_at(after_ms), "keep_ttl": keep_ttl, "want_previous": want_previous
        }  # fmt: skip
        if keep_ttl:
            options["expire_at_ms"] = NO_EXPIRY  # Redis refuses both together
        value = self.value(length)
        mine: WriteResult = finish(self.store.write(database, key, value, **options))
        other: WriteResult = finish(self.model.write(database, key, value, **options))
        assert (mine.status, seen(mine.previous)) == (other.status, seen(other.previous))

    @rule(database=databases, pairs=st.lists(st.tuples(keys, lengths), max_size=8))
    def write_many(self, database: int, pairs: list[tuple[bytes, int]]) -> None:
        """Write several pairs, some under one key."""
        values = [(key, self.value(length)) for key, length in pairs]
        assert finish(self.store.write_many(database, values)) == finish(self.model.write_many(database, values))

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), length=lengths | st.none(), after_ms=expiries)
    def replace(self, data: st.DataObject, length: int | None, after_ms: int | None) -> None:
        """Replace the entry of a token, old or new: its value and expiry, or its expiry alone."""
        database, key = data.draw(st.sampled_from(sorted(self.tokens)))
        mine, other = data.draw(st.sampled_from(self.tokens[database, key][-3:]))
        value = None if length is None else self.value(length)
        expire_at_ms = self.expire_at(after_ms)
        assert finish(self.store.replace(database, key, mine, value, expire_at_ms=expire_at_ms)) == finish(
            self.model.replace(database, key, other, value, expire_at_ms=expire_at_ms)
        )

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def delete_exact(self, data: st.DataObject) -> None:
        """Delete the entry of a token, old or new."""
        database, key = data.draw(st.sampled_from(sorted(self.tokens)))
        mine, other = data.draw(st.sampled_from(self.tokens[database, key][-3:]))
        assert finish(self.store.delete_exact(database, key, mine)) == finish(self.model.delete_exact(database, key, other))

    @rule(database=databases, several=st.lists(keys, max_size=6))
    def delete(self, database: int, several: list[bytes]) -> None:
        """Delete keys, some of them twice."""
        assert finish(self.store.delete(database, several)) == finish(self.model.delete(database, several))

    @rule(database=databases, several=st.lists(keys, max_size=40))
    def exists(self, database: int, several: list[bytes]) -> None:
        """Ask for presence alone."""
        assert finish(self.store.exists(database, several)) == finish(self.model.exists(database, several))

    @rule(database=databases, count=st.sampled_from([1, 3, 10, 1000]))
    def scan(self, database: int, count: int) -> None:
        """Walk the whole database: every key once, since nothing changes meanwhile."""
        found: list[bytes] = []
        cursor = 0
        while True:
            cursor, part = finish(self.store.scan(database, cursor, count))
            found += part
            if cursor == 0:
                break
        assert sorted(found) == sorted(self.model.live_keys(database))

    @rule(database=databases)
    def random_key(self, database: int) -> None:
        """Ask for some key."""
        mine = finish(self.store.random_key(database))
        live = self.model.live_keys(database)
        assert mine in live if live else mine is None

    @rule(database=databases)
    def database_size(self, database: int) -> None:
        """Count after the expired ones are swept away."""
        sweep(self.store)
        assert self.store.database_size(database) == self.model.database_size(database)

    @rule(step_ms=st.sampled_from([1, 49, 1_000, 200_000]))
    def pass_time(self, step_ms: int) -> None:
        """Let the clock go on."""
        self.model.now_ms += step_ms
        self.store.set_clock(self.model.now_ms)

    @rule(database=st.sampled_from([0, 1, 15, None]))
    def flush(self, database: int | None) -> None:
        """Empty a database, or all."""
        finish(self.store.flush(database))
        finish(self.model.flush(database))

    @invariant()
    def nothing_is_damaged(self) -> None:
        """One front end alone never meets anything that is not as it left it."""
        if hasattr(self, "store"):
            memory = self.store.memory()
            assert memory["damaged"] == 0
            # Freed at once, or many together where that takes a round trip.
            assert int(memory["retired_values"]) < (1 if self.kind == "shm" else 64)

    def teardown(self) -> None:
        """Delete everything: the pages come back."""
        if not hasattr(self, "store"):
            return
        for database in (0, 1, 15):
            for key in KEYS:
                assert seen(finish(self.store.read(database, key))) == seen(finish(self.model.read(database, key)))
            finish(self.store.delete(database, KEYS))
        sweep(self.store)
        assert pages_used(self.store) == self.store.memory()["pages_cells"] <= len(cell_sizes())
        assert self.store.memory()["cell_bytes_used"] == 0
        self.store.release_spares()
        assert pages_used(self.store) == 0


def machine(kind: str, index_entries: int, examples: int, steps: int) -> type:
    """Return a test of the machine over one fabric and one size of index."""

    class Machine(StoreMachine):
        pass

    Machine.kind = kind
    Machine.index_entries = index_entries
    Machine.TestCase.settings = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
    )
    return Machine.TestCase


TestSharedMemory = machine("shm", 1022, 25, 60)
TestSimulated = machine("sim", 1022, 25, 60)
# 98 slots for at most 90 keys: most sets overflow, windows are full up to the last slot.
TestSharedMemoryNarrow = machine("shm", 98, 25, 80)
TestSimulatedNarrow = machine("sim", 98, 25, 80)
# 13 sets: fewer homes than a key and its window may span twice; and one set alone.
TestSimulatedTiny = machine("sim", 91, 15, 80)
if HAS_VERBS:
    TestVerbs = pytest.mark.verbs(machine("verbs", 1022, 3, 60))
    TestVerbsNarrow = pytest.mark.verbs(machine("verbs", 98, 3, 80))


@pytest.mark.long
class TestSimulatedLong(machine("sim", 98, 600, 120)):  # type: ignore[misc]
    """The same for minutes."""


@pytest.mark.long
class TestSharedMemoryLong(machine("shm", 98, 600, 120)):  # type: ignore[misc]
    """The same for minutes."""


