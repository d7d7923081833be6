"""Remote pools: memory nodes that lend their memory over RDMA, found, entered, and entered again when they come back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from storage.cluster import MAX_NODES, Node
from storage.engine import Engine
from storage.fabric.control_client import ControlClient
from storage.fabric.control_messages import NodeDescription
from storage.fabric.control_protocol import ControlError
from storage.fabric.verbs import VerbsFabric
from storage.fabric.verbs_device import VerbsDevice
from storage.pool import Pool, PoolError
from storage.recovery import RecoveryReport, recover_node

DEFAULT_PORT = 7400
_BUSY_LIMIT_S = 120.0  # another front end formats or recovers the pool: 64 GiB take seconds
_BUSY_PAUSE_S = 0.1
_UNREACHABLE = ("unreachable", "closed", "timeout")

Log = Callable[..., None]


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """How a front end reaches its memory nodes."""

    secret: bytes
    name: str  # of this front end, for the nodes' logs
    device: str | None = None  # RDMA device; None: the first with an active port
    gid_index: int | None = None  # None: the usual choice
    staging_bytes: int = 64 << 20
    deadline_ms: int = 1000  # of every operation
    connect_timeout_s: float = 3.0
    index_entries: int | None = None  # of a pool that is being made
    location_entries: int = 65536
    hot_values_bytes: int = 0  # for copies of values, over all nodes
    policy: str = "allkeys-lru"


class NodeMembership:
    """Who else uses a memory node: it says so itself, and closes the queue pairs of whoever it says is gone."""

    def __init__(self, control: ControlClient) -> None:
        self._control = control
        self._proven: dict[int, int] = {}

    def prove_dead(self, number: int, incarnation: int) -> bool:
        """Whether that front end's connection has ended; it can never use its queue pairs again then."""
        try:
            self._control.fence(number, incarnation)
        except ControlError:
            return False  # alive, or the node does not answer: then nobody is adopted there
        self._proven[number] = incarnation
        return True

    def release(self, number: int) -> None:
        """The number may be given to another."""
        with contextlib.suppress(ControlError):  # the node is lost: it forgets by itself
            self._control.forget(number, self._proven.pop(number))


@dataclass(frozen=True, slots=True)
class Link:
    """A connection to a memory node on which nothing of the pool was used yet."""

    control: ControlClient
    description: NodeDescription
    front_end: int
    alone: bool
    fabric: VerbsFabric


@dataclass(slots=True)
class RemoteNode:
    """One memory node of the list, connected or not."""

    name: str  # HOST:PORT as in the list: what rendezvous hashing goes by
    host: str
    port: int
    control: ControlClient | None = field(default=None, init=False)
    fabric: VerbsFabric | None = field(default=None, init=False)
    pool: Pool | None = field(default=None, init=False)

    def watch(self) -> str | None:
        """Give the node up when its process has ended; returns why, once."""
        if self.control is None or self.fabric is None or self.fabric.is_lost or not self.control.is_closed():
            return None
        self.fabric.lose("the memory node ended the control connection")
        return self.fabric.lost_reason

    @property
    def is_lost(self) -> bool:
        """Whether the node does not answer (or was never reached)."""
        return self.fabric is None or self.fabric.is_lost

    def drop(self) -> None:
        """Let go of the connection."""
        if self.fabric is not None:
            self.fabric.close()
        if self.control is not None:
            self.control.close()


def parse_node_list(url: str) -> list[tuple[str, str, int]]:
    """Return (name, host, port) for each node of verbs://HOST:PORT[,HOST:PORT...]. Raises PoolError."""
    prefix = "verbs://"
    if not url.startswith(prefix) or not url[len(prefix) :].strip("/"):
        raise PoolError(f"{url!r} names no memory node: it must be verbs://HOST:PORT[,HOST:PORT...]")
    nodes = []
    for item in url[len(prefix) :].rstrip("/").split(","):
        host, colon, port_text = item.rpartition(":")
        if not colon or host.endswith(":") or (":" in host and not host.startswith("[")):
            host, port_text = item, str(DEFAULT_PORT)
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port_text.isdecimal() or not 0 < int(port_text) < 65536:
            raise PoolError(f"{item!r} is no memory node: it must be HOST or HOST:PORT (an IPv6 address in brackets)")
        shown = f"[{host}]" if ":" in host else host
        nodes.append((f"{shown}:{int(port_text)}", host, int(port_text)))
    names = [name for name, _host, _port in nodes]
    if len(set(names)) != len(names):
        raise PoolError(f"{url!r} names a memory node twice")
    if len(nodes) > MAX_NODES:
        raise PoolError(f"{url!r} names {len(nodes)} memory nodes; a pool has at most {MAX_NODES}")
    return nodes


class RemotePool:
    """The memory nodes of one pool, and this process's RDMA device."""

    def __init__(self, url: str, options: RemoteOptions, log: Log) -> None:
        """Open the RDMA device. Raises PoolError for a wrong list, VerbsError (an OSError) when RDMA cannot be used."""
        self.nodes = [RemoteNode(*item) for item in parse_node_list(url)]
        self.options = options
        self.log = log
        self.recovered = RecoveryReport(*(0,) * 10)
        self._names = [node.name for node in self.nodes]
        self._secret: bytes | None = None
        self.device = VerbsDevice(options.device, gid_index=options.gid_index, staging_bytes=options.staging_bytes)

    def open(self) -> list[Node]:
        """Enter all memory nodes that answer, and return one Node for each of the list, in its order.

        A new pool wants all of them; one that exists is served without those that do not answer, which come back by ``link``
        and ``attach``. Raises PoolError.
        """
        links: dict[str, Link] = {}
        silent: dict[str, str] = {}
        # In one order everywhere: two front ends that make a pool together must not wait for each other.
        for node in sorted(self.nodes, key=lambda node: node.name):
            try:
                links[node.name] = self._link_when_free(node)
            except ControlError as error:
                if error.code not in _UNREACHABLE:
                    self._drop(links)
                    raise PoolError(str(error)) from None
                silent[node.name] = str(error)
                self.log("memory node unreachable", node=node.name, reason=str(error))
        if not links:
            raise PoolError(f"no memory node answers: {'; '.join(silent.values())}")
        if silent and not any(link.description.formatted for link in links.values()):
            self._drop(links)
            raise PoolError(f"a new pool wants all its memory nodes: {'; '.join(silent.values())}")
        attached: dict[str, Node] = {}
        try:
            # Those that exist first: their hash secret is the pool's.
            for node in sorted(self.nodes, key=lambda node: node.name in links and not links[node.name].description.formatted):
                if node.name in links:
                    attached[node.name] = self.attach(node, links[node.name])
        except BaseException:
            self._drop(links)
            raise
        return [attached.get(node.name) or Node(node.name, None, self.options.policy) for node in self.nodes]

    def link(self, node: RemoteNode) -> Link:
        """Reach a node and enter it. Blocks up to the connect timeout, and touches nothing of the pool: for any thread.

        Raises ControlError.
        """
        options = self.options
        control = ControlClient(node.host, node.port, options.secret, options.connect_timeout_s)
        try:
            description = control.hello()
            entered = control.enter(options.name)
            fabric = VerbsFabric.prepare(self.device, options.deadline_ms)
            try:
                fabric.connect(control.connect(fabric.queue_pairs), description)
            except BaseException:
                fabric.close()
                raise
            return Link(control, description, entered.front_end, entered.alone, fabric)
        except BaseException:
            control.close()
            raise

    def attach(self, node: RemoteNode, link: Link) -> Node:
        """Use the node: format a blank one, attach to one that is formatted, recover it when nobody else is there.

        Runs where the store runs. Raises PoolError, after which the link is gone.
        """
        try:
            if link.description.formatted:
                pool = Pool.attach(link.fabric, link.front_end, node.name, self._names)
                if self._secret is not None and pool.secret != self._secret:
                    raise PoolError(
                        f"memory node {node.name} belongs to another pool than the others of the list: restart it empty, or mend the list"
                    )
            elif not link.alone:
                raise PoolError(f"memory node {node.name} is being formatted by another front end: try again")
            else:
                pool = Pool.format(
                    link.fabric,
                    index_entries=self.options.index_entries,
                    secret=self._secret,
                    front_end=link.front_end,
                    node=node.name,
                    nodes=self._names,
                )
                self.log("pool formatted", node=node.name, size_bytes=link.description.size_bytes)
            link.control.incarnation(pool.incarnation)
            hot_values_bytes = self.options.hot_values_bytes // len(self._names)
            engine = Engine(pool, self._names.index(node.name), node.name, self.options.location_entries, hot_values_bytes)
            attached = Node(node.name, engine, self.options.policy)
            if link.alone and link.description.formatted:
                self.recovered = recover_node(attached)
                self.log("keys of earlier front ends are served", node=node.name, keys=self.recovered.keys)
            attached.share(NodeMembership(link.control), alone=link.alone)
            if link.alone:
                link.control.ready()
        except ControlError as error:
            link.fabric.close()
            link.control.close()
            raise PoolError(str(error)) from None
        except BaseException:
            link.fabric.close()
            link.control.close()
            raise
        self._secret = pool.secret
        node.drop()
        node.control, node.fabric, node.pool = link.control, link.fabric, pool
        return attached

    def close(self) -> None:
        """Leave every node in order."""
        for node in self.nodes:
            if node.control is not None and not node.is_lost:
                try:
                    if node.pool is not None:
                        node.pool.leave()
                    node.control.leave()
                except (ControlError, PoolError) as error:
                    self.log("memory node not left in order", node=node.name, reason=str(error))
            node.drop()
        self.device.close()

    def _link_when_free(self, node: RemoteNode) -> Link:
        deadline_s = time.monotonic() + _BUSY_LIMIT_S
        while True:
            try:
                return self.link(node)
            except ControlError as error:
                if error.code != "busy" or time.monotonic() > deadline_s:
                    raise
                time.sleep(_BUSY_PAUSE_S)  # at start, when there is nobody to serve yet

    def _drop(self, links: dict[str, Link]) -> None:
        for link in links.values():
            link.fabric.close()
            link.control.close()
