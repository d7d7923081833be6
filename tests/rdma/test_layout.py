"""The layout as documented: a program written after docs/pool.md finds every key that a front end has put into its memory nodes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.rdma.reader import Found, Pool
from tests.rdma.servers import SECRET, Rack, node_name
from tests.servers import ROOT
from tests.wire import Wire

pytestmark = pytest.mark.verbs

# A cell; the largest cell but for the key; one page and nothing else; a page and a rest that the cell takes; a rest that gets a page.
SIZES = (0, 1, 39, 1000, 32_600, 65_536, 70_000, 100_000, 1_000_000)
INDEX_ENTRIES = 1001  # for each node: few, so that sets overflow
KEYS = 1300
_BLOB = random.Random(11).randbytes(1 << 20)


@pytest.fixture(scope="module")
def rack() -> Iterator[Rack]:
    with Rack() as made:
        yield made


@pytest.fixture(scope="module")
def names(rack: Rack) -> list[str]:
    """Names of two memory nodes."""
    nodes = [rack.memory_node(), rack.memory_node()]
    return [node_name(node.ready()) for node in nodes]


@pytest.fixture(scope="module")
def server(rack: Rack, names: list[str]) -> Iterator[Wire]:
    """A connection to their front end."""
    ports = [int(name.rpartition(":")[2]) for name in names]
    with rack.front_end(*ports, index_entries=INDEX_ENTRIES).ready().connect() as wire:
        yield wire


@pytest.fixture(scope="module")
def pool(server: Wire, names: list[str]) -> Iterator[Pool]:
    """The same pool, read without kvcd."""
    made = Pool(names, SECRET)
    yield made
    made.close()


def test_values_of_every_kind_are_where_the_page_says(server: Wire, pool: Pool) -> None:
    server.call("FLUSHALL")  # epochs beyond 0
    for database in (0, 3):
        server.call("SELECT", database)
        for size in SIZES:
            server.call("SET", f"k{size}", _BLOB[database : database + size])
    server.call("SELECT", 0)
    for database in (0, 3):
        for size in SIZES:
            found = pool.find(b"k%d" % size, database)
            assert found is not None, size
            assert found.value == _BLOB[database : database + size]
            assert found.is_paged == (size > 32_704)
            assert found.expires_at_ms is None
    assert pool.find(b"none") is None
    assert pool.find(b"k1000", 1) is None
    server.call("DEL", "k1000", "k65536")
    assert pool.find(b"k1000") is None
    assert pool.find(b"k65536") is None
    server.call("SET", "k39", "another")
    assert pool.find(b"k39").value == b"another"  # type: ignore[union-attr]


def test_a_time_to_live_stands_in_the_cell(server: Wire, pool: Pool) -> None:
    for size in (10, 70_000):
        at_ms = time.time_ns() // 1_000_000 + 60_000
        server.call("SET", "mortal", _BLOB[:size], "PXAT", at_ms)
        found = pool.find(b"mortal")
        assert found is not None
        assert (found.value, found.expires_at_ms) == (_BLOB[:size], at_ms)
    server.call("PERSIST", "mortal")
    assert pool.find(b"mortal").expires_at_ms is None  # type: ignore[union-attr]


def test_a_lease_stands_between_expiry_and_parent(server: Wire, pool: Pool) -> None:
    server.call("PREFIX.SET", "root", "r")
    server.call("PREFIX.SET", "PARENT", "root", "leased", _BLOB[:100])
    at_ms = time.time_ns() // 1_000_000 + 60_000
    server.call("PEXPIREAT", "leased", at_ms)
    assert server.call("PREFIX.LEASE", 50_000, "leased") == 1
    found = pool.find(b"leased")
    assert found is not None
    assert (found.value, found.expires_at_ms) == (_BLOB[:100], at_ms)
    assert found.parent == pool.nodes[0].hash(b"root", 0)[0]


def test_a_chain_names_its_parents(server: Wire, pool: Pool) -> None:
    server.call("PREFIX.SET", "root", "r")
    server.call("PREFIX.SET", "PARENT", "root", "a", "x", "b", _BLOB[:80_000])
    for depth, (name, parent) in enumerate(((b"root", None), (b"a", b"root"), (b"b", b"a"))):
        found = pool.find(name)
        assert found is not None
        assert found.depth == depth
        assert found.parent == (None if parent is None else pool.nodes[0].hash(parent, 0)[0])


def test_keys_of_sets_that_overflow_are_found(server: Wire, pool: Pool) -> None:
    server.call("FLUSHALL")
    words = [word for number in range(KEYS) for word in (f"key{number}", f"value{number}")]
    assert server.call("MSET", *words) == b"OK"
    found: dict[int, Found | None] = {}
    # The pool's secret decides which keys overflow: at this load a few in a hundred do.
    for number in random.Random(1).sample(range(KEYS), KEYS):
        found[number] = pool.find(b"key%d" % number)
        if len(found) >= 100 and any(each and each.distance for each in found.values()):
            break
    assert {number: each and each.value for number, each in found.items()} == {number: b"value%d" % number for number in found}
    assert any(each and each.distance for each in found.values()), "no set has overflowed: the test asks nothing"
    assert {pool.node_of(b"key%d" % number).region.name for number in found} == {node.region.name for node in pool.nodes}
    server.call("FLUSHALL")
    assert pool.find(b"key0") is None


@pytest.mark.long  # imports
def test_the_program_prints_a_value(rack: Rack, server: Wire, names: list[str]) -> None:
    server.call("SET", "printed", _BLOB[:70_000])
    command = [sys.executable, "-m", "tests.rdma.reader", os.path.join(rack.folder, "secret"), "0"]
    for key, status, value in (("printed", 0, _BLOB[:70_000]), ("none", 1, b"")):
        done = subprocess.run([*command, key, *names], cwd=ROOT, capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (status, value, b"")
