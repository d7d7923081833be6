"""MEMORY: what keys cost, and how the pool and the process use memory."""

from __future__ import annotations

import ctypes

from kvcd.commands.arguments import SYNTAX_ERROR, CommandError, parse_integer
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState
from protocol.replies import OK, Reply, Verbatim

_HEADER_BYTES = 40  # of a value's cell
_LITTLE_BYTES = 5 * 1024 * 1024  # below that Redis's doctor says nothing either
_LITTLE = (
    "Hi Sam, this instance is empty or is using very little memory, my issues detector can't be used in these conditions. Please, "
    "leave for your mission on Earth and fill it with some data. The new Sam and I will be back to our programming as soon as I "
    "finished rebooting.\n"
)
_HEALTHY = "Hi Sam, I can't find any memory issue in your instance. I can only account for what occurs on this base.\n"


@handles("memory|usage")
async def handle_usage(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """MEMORY USAGE key [SAMPLES count]: the cell's bytes, and the key's part of the index."""
    for position in range(3, len(args), 2):
        if args[position].lower() != b"samples" or position + 1 == len(args) or parse_integer(args[position + 1]) < 0:
            raise CommandError(SYNTAX_ERROR)
    entry = await server.store.read(client.db, args[2], payload=False, touch=False)
    if entry is None:
        return None
    pool = server.store.memory()
    index_bytes = int(pool.get("index_bytes", 0)) // max(int(pool.get("index_entries", 0)), 1)
    return _HEADER_BYTES + len(args[2]) + entry.size_bytes + index_bytes


@handles("memory|stats")
async def handle_stats(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """MEMORY STATS: Redis's fields; what is allocated is what the pool's values use."""
    pool, totals = server.store.memory(), await server.service.totals(server)
    used = int(pool.get("used_bytes", 0))
    peak = max(int(pool.get("peak_bytes", 0)), used)
    keys = sum(server.store.database_size(database).keys for database in range(server.databases))
    index_bytes = int(pool.get("index_bytes", 0))
    dataset = int(pool.get("stored_bytes", used))
    resident = totals.resident_bytes
    reply: dict[object, object] = {
        b"peak.allocated": peak,
        b"total.allocated": used,
        b"startup.allocated": 0,
        b"replication.backlog": 0,
        b"clients.slaves": 0,
        b"clients.normal": sum(other.pending_input_bytes + other.pending_output_bytes for other in server.clients.values()),
        b"cluster.links": 0,
        b"aof.buffer": 0,
        b"lua.caches": 0,
        b"functions.caches": 0,
    }
    for database, place in enumerate(server.order.places):
        size = server.store.database_size(place)
        if size.keys:
            overhead: dict[object, object] = {b"overhead.hashtable.main": index_bytes * size.keys // max(keys, 1)}
            overhead |= {b"overhead.hashtable.expires": 0, b"overhead.hashtable.slot-to-keys": 0}
            reply[b"db.%d" % database] = overhead
    reply |= {
        b"overhead.total": max(used - dataset, 0),
        b"keys.count": keys,
        b"keys.bytes-per-key": used // keys if keys else 0,
        b"dataset.bytes": dataset,
        b"dataset.percentage": 100.0 * dataset / used if used else 0.0,
        b"peak.percentage": 100.0 * used / peak if peak else 0.0,
        b"allocator.allocated": used,
        b"allocator.active": used,
        b"allocator.resident": resident,
        b"allocator-fragmentation.ratio": float(pool.get("cell_fragmentation", 1.0)),
        b"allocator-fragmentation.bytes": max(used - dataset, 0),
        b"allocator-rss.ratio": resident / used if used else 0.0,
        b"allocator-rss.bytes": resident - used,
        b"rss-overhead.ratio": 1.0,
        b"rss-overhead.bytes": 0,
        b"fragmentation": resident / used if used else 0.0,
        b"fragmentation.bytes": resident - used,
    }
    return reply


@handles("memory|doctor")
async def handle_doctor(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """MEMORY DOCTOR: damage in the pool is the only thing that could be wrong with it."""
    pool = server.store.memory()
    if int(pool.get("damaged", 0)):
        return Verbatim(f"Sam, I detected {pool['damaged']} damaged entries in the pool; `kvcd doctor` says more.\n".encode())
    return Verbatim((_LITTLE if int(pool.get("used_bytes", 0)) < _LITTLE_BYTES else _HEALTHY).encode())


@handles("memory|malloc-stats")
async def handle_malloc_stats(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """MEMORY MALLOC-STATS: as a redis-server that is built without jemalloc; INFO pool has the figures."""
    return b"Stats not supported for the current allocator"


@handles("memory|purge")
async def handle_purge(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """MEMORY PURGE: the process gives back what it holds and does not need; the pool's pages are always ready for others."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
    return OK
