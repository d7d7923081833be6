"""Server modes: what the clients of all workers have switched on, and who has to hear of which command and which change."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kvcd.channel import Channel, Message
from kvcd.client_modes import is_subscriber
from kvcd.context import ClientState, SlowReason
from kvcd.gate import Gate, Pause
from kvcd.monitors import Monitors
from kvcd.notifications import EVICTED, EXPIRED, Notifications
from kvcd.subscriptions import Subscriptions
from kvcd.tracking import TrackingTable

if TYPE_CHECKING:
    from kvcd.context import ServerState

# Topics of the channel.
_PUBLISH, _EVENTS, _COMMANDS = "publish", "keyspace events", "commands for monitors"
_CHANGED, _REDIRECTED, _KNOWN = "tracked keys changed", "redirected invalidation", "client known"
_WANTS, _WANTED, _PAUSE = "wants to hear", "what is wanted", "pause clients"
_TRACKS, _MONITORS = 1, 2  # what a worker wants to hear of: bits


def client_class(client: ClientState) -> str:
    """Return the class of client-output-buffer-limit that holds for a client."""
    if client.modes is not None and client.modes.is_monitor:
        return "slave"
    return "pubsub" if is_subscriber(client) else "normal"


class ServerModes:
    """One worker's part. What must hold everywhere before a command is answered is asked of the others; all else is told."""

    def __init__(self, server: ServerState, hold_back: Callable[[int, bool], None]) -> None:
        """``hold_back`` sends the commands of all clients to the slow lane for a reason, or lets them go."""
        self._server = server
        self._hold_back = hold_back
        self._wanted_elsewhere: dict[int, int] = {}  # place of another worker -> bits
        self._told = 0
        self._said: list[list[str]] = []  # events that the other workers have not been told of yet
        self._shown: list[str] = []
        self._changed: list[str | None] = []  # None: a flush
        self._is_telling_planned = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._absent_watchers: set[ClientState] = set()
        self._watchers: set[ClientState] = set()
        self.gate = Gate(hold_back, server.now_ms)
        self.subscriptions = Subscriptions(lambda: self._limit("pubsub"))
        self.monitors = Monitors(lambda: self._limit("slave"))
        self.notifications = Notifications(self._say, server.order.number)
        self.tracking = TrackingTable(
            server.clients,
            limit_bytes=lambda client: self._limit(client_class(client)),
            tell_elsewhere=self._redirect,
            call_soon=lambda function: asyncio.get_running_loop().call_soon(function),
        )
        self.follow_configuration()

    def follow_configuration(self) -> None:
        """Take over what directives say."""
        self.notifications.choose(self._server.config.string("notify-keyspace-events"))
        self.tracking.max_keys = self._server.config.number("tracking-table-max-keys")
        self._hold_back(SlowReason.NOTIFICATIONS, self.notifications.are_on)
        self._watch_removals()

    def attach(self, channel: Channel) -> None:
        """Hear what other workers say."""
        channel.on(_PUBLISH, self._published)
        channel.on(_EVENTS, self._events)
        channel.on(_COMMANDS, self._shown_elsewhere)
        channel.on(_CHANGED, self._changed_elsewhere)
        channel.on(_REDIRECTED, self._redirected)
        channel.on(_KNOWN, lambda message: message.payload in self._server.clients)
        channel.on(_WANTS, self._others_want)
        channel.on(_WANTED, lambda _message: self._wants())
        channel.on(_PAUSE, self._pause_as_told)
        earlier = channel.on_gone

        def gone(place: int) -> None:
            if earlier is not None:
                earlier(place)
            self._wanted_elsewhere.pop(place, None)
            self._follow_wishes()

        channel.on_gone = gone

    async def join(self) -> None:
        """Ask the others what they want to hear of: they said so before this worker was there."""
        for answer in await self._channel.ask_all(_WANTED):
            self._wanted_elsewhere.setdefault(answer.place, answer.payload)
        self._follow_wishes()

    @property
    def _channel(self) -> Channel:
        return self._server.service.channel

    def _limit(self, name: str) -> int:
        return self._server.config.output_limit(name).hard_bytes

    # ----------------------------------------------------- who wants to hear what

    def _wants(self) -> int:
        return (0 if self.tracking.is_empty else _TRACKS) | (_MONITORS if self.monitors.clients else 0)

    @property
    def others_want(self) -> int:
        """Bits of all other workers together."""
        wanted = 0
        for bits in self._wanted_elsewhere.values():
            wanted |= bits
        return wanted

    @property
    def is_tracking(self) -> bool:
        """Whether anybody of the service tracks."""
        return not self.tracking.is_empty or bool(self.others_want & _TRACKS)

    @property
    def is_monitored(self) -> bool:
        """Whether anybody of the service is shown commands."""
        return bool(self.monitors.clients) or bool(self.others_want & _MONITORS)

    @property
    def has_listeners(self) -> bool:
        """Whether this worker has clients that are sent what they did not ask for command by command."""
        subscriptions = self.subscriptions
        return bool(subscriptions.channels or subscriptions.patterns or subscriptions.shard_channels or self.monitors.clients)

    def _follow_wishes(self) -> None:
        self._hold_back(SlowReason.TRACKING, self.is_tracking)
        self._hold_back(SlowReason.MONITOR, self.is_monitored)
        self._watch_removals()

    def _watch_removals(self) -> None:
        classes = self.notifications.classes
        self._server.store.watch_removals(EXPIRED in classes or EVICTED in classes or self.is_tracking)

    async def tell_wishes(self) -> None:
        """Somebody here began to track or to monitor: nothing that others do from now on is missed."""
        self._follow_wishes()
        if self._wants() != self._told:
            self._told = self._wants()
            await self._channel.ask_all(_WANTS, self._told)

    def _tell_wishes_soon(self) -> None:
        self._follow_wishes()
        if self._wants() != self._told:
            self._told = self._wants()
            self._broadcast(_WANTS, self._told)

    def _others_want(self, message: Message) -> bool:
        self._wanted_elsewhere[message.sender] = message.payload
        self._follow_wishes()
        return True

    def forget(self, client: ClientState) -> None:
        """The client is gone, or begins anew."""
        modes = client.modes
        if modes is None:
            return
        self.subscriptions.forget(client, modes)
        self.tracking.end(client)
        self.unwatch(client)
        self.monitors.clients.pop(client, None)
        if modes.wait is not None and not modes.wait.done():
            modes.wait.set_result("gone")
        modes.is_monitor = False
        modes.transaction = None
        modes.touches_nothing = modes.never_evicted = False
        self._tell_wishes_soon()

    # ----------------------------------------------------------------- channels

    async def publish(self, channel: bytes, message: bytes, *, to_shard: bool = False) -> int:
        """Tell the subscribers of all workers; returns how many there were."""
        count = self.subscriptions.deliver(channel, message, to_shard=to_shard)
        if self._channel.is_alone:
            return count
        self._tell_others()
        answers = await self._channel.ask_all(_PUBLISH, [channel.decode("latin-1"), to_shard], data=message)
        return count + sum(int(answer.payload) for answer in answers)

    def _published(self, message: Message) -> int:
        name, to_shard = message.payload
        return self.subscriptions.deliver(name.encode("latin-1"), message.data, to_shard=to_shard)

    def _say(self, channel: bytes, message: bytes, behind_reply: bool) -> None:
        self.subscriptions.deliver(channel, message, behind_reply=behind_reply)
        if not self._channel.is_alone:
            self._said.append([channel.decode("latin-1"), message.decode("latin-1")])
            self._plan_telling()

    def _events(self, message: Message) -> None:
        for name, event in message.payload:
            self.subscriptions.deliver(name.encode("latin-1"), event.encode("latin-1"))

    # ------------------------------------------------------------------ changes

    def changed(self, client: ClientState | None, database: int, key: bytes, *, behind_reply: bool = False) -> None:
        """A key was changed or removed: who watches or tracks it has to know, before the client's reply or behind it."""
        for watcher in self._watchers:
            modes = watcher.modes
            if modes is not None and (database, key) in modes.watched:
                modes.is_dirty = True
        if self.is_tracking:
            self.tracking.changed(key, by=client, during=client, behind_reply=behind_reply)
            self._note_change(key.decode("latin-1"))

    def flushed(self, during: ClientState | None = None) -> None:
        """A database was emptied, or all, by the command of ``during``; who watched a key that was there finds it gone."""
        if self.is_tracking:
            self.tracking.flushed(during=during)
            self._note_change(None)

    async def swapped(self, first: int, second: int) -> None:
        """The databases at two places have changed numbers: who watched what is in either of them watches something else now."""
        for watcher in list(self._watchers):
            modes = watcher.modes
            if modes is None:
                continue
            watched: dict[tuple[int, bytes], int | None] = {}
            for (place, key), stamp in modes.watched.items():
                watched[{first: second, second: first}.get(place, place), key] = stamp
                if place in (first, second) and not modes.is_dirty:
                    modes.is_dirty = await self._is_in_any((first, second), key)
            modes.watched = watched
        self.flushed()

    async def _is_in_any(self, places: tuple[int, ...], key: bytes) -> bool:
        return any([(await self._server.store.stamps(place, [key])) != [None] for place in places])

    def reordered(self) -> None:
        """Another front end of the pool has swapped databases, and nobody can tell any more what was watched."""
        for watcher in self._watchers:
            if watcher.modes is not None:
                watcher.modes.is_dirty = True
        self.flushed()

    def _note_change(self, key: str | None) -> None:
        if self.others_want & _TRACKS:
            self._changed.append(key)
            self._plan_telling()

    def _changed_elsewhere(self, message: Message) -> None:
        for key in message.payload:
            if key is None:
                self.tracking.flushed()
            else:
                self.tracking.changed(key.encode("latin-1"), by=None)

    def take_removals(self, during: ClientState | None = None) -> None:
        """Tell of what expired or was evicted since the last look, met by the command of ``during`` or by nobody's."""
        store = self._server.store
        for was_evicted, database, key in store.take_removals():
            if was_evicted:
                self.notifications.notify(EVICTED, b"evicted", database, key)
            else:
                self.notifications.notify(EXPIRED, b"expired", database, key)
            if self.is_tracking:
                self.tracking.changed(key, by=None, during=during)
                self._note_change(key.decode("latin-1"))
        if store.take_lost_removals() and self.is_tracking:
            self.flushed()  # more than could be noted: who cached anything must take it for gone

    # ------------------------------------------------------------------- watch

    def watch(self, client: ClientState) -> None:
        """The client watches keys; one that is absent can be made and removed again without leaving a stamp."""
        assert client.modes is not None
        self._watchers.add(client)
        if None in client.modes.watched.values():
            self._absent_watchers.add(client)
            self._hold_back(SlowReason.WATCHED, True)

    def unwatch(self, client: ClientState) -> None:
        """The client watches nothing any more."""
        if client.modes is not None:
            client.modes.watched.clear()
            client.modes.is_dirty = False
        self._watchers.discard(client)
        self._absent_watchers.discard(client)
        self._hold_back(SlowReason.WATCHED, bool(self._absent_watchers))

    @property
    def are_changes_wanted(self) -> bool:
        """Whether anybody has to hear of changes: then the store is used through ``kvcd.observed``."""
        return self.notifications.are_on or self.is_tracking or bool(self._watchers)

    def counts(self) -> dict[str, int]:
        """Return INFO's fields of what is switched on here. A channel that is heard at two workers counts at both."""
        clients, keys, items, prefixes = self.tracking.counts()
        return {
            "blocked_clients": sum(client.is_blocked for client in self._server.clients.values()),
            "tracking_clients": clients,
            "tracking_total_keys": keys,
            "tracking_total_items": items,
            "tracking_total_prefixes": prefixes,
            "pubsub_channels": len(self.subscriptions.channels),
            "pubsub_patterns": len(self.subscriptions.patterns),
            "pubsubshard_channels": len(self.subscriptions.shard_channels),
        }

    # ---------------------------------------------------------------- redirection

    async def is_known(self, number: int) -> bool:
        """Whether any worker has a client of that id."""
        return number in self._server.clients or any(answer.payload for answer in await self._channel.ask_all(_KNOWN, number))

    def _redirect(self, client: ClientState, number: int, keys: list[bytes] | None) -> None:
        if self._channel.is_alone:
            self.tracking.note_broken(client)
            return
        task = asyncio.get_running_loop().create_task(self._redirect_elsewhere(client, number, keys))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _redirect_elsewhere(self, client: ClientState, number: int, keys: list[bytes] | None) -> None:
        names = None if keys is None else [key.decode("latin-1") for key in keys]
        with contextlib.suppress(ConnectionError):
            answers = await self._channel.ask_all(_REDIRECTED, [number, names])
            if not any(answer.payload for answer in answers):
                self.tracking.note_broken(client)

    def _redirected(self, message: Message) -> bool:
        number, names = message.payload
        client = self._server.clients.get(number)
        if client is None:
            return False
        self.tracking.deliver(client, None if names is None else [name.encode("latin-1") for name in names], is_redirected=True)
        return True

    # --------------------------------------------------------------------- pause

    async def pause(self, pause: Pause, until_ms: int) -> None:
        """Pause the clients of all workers; Pause.NONE ends it."""
        self._apply_pause(pause, until_ms)
        await self._channel.ask_all(_PAUSE, [int(pause), until_ms])

    def _pause_as_told(self, message: Message) -> bool:
        pause, until_ms = message.payload
        self._apply_pause(Pause(pause), until_ms)
        return True

    def _apply_pause(self, pause: Pause, until_ms: int) -> None:
        if pause is Pause.NONE:
            self.gate.end_pause()
        else:
            self.gate.begin_pause(pause, until_ms)

    # ------------------------------------------------------------------- monitors

    def show(self, line: bytes) -> None:
        """Show a command to the monitors of all workers."""
        self.monitors.show(line)
        if self.others_want & _MONITORS:
            self._shown.append(line.decode("latin-1"))
            self._plan_telling()

    def _shown_elsewhere(self, message: Message) -> None:
        for line in message.payload:
            self.monitors.show(line.encode("latin-1"))

    # ---------------------------------------------------------- telling the others

    def _plan_telling(self) -> None:
        if not self._is_telling_planned:
            self._is_telling_planned = True
            asyncio.get_running_loop().call_soon(self._tell_others)

    def _tell_others(self) -> None:
        """What was gathered in this turn of the loop goes out in one message each."""
        self._is_telling_planned = False
        pending: tuple[tuple[str, list[Any]], ...] = ((_EVENTS, self._said), (_COMMANDS, self._shown), (_CHANGED, self._changed))
        for topic, gathered in pending:
            if gathered:
                self._broadcast(topic, list(gathered))
                gathered.clear()

    def _broadcast(self, topic: str, payload: object) -> None:
        # The supervisor is gone, or so far behind that this worker is about to be ended.
        with contextlib.suppress(ConnectionError):
            self._channel.broadcast(topic, payload)
