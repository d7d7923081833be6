"""Listeners: the sockets that the configuration names, bound; alone on their addresses, or shared by the workers of one service."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import os
import resource
import socket
import sys
from collections.abc import Callable

from kvcd.config import Config
from kvcd.directive import ConfigError

PORTS = ("port", "tls-port")
OWN_DESCRIPTORS = 64  # kept back from clients: listeners, the pool, the log, and connections that are being refused


class Use(enum.Enum):
    """What a bound socket is for."""

    ALONE = "alone"  # to listen, and nobody else does there
    SHARED = "shared"  # to listen beside others of the same service
    HELD = "held"  # never to listen: it keeps the address for those that do


def service_sockets(config: Config, use: Use = Use.ALONE, *, directive: str = "port") -> list[socket.socket]:
    """Return a bound socket for each address of `bind`; ``directive`` names the port. Raises ConfigError, and then leaves none open."""
    port, keepalive_s = config.number(directive), config.number("tcp-keepalive")
    if not port:
        return []
    with contextlib.ExitStack() as opened:
        sockets = []
        for host in config.strings("bind") or ("*",):
            for sock in bound_sockets(host, port, use):
                sockets.append(opened.enter_context(sock))
                if keepalive_s:
                    _keep_alive(sock, keepalive_s)
        if not sockets:
            raise ConfigError(f"none of the addresses of 'bind' ({' '.join(config.strings('bind'))}) is on this machine")
        opened.pop_all()
        return sockets


def held_sockets(config: Config, *, workers_listen: bool = False) -> list[socket.socket]:
    """Hold the port for workers that will listen on it, or do so already: bound sockets that never listen themselves.

    Workers may come and go meanwhile, and nobody else gets the port. Raises ConfigError when somebody has it already, be it
    the workers of another service.
    """
    held = []
    for directive in PORTS:
        if not workers_listen:
            for sock in service_sockets(config, directive=directive):
                sock.close()
        held += service_sockets(config, Use.HELD, directive=directive)
    return held


def bound_sockets(host: str, port: int, use: Use = Use.ALONE, *, name: str = "bind") -> list[socket.socket]:
    """Bound sockets for one entry of `bind`; none when it begins with a dash and the machine lacks the address."""
    optional = host.startswith("-")
    address_name = host.removeprefix("-")
    address_name = {"*": "0.0.0.0", "::*": "::"}.get(address_name, address_name)
    try:
        found = socket.getaddrinfo(address_name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        if optional:
            return []
        raise ConfigError(f"{name} {address_name}: {error.strerror}") from None
    sockets = []
    for family, kind, protocol, _canonical, address in found[:1]:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError:
            if optional:
                continue
            raise
        if use is not Use.ALONE:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if use is not Use.HELD:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            _bind(sock, address, use)
        except OSError as error:
            sock.close()
            if optional and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(
                    f"Failed listening on port {port}: port {port} on {address_name} is taken: another server listens there "
                    "(redis-server?); stop it, or give another --port"
                ) from None
            raise ConfigError(f"{name} {address_name} port {port}: {error.strerror}") from None
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


def _bind(sock: socket.socket, address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes], use: Use) -> None:
    try:
        sock.bind(address)
    except OSError as error:
        if use is not Use.HELD or error.errno != errno.EADDRINUSE:
            raise
        # Connections of an earlier service are still ending. Beside them only an address that can be reused is to be had, which others
        # may take while no worker listens; otherwise they may not.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)


def _keep_alive(sock: socket.socket, idle_s: int) -> None:
    """Probe silent peers; accepted connections inherit this from the listening socket."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, idle_s // 3))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def unix_listener(config: Config) -> socket.socket | None:
    """Return the listening socket that `unixsocket` names, whoever may have left one there before; None without one. Raises ConfigError."""
    path = config.path("unixsocket")
    if not path:
        return None
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(path)
        if config["unixsocketperm"]:
            os.chmod(path, config.number("unixsocketperm"))
        sock.listen(config.number("tcp-backlog"))
    except OSError as error:
        sock.close()
        raise ConfigError(f"unixsocket {path}: {error.strerror or error}") from None
    sock.setblocking(False)
    return sock


def remove_unix_socket(config: Config) -> None:
    """Nobody listens at `unixsocket` any more."""
    if config.path("unixsocket"):
        with contextlib.suppress(OSError):
            os.unlink(config.path("unixsocket"))


async def serve_unix(factory: Callable[[], asyncio.BaseProtocol], sock: socket.socket, backlog: int) -> asyncio.AbstractServer:
    """Accept on a Unix socket whose path stays when this process stops: it may be others' too."""
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 13):
        return await loop.create_unix_server(factory, sock=sock, backlog=backlog, cleanup_socket=False)
    return await loop.create_unix_server(factory, sock=sock, backlog=backlog)


def possible_clients() -> int:
    """Return how many clients the descriptor limit leaves room for."""
    return max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OWN_DESCRIPTORS)


def raise_descriptor_limit(clients: int) -> int:
    """Ask the system for a descriptor for each client; returns how many clients fit."""
    wanted = clients + OWN_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    return min(clients, possible_clients())
