"""Open port: one of the service's TCP ports, on all addresses of `bind`; it moves when CONFIG SET says so."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Any

from kvcd import logs
from kvcd.config import Config
from kvcd.directive import ConfigError
from kvcd.listeners import Use, service_sockets

NOT_UPDATED = "Unable to update TLS configuration. Check server logs."

_log = logs.get_logger("server")
_Place = tuple[int, Sequence[str]]


class OpenPort:
    """Accepts on the port that a directive names. Close it like an ``asyncio.AbstractServer``."""

    def __init__(self, config: Config, factory: Callable[[], asyncio.BaseProtocol], use: Use, *, directive: str = "port") -> None:
        """Nothing is open before ``open`` or ``move``."""
        self._config = config
        self._factory = factory
        self._use = use
        self._directive = directive
        self._place: _Place = (0, ())
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.AbstractServer] = []
        self._generation = 0  # of sockets and settings that accept
        self._renewal: asyncio.Task[None] | None = None
        self._is_closed = False

    async def open(self) -> None:
        """Accept from now on. Raises ConfigError when the addresses cannot be had."""
        self._place, self._sockets = self._wanted(), service_sockets(self._config, self._use, directive=self._directive)
        self._servers = await self._listen()

    def move(self) -> None:
        """Accept where the configuration says, now that it has changed, and nowhere else; clients that are connected stay.

        Raises ConfigError with CONFIG SET's words when that cannot be; then all is as before.
        """
        wanted = self._wanted()
        if wanted == self._place:
            return
        has_other_addresses = wanted[1] != self._place[1]
        if has_other_addresses:
            # The same port may be wanted on addresses that include those of now.
            self._rest()
        try:
            sockets = service_sockets(self._config, self._use, directive=self._directive)
            try:
                self._queue_on(sockets)
            except OSError as error:
                for sock in sockets:
                    sock.close()
                raise ConfigError(str(error.strerror)) from None
        except ConfigError as error:
            _log.warning("the listeners stay where they are", directive=self._directive, reason=str(error))
            self._queue_on(self._sockets)
            self._listen_soon()
            words = "Failed to bind to specified addresses." if has_other_addresses else "Unable to listen on this port. Check server logs."
            raise ConfigError(words) from None
        self._rest()
        for sock in self._sockets:
            sock.close()
        self._place, self._sockets = wanted, sockets
        self._listen_soon()

    def _wanted(self) -> _Place:
        port = self._config.number(self._directive)
        return (port, self._config.strings("bind")) if port else (0, ())

    def _rest(self) -> None:
        """Accept nothing for now; the addresses are free for others of ours."""
        for server in self._servers:
            server.close()
        self._servers = []
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _queue_on(self, sockets: list[socket.socket]) -> None:
        """Let connections come in: they wait until somebody accepts them."""
        for sock in sockets:
            sock.listen(self._config.number("tcp-backlog"))

    def _listen_soon(self) -> None:
        self._generation += 1
        if self._renewal is None:
            self._renewal = asyncio.get_running_loop().create_task(self._listen_anew())

    async def _listen_anew(self) -> None:
        generation = -1
        while generation != self._generation and not self._is_closed:
            generation = self._generation
            servers = await self._listen()
            former, self._servers = self._servers, servers
            for server in former:
                server.close()
        self._renewal = None
        if self._is_closed:
            self.close()

    async def _listen(self) -> list[asyncio.AbstractServer]:
        loop, backlog = asyncio.get_running_loop(), self._config.number("tcp-backlog")
        # Copies of the descriptors: the queue of connections is the socket's, so whoever listens next goes on with it.
        return [await loop.create_server(self._factory, sock=sock.dup(), backlog=backlog, **self._options()) for sock in self._sockets]

    def _options(self) -> dict[str, Any]:
        """What ``create_server`` is told beside the socket."""
        return {}

    def close(self) -> None:
        """Stop accepting."""
        self._is_closed = True
        for server in self._servers:
            server.close()
        self._servers = []
        for sock in self._sockets:
            sock.close()
        self._sockets = []
