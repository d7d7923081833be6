"""Service: what holds for all workers together, whichever of them a client reached: totals, settings, how many clients there are."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kvcd import logs
from kvcd.channel import SUPERVISOR, Channel, Message
from kvcd.directive import ConfigError
from kvcd.exchange import ANSWER_DEADLINE_S
from kvcd.placement import Placement
from kvcd.portable import portable, restored
from kvcd.totals import Tally, tally_of

if TYPE_CHECKING:
    from kvcd.context import ClientState, ServerState

# The supervisor waits for the workers before it answers, so whoever asks it waits a little longer.
SUPERVISOR_DEADLINE_S = 1.5 * ANSWER_DEADLINE_S

# Topics of the channel.
TOTALS, TALLY, POOL_FACTS = "totals", "tally", "pool facts"
CHANGE, CHANGED = "change configuration", "configuration changed"
RESET, WAS_RESET = "reset statistics", "statistics were reset"
CLIENT_COUNT = "client count"
READY, FAILED, STOPPING, STOP = "ready", "failed", "stopping", "stop"
CHANGE_USERS, USERS_CHANGED = "change users", "users changed"
SAVES, SAVES_ASKED, CHANGES, SAVE_AT_END = "saves", "saves asked", "changes", "save at end"

_log = logs.get_logger("service")

Pairs = Sequence[tuple[str, str]]


class Service:
    """One worker's view of the service. A service of one process is the same without anybody else."""

    def __init__(self, placement: Placement | None = None, sock: socket.socket | None = None, *, queue_limit_bytes: int = 0) -> None:
        """Alone by default; the supervisor has the other end of ``sock``."""
        self.placement = placement or Placement()
        self.channel = Channel(self.placement.place)
        self._socket = sock
        self._queue_limit_bytes = queue_limit_bytes
        self._epoch = self.placement.epoch
        self._client_counts: dict[int, int] = {}
        self._told_clients = -1
        self._changes: dict[int, tuple[int, int]] = {}  # of each other worker: what it said first, and last
        self._changes_of_gone = 0

    def attach(self, server: ServerState, *, on_client_count: Callable[[], object]) -> None:
        """Answer what other workers and the supervisor ask of ``server``."""
        channel = self.channel
        channel.on(TALLY, lambda _message: tally_of(server, self._epoch).plain())
        channel.on(CHANGED, lambda message: self._changed(server, message))
        channel.on(WAS_RESET, lambda message: self._was_reset(server, message))
        channel.on(USERS_CHANGED, lambda message: _users_changed(server, message))
        channel.on(POOL_FACTS, lambda _message: pool_facts(server))

        def count(message: Message) -> None:
            self._client_counts[message.sender] = message.payload
            on_client_count()

        def changes(message: Message) -> None:
            start_number, count = message.payload
            # All that a younger one has changed was changed since this one began; of an older one that was asked for at the start.
            begin = 0 if start_number > self.placement.start_number else count
            first, _ = self._changes.get(message.sender, (begin, 0))
            self._changes[message.sender] = first, count

        def gone(place: int) -> None:
            first, last = self._changes.pop(place, (0, 0))
            self._changes_of_gone += last - first
            if self._client_counts.pop(place, 0):
                on_client_count()

        channel.on(CLIENT_COUNT, count)
        channel.on(CHANGES, changes)
        channel.on(SAVES, lambda message: server.persistence.apply(message.payload))
        channel.on(SAVES_ASKED, lambda _message: {"saves": server.persistence.state(), "changes": server.changes()})
        channel.on_gone = gone

    async def join(self, *, on_lost: Callable[[str], None]) -> None:
        """Begin to hear the others; what was sent since this process was started has waited. ``on_lost``: the supervisor is gone."""
        if self._socket is not None:
            await self.channel.join(self._socket, queue_limit_bytes=self._queue_limit_bytes, on_lost=on_lost)

    async def leave(self, server: ServerState) -> None:
        """Leave the last counts, and say that only the pool is still to be closed."""
        if not self.channel.is_alone:
            self.report(server)
            self._tell_supervisor(STOPPING, None)
            await self.channel.close()

    def ready(self, facts: dict[str, object]) -> None:
        """Tell the supervisor that clients are served here."""
        # Before it is said: whoever asks later is answered, and who asked before is not, and counts what follows from here.
        self.tell_changes(0)
        self._tell_supervisor(READY, facts)

    async def fail(self, text: str, status: int) -> None:
        """Tell the supervisor why this worker does not serve; nothing follows."""
        if not self.channel.is_joined:
            await self.join(on_lost=lambda _reason: None)
        self._tell_supervisor(FAILED, {"text": portable(text), "status": status})
        await self.channel.close()

    def ask_to_stop(self, *, save: bool | None) -> None:
        """Let the supervisor stop all workers, with a snapshot or without one; None: as the save rules say."""
        self._tell_supervisor(STOP, save)

    # --------------------------------------------------------------------- saves

    @property
    def changes_elsewhere(self) -> int:
        """Changes of values by clients of other workers, since this one heard of them first; at most a second old."""
        return self._changes_of_gone + sum(last - first for first, last in self._changes.values())

    def tell_changes(self, count: int) -> None:
        """Tell the others how much was changed here, for their save rules."""
        if not self.channel.is_alone:
            with contextlib.suppress(ConnectionError):
                self.channel.broadcast(CHANGES, [self.placement.start_number, count])

    def tell_saves(self, state: dict[str, int | float | bool]) -> None:
        """Tell the others of a save that has begun or ended here: it is the whole service's."""
        if not self.channel.is_alone:
            with contextlib.suppress(ConnectionError):
                self.channel.broadcast(SAVES, state)

    async def ask_saves(self) -> dict[str, int | float | bool] | None:
        """What the others know of saves, for a worker that was started later."""
        if self.channel.is_alone:
            return None
        answers = await self.channel.ask_all(SAVES_ASKED)
        for answer in answers:
            self._changes.setdefault(answer.place, (answer.payload["changes"], answer.payload["changes"]))
        states = [answer.payload["saves"] for answer in answers]
        return max(states, key=lambda state: (state["saves"], state["last_try_s"]), default=None)

    def _tell_supervisor(self, topic: str, payload: object) -> None:
        # A supervisor that is gone needs to be told nothing: the channel's end stops this worker.
        with contextlib.suppress(ConnectionError):
            self.channel.tell(SUPERVISOR, topic, payload)

    # --------------------------------------------------------------------- totals

    async def totals(self, server: ServerState) -> Tally:
        """Return the counts of all workers together, those that are gone included."""
        own = tally_of(server, self._epoch)
        if self.channel.is_alone:
            return own
        try:
            answers = await self.channel.ask(SUPERVISOR, TOTALS, own.plain(), deadline_s=SUPERVISOR_DEADLINE_S)
        except ConnectionError:
            return own  # the supervisor is gone, and this worker ends
        return Tally.from_plain(answers[0].payload) if answers else own

    def report(self, server: ServerState) -> None:
        """Tell the supervisor what was counted so far, and the others how many clients are here."""
        if not self.channel.is_alone:
            report = {"tally": tally_of(server, self._epoch).plain(), "lost_nodes": server.lost_nodes()}
            self._tell_supervisor(TALLY, report)
            self._told_clients = -1
            self.tell_clients(len(server.clients))

    async def reset_statistics(self, server: ServerState) -> None:
        """Begin the counts of INFO again, on all workers."""
        if self.channel.is_alone:
            _reset(server)
        else:
            await self.channel.ask(SUPERVISOR, RESET, deadline_s=SUPERVISOR_DEADLINE_S)

    def _was_reset(self, server: ServerState, message: Message) -> dict[str, Any]:
        _reset(server)
        self._epoch = message.payload
        return tally_of(server, self._epoch).plain()

    # -------------------------------------------------------------------- clients

    @property
    def clients_elsewhere(self) -> int:
        """Clients of the other workers, as they last said."""
        return sum(self._client_counts.values())

    def tell_clients(self, count: int) -> None:
        """Tell the others how many clients are here, if they do not know."""
        if count != self._told_clients and not self.channel.is_alone:
            self._told_clients = count
            with contextlib.suppress(ConnectionError):
                self.channel.broadcast(CLIENT_COUNT, count)

    # -------------------------------------------------------------- configuration

    async def change(self, server: ServerState, pairs: Pairs) -> None:
        """Make CONFIG SET's changes on all workers, those that are started later included. Raises ConfigError, and then nothing changed.

        Here first, where they may be refused; then everywhere, here again too, in the supervisor's order: so all end up with the
        same values when two workers are given different ones at a time.
        """
        server.config.set_many(pairs)
        if not self.channel.is_alone:
            payload = [[portable(name), portable(text)] for name, text in pairs]
            await self.channel.ask(SUPERVISOR, CHANGE, payload, deadline_s=SUPERVISOR_DEADLINE_S)

    async def change_users(self, server: ServerState, users: dict[str, str | None], *, asking: ClientState) -> None:
        """Let users be these (``Users.dump``; None: removed) on all workers: here first, then everywhere in the supervisor's order."""
        server.access.take(users, asking=asking)
        if not self.channel.is_alone:
            await self.channel.ask(SUPERVISOR, CHANGE_USERS, users, deadline_s=SUPERVISOR_DEADLINE_S)

    def _changed(self, server: ServerState, message: Message) -> bool:
        try:
            server.config.set_many([(restored(name), restored(text)) for name, text in message.payload])
        except ConfigError as error:
            _log.warning("a change of the configuration was not possible in this worker", reason=str(error))
            return False
        return True


def _users_changed(server: ServerState, message: Message) -> bool:
    server.access.take(message.payload)
    return True


def _reset(server: ServerState) -> None:
    tally = tally_of(server)
    server.statistics.reset(tally.counters)


def pool_facts(server: ServerState) -> dict[str, Any]:
    """Return what is the same whichever worker says it: the pool's state and the databases' sizes, for the metrics."""
    facts: dict[str, object] = {**server.store.memory()}
    sizes = {number: server.store.database_size(place) for number, place in enumerate(server.order.places)}
    return {
        "memory": {name: value for name, value in facts.items() if isinstance(value, int | float)},
        "databases": {str(database): [size.keys, size.expires] for database, size in sizes.items() if size.keys},
    }
