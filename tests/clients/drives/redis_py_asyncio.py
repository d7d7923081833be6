"""Drives the asynchronous side of redis-py, or of valkey-py, at a server: `redis_py_asyncio.py redis|valkey PORT`."""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any

from transcript import DEADLINE_S, Transcript, in_order, kind_of

VALUE = bytes(range(256)) * 1200
AT_ONCE = 30


class Drive:
    """One client and its way of speaking."""

    def __init__(self, family: str, port: int, protocol: int, transcript: Transcript) -> None:
        """Make the client; it connects when it is first used."""
        self.library = importlib.import_module(f"{family}.asyncio")
        self.make = self.library.Redis if family == "redis" else self.library.Valkey
        self.family, self.port, self.protocol, self.transcript = family, port, protocol, transcript
        self.client = self.another()

    def another(self, **named: Any) -> Any:
        """Return one more client that speaks likewise."""
        return self.make(**({"port": self.port, "protocol": self.protocol, "socket_timeout": DEADLINE_S} | named))


async def strings(drive: Drive) -> None:
    """Commands one after the other, many at once, and values of all sizes."""
    client, wait, refused = drive.client, drive.transcript.wait, drive.transcript.wait_refused
    await wait(client.set, "k", VALUE, ex=100, nx=True)
    await wait(client.set, "k", "w", get=True, keepttl=True)
    await wait(client.getex, "k", persist=True)
    await wait(client.ttl, "k")
    await wait(client.getdel, "k")
    await wait(client.mset, {"a": 1, "b": VALUE})
    await wait(client.mget, "a", "none", "b")
    await wait(client.incrby, "a", 5)
    await wait(client.incrbyfloat, "a", 0.5)
    await refused(client.incr, "b")
    await refused(client.execute_command, "NONSENSE")
    await wait(client.lcs, "a", "b", len=True)
    await wait(client.bitfield("bits").set("u8", 0, 200).incrby("u8", 0, 100).execute)
    dumped = await wait(client.dump, "a")
    await wait(client.restore, "c", 1000, dumped)

    async def one(number: int) -> None:
        for size in (0, 10, 70_000, 400_000):
            value = number.to_bytes(2, "little") * (size // 2)
            await client.set(f"k{number}", value)
            assert await client.get(f"k{number}") == value

    await asyncio.gather(*(one(number) for number in range(AT_ONCE)))
    await wait(client.dbsize)
    drive.transcript.note("scanned", sorted([key async for key in client.scan_iter(count=3)]))
    await wait(client.flushall)


async def pipelines(drive: Drive) -> None:
    """Pipelines, errors within them, WATCH and the helper that tries again."""
    client, wait, refused = drive.client, drive.transcript.wait, drive.transcript.wait_refused
    async with client.pipeline(transaction=False) as pipeline:
        for number in range(200):
            pipeline.set(f"p{number}", number).get(f"p{number}")
        await wait(pipeline.execute)
    async with client.pipeline(transaction=True) as pipeline:
        await wait(pipeline.incr("n").incr("n").get("n").execute)
        await refused(pipeline.set("n", "x").incr("n").execute)
        await pipeline.watch("n")
        await wait(pipeline.get, "n")
        await client.set("n", "changed")
        pipeline.multi()
        await refused(pipeline.set("n", "lost").execute)
    tries: list[int] = []
    await client.set("n", 1)

    async def raise_it(pipeline: Any) -> None:
        before = int(await pipeline.get("n"))
        tries.append(before)
        if len(tries) < 3:
            await client.incr("n")
        pipeline.multi()
        pipeline.set("n", before * 10)

    await wait(client.transaction, raise_it, "n")
    drive.transcript.note("tries", tries)


async def channels(drive: Drive) -> None:
    """Channels, patterns, shards, and a reader that is a task."""
    client, wait = drive.client, drive.transcript.wait
    async with client.pubsub() as pubsub:
        await pubsub.subscribe("news")
        await pubsub.psubscribe("n*")
        for _ in range(2):
            await wait(pubsub.get_message, timeout=DEADLINE_S)
        await wait(client.publish, "news", VALUE)
        await wait(client.pubsub_numsub, "news")
        for _ in range(2):
            await wait(pubsub.get_message, timeout=DEADLINE_S)
        await pubsub.unsubscribe("news")
        await pubsub.punsubscribe("n*")
        for _ in range(2):
            await wait(pubsub.get_message, timeout=DEADLINE_S)
    received: list[bytes] = []
    listening = asyncio.Event()

    async def listen() -> None:
        async with client.pubsub() as pubsub:
            await pubsub.subscribe("many")
            async for message in pubsub.listen():
                if message["type"] == "subscribe":
                    listening.set()
                    continue
                received.append(message["data"])
                if len(received) == AT_ONCE:
                    return

    task = asyncio.create_task(listen())
    await asyncio.wait_for(listening.wait(), DEADLINE_S)
    async with client.pipeline(transaction=False) as pipeline:
        for number in range(AT_ONCE):
            pipeline.publish("many", number)
        await wait(pipeline.execute)
    await asyncio.wait_for(task, DEADLINE_S)
    drive.transcript.note("received", received)


async def connections(drive: Drive) -> None:
    """Names, connections that are ended, pools that are full, locks, texts instead of bytes."""
    client, wait, wait_for = drive.client, drive.transcript.wait, drive.transcript.wait_for
    other = drive.another(client_name="one", db=2, single_connection_client=True, decode_responses=True)
    await wait(other.client_getname)
    number = await other.client_id()
    drive.transcript.note("killed", await client.client_kill_filter(_id=str(number)))
    for _ in range(2):
        try:
            drive.transcript.note("answers again", await other.ping())
        except importlib.import_module(drive.family).exceptions.ConnectionError:
            continue
    await wait(other.set, "text", "gr\u00fc\u00dfe")
    await wait(other.get, "text")
    await wait_for(in_order, other.config_get, "maxclients", "hz")
    await wait_for(kind_of, other.info)
    await other.aclose()
    pool = drive.library.BlockingConnectionPool(port=drive.port, protocol=drive.protocol, max_connections=3, timeout=DEADLINE_S)
    pooled = drive.make(connection_pool=pool)
    await wait(lambda: asyncio.gather(*(pooled.incr("pooled") for _ in range(1))))
    drive.transcript.note("all counted", sorted(await asyncio.gather(*(pooled.incr("pooled") for _ in range(AT_ONCE)))))
    await pooled.aclose()
    await pool.aclose()
    lock = client.lock("locked", timeout=10)
    await wait(lock.acquire, blocking=False)
    await wait(client.lock("locked").acquire, blocking=False)
    await wait(lock.locked)


async def main(family: str, port: int) -> None:
    """Every part in both protocols."""
    library = importlib.import_module(family)
    errors = library.exceptions.RedisError if family == "redis" else library.exceptions.ValkeyError
    transcript = Transcript(errors)
    for protocol in (2, 3):
        for part in (strings, pipelines, channels, connections):
            drive = Drive(family, port, protocol, transcript)
            await drive.client.flushall()
            await transcript.run_async(part, drive, title=f"RESP{protocol} {part.__name__}")
            await drive.client.aclose()
    transcript.finish(library.__version__)


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
