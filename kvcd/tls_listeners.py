"""TLS listeners: the sockets of the TLS port, and new certificates for them without a gap."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from kvcd import logs
from kvcd.config import Config, ConfigError
from kvcd.tls import DIRECTIVES, server_context

HANDSHAKE_DEADLINE_S = 10.0  # a client that says nothing holds a descriptor for so long, and counts with nobody

_log = logs.get_logger("tls")


class TlsListeners:
    """Accepts on bound sockets with the certificates of now. Close it like an ``asyncio.AbstractServer``."""

    def __init__(self, config: Config, factory: Callable[[], asyncio.BaseProtocol], sockets: list[socket.socket]) -> None:
        """Take over the sockets. Raises ConfigError for settings of TLS that cannot work."""
        self._config = config
        self._factory = factory
        self._sockets = sockets
        self._servers: list[asyncio.AbstractServer] = []
        self._context = server_context(config)
        self._renewal: asyncio.Task[None] | None = None
        self._is_closed = False
        for name in DIRECTIVES:
            config.on_change(name, lambda _value: self._renew())

    async def open(self) -> None:
        """Accept from now on."""
        self._servers = await self._listen(self._context)

    async def _listen(self, context: ssl.SSLContext) -> list[asyncio.AbstractServer]:
        loop, backlog = asyncio.get_running_loop(), self._config.number("tcp-backlog")
        # Copies of the descriptors: the queue of connections is the socket's, so whoever listens next goes on with it.
        return [
            await loop.create_server(
                self._factory, sock=sock.dup(), backlog=backlog, ssl=context, ssl_handshake_timeout=HANDSHAKE_DEADLINE_S
            )
            for sock in self._sockets
        ]

    def _renew(self) -> None:
        """Take new settings for the connections that come from now on. Raises ConfigError with CONFIG SET's words when they cannot work."""
        try:
            self._context = server_context(self._config)
        except ConfigError as error:
            _log.warning("the settings of TLS stay as they are", reason=str(error))
            raise ConfigError("Unable to update TLS configuration. Check server logs.") from None
        if self._renewal is None:
            self._renewal = asyncio.get_running_loop().create_task(self._listen_anew())

    async def _listen_anew(self) -> None:
        context = None
        while context is not self._context and not self._is_closed:
            context = self._context
            former, self._servers = self._servers, await self._listen(context)
            for server in former:
                server.close()
        self._renewal = None
        if self._is_closed:
            self.close()

    def close(self) -> None:
        """Stop accepting."""
        self._is_closed = True
        for server in self._servers:
            server.close()
        self._servers = []
        for sock in self._sockets:
            sock.close()
        self._sockets = []
