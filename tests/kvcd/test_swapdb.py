"""SWAPDB: numbers change places for every client, and stay changed over restarts and in snapshots."""

from __future__ import annotations

from pathlib import Path

from kvcd.commands.client import describe
from kvcd.database_order import DatabaseOrder
from protocol.replies import OK, Error
from storage.database_order import read_order, write_order
from storage.fabric.shm import SharedMemoryFabric
from storage.pool import Pool
from tests.kvcd.service import PlainClient, Service
from tests.servers import Servers
from tests.wire import ReplyError


def test_every_client_sees_the_other_database_under_its_number() -> None:
    """Those that had selected it, too; and CLIENT LIST and INFO show numbers."""
    service = Service()
    other = service.connect()
    service.do("SET", "a", "zero")
    assert service.do("SWAPDB", 0, 2) == OK
    assert service.do("GET", "a") is None
    assert service.do("INFO", "keyspace").text == b"# Keyspace\r\ndb2:keys=1,expires=0,avg_ttl=0\r\n"  # type: ignore[union-attr]
    assert b" db=0 " in describe(service.server, other)
    assert service.do("SELECT", 2) == OK
    assert service.do("GET", "a") == b"zero"
    assert service.do("MOVE", "a", 0) == 1
    assert service.do("RESET")
    assert service.do("GET", "a") == b"zero"


def test_numbers_are_checked() -> None:
    """In Redis's words."""
    service = Service()
    assert service.do("SWAPDB", "x", 0) == Error("ERR invalid first DB index")
    assert service.do("SWAPDB", 0, "99999999999") == Error("ERR invalid second DB index")
    assert service.do("SWAPDB", 0, 16) == Error("ERR DB index is out of range")
    assert service.do("SWAPDB", 3, 3) == OK


def test_places_and_numbers_are_each_others_inverse() -> None:
    """However often they change."""
    order = DatabaseOrder(4)
    client = PlainClient(db=1)
    for first, second in ((0, 1), (1, 2), (3, 0), (1, 0)):
        order.change(order.swapped(first, second), [client])
        assert [order.number(order.place(number)) for number in range(4)] == [0, 1, 2, 3]
        assert order.number(client.db) == 1


def test_the_pool_remembers_the_order() -> None:
    """Nothing in a new pool, and nothing for another count of databases."""
    pool = Pool.format(SharedMemoryFabric.memory(64 * 1024 * 1024))
    assert read_order(pool, 16) is None
    places = [1, 0, *range(2, 16)]
    write_order(pool, places)
    assert read_order(pool, 16) == places
    assert read_order(pool, 1) is None


def test_the_real_server_keeps_the_order(tmp_path: Path) -> None:
    """Over a restart on a file pool, and in the snapshot that redis-server reads; with several workers it is refused."""
    servers = Servers()
    try:
        pool = f"file:{tmp_path / 'pool'}"
        server = servers.kvcd(pool=pool, dir=str(tmp_path))
        with server.connect() as wire:
            wire.call("SET", "a", "zero")
            wire.call("SELECT", 1)
            wire.call("SET", "b", "one")
            assert server.call("SWAPDB", 0, 1) == b"OK"
            assert wire.call("GET", "a") == b"zero"
        assert server.call("GET", "b") == b"one"
        assert server.call("SAVE") == b"OK"
        assert server.stop() == 0
        server = servers.kvcd(pool=pool, dir=str(tmp_path))
        assert server.call("GET", "b") == b"one"
        server.stop()
        redis = servers.redis(dir=str(tmp_path))
        assert redis.call("GET", "b") == b"one"
        refused = servers.kvcd(workers=2).call("SWAPDB", 0, 1)
        assert isinstance(refused, ReplyError)
        assert "several workers" in str(refused)
    finally:
        servers.close()
