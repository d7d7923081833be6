"""Commands on chains of blocks: ordinary keys, looked up from the head until the first that is absent."""

from __future__ import annotations

import asyncio
from itertools import takewhile
from typing import cast

from kvcd.commands.arguments import SYNTAX_ERROR, CommandError, parse_integer, refusal, value_size_bytes, wrong_arity
from kvcd.commands.dispatch import KEY_TOO_LONG
from kvcd.commands.expiry import deadline_ms
from kvcd.commands.registry import handles
from kvcd.context import MAX_KEY_BYTES, ClientState, ServerState
from protocol.replies import Reply
from storage.hot_chains import hot_chains
from storage.interface import NO_EXPIRY, Condition, Payload, Status

TOP_DEFAULT = 10
TOP_LIMIT = 1000


async def _leading(client: ClientState, server: ServerState, keys: list[bytes]) -> int:
    """Return how many leading keys are there."""
    return sum(takewhile(bool, await server.store.exists(client.db, keys)))


@handles("prefix.match")
async def handle_prefix_match(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """PREFIX.MATCH key [key ...]."""
    return await _leading(client, server, args[1:])


@handles("prefix.exists")
async def handle_prefix_exists(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """PREFIX.EXISTS key [key ...]."""
    return [int(present) for present in await server.store.exists(client.db, args[1:])]


@handles("prefix.get")
async def handle_prefix_get(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """PREFIX.GET key [key ...]: payloads beyond the first miss are never read."""
    keys = args[1:]
    entries = await server.store.read_many(client.db, keys[: await _leading(client, server, keys)])
    return [entry.payload for entry in takewhile(lambda entry: entry is not None, entries) if entry is not None]


@handles("prefix.set")
async def handle_prefix_set(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """PREFIX.SET [NX] [EX seconds | PX milliseconds] [PARENT key] key value [key value ...].

    Stops at the first pair that the store refuses; an error only if that is the very first one.
    """
    condition, expire_at_ms, parent, first = _parse_options(server, args)
    pairs = args[first:]
    if not pairs or len(pairs) % 2:
        raise CommandError(wrong_arity("prefix.set"))
    if any(value_size_bytes(key) > MAX_KEY_BYTES for key in pairs[::2]):
        raise CommandError(KEY_TOO_LONG)
    for number, (key, value) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
        payload = cast(Payload, value)
        result = await server.store.write(client.db, key, payload, condition=condition, expire_at_ms=expire_at_ms, parent=parent)
        if result.status not in (Status.OK, Status.PRESENT):
            return number or refusal(result.status)
        parent = key
    return len(pairs) // 2


def _parse_options(server: ServerState, args: list[bytes]) -> tuple[Condition, int, bytes | None, int]:
    """Return the condition, the expiry, the parent, and where the pairs begin; a first key that is spelt like an option is read as one."""
    condition, expire_at_ms, position = Condition.ALWAYS, NO_EXPIRY, 1
    parent: bytes | None = None
    while position < len(args):
        word = args[position].lower() if isinstance(args[position], bytes) else b""
        if word == b"nx" and condition is Condition.ALWAYS:
            condition = Condition.NX
            position += 1
            continue
        if word in (b"ex", b"px") and position + 1 < len(args):
            if expire_at_ms != NO_EXPIRY:
                raise CommandError(SYNTAX_ERROR)
            expire_at_ms = deadline_ms(server, args[position + 1], unit=word, command_name="prefix.set")
        elif word == b"parent" and position + 1 < len(args) and parent is None:
            parent = args[position + 1]
            if value_size_bytes(parent) > MAX_KEY_BYTES:
                raise CommandError(KEY_TOO_LONG)
        else:
            break
        position += 2
    return condition, expire_at_ms, parent, position


@handles("prefix.lease")
async def handle_prefix_lease(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """PREFIX.LEASE milliseconds key [key ...]: how many leading keys are safe from eviction until then."""
    term_ms = parse_integer(args[1])
    longest_ms = server.config.number("lease-max-ms")
    if not 0 < term_ms <= longest_ms:
        raise CommandError(f"ERR invalid lease time in 'prefix.lease' command, it has 1 to {longest_ms} milliseconds (lease-max-ms)")
    return await server.store.lease(client.db, args[2:], server.now_ms() + term_ms)


@handles("prefix.unlease")
async def handle_prefix_unlease(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """PREFIX.UNLEASE key [key ...]: how many of the keys had a lease."""
    return await server.store.unlease(client.db, args[1:])


@handles("prefix.info")
async def handle_prefix_info(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """PREFIX.INFO key: a map, null without the key. Times are Unix milliseconds, a lease of 0 means none."""
    info = await server.store.prefix_info(client.db, args[1])
    if info is None:
        return None
    return {
        b"parent": info.parent,
        b"depth": info.depth,
        b"children": info.children,
        b"hits": info.hits,
        b"last-use": info.last_use_ms,
        b"size": info.size_bytes,
        b"lease": info.lease_until_ms,
        b"node": info.node,
    }


@handles("prefix.top")
async def handle_prefix_top(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """PREFIX.TOP [count]: the hottest chains, an array of maps, hottest first. Other clients are served meanwhile."""
    if len(args) > 2:
        raise CommandError(SYNTAX_ERROR)
    count = parse_integer(args[1]) if len(args) == 2 else TOP_DEFAULT
    if not 0 < count <= TOP_LIMIT:
        raise CommandError(f"ERR value is out of range, must be between 1 and {TOP_LIMIT}")
    survey = server.store.survey(client.db)
    while survey.step():
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn
    return [
        {
            b"key": chain.key,
            b"head": chain.head,
            b"hits": chain.hits,
            b"depth": chain.depth,
            b"blocks": chain.blocks,
            b"bytes": chain.size_bytes,
            b"last-use": chain.last_use_ms,
        }
        for chain in hot_chains(survey.result(), count)
    ]


@handles("prefix.stats")
async def handle_prefix_stats(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """PREFIX.STATS: a map of the store's counters since the start; of a pool on memory nodes, how often a location was remembered."""
    counted = (await server.service.totals(server)).counters
    counters = {name: counted.get(name, 0) for name in server.store.counters()}
    out: dict[bytes, Reply] = {name.encode(): count for name, count in counters.items()}
    if "location_cache_hits" in counters:
        asked = sum(counters[f"location_cache_{outcome}"] for outcome in ("hits", "stale", "misses"))
        out[b"location_cache_hit_ratio"] = counters["location_cache_hits"] / asked if asked else 0.0
    out.update({b"reuse_" + name.encode(): fact for name, fact in server.store.reuse_facts().items()})
    return cast(Reply, out)
