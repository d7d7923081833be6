"""Drives coredis at a server: `coredis_drive.py PORT`. It speaks RESP3 only."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import coredis
from coredis.patterns.cache import LRUCache
from coredis.tokens import PureToken
from transcript import DEADLINE_S, Transcript, eventually_true, in_order, kind_of

VALUE = bytes(range(256)) * 1200
AT_ONCE = 30


class Drive:
    """One client."""

    def __init__(self, port: int, transcript: Transcript) -> None:
        """Make the client; it connects when it is entered."""
        self.port, self.transcript = port, transcript
        self.client: Any = self.another()

    def another(self, **named: Any) -> Any:
        """Return one more client."""
        return coredis.Redis(**({"host": "127.0.0.1", "port": self.port, "stream_timeout": DEADLINE_S} | named))


async def strings(drive: Drive) -> None:
    """Every option of every command on strings, bits, many commands at once."""
    client, wait, refused = drive.client, drive.transcript.wait, drive.transcript.wait_refused
    await wait(client.set, "k", VALUE, condition=PureToken.NX, ex=100)
    await wait(client.set, "k", "w", condition=PureToken.NX)
    await wait(client.set, "k", "w", get=True, keepttl=True)
    await wait(client.set, "k", "w", pxat=4_000_000_000_123)
    await wait(client.pexpiretime, "k")
    await wait(client.getex, "k", persist=True)
    await wait(client.getdel, "k")
    await wait(client.get, "k")
    await wait(client.mset, {"a": 1, "b": VALUE})
    await wait(client.msetnx, {"a": 1, "c": 2})
    await wait(client.mget, ["a", "none", "b"])
    await wait(client.incrby, "a", 5)
    await wait(client.incrbyfloat, "a", 0.5)
    await refused(client.incr, "b")
    await wait(client.append, "n", "xyz")
    await wait(client.setrange, "n", 6, "abc")
    await wait(client.getrange, "n", 1, 4)
    await wait(client.mset, {"one": "ohmytext", "two": "mynewtext"})
    await wait(client.lcs, "one", "two")
    await wait(client.lcs, "one", "two", len_=True)
    await wait(client.lcs, "one", "two", idx=True, minmatchlen=2, withmatchlen=True)
    await wait(client.setbit, "bits", 100, 1)
    await wait(client.bitcount, "bits", 0, -1, PureToken.BIT)
    await wait(client.bitpos, "bits", 1, 2, -1)
    await wait(client.bitop, ["bits", "one"], "xor", "result")
    await wait(client.bitfield("field").set("u8", 0, 250).incrby("u8", 0, 10).get("u8", 0).exc)
    drive.transcript.note("at once", await asyncio.gather(*(client.incr(f"n{number % 7}") for number in range(AT_ONCE))))


async def keyspace(drive: Drive) -> None:
    """Expiry, names, databases, scans, dumps, objects."""
    client, wait, wait_for, refused = drive.client, drive.transcript.wait, drive.transcript.wait_for, drive.transcript.wait_refused
    await client.mset({f"key:{number}": number for number in range(100)})
    await wait(client.expire, "key:1", 100, PureToken.NX)
    await wait(client.pexpireat, "key:1", 4_000_000_000_123, PureToken.GT)
    await wait(client.expiretime, "key:1")
    await wait(client.persist, "key:1")
    await wait(client.exists, ["key:1", "none"])
    await wait(client.touch, ["key:1", "none"])
    await wait(client.type, "key:1")
    await wait(client.rename, "key:1", "renamed")
    await refused(client.rename, "none", "renamed")
    await wait(client.copy, "renamed", "copied", db=3, replace=True)
    await wait(client.move, "renamed", 4)
    await wait(client.unlink, ["key:4", "none"])
    await wait_for(sorted, client.keys, "key:2?")
    drive.transcript.note("scanned", sorted([key async for key in client.scan_iter(match="key:*", count=7)]))
    dumped = await wait(client.dump, "key:7")
    await wait(client.restore, "restored", 0, dumped)
    await refused(client.restore, "restored", 0, dumped)
    await wait(client.object_encoding, "key:7")
    await wait(client.object_refcount, "restored")
    await refused(client.sort, "key:7")
    await wait(client.dbsize)
    await wait(client.swapdb, 0, 4)
    await wait(client.swapdb, 0, 4)


async def pipelines(drive: Drive) -> None:
    """Pipelines, transactions, WATCH and the helper that tries again."""
    client = drive.client
    for transaction in (False, True):
        async with client.pipeline(transaction=transaction) as pipeline:
            replies = [pipeline.set(f"p{number}", number) for number in range(50)] + [pipeline.get("p7"), pipeline.incr("n")]
        drive.transcript.note("replies", [await reply for reply in replies])
    try:
        async with client.pipeline(transaction=True) as pipeline:
            pipeline.set("s", "x")
            pipeline.incr("s")
    except coredis.exceptions.ResponseError as error:
        drive.transcript.note("failed", str(error))
    tries: list[int] = []
    await client.set("n", 1)

    async def raise_it(pipeline: Any) -> None:
        before = int(await client.get("n"))
        tries.append(before)
        if len(tries) < 3:
            await client.incr("n")
        pipeline.set("n", before * 10)

    await client.transaction(raise_it, "n")
    drive.transcript.note("raised", (tries, await client.get("n")))


async def channels(drive: Drive) -> None:
    """Channels and patterns."""
    client = drive.client
    async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe("news")
        await pubsub.psubscribe("n*")
        drive.transcript.note("subscribers", await client.pubsub_numsub("news"))
        await client.publish("news", VALUE)
        received = [await pubsub.get_message(timeout=DEADLINE_S) for _ in range(2)]
        drive.transcript.note("received", received)
        await pubsub.unsubscribe("news")
        await pubsub.punsubscribe("n*")


async def service(drive: Drive) -> None:
    """CLIENT, CONFIG, INFO, ACL, logs, tables of commands."""
    client, wait, wait_for, refused = drive.client, drive.transcript.wait, drive.transcript.wait_for, drive.transcript.wait_refused
    await wait(client.ping)
    await wait(client.echo, "some words")
    async with drive.another(client_name="one", db=2, noevict=True) as other:
        await wait(other.client_getname)
        number = await other.client_id()
        drive.transcript.note("names", [entry["name"] for entry in await client.client_list(identifiers=[number])])
        drive.transcript.note("killed", await client.client_kill(identifier=number))
    await wait_for(kind_of, client.client_info)
    await wait(client.client_trackinginfo)
    await wait(client.client_pause, 1)
    await wait(client.client_unpause)
    await wait_for(in_order, client.config_get, ["maxclients", "timeout"])
    await wait(client.config_set, {"slowlog-max-len": 128, "timeout": 0})
    await refused(client.config_set, {"no-such-directive": 1})
    await wait_for(kind_of, client.info)
    await wait(client.acl_setuser, "reader", "on", ">secret", "+@read", "~r:*")
    await wait_for(kind_of, client.acl_getuser, "reader")
    await wait(client.acl_dryrun, "reader", "get", "r:1")
    await wait(client.acl_users)
    await wait(client.acl_deluser, ["reader"])
    await wait(client.acl_log, reset=True)
    await wait(client.acl_log)
    await wait(client.slowlog_reset)
    await wait(client.slowlog_len)
    await wait(client.slowlog_get)
    await wait(client.memory_usage, "none")
    await wait_for(kind_of, client.memory_stats)
    await wait(client.role)
    await wait_for(kind_of, client.time)
    await wait(client.module_list)
    await wait_for(kind_of, client.command_count)
    await wait(client.command_info, "get", "set", "scan", "client|list")
    await wait_for(lambda docs: sorted(docs[b"get"]), client.command_docs, "get")
    await wait(client.command_getkeys, "MSET", ["a", 1, "b", 2])
    await wait(client.command_getkeysandflags, "COPY", ["a", "b"])
    await wait_for(lambda names: sorted(names), client.command_list, pattern="*bit*")


async def caches(drive: Drive) -> None:
    """A client that keeps what it read until the server says that it has changed."""
    async with drive.another(cache=LRUCache()) as caching:
        await drive.client.set("cached", "one")
        drive.transcript.note("cached", [await caching.get("cached"), await caching.get("cached")])
        await drive.client.set("cached", "two")

        async def has_changed() -> bool:
            await drive.client.ping()  # its own value comes without a round trip
            return bool(await caching.get("cached") == b"two")

        await eventually_true(has_changed)


async def main(port: int) -> None:
    """Every part."""
    transcript = Transcript(coredis.exceptions.RedisError)
    for part in (strings, keyspace, pipelines, channels, service, caches):
        drive = Drive(port, transcript)
        async with drive.client:
            await drive.client.flushall()
            await asyncio.wait_for(transcript.run_async(part, drive, title=part.__name__), DEADLINE_S)
    transcript.finish(coredis.__version__)


asyncio.run(main(int(sys.argv[1])))
