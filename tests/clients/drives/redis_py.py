"""Drives redis-py, or its descendant valkey-py, at a server: `redis_py.py redis|valkey compiled|plain PORT`.

``plain`` hides the compiled reader of replies (hiredis, libvalkey), so that the library takes its own in Python.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from redis_py_server import SERVER_PARTS
from transcript import DEADLINE_S, Transcript, eventually, kind_of

VALUE = bytes(range(256)) * 1200


class Drive:
    """One client and its way of speaking."""

    def __init__(self, family: str, reader: str, port: int) -> None:
        """Load the library."""
        compiled_reader = {"redis": "hiredis", "valkey": "libvalkey"}[family]
        if reader == "plain":
            sys.modules[compiled_reader] = None  # type: ignore[assignment]  # Python's own way to say that there is none
        else:
            importlib.import_module(compiled_reader)
        self.reader = reader
        self.library = importlib.import_module(family)
        self.make = self.library.Redis if family == "redis" else self.library.Valkey
        self.family = family
        self.port = port
        # A refused login is not tried again: that would take seconds each time.
        self.once = importlib.import_module(f"{family}.retry").Retry(importlib.import_module(f"{family}.backoff").NoBackoff(), 0)
        self.version = str(self.library.__version__)
        self.generation = int(self.version.split(".")[0]) if family == "redis" else 5
        info = self.make(port=port).info("server")
        self.is_kvcd = "kvcd_version" in info
        errors = self.library.exceptions
        self.transcript = Transcript(errors.RedisError if family == "redis" else errors.ValkeyError)
        self.client: Any = None
        self.speak(2)

    def speak(self, protocol: int) -> None:
        """Go on in this protocol, with an empty server."""
        self.protocol = protocol
        self.client = self.another()
        self.client.flushall()
        self.client.config_resetstat()

    def another(self, **named: Any) -> Any:
        """Return one more client that speaks likewise."""
        given = {"port": self.port, "protocol": self.protocol, "socket_timeout": DEADLINE_S, "retry": self.once}
        return self.make(**(given | named))


def strings(drive: Drive) -> None:
    """Every option of every command on strings."""
    client, ask, refused = drive.client, drive.transcript.ask, drive.transcript.refused
    ask(client.set, "k", "v", ex=100, nx=True)
    ask(client.set, "k", "w", nx=True)
    ask(client.set, "none", "w", xx=True)
    ask(client.set, "k", "w", get=True)
    ask(client.set, "k", "w", px=100_000, xx=True, get=True)
    ask(client.set, "k", VALUE, keepttl=True)
    ask(client.ttl, "k")
    ask(client.set, "k", "v", exat=4_000_000_000)
    ask(client.expiretime, "k")
    ask(client.set, "k", "v", pxat=4_000_000_000_123)
    ask(client.pexpiretime, "k")
    ask(client.set, "new", "v", nx=True, get=True)
    ask(client.set, "new", "x", nx=True, get=True)
    refused(client.set, "k", "v", ex=-1)
    ask(client.get, "k")
    ask(client.get, "none")
    ask(client.getex, "k", persist=True)
    ask(client.getex, "k", ex=10)
    ask(client.getex, "k", pxat=4_000_000_000_123)
    ask(client.getdel, "k")
    ask(client.getdel, "k")
    ask(client.getset, "k", "1")
    ask(client.setnx, "k", "2")
    ask(client.setex, "k", 10, "5")
    ask(client.psetex, "k", 10_000, "5")
    refused(client.setex, "k", 0, "5")
    ask(client.mset, {"a": 1, "b": VALUE, "c": "\u00fc", "d e\r\nf": b"\0\xff"})
    ask(client.msetnx, {"a": 1, "z": 2})
    ask(client.mget, "a", "none", "b", "c", "d e\r\nf")
    ask(client.incr, "a")
    ask(client.incr, "a", 2**40)
    ask(client.decr, "a", 7)
    ask(client.incrbyfloat, "a", 0.25)
    refused(client.incr, "c")
    refused(client.incrbyfloat, "c", 1.5)
    refused(client.incr, "k", 2**63 - 1)
    ask(client.append, "c", "xyz")
    ask(client.setrange, "c", 10, "after")
    ask(client.getrange, "c", -3, -1)
    ask(client.substr, "c", 0, 3)
    ask(client.strlen, "c")
    ask(client.mset, {"one": "ohmytext", "two": "mynewtext"})
    ask(client.lcs, "one", "two")
    ask(client.lcs, "one", "two", len=True)
    ask(client.lcs, "one", "two", idx=True, minmatchlen=3, withmatchlen=True)


def bits(drive: Drive) -> None:
    """Bits, fields of bits and operations between strings."""
    client, ask, refused = drive.client, drive.transcript.ask, drive.transcript.refused
    ask(client.setbit, "bits", 7, True)
    ask(client.setbit, "bits", 100, 1)
    ask(client.getbit, "bits", 7)
    ask(client.get, "bits")
    ask(client.bitcount, "bits")
    ask(client.bitcount, "bits", 0, -2)
    ask(client.bitcount, "bits", 0, 8, "BIT")
    ask(client.bitpos, "bits", 1, 1)
    ask(client.bitpos, "bits", 0, 0, -1, "BIT")
    ask(client.set, "other", b"\xff\x0f")
    for operation in ("AND", "OR", "XOR"):
        ask(client.bitop, operation, "result", "bits", "other")
        ask(client.get, "result")
    ask(client.bitop, "NOT", "result", "other")
    ask(client.get, "result")
    refused(client.bitop, "NOT", "result", "other", "bits")
    field = client.bitfield("field")
    ask(field.set("u8", "#1", 255).incrby("u8", "#1", 10).get("i5", 3).execute)
    ask(client.bitfield("field", default_overflow="SAT").incrby("u8", "#1", 1000).execute)
    ask(client.bitfield("field").incrby("u8", "#1", 1000, overflow="FAIL").execute)
    ask(client.bitfield_ro, "field", "u8", 8, [("i16", 0)])


def keyspace(drive: Drive) -> None:
    """Expiry, names, databases, scans, dumps, objects."""
    client, ask, refused = drive.client, drive.transcript.ask, drive.transcript.refused
    ask(client.mset, {f"key:{number}": number for number in range(300)})
    ask(client.expire, "key:1", 100, xx=True)
    ask(client.expire, "key:1", 100, nx=True)
    ask(client.expire, "key:1", 200, gt=True)
    ask(client.pexpire, "key:1", 100_000, lt=True)
    ask(client.ttl, "key:1")
    ask(client.expireat, "key:1", 4_000_000_000)
    ask(client.pexpireat, "key:1", 4_000_000_000_123)
    ask(client.expiretime, "key:1")
    ask(client.persist, "key:1")
    ask(client.persist, "key:1")
    ask(client.pttl, "none")
    refused(client.expire, "key:1", 2**62)
    ask(client.exists, "key:1", "key:1", "none")
    ask(client.touch, "key:1", "none")
    ask(client.rename, "key:1", "renamed")
    refused(client.rename, "none", "renamed")
    ask(client.renamenx, "renamed", "key:2")
    ask(client.copy, "renamed", "copied")
    ask(client.copy, "renamed", "copied")
    ask(client.copy, "renamed", "copied", replace=True, destination_db=4)
    ask(client.move, "renamed", 5)
    ask(client.type, "key:2")
    ask(client.type, "none")
    ask(client.unlink, "copied", "none")
    ask(client.delete, "key:3", "key:4", "none")
    ask_for = drive.transcript.ask_for
    ask_for(sorted, client.keys, "key:2?")
    ask_for(kind_of, client.randomkey)
    ask_for(sorted, lambda: set(client.scan_iter(count=7)))
    ask_for(sorted, lambda: set(client.scan_iter(match="key:1*", _type="string")))
    ask_for(sorted, lambda: set(client.scan_iter(_type="hash")))
    ask(client.dbsize)
    dumped = ask(client.dump, "key:5")
    refused(client.restore, "key:5", 0, dumped)
    ask(client.restore, "key:5", 10_000, dumped, replace=True, idletime=100)
    ask(client.restore, "restored", 4_000_000_000_123, dumped, absttl=True)
    ask(client.expiretime, "restored")
    refused(client.restore, "bad", 0, dumped[:-1] + b"\xff")
    ask(client.dump, "none")
    ask(client.object, "encoding", "key:5")
    ask(client.object, "refcount", "restored")
    ask_for(kind_of, client.object, "idletime", "key:5")
    refused(client.object, "freq", "key:5")
    refused(client.sort, "key:5")
    ask(client.sort, "none")
    ask(client.sort, "none", start=0, num=3, by="w_*", get=["#"], desc=True, alpha=True, store="key:6")
    ask(client.exists, "key:6")
    ask(client.flushdb, asynchronous=True)
    ask(client.dbsize)


def swaps(drive: Drive) -> None:
    """Two databases change places; not where several workers serve."""
    if drive.client.config_get("workers").get("workers", "1") != "1":
        return
    drive.client.set("k", "v", px=100_000)
    drive.transcript.ask(drive.client.swapdb, 0, 5)
    drive.transcript.ask(drive.client.dbsize)
    drive.transcript.ask(drive.client.swapdb, 0, 5)
    drive.transcript.ask(drive.client.get, "k")


def pipelines(drive: Drive) -> None:
    """Pipelines, errors within them, transactions, WATCH and the helper that tries again."""
    client, ask, refused = drive.client, drive.transcript.ask, drive.transcript.refused
    with client.pipeline(transaction=False) as pipeline:
        for number in range(500):
            pipeline.set(f"p{number}", number).get(f"p{number}")
        ask(pipeline.execute)
    with client.pipeline() as pipeline:
        pipeline.set("a", "x").incr("a").get("a")
        ask(lambda: [str(part) for part in pipeline.execute(raise_on_error=False)])
        pipeline.set("a", "x").incr("a").get("a")
        refused(pipeline.execute)
        pipeline.set("a", 1).execute_command("SET", "a")
        refused(pipeline.execute)
    with client.pipeline() as pipeline:
        pipeline.watch("a")
        ask(pipeline.get, "a")
        client.set("a", "changed")
        pipeline.multi()
        pipeline.set("a", "lost")
        refused(pipeline.execute)
        pipeline.watch("a")
        pipeline.unwatch()
        client.set("a", "1")
        pipeline.multi()
        ask(pipeline.incr("a").execute)
    tries = []

    def raise_it(pipeline: Any) -> None:
        before = int(pipeline.get("a"))
        tries.append(before)
        if len(tries) < 3:
            client.incr("a")  # somebody else was faster
        pipeline.multi()
        pipeline.set("a", before * 10)

    ask(client.transaction, raise_it, "a")
    drive.transcript.note("tries", tries)


def channels(drive: Drive) -> None:
    """Pub/Sub: channels, patterns, shards, a thread of its own, events of keys."""
    client, ask, transcript = drive.client, drive.transcript.ask, drive.transcript
    with client.pubsub() as pubsub:
        pubsub.subscribe("news", "other")
        pubsub.psubscribe("n*")
        pubsub.ssubscribe("shard")
        for _ in range(4):
            ask(pubsub.get_message, timeout=DEADLINE_S)
        ask(lambda: sorted(client.pubsub_channels()))
        ask(client.pubsub_numpat)
        ask(client.pubsub_numsub, "news", "none")
        ask(client.pubsub_shardchannels)
        ask(client.pubsub_shardnumsub, "shard")
        ask(client.publish, "news", VALUE)
        ask(client.spublish, "shard", "for the shard")
        for _ in range(3):
            ask(pubsub.get_message, timeout=DEADLINE_S)
        pubsub.ping("here")
        ask(pubsub.get_message, timeout=DEADLINE_S)
        pubsub.unsubscribe("news")  # without names the server chooses the order
        pubsub.unsubscribe()
        pubsub.punsubscribe()
        pubsub.sunsubscribe()
        for _ in range(4):
            ask(pubsub.get_message, timeout=DEADLINE_S)
    received: list[Any] = []
    done = threading.Event()

    def receive(message: Any) -> None:
        received.append((message["channel"], message["data"]))
        if len(received) == 100:
            done.set()

    pubsub = client.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(many=receive)
    thread = pubsub.run_in_thread(sleep_time=0.05)
    eventually(lambda: dict(client.pubsub_numsub("many"))[b"many"])
    for number in range(100):
        client.publish("many", number)
    transcript.note("all there", (done.wait(DEADLINE_S), received))
    thread.stop()
    thread.join()
    events(drive)


def events(drive: Drive) -> None:
    """Keyspace events of writes and of the end of a key."""
    client, ask = drive.client, drive.transcript.ask
    client.config_set("notify-keyspace-events", "KEA")
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.psubscribe("__key*__:*")
        eventually(lambda: client.pubsub_numpat() == 1)
        client.set("seen", 1, px=20)
        seen: list[tuple[bytes, bytes]] = []
        while not seen or seen[-1][1] != b"expired":
            message = pubsub.get_message(timeout=DEADLINE_S)
            if message:
                seen.append((message["channel"], message["data"]))
                client.get("seen")
        ask(lambda: [event for event in seen if b"keyspace" in event[0]])
    client.config_set("notify-keyspace-events", "")


def monitors(drive: Drive) -> None:
    """MONITOR shows what others do."""
    client, ask = drive.client, drive.transcript.ask
    with client.monitor() as monitor:
        client.set("watched", "by \"everyone\"\r\n")
        heard = eventually(monitor.next_command, wanted=lambda entry: "watched" in entry["command"])
        ask(lambda: (heard["command"], heard["db"], heard["client_type"]))


def locks(drive: Drive) -> None:
    """A lock is taken with SET NX PX; it is given back by a script, which kvcd refuses by name."""
    client, transcript = drive.client, drive.transcript
    lock = client.lock("locked", timeout=10)
    transcript.ask(lock.acquire, blocking=False)
    transcript.ask(client.lock("locked", timeout=10).acquire, blocking=False)
    transcript.ask(lock.locked)
    transcript.ask(lock.owned)
    released: object = "released"
    try:
        lock.release()
    except drive.library.exceptions.ResponseError as error:
        released = str(error).lower().partition(",")[0]
    wanted = "unknown command 'evalsha'" if drive.is_kvcd else "released"
    if released != wanted:
        raise AssertionError(f"found {released!r}, wanted {wanted!r}")


def caches(drive: Drive) -> None:
    """A client that keeps what it read until the server says that it has changed; in RESP3 only."""
    if drive.protocol == 2 or drive.family != "redis" or (drive.generation, drive.reader) == (5, "compiled"):
        return  # valkey-py has no such cache, and redis-py 5 cannot keep one with hiredis
    cache_module, connection_module = importlib.import_module("redis.cache"), importlib.import_module("redis.connection")
    client, ask = drive.client, drive.transcript.ask
    caching_client = partial(drive.another, cache_config=cache_module.CacheConfig(max_size=100), single_connection_client=True)
    # redis-py asks for Redis 7.4 by its number, though what it uses is there since 6.0. Said clearly, and then passed over.
    drive.transcript.refused(caching_client)
    connection_module.CacheProxyConnection.MIN_ALLOWED_VERSION = "7.0.0"
    caching = caching_client()
    connection_module.CacheProxyConnection.MIN_ALLOWED_VERSION = "7.4.0"
    client.set("cached", "one")
    ask(caching.get, "cached")
    ask(caching.get, "cached")
    ask(lambda: caching.get_cache().size)
    client.set("cached", "two")
    eventually(lambda: caching.get("cached"), wanted=lambda value: value == b"two")
    client.flushall()
    eventually(lambda: caching.get("cached"), wanted=lambda value: value is None)
    caching.close()


PARTS: list[Callable[[Drive], None]] = [strings, bits, keyspace, swaps, pipelines, channels, monitors, locks, caches, *SERVER_PARTS]


def main() -> None:
    """Every part in both protocols."""
    drive = Drive(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    for protocol in (2, 3):
        for part in PARTS:
            drive.speak(protocol)
            drive.transcript.run(part, drive, title=f"RESP{protocol} {part.__name__}")
    drive.transcript.finish(drive.version)


main()
