"""Drives valkey-glide, asynchronous or synchronous, at a server: `valkey_glide.py glide|glide_sync PORT`."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import inspect
import sys
from collections.abc import Callable
from typing import Any

from transcript import Transcript, eventually_true, in_order, kind_of

VALUE = bytes(range(256)) * 1200
PACKAGES = {"glide": "valkey-glide", "glide_sync": "valkey-glide-sync"}


async def settled(result: Any) -> Any:
    """What the asynchronous client promises and the synchronous one returns at once."""
    return await result if inspect.isawaitable(result) else result


class Drive:
    """One client and its way of speaking."""

    def __init__(self, library: Any, port: int, protocol: Any, transcript: Transcript) -> None:
        """Keep what makes clients; they are made by awaiting open()."""
        self.library, self.port, self.protocol, self.transcript = library, port, protocol, transcript
        self.client: Any = None

    def configuration(self, **named: Any) -> Any:
        """Return what a client is made from."""
        address = self.library.NodeAddress("127.0.0.1", self.port)
        return self.library.GlideClientConfiguration([address], protocol=self.protocol, request_timeout=20_000, **named)

    async def open(self, **named: Any) -> Any:
        """Return a new client."""
        return await settled(self.library.GlideClient.create(self.configuration(**named)))

    async def ask(self, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Call and write down the result."""
        return await self.ask_for(lambda result: result, call, *given, **named)

    async def ask_for(self, shape: Callable[[Any], object], call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Call and write down what ``shape`` keeps of the result."""
        result = await settled(call(*given, **named))
        self.transcript.note(call.__name__, shape(result))
        return result

    async def refused(self, call: Callable[..., Any], *given: Any, **named: Any) -> None:
        """Call and write down the error, which must come."""
        try:
            result = await settled(call(*given, **named))
        except self.transcript.errors as error:
            self.transcript.note(call.__name__, f"{type(error).__name__}: {error}")
        else:
            raise AssertionError(f"{call.__name__} gave {result!r}, wanted an error")


async def strings(drive: Drive) -> None:
    """Every option of every command on strings, and bits."""
    client, ask, refused, library = drive.client, drive.ask, drive.refused, drive.library
    expiry, when = library.ExpirySet, library.ExpiryType
    await ask(client.set, "k", VALUE, conditional_set=library.ConditionalChange.ONLY_IF_DOES_NOT_EXIST, expiry=expiry(when.SEC, 100))
    await ask(client.set, "k", "w", conditional_set=library.ConditionalChange.ONLY_IF_DOES_NOT_EXIST)
    await ask(client.set, "k", "w", return_old_value=True, expiry=expiry(when.KEEP_TTL, None))
    await ask(client.ttl, "k")
    await ask(client.set, "k", "w", expiry=expiry(when.UNIX_MILLSEC, 4_000_000_000_123))
    await ask(client.pexpiretime, "k")
    await ask(client.getex, "k", library.ExpiryGetEx(library.ExpiryTypeGetEx.PERSIST, None))
    await ask(client.getdel, "k")
    await ask(client.get, "k")
    await ask(client.mset, {"a": "1", "b": VALUE})
    await ask(client.msetnx, {"a": "1", "c": "2"})
    await ask(client.mget, ["a", "none", "b"])
    await ask(client.incrby, "a", 5)
    await ask(client.incrbyfloat, "a", 0.5)
    await ask(client.decr, "n")
    await refused(client.incr, "b")
    await refused(client.custom_command, ["NONSENSE", "a"])
    await refused(client.custom_command, ["GET"])
    await ask(client.append, "n", "xyz")
    await ask(client.setrange, "n", 6, "abc")
    await ask(client.getrange, "n", 1, 4)
    await ask(client.strlen, "n")
    await ask(client.mset, {"one": "ohmytext", "two": "mynewtext"})
    await ask(client.lcs, "one", "two")
    await ask(client.lcs_len, "one", "two")
    await ask(client.lcs_idx, "one", "two", min_match_len=2, with_match_len=True)
    await ask(client.setbit, "bits", 100, 1)
    await ask(client.getbit, "bits", 100)
    await ask(client.bitcount, "bits", library.OffsetOptions(0, -1, library.BitmapIndexType.BIT))
    await ask(client.bitpos, "bits", 1, library.OffsetOptions(2, -1))
    await ask(client.bitop, library.BitwiseOperation.XOR, "xor", ["bits", "one"])
    unsigned, offset = library.UnsignedEncoding(8), library.BitOffsetMultiplier(1)
    fields = [library.BitFieldOverflow(library.BitOverflowControl.FAIL), library.BitFieldSet(unsigned, offset, 250)]
    await ask(client.bitfield, "field", [*fields, library.BitFieldIncrBy(unsigned, offset, 10), library.BitFieldGet(unsigned, offset)])


async def keyspace(drive: Drive) -> None:
    """Expiry, names, databases, scans, dumps, objects."""
    client, ask, refused, library = drive.client, drive.ask, drive.refused, drive.library
    await settled(client.mset({f"key:{number}": str(number) for number in range(100)}))
    await ask(client.expire, "key:1", 100, library.ExpireOptions.HasNoExpiry)
    await ask(client.pexpireat, "key:1", 4_000_000_000_123, library.ExpireOptions.NewExpiryGreaterThanCurrent)
    await ask(client.expiretime, "key:1")
    await ask(client.persist, "key:1")
    await ask(client.exists, ["key:1", "none"])
    await ask(client.touch, ["key:1", "none"])
    await ask(client.type, "key:1")
    await ask(client.rename, "key:1", "renamed")
    await refused(client.rename, "none", "renamed")
    await ask(client.renamenx, "renamed", "key:2")
    await ask(client.copy, "renamed", "copied", destinationDB=3, replace=True)
    await ask(client.move, "renamed", 4)
    await ask(client.unlink, ["key:4", "none"])
    await ask(client.delete, ["key:5", "key:6"])
    found: set[bytes] = set()
    cursor: Any = b"0"
    while True:
        cursor, keys = await settled(client.scan(cursor, match="key:*", count=9, type=library.ObjectType.STRING))
        found.update(keys)
        if cursor == b"0":
            break
    drive.transcript.note("scanned", found)
    dumped = await ask(client.dump, "key:7")
    await ask(client.restore, "restored", 0, dumped)
    await refused(client.restore, "restored", 0, dumped)
    await refused(client.restore, "bad", 0, b"bad")
    await ask(client.object_encoding, "key:7")
    await ask(client.object_refcount, "restored")
    await refused(client.sort, "key:7")
    await ask(client.dbsize)
    await ask(client.flushdb, library.FlushMode.ASYNC)


async def batches(drive: Drive) -> None:
    """Pipelines, transactions, errors within them, WATCH."""
    client, ask, refused, library = drive.client, drive.ask, drive.refused, drive.library
    for is_atomic in (False, True):
        batch = library.Batch(is_atomic)
        for number in range(50):
            batch.set(f"p{number}", str(number)).get(f"p{number}")
        await ask(client.exec, batch, raise_on_error=True)
        failing = library.Batch(is_atomic).set("s", "x").incr("s").get("s")
        await ask_texts(drive, client.exec, failing, raise_on_error=False)
        await refused(client.exec, failing, raise_on_error=True)
    await ask(client.watch, ["s"])
    other = await drive.open()
    await settled(other.set("s", "changed"))
    await ask(client.exec, library.Batch(True).set("s", "lost"), raise_on_error=True)
    await ask(client.get, "s")
    await ask(client.unwatch)
    await settled(other.close())


async def ask_texts(drive: Drive, call: Callable[..., Any], *given: Any, **named: Any) -> None:
    """Call and write down results in which errors may be."""
    results = await settled(call(*given, **named))
    drive.transcript.note(call.__name__, [str(result) if isinstance(result, Exception) else result for result in results])


async def service(drive: Drive) -> None:
    """Settings, INFO, names, databases, what the server says of itself."""
    client, ask, ask_for, refused = drive.client, drive.ask, drive.ask_for, drive.refused
    await ask(client.ping)
    await ask(client.ping, "some words")
    await ask(client.echo, "some words")
    await ask_for(in_order, client.config_get, ["maxclients", "timeout"])
    await ask(client.config_set, {"slowlog-max-len": "200", "timeout": "0"})
    await ask(client.config_set, {"slowlog-max-len": "128"})
    await refused(client.config_set, {"no-such-directive": "1"})
    await ask(client.config_resetstat)
    await ask_for(kind_of, client.info, [drive.library.InfoSection.SERVER, drive.library.InfoSection.COMMAND_STATS])
    await ask_for(kind_of, client.client_id)
    await ask(client.client_getname)
    await ask_for(len, client.time)
    await ask_for(kind_of, client.lastsave)
    await ask(client.wait, 0, 10)
    await ask(client.custom_command, ["ROLE"])
    await ask(client.custom_command, ["COMMAND", "GETKEYS", "MSET", "a", "1", "b", "2"])
    named = await drive.open(client_name="one", database_id=3)
    await ask(named.client_getname)
    await ask(named.set, "in", "three")
    await ask(client.get, "in")
    await settled(named.close())
    wrong = drive.library.ServerCredentials("wrong", "nobody")
    await refused(drive.open, credentials=wrong)
    number = await settled(client.client_id())
    killer = await drive.open()
    await ask_for(bool, killer.custom_command, ["CLIENT", "KILL", "ID", str(number)])
    await settled(killer.close())
    for _ in range(3):  # it connects again by itself; the first command may be lost
        try:
            drive.transcript.note("answers again", await settled(client.ping()))
            break
        except drive.transcript.errors:
            continue


async def channels(drive: Drive) -> None:
    """Channels and patterns; glide has them in RESP3 only."""
    library = drive.library
    if drive.protocol == library.ProtocolVersion.RESP2:
        return
    modes = library.GlideClientConfiguration.PubSubChannelModes
    subscriptions = library.GlideClientConfiguration.PubSubSubscriptions({modes.Exact: {"news"}, modes.Pattern: {"n*"}}, None, None)
    listener = await drive.open(pubsub_subscriptions=subscriptions)

    async def is_listening() -> bool:
        channels = await settled(drive.client.pubsub_numsub(["news"]))
        return bool(channels[b"news"] == 1 and await settled(drive.client.pubsub_numpat()) == 1)

    await eventually_true(is_listening)
    await drive.ask(drive.client.publish, VALUE, "news")
    await drive.ask(drive.client.publish, "for the pattern", "nothing")
    received = [await settled(listener.get_pubsub_message()) for _ in range(3)]
    drive.transcript.note("received", sorted((message.channel, message.pattern or b"", message.message) for message in received))
    await settled(listener.close())


async def caching(drive: Drive) -> None:
    """A cache that the server tells of changes (CLIENT TRACKING in broadcasting mode); in RESP3 only."""
    library = drive.library
    if drive.protocol == library.ProtocolVersion.RESP2:
        return
    cache = importlib.import_module("glide_shared.cache").ClientSideCache.create(1000, 0, enable_metrics=True, server_assisted=True)
    await settled(drive.client.set("cached", "one"))  # before there is anybody to be told of it
    cached = await drive.open(client_side_cache=cache)
    await drive.ask(cached.get, "cached")
    await drive.ask(cached.get, "cached")
    await drive.ask(cached.get_cache_hit_rate)
    await settled(drive.client.set("cached", "two"))

    async def has_changed() -> bool:
        await settled(drive.client.ping())
        return bool(await settled(cached.get("cached")) == b"two")

    await eventually_true(has_changed)
    await settled(cached.close())


PARTS = [strings, keyspace, batches, service, channels, caching]


async def main(name: str, port: int) -> None:
    """Every part in both protocols."""
    library = importlib.import_module(name)
    exceptions = importlib.import_module("glide_shared.exceptions")
    transcript = Transcript(exceptions.GlideError)
    for protocol in (library.ProtocolVersion.RESP2, library.ProtocolVersion.RESP3):
        for part in PARTS:
            drive = Drive(library, port, protocol, transcript)
            drive.client = await drive.open()
            await settled(drive.client.flushall())
            await transcript.run_async(part, drive, title=f"{protocol.name} {part.__name__}")
            await settled(drive.client.close())
    transcript.finish(importlib.metadata.version(PACKAGES[name]))


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
