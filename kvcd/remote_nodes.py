"""Remote nodes: keeps a server's memory nodes connected; notices what is lost, and brings it back."""

from __future__ import annotations

import asyncio
import os
import socket
import time

from kvcd.config import Config
from kvcd.logs import Logger
from kvcd.memory_secret import SecretError, read_secret
from storage.cluster import Cluster, Node
from storage.fabric import waiting
from storage.fabric.control_protocol import ControlError
from storage.fabric.verbs_devices import VerbsError
from storage.pool import PoolError
from storage.remote import Link, RemoteNode, RemoteOptions, RemotePool
from storage.store import Store

_LOOK_EVERY_S = 0.05  # at deadlines and control connections
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0  # between attempts to reach a lost node


class RemoteNodes:
    """The memory nodes of one server, watched by its event loop."""

    def __init__(self, config: Config, log: Logger) -> None:
        """Open the RDMA device. Raises PoolError with what to do."""
        self._log = log
        try:
            options = RemoteOptions(
                secret=read_secret(config.string("memory-secret-file") or None, warn=log.warning, option="--memory-secret-file"),
                name=f"{socket.gethostname()}:{os.getpid()}",
                device=config.string("rdma-device") or None,
                gid_index=None if config.number("rdma-gid-index") < 0 else config.number("rdma-gid-index"),
                staging_bytes=config.number("rdma-staging-size"),
                deadline_ms=config.number("memory-node-timeout-ms"),
                index_entries=config.number("index-entries") or None,
                location_entries=config.number("location-cache-entries"),
                hot_values_bytes=config.number("hot-values-size"),
                policy=config.string("maxmemory-policy"),
            )
            self.pool = RemotePool(config.string("pool"), options, log.notice)
        except (SecretError, VerbsError) as error:
            raise PoolError(str(error)) from None
        self._store: Store | None = None
        self._reported: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._attaching: set[str] = set()
        self._linking: dict[str, tuple[float, float]] = {}  # by node: when to try again, and the pause after that

    def open(self) -> Cluster:
        """Enter the memory nodes. Raises PoolError."""
        return Cluster(self.pool.open())

    def start(self, store: Store) -> None:
        """Begin to serve ``store``'s waits from the running event loop."""
        loop = asyncio.get_running_loop()
        self._store = store
        waiting.set_call_soon(loop.call_soon)
        loop.add_reader(self.pool.device.fileno(), self.pool.device.on_readable)
        self._tasks = [loop.create_task(self._watch()), loop.create_task(self._bring_back())]

    async def stop(self) -> None:
        """End the watch; whoever still waits for a node is told that it is lost."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tasks:
            asyncio.get_running_loop().remove_reader(self.pool.device.fileno())
        for node in self.pool.nodes:
            if self.pool.device.waiting_count and node.fabric is not None:
                node.fabric.lose("the server stops")
        waiting.resume_ready()
        waiting.set_call_soon(None)

    def lost_nodes(self) -> list[str]:
        """Return the names of the nodes that do not answer."""
        return [node.name for node in self.pool.nodes if node.is_lost]

    def close(self) -> None:
        """Leave the nodes; nothing may use the store afterwards."""
        self.pool.close()

    async def _watch(self) -> None:
        """Notice deadlines that passed and nodes that ended."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            self.pool.device.expire()
            for node in self.pool.nodes:
                node.watch()
                if node.is_lost and node.name not in self._reported:
                    self._reported.add(node.name)
                    reason = "not reached at start" if node.fabric is None else node.fabric.lost_reason
                    self._log.warning("memory node lost: its keys are absent until it is back", node=node.name, reason=reason)

    async def _bring_back(self) -> None:
        """Reach lost nodes again, one after the other."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for number, node in enumerate(self.pool.nodes):
                if not node.is_lost or node.name in self._attaching:
                    continue
                try_at_s, pause_s = self._linking.get(node.name, (0.0, _FIRST_PAUSE_S))
                if time.monotonic() < try_at_s:
                    continue
                self._linking[node.name] = (time.monotonic() + pause_s, min(pause_s * 2, _LONGEST_PAUSE_S))
                try:
                    # A host that is gone answers nothing for seconds: not on the loop.
                    link = await asyncio.to_thread(self.pool.link, node)
                except (ControlError, VerbsError) as error:
                    self._log.verbose("memory node still unreachable", node=node.name, reason=str(error))
                    continue
                self._attaching.add(node.name)
                waiting.run(self._attach, number, node, link)

    def _attach(self, number: int, node: RemoteNode, link: Link) -> None:
        """On a stack that may wait: recovery of a large node takes a while."""
        assert self._store is not None
        try:
            attached: Node = self.pool.attach(node, link)
        except (PoolError, OSError) as error:
            self._log.warning("memory node not taken back", node=node.name, reason=str(error))
            return
        finally:
            self._attaching.discard(node.name)
        self._linking.pop(node.name, None)
        self._reported.discard(node.name)
        self._store.replace_node(number, attached)
        self._log.notice("memory node is back", node=node.name)
