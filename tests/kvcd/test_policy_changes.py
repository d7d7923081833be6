"""CONFIG SET maxmemory-policy between any two round trips of a command that plans by the policy before."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from kvcd.fastlane import FastLane
from kvcd.logs import get_logger
from kvcd.session import Hub, Session
from storage.fabric import waiting
from storage.fabric.sim import SimulatedFabric
from storage.pool import Pool
from storage.store import Store
from tests.kvcd.service import PlainServer
from tests.wire import encode

POOL_BYTES = 6 << 20
BLOCK = b"b" * 30_000  # of two a page
DEADLINE_S = 20
FABRIC_SEED = 3


class SimulatedService:
    """Sessions over a pool whose every doorbell can be watched, and one client."""

    def __init__(self) -> None:
        """Make an empty pool that follows allkeys-prefix."""
        self.fabric = SimulatedFabric(POOL_BYTES, FABRIC_SEED)
        self.store = Store(Pool.format(self.fabric, index_entries=700, secret=bytes(16)), "allkeys-prefix")
        self.reader: asyncio.StreamReader

    @asynccontextmanager
    async def running(self) -> AsyncIterator[SimulatedService]:
        """Serve until the end of the block."""
        loop = asyncio.get_running_loop()
        hub = Hub(PlainServer(store=self.store), FastLane(self.store), loop, get_logger("session"))  # type: ignore[arg-type]
        waiting.set_call_soon(loop.call_soon)
        ours, theirs = socket.socketpair()
        transport, _session = await loop.create_connection(lambda: Session(hub), sock=ours)
        self.reader, self.writer = await asyncio.open_connection(sock=theirs, limit=1 << 20)
        try:
            yield self
        finally:
            self.fabric.before_round = None
            self.writer.close()
            await self.writer.wait_closed()
            transport.close()
            waiting.set_call_soon(None)

    async def call(self, *words: str | bytes) -> bytes:
        """Run one command whose reply is one line."""
        self.writer.write(encode(*words))
        return (await asyncio.wait_for(self.reader.readline(), DEADLINE_S)).strip()


def chain(name: str, count: int) -> list[str | bytes]:
    """Return keys and values of a chain."""
    return [word for number in range(count) for word in (f"{name}:{number}", BLOCK)]


@pytest.mark.parametrize("back", [False, True], ids=["stays", "and back"])
@pytest.mark.parametrize("policy", ["allkeys-lru", "noeviction"])
def test_a_chain_is_planned_to_its_end_whatever_policy_rules_by_then(policy: str, back: bool) -> None:
    """At every doorbell of a PREFIX.SET into a full pool: it is answered, and what it says is there is there."""
    uvloop.run(change_at_every_doorbell(policy, back=back))


async def change_at_every_doorbell(policy: str, *, back: bool) -> None:
    """Each in a service of its own."""
    doorbell, rung = 0, 1
    while rung > doorbell:
        doorbell += 1
        async with SimulatedService().running() as service:
            for number in range(40):
                await service.call("PREFIX.SET", *chain(f"old{number}", 4))
            for number in range(3):
                await service.call("PREFIX.MATCH", *(f"old{number}:{block}" for block in range(4)))
            assert service.store.counters()["evicted"] > 0
            rung = 0

            def change(_operations: object, store: Store = service.store, at: int = doorbell) -> None:
                nonlocal rung
                rung += 1
                if rung == at:
                    store.set_policy(policy)
                elif back and rung == at + 1:
                    store.set_policy("allkeys-prefix")

            service.fabric.before_round = change
            answer = await service.call("PREFIX.SET", *chain("new", 6))
            service.fabric.before_round = None
            if rung < doorbell:
                break
            assert answer.startswith(b":") or (answer.startswith(b"-OOM") and not policy.startswith("allkeys"))
            stored = int(answer[1:]) if answer.startswith(b":") else 0
            found = int((await service.call("PREFIX.MATCH", *(f"new:{block}" for block in range(6))))[1:])
            assert found == stored
            service.store.set_policy("allkeys-prefix")
            assert await service.call("SET", "after", BLOCK) == b"+OK"
            assert service.store.memory()["damaged"] == 0
    assert doorbell > 5
