"""Memory node: registers memory, lends it to front ends, and does nothing per operation."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import uvloop

from kvcd import logs
from kvcd.config import Config, available_memory_bytes
from kvcd.daemon import tell_supervisor
from kvcd.directive import ConfigError, memory_bytes
from kvcd.memory_control import ControlServer
from storage import node_memory
from storage.fabric.control_client import keep_alive
from storage.fabric.control_messages import FrontEndStatus, NodeDescription, QueuePairAddress
from storage.fabric.verbs_region import LocalQueuePair, Region, find_device
from storage.node_memory import NodeMemory

_BACKLOG = 128
_PAGE_BYTES = 4096


class NodeError(Exception):
    """The memory node cannot run as asked; the text says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What the command line asks for."""

    host: str
    port: int
    size_bytes: int
    device: str | None
    gid_index: int | None
    huge_pages: bool
    path: str | None


class Lent:
    """What the control server lends: the region, and what is known of its memory."""

    def __init__(self, region: Region, memory: NodeMemory) -> None:
        self._region, self._memory = region, memory

    def connect(self, peers: Sequence[QueuePairAddress]) -> list[LocalQueuePair]:
        """Return a connected queue pair for each peer. Raises VerbsError."""
        return self._region.connect(peers)

    def describe(self, front_ends: tuple[FrontEndStatus, ...]) -> NodeDescription:
        """Return what hello answers."""
        device = self._region.device
        return NodeDescription(
            instance=self._memory.instance.hex(),
            size_bytes=self._region.size_bytes,
            formatted=self._memory.is_formatted,
            device=device.name,
            link_layer=device.link_layer,
            lid=device.lid,
            gid=device.gid.address,
            gid_index=device.gid.index,
            mtu=device.mtu,
            max_rd_atomic=device.max_rd_atomic,
            address=self._region.address,
            rkey=self._region.rkey,
            front_ends=front_ends,
        )


def run(config: Config, options: NodeOptions, secret: bytes, log: logs.Logger) -> int:
    """Lend until SIGTERM or SIGINT; the exit status. Raises NodeError, VerbsError or PoolError with what to do."""
    listener = _bind(options)
    try:
        device = find_device(options.device, options.gid_index)
        try:
            memory = _memory(options, log.notice)
        except BaseException:
            device.close()
            raise
        try:
            region = Region(device, memory.memory)
        except BaseException:
            device.close()
            memory.close()
            raise
        try:
            uvloop.run(_serve(config, options, listener, ControlServer(Lent(region, memory), secret, log), region, memory))
        finally:
            # In this order: what was written from afar counts as written when the region has let go of the pages.
            region.close()
            memory.close()
    finally:
        listener.close()
    log.notice("stopped; bye")
    return 0


async def _serve(
    config: Config, options: NodeOptions, listener: socket.socket, control: ControlServer, region: Region, memory: NodeMemory
) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        server = await loop.create_server(control.protocol_factory, sock=listener, backlog=_BACKLOG)
    except OSError as error:
        raise _cannot_listen(options, error) from None
    address = listener.getsockname()
    control.log.notice(
        "Ready to accept connections",
        address=f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}",
        size_bytes=region.size_bytes,
        device=region.device.name,
        gid=str(region.device.gid),
        instance=memory.instance.hex(),
        formatted=memory.is_formatted,
        file=options.path,
    )
    tell_supervisor(config, "READY=1")
    try:
        await stop.wait()
    finally:
        tell_supervisor(config, "STOPPING=1")
        control.log.notice("stopping: closing all queue pairs")
        server.close()
        control.close()
        await asyncio.sleep(0)  # connections are closed on the loop's next turn


def read_options(listen: str, size: str, device: str | None, gid_index: int | None, huge_pages: bool, path: str | None) -> NodeOptions:
    """Return what a command line means. Raises NodeError."""
    host, colon, port = listen.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not port.isdecimal() or int(port) > 65535 or (":" in host and f"[{host}]:{port}" != listen):
        raise NodeError(f"--listen {listen}: HOST:PORT is needed, such as 10.0.0.1:7400, [fd00::1]:7400 or *:7400 for all addresses")
    try:
        size_bytes = memory_bytes(size)
    except ConfigError:
        raise NodeError(f"--size {size}: a size is needed, such as 64gb or 512mb (kb, mb, gb are powers of 1024)") from None
    size_bytes = size_bytes // _PAGE_BYTES * _PAGE_BYTES
    if not node_memory.LEAST_BYTES <= size_bytes <= node_memory.MOST_BYTES:
        raise NodeError(
            f"--size {size}: a memory node lends from {node_memory.LEAST_BYTES >> 20}mb to {node_memory.MOST_BYTES >> 30}gb; "
            "for more, run several nodes"
        )
    if huge_pages and path is not None:
        raise NodeError("--huge-pages and --file: give one of them; a file on hugetlbfs has huge pages")
    return NodeOptions("" if host == "*" else host, int(port), size_bytes, device, gid_index, huge_pages, path)


def _memory(options: NodeOptions, log: Callable[..., None]) -> NodeMemory:
    if options.path is not None:
        return node_memory.file(options.path, options.size_bytes, log=log)
    there_bytes = available_memory_bytes()
    if options.size_bytes > there_bytes and not options.huge_pages:
        raise NodeError(
            f"--size {options.size_bytes} is more than the {there_bytes} bytes of memory that this machine or container has, "
            "and all of it would be pinned: give a smaller --size"
        )
    return node_memory.anonymous(options.size_bytes, huge_pages=options.huge_pages, log=log)


def _bind(options: NodeOptions) -> socket.socket:
    """Take the port before the memory, which may take long. Nobody can connect until it listens."""
    try:
        found = socket.getaddrinfo(options.host or None, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise NodeError(f"--listen {options.host}: {error.strerror}: give an address of this machine") from None
    family, kind, proto, _canonical, address = found[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if not options.host else 1)
        keep_alive(sock)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise _cannot_listen(options, error) from None
    sock.setblocking(False)
    return sock


def _cannot_listen(options: NodeOptions, error: OSError) -> NodeError:
    where = f"{options.host or '*'} port {options.port}"
    if error.errno == errno.EADDRINUSE:
        return NodeError(f"{where} is taken: another process listens there; stop it, or give another port in --listen")
    if error.errno == errno.EADDRNOTAVAIL:
        return NodeError(f"{where}: this machine does not have that address; give one that it has in --listen (ip addr shows them)")
    return NodeError(f"{where} cannot be listened on: {error.strerror}; give another address in --listen")
