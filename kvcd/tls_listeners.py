"""TLS listeners: the TLS port, and new certificates for it without a gap."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from kvcd import logs
from kvcd.config import Config, ConfigError
from kvcd.listeners import Use
from kvcd.open_port import NOT_UPDATED, OpenPort
from kvcd.tls import DIRECTIVES, server_context

HANDSHAKE_DEADLINE_S = 10.0  # a client that says nothing holds a descriptor for so long, and counts with nobody

_log = logs.get_logger("tls")


class TlsListeners(OpenPort):
    """Accepts on the TLS port with the certificates of now."""

    def __init__(self, config: Config, factory: Callable[[], asyncio.BaseProtocol], use: Use) -> None:
        """Raise ConfigError for settings of TLS that cannot work."""
        super().__init__(config, factory, use, directive="tls-port")
        self._context = server_context(config)
        for name in DIRECTIVES:
            config.on_change(name, lambda _value: self._renew())

    def _options(self) -> dict[str, Any]:
        return {"ssl": self._context, "ssl_handshake_timeout": HANDSHAKE_DEADLINE_S}

    def _renew(self) -> None:
        """Take new settings for the connections that come from now on. Raises ConfigError with CONFIG SET's words when they cannot work."""
        try:
            self._context = server_context(self._config)
        except ConfigError as error:
            _log.warning("the settings of TLS stay as they are", reason=str(error))
            raise ConfigError(NOT_UPDATED) from None
        self._listen_soon()
