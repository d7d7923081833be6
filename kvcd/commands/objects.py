"""OBJECT: how a value is kept and when it was used."""

from __future__ import annotations

from kvcd.commands.arguments import CommandError, parse_integer
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState
from protocol.replies import Reply
from storage.interface import Entry, KeptAs

_LONGEST_INTEGER = 20  # digits and sign of 64 bits
_LONGEST_EMBEDDED = 44  # bytes that redis-server keeps beside the object's header
_SHARED_INTEGERS = 10000  # small numbers that redis-server keeps once
_SHARED_COUNT = 2**31 - 1
_SWITCHED = "Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust."
_NO_FREQUENCY = f"ERR An LFU maxmemory policy is not selected, access frequency not tracked. {_SWITCHED}"
_NO_IDLE_TIME = f"ERR An LFU maxmemory policy is selected, idle time not tracked. {_SWITCHED}"


def _integer(payload: bytes) -> int | None:
    """Return the integer that redis-server would keep in a value's place."""
    if len(payload) > _LONGEST_INTEGER:
        return None
    try:
        return parse_integer(payload)
    except CommandError:
        return None


def encoding(entry: Entry) -> str:
    """Return the name of redis-server's encoding of a string."""
    if entry.kept_as is KeptAs.RAW:
        return "raw"
    if entry.kept_as is KeptAs.VALUE and entry.size_bytes <= _LONGEST_INTEGER and _integer(entry.payload) is not None:
        return "int"
    return "embstr" if entry.size_bytes <= _LONGEST_EMBEDDED else "raw"


def reference_count(server: ServerState, entry: Entry) -> int:
    """Return how many keys redis-server would say share the value: all of them that hold the same small number."""
    number = _integer(entry.payload) if entry.kept_as is KeptAs.VALUE else None
    by_use = server.config.number("maxmemory") and server.config.string("maxmemory-policy").endswith(("lru", "lfu", "prefix"))
    return _SHARED_COUNT if number is not None and 0 <= number < _SHARED_INTEGERS and not by_use else 1


async def look(client: ClientState, server: ServerState, key: bytes) -> Entry | None:
    """Return the entry under a key, with its payload only where that is short; it does not count as used."""
    entry = await server.store.read(client.db, key, payload=False, touch=False)
    if entry is not None and entry.size_bytes <= _LONGEST_INTEGER:
        return await server.store.read(client.db, key, touch=False)
    return entry


def counts_frequency(server: ServerState) -> bool:
    """Whether the eviction policy goes by how often a key is used, not by when."""
    return server.config.string("maxmemory-policy").endswith("-lfu")


@handles("object|encoding")
async def handle_encoding(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """OBJECT ENCODING key."""
    entry = await look(client, server, args[2])
    return None if entry is None else encoding(entry).encode()


@handles("object|refcount")
async def handle_refcount(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """OBJECT REFCOUNT key."""
    entry = await look(client, server, args[2])
    return None if entry is None else reference_count(server, entry)


@handles("object|idletime")
async def handle_idletime(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """OBJECT IDLETIME key: seconds since it was used."""
    entry = await look(client, server, args[2])
    if entry is not None and counts_frequency(server):
        raise CommandError(_NO_IDLE_TIME)
    return None if entry is None else entry.idle_s


@handles("object|freq")
async def handle_freq(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """OBJECT FREQ key: an error under allkeys-prefix, whose count of uses is another one (PREFIX.INFO shows hits)."""
    entry = await look(client, server, args[2])
    if entry is not None and not counts_frequency(server):
        raise CommandError(_NO_FREQUENCY)
    return None if entry is None else entry.frequency
