"""Client limits: closes clients that leave too much unread, that hold too much of everybody's memory, or that say nothing for too long."""

from __future__ import annotations

from collections.abc import Mapping

from kvcd.client_memory import too_many
from kvcd.config import Config
from kvcd.context import ClientState
from kvcd.directive import Percent
from kvcd.logs import Logger
from kvcd.modes import client_class
from kvcd.output_limits import OutputWatch


class ClientLimits:
    """Looks at the clients of one worker, ``hz`` times a second."""

    def __init__(self, config: Config, clients: Mapping[int, ClientState], log: Logger, *, workers: int) -> None:
        """The ``workers`` of a service share what all clients together may hold."""
        self.evicted = 0  # clients that were closed since all together held too much
        self._config = config
        self._clients = clients
        self._log = log
        self._workers = workers
        self._output_watches = {name: OutputWatch() for name in ("normal", "pubsub", "slave")}

    def enforce(self, now_ms: int, *, has_listeners: bool) -> None:
        """Close whom the directives say. ``has_listeners``: whether there may be clients of another class than the normal one."""
        self._close_slow_readers(now_ms, has_listeners=has_listeners)
        self._close_largest()
        self._close_idle(now_ms)

    def _close_slow_readers(self, now_ms: int, *, has_listeners: bool) -> None:
        classes: dict[str, Mapping[int, ClientState]] = {"normal": self._clients, "pubsub": {}, "slave": {}}
        if has_listeners:
            for name in classes:
                classes[name] = {number: client for number, client in self._clients.items() if client_class(client) == name}
        for name, members in classes.items():
            for number in self._output_watches[name].too_slow(members, self._config.output_limit(name), now_ms):
                slow = self._clients[number]
                self._log.warning(
                    "closing a client that does not read its replies (client-output-buffer-limit)",
                    client=number,
                    unread_bytes=slow.pending_output_bytes,
                )
                slow.kill()

    def _close_largest(self) -> None:
        for number in too_many(self._clients, self._memory_limit_bytes()):
            self.evicted += 1
            self._log.warning("closing the largest client: all together hold more than maxmemory-clients", client=number)
            self._clients[number].kill()

    def _memory_limit_bytes(self) -> int:
        """What `maxmemory-clients` leaves the clients of this worker; 0 is no limit."""
        limit = self._config["maxmemory-clients"]
        if isinstance(limit, Percent):
            limit = limit.of(self._config.number("maxmemory"))
        assert isinstance(limit, int)
        return limit // self._workers

    def _close_idle(self, now_ms: int) -> None:
        """Redis spares who only listens, and who waits: they may have nothing to say."""
        limit_ms = self._config.number("timeout") * 1000
        if not limit_ms:
            return
        for client in list(self._clients.values()):
            quiet_ms = now_ms - max(client.last_interaction_ms, client.stalled_since_ms)
            if quiet_ms > limit_ms and client_class(client) == "normal" and not client.is_blocked:
                client.kill()
