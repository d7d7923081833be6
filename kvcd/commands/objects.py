"""OBJECT: what the server knows of a key's value beside its bytes."""

from __future__ import annotations

from kvcd.commands.arguments import CommandError, parse_integer
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState
from protocol.replies import Reply
from storage.interface import Entry

_EMBEDDED_MOST_BYTES = 44  # OBJ_ENCODING_EMBSTR_SIZE_LIMIT
_INTEGER_MOST_BYTES = 20
_SWITCHED = "Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust."
NOT_LFU = f"ERR An LFU maxmemory policy is not selected, access frequency not tracked. {_SWITCHED}"
IS_LFU = f"ERR An LFU maxmemory policy is selected, idle time not tracked. {_SWITCHED}"


async def _entry(client: ClientState, server: ServerState, key: bytes, *, payload: bool = False) -> Entry | None:
    """Return what is there, which does not count as an access."""
    return await server.store.read(client.db, key, payload=payload, touch=False)


def _follows_frequency(server: ServerState) -> bool:
    return server.config.string("maxmemory-policy").endswith("-lfu")


@handles("object|encoding")
async def handle_object_encoding(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """OBJECT ENCODING key: only a value that may be a number is read."""
    entry = await _entry(client, server, args[2])
    if entry is None:
        return None
    if entry.size_bytes > _EMBEDDED_MOST_BYTES:
        return b"raw"
    if entry.size_bytes <= _INTEGER_MOST_BYTES:
        entry = await _entry(client, server, args[2], payload=True)
        if entry is None:
            return None
        try:
            parse_integer(entry.payload)
        except CommandError:
            return b"embstr"
        return b"int"
    return b"embstr"


@handles("object|refcount")
async def handle_object_refcount(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """OBJECT REFCOUNT key."""
    return None if await _entry(client, server, args[2]) is None else 1


@handles("object|idletime")
async def handle_object_idletime(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """OBJECT IDLETIME key: under allkeys-prefix too, where the time of the last access is kept beside its number."""
    entry = await _entry(client, server, args[2])
    if entry is None:
        return None
    if _follows_frequency(server):
        raise CommandError(IS_LFU)
    return entry.idle_s


@handles("object|freq")
async def handle_object_freq(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """OBJECT FREQ key: an error under allkeys-prefix, whose count of uses is another one (PREFIX.INFO shows hits)."""
    entry = await _entry(client, server, args[2])
    if entry is None:
        return None
    if not _follows_frequency(server):
        raise CommandError(NOT_LFU)
    return entry.frequency
