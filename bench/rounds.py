"""Rounds: what each command costs a pool on memory nodes, in operations, bytes and dependent rounds; counted, not timed.

`python -m bench.rounds [--nodes N] [--json]`. The simulated fabric carries out the operations that the verbs fabric would post, so
the figures are the same at every run and on every machine. With KVCD_TRACE_DIR, or a generated trace, it also says how often
a look-up of the conversation is answered by what is remembered.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Awaitable
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from kvcd.trace import Request, read_trace
from kvcd.trace_generate import Shape, generate
from storage.cluster import Cluster, Node
from storage.engine import Engine
from storage.fabric.sim import SimulatedFabric
from storage.pool import Pool
from storage.store import Store

_TRACE_FILE = "conversation_trace.jsonl"
_SETS_REMEMBERED = 1 << 17  # per node: more than the keys of any table here
_EVICTED = ((4096, 8 << 20), (60_000, 16 << 20), (1 << 20, 64 << 20))  # bytes of the values, and of a node's pool
_HOT_VALUES_BYTES = 64 << 20
_NODE_NAMES = tuple(f"memory-{number}:7400" for number in range(32))


@dataclass(frozen=True, slots=True)
class Cost:
    """What one command posts. Rounds are those that it waits for one after the other; bytes are those of READs."""

    rounds: int
    reads: int
    read_bytes: int
    writes: int
    write_bytes: int
    atomics: int


def make_store(nodes: int, *, pool_bytes: int, index_entries: int, policy: str = "noeviction") -> Store:
    """Return a store over simulated memory nodes."""
    names = _NODE_NAMES[:nodes]
    made = []
    for number, name in enumerate(names):
        pool = Pool.format(
            SimulatedFabric(pool_bytes, number + 1), index_entries=index_entries, secret=bytes(16), node=name, nodes=names
        )
        made.append(Node(name, Engine(pool, number, name, _SETS_REMEMBERED), policy))
    return Store(Cluster(made), policy)


def cost(store: Store, action: Awaitable[object]) -> Cost:
    """Return what the action posts to the busiest node."""
    fabrics = [node.engine.pool.fabric for node in store.cluster.nodes if node.engine is not None]
    before = [fabric.operation_counts() for fabric in fabrics]
    _finish(action)
    after = [fabric.operation_counts() for fabric in fabrics]
    spent = [{name: late[name] - early[name] for name in late} for early, late in zip(before, after, strict=True)]
    busiest = max(spent, key=lambda counts: (counts["rounds"] - counts["unwaited"], counts["read_bytes"]))
    return Cost(
        busiest["rounds"] - busiest["unwaited"],
        busiest["reads"],
        busiest["read_bytes"],
        busiest["writes"],
        busiest["write_bytes"],
        busiest["compare_and_swaps"] + busiest["fetch_and_adds"],
    )


def commands(nodes: int) -> dict[str, Cost]:
    """Return the cost of every kind of command, each in the state that its name says."""
    out: dict[str, Cost] = {}
    value = bytes(100)
    for load in (0.1, 0.5):
        entries = 7 * 4096
        store = make_store(nodes, pool_bytes=96 << 20, index_entries=entries)
        # Every node to the same load: so many keys on each.
        total = int(entries * load) * nodes
        keys = [b"block:%08d" % number for number in range(total)]
        for key in keys:
            _finish(store.write(0, key, value))
        for count in (1, 30, 128):
            other = make_second(store)
            worst = max((cost(other, other.exists(0, part)) for part in _parts(keys, count)), key=_dearness)
            out[f"PREFIX.MATCH of {count}, never seen, index load {load}"] = worst
            out[f"PREFIX.MATCH of {count}, remembered, index load {load}"] = cost(other, other.exists(0, keys[:count]))
        if load == 0.1:
            out |= _single_key_costs(store, make_second(store), keys, value)
    out |= _copy_costs(nodes)
    for size, pool_bytes in _EVICTED:
        for policy in ("allkeys-prefix", "allkeys-lru"):
            out[f"SET of {size} B at a full pool, {policy}"] = _eviction_cost(nodes, size, pool_bytes=pool_bytes, policy=policy)
    return out


def _single_key_costs(store: Store, cold: Store, keys: list[bytes], value: bytes) -> dict[str, Cost]:
    large = bytes(1 << 20)
    _finish(store.write(0, b"large", large))
    return {
        "GET of 100 B, never seen": cost(cold, cold.read(0, keys[3])),
        "GET of 100 B, location known": cost(cold, cold.read(0, keys[3])),
        "GET of 1 MiB, never seen (without its pages)": _pin_cost(cold, b"large"),
        "GET of 1 MiB, location known (without its pages)": _pin_cost(cold, b"large"),
        "GET, absent": cost(store, store.read(0, b"absent")),
        "SET of a new key": cost(store, store.write(0, b"fresh key", value)),
        "SET over a value": cost(store, store.write(0, keys[5], value)),
        "DEL": cost(store, store.delete(0, [keys[6]])),
    }


def _pin_cost(store: Store, key: bytes) -> Cost:
    async def pin() -> None:
        value = store.pin(0, key)
        assert value is not None
        value.release()

    return cost(store, pin())


def _eviction_cost(nodes: int, size_bytes: int, *, pool_bytes: int, policy: str) -> Cost:
    """The median SET where each needs the room of another value; what is done ahead of need is left out."""
    store = make_store(nodes, pool_bytes=pool_bytes, index_entries=7 * 1024, policy=policy)
    value, number = bytes(size_bytes), 0
    while store.counters()["evicted"] < 64:
        _finish(store.write(0, b"k%06d" % number, value))
        number += 1
    costs: list[Cost] = []
    for _ in range(4000):
        evicted = store.counters()["evicted"]
        spent = cost(store, store.write(0, b"k%06d" % number, value))
        number += 1
        if store.counters()["evicted"] > evicted:
            costs.append(spent)
        if len(costs) == 200:
            break
    return sorted(costs, key=_dearness)[len(costs) // 2]


def _copy_costs(nodes: int) -> dict[str, Cost]:
    """What a GET costs with and without a copy of the value, payload included."""
    out: dict[str, Cost] = {}
    store = make_store(nodes, pool_bytes=64 << 20, index_entries=7 * 1024)
    chain = [b"block:%08d" % number for number in range(30)]
    for size in (100, 4096, 60_000, 1 << 20):
        _finish(store.write(0, b"hot:%d" % size, bytes(size)))
    for key in chain:
        _finish(store.write(0, key, bytes(60_000)))
    for hot_values_bytes, name in ((0, "location known"), (_HOT_VALUES_BYTES, "copy kept")):
        reader = make_second(store, hot_values_bytes)
        for size in (100, 4096, 60_000, 1 << 20):
            for _ in range(4):
                spent = cost(reader, reader.read(0, b"hot:%d" % size))
            out[f"GET of {size} B with its payload, {name}"] = spent
        for _ in range(4):
            spent = cost(reader, reader.read_many(0, chain))
        out[f"GET of 30 blocks of 60000 B with their payload, {name}"] = spent
    return out


def make_second(store: Store, hot_values_bytes: int = 0) -> Store:
    """Return another front end's store over the same nodes: it remembers nothing yet."""
    made = []
    for number, node in enumerate(store.cluster.nodes):
        assert node.engine is not None
        fabric = node.engine.pool.fabric
        front_ends = int.from_bytes(node.engine.pool.read(node.engine.pool.layout()["globals"] + 8, 4), "little")
        pool = Pool.attach(fabric, front_ends, node.name, _NODE_NAMES[: store.cluster.node_count])
        made.append(Node(node.name, Engine(pool, number, node.name, _SETS_REMEMBERED, hot_values_bytes), "noeviction"))
    return Store(Cluster(made), "noeviction")


def _dearness(spent: Cost) -> tuple[int, int]:
    return spent.rounds, spent.read_bytes


def _parts(keys: list[bytes], count: int) -> list[list[bytes]]:
    """Up to 60 groups of keys that were not looked up together before."""
    return [keys[start : start + count] for start in range(0, min(len(keys) - count, 60 * count), count)]


@dataclass(frozen=True, slots=True)
class TraceFigures:
    """How the look-ups of a trace were answered, by one front end."""

    requests: int
    blocks: int
    rounds: dict[int, int]  # dependent rounds of the look-up, on the busiest node -> requests
    remembered_share: float  # of the blocks that were found: no set was read
    stale_share: float  # remembered, but the counter had moved
    read_bytes_per_block: float
    most_read_bytes_remembered: int  # of a look-up that was answered from what is remembered alone, per node


def trace_figures(requests: list[Request], nodes: int) -> TraceFigures:
    """Play a trace: look the chain up, store what is missing."""
    blocks = sum(len(request.hash_ids) for request in requests)
    store = make_store(nodes, pool_bytes=256 << 20, index_entries=1 << 20)
    rounds: Counter[int] = Counter()
    found = read_bytes = most_remembered = 0
    for request in requests:
        keys = [b"block:%d" % number for number in request.hash_ids]
        present: list[bool] = []

        async def look(keys: list[bytes] = keys, present: list[bool] = present) -> None:
            present += await store.exists(0, keys)

        before = store.counters()
        spent = cost(store, look())
        after = store.counters()
        rounds[spent.rounds] += 1
        read_bytes += after["fabric_read_bytes"] - before["fabric_read_bytes"]
        found += sum(present)
        if all(present) and after["location_cache_hits"] - before["location_cache_hits"] == len(keys):
            most_remembered = max(most_remembered, spent.read_bytes)
        leading = present.index(False) if False in present else len(present)
        for key in keys[leading:]:
            _finish(store.write(0, key, b"v" * 40))
    counters = store.counters()
    return TraceFigures(
        len(requests),
        blocks,
        dict(sorted(rounds.items())),
        counters["location_cache_hits"] / max(1, found),
        counters["location_cache_stale"] / max(1, found),
        read_bytes / blocks,
        most_remembered,
    )


def _trace() -> tuple[str, list[Request]]:
    folder = os.environ.get("KVCD_TRACE_DIR")
    if folder and (Path(folder) / _TRACE_FILE).exists():
        return _TRACE_FILE, read_trace(Path(folder) / _TRACE_FILE)
    return "generated conversation, 3000 requests", list(generate(Shape.CONVERSATION, requests=3000, seed=1))


def _finish(action: Awaitable[object]) -> object:
    async def run() -> object:
        return await action

    coroutine = run()
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the store suspended")


def main() -> None:
    """Print the tables, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.rounds", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1, help="memory nodes (default 1); figures are those of the busiest")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    costs = commands(arguments.nodes)
    name, requests = _trace()
    figures = trace_figures(requests, arguments.nodes)
    if arguments.json:
        found = {"commands": {key: asdict(one) for key, one in costs.items()}, "trace": {name: asdict(figures)}}
        print(orjson.dumps(found, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_INDENT_2).decode())
        return
    columns = ("command", "rounds", "READs", "bytes read", "WRITEs", "bytes written", "atomics")
    table = Table(*columns, title=f"{arguments.nodes} memory node(s)")
    for key, one in costs.items():
        table.add_row(key, *(f"{value}" for value in asdict(one).values()))
    console = Console(width=140)
    console.print(table)
    console.print(f"{name}: {figures.requests} look-ups of {figures.blocks} blocks")
    for count, times in figures.rounds.items():
        console.print(f"  {count} round(s): {times / figures.requests:.1%}")
    console.print(f"  blocks found: {figures.remembered_share:.1%} remembered, {figures.stale_share:.1%} remembered but changed since")
    most = figures.most_read_bytes_remembered
    console.print(f"  {figures.read_bytes_per_block:.0f} bytes read for a block; at most {most} for a chain that is all remembered")


if __name__ == "__main__":
    main()
