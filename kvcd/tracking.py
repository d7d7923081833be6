"""Tracking: which clients may have cached which keys, and what they are told when those change (CLIENT TRACKING)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from kvcd.client_modes import Tracking, is_subscriber, modes_of, set_reason
from kvcd.context import ClientState, SlowReason
from protocol.encoder import encode
from protocol.replies import Push

CHANNEL = b"__redis__:invalidate"
FLUSHED: list[bytes] | None = None  # in place of keys: all of them


@dataclass(slots=True)
class _Prefix:
    """Clients that hear of every key that begins with it, and what they have not been told of yet."""

    clients: dict[int, None] = field(default_factory=dict)
    changed: dict[bytes, int] = field(default_factory=dict)  # key -> who changed it first, 0 for nobody here


class TrackingTable:
    """What this worker's tracking clients have read, by key and whatever its database."""

    def __init__(
        self,
        clients: dict[int, ClientState],
        *,
        limit_bytes: Callable[[ClientState], int],
        tell_elsewhere: Callable[[ClientState, int, list[bytes] | None], object],
        call_soon: Callable[[Callable[[], None]], object],
    ) -> None:
        """``tell_elsewhere`` reaches a client of another worker; ``call_soon`` puts off until this turn of the loop is over."""
        self._clients = clients
        self._limit_bytes = limit_bytes
        self._tell_elsewhere = tell_elsewhere
        self._call_soon = call_soon
        self._readers: dict[bytes, dict[int, None]] = {}
        self._items = 0
        self._prefixes: dict[bytes, _Prefix] = {}
        self._is_broadcast_planned = self._is_limit_planned = False
        self._tracking: dict[int, None] = {}
        self.max_keys = 0
        self.random = random.Random()

    # ---------------------------------------------------------------- who tracks

    @property
    def is_empty(self) -> bool:
        """Whether nobody of this worker tracks."""
        return not self._tracking

    def counts(self) -> tuple[int, int, int, int]:
        """Return clients, keys, readers of keys, and prefixes."""
        return len(self._tracking), len(self._readers), self._items, len(self._prefixes)

    def begin(self, client: ClientState, wish: Tracking) -> None:
        """Let the client track, or track otherwise; earlier prefixes stay."""
        modes = modes_of(client)
        if wish.is_broadcast:
            already = modes.tracking.prefixes if modes.tracking is not None else []
            for prefix in wish.prefixes or [b""]:
                self._prefixes.setdefault(prefix, _Prefix()).clients[client.id] = None
                if prefix not in already:
                    already.append(prefix)
            wish.prefixes = already
        modes.tracking = wish
        self._tracking[client.id] = None
        set_reason(client, SlowReason.TRACKING, not wish.is_broadcast)

    def end(self, client: ClientState) -> None:
        """Let the client track no more. What it has read stays in the table until it changes."""
        tracking = client.modes.tracking if client.modes is not None else None
        if client.modes is None or tracking is None:
            return
        for prefix in tracking.prefixes:
            audience = self._prefixes[prefix]
            del audience.clients[client.id]
            if not audience.clients:
                del self._prefixes[prefix]
        client.modes.tracking = None
        self._tracking.pop(client.id, None)
        set_reason(client, SlowReason.TRACKING, False)

    # ------------------------------------------------------------------ reading

    def remember(self, client: ClientState, keys: Iterable[bytes]) -> None:
        """The client is about to read these keys."""
        tracking = client.modes.tracking if client.modes is not None else None
        if tracking is None or tracking.is_broadcast:
            return
        if (tracking.opts_in and not tracking.is_caching) or (tracking.opts_out and tracking.is_caching):
            return
        for key in keys:
            readers = self._readers.setdefault(key, {})
            if client.id not in readers:
                readers[client.id] = None
                self._items += 1

    def limit(self) -> None:
        """Drop keys at random while there are more than allowed, telling those who have read them."""
        if not self.max_keys or len(self._readers) <= self.max_keys:
            return
        over = len(self._readers) - self.max_keys
        # A dictionary has no random entry: the keys are gathered once for all that go.
        for key in self.random.sample(list(self._readers), over):
            self._invalidate(key)

    def limit_soon(self) -> None:
        """See to the limit, at the latest when this turn of the loop is over."""
        if self.max_keys and len(self._readers) > self.max_keys and not self._is_limit_planned:
            self._is_limit_planned = True
            self._call_soon(self._limit_as_planned)

    def _limit_as_planned(self) -> None:
        self._is_limit_planned = False
        self.limit()

    # ----------------------------------------------------------------- changing

    def changed(self, key: bytes, *, by: ClientState | None, during: ClientState | None = None, behind_reply: bool = False) -> None:
        """A key was changed or removed, by a client of this worker or somebody else.

        ``during``: whose command is at hand. What others are told because of it comes before its reply, or ``behind_reply``; what it
        is told itself waits for ``tell_own``.
        """
        if self._prefixes:
            self._note_for_prefixes(key, by)
        if key in self._readers:
            self._invalidate(key, during=during, behind_reply=behind_reply)

    def _invalidate(self, key: bytes, *, during: ClientState | None = None, behind_reply: bool = False) -> None:
        readers = self._readers.pop(key)
        self._items -= len(readers)
        for number in readers:
            client = self._clients.get(number)
            tracking = client.modes.tracking if client is not None and client.modes is not None else None
            if client is None or tracking is None or tracking.is_broadcast or (tracking.no_loop and client is during):
                continue
            self._tell_or_keep(client, tracking, [key], during=during, behind_reply=behind_reply)

    def flushed(self, *, during: ClientState | None = None) -> None:
        """A database was emptied, or all."""
        for number in sorted(self._tracking):
            client = self._clients.get(number)
            if client is not None and client.modes is not None and client.modes.tracking is not None:
                self._tell_or_keep(client, client.modes.tracking, FLUSHED, during=during)
        self._readers.clear()
        self._items = 0

    def _note_for_prefixes(self, key: bytes, by: ClientState | None) -> None:
        for prefix, audience in self._prefixes.items():
            if key.startswith(prefix):
                # The last change counts: that its key has expired is news to the writer too.
                audience.changed[key] = by.id if by is not None else 0
                if not self._is_broadcast_planned:
                    self._is_broadcast_planned = True
                    self._call_soon(self.broadcast)

    def broadcast(self) -> None:
        """Tell of everything under the prefixes that changed in this turn of the loop."""
        self._is_broadcast_planned = False
        for _, audience in sorted(self._prefixes.items()):
            changed, audience.changed = audience.changed, {}
            for number in audience.clients if changed else ():
                client = self._clients.get(number)
                tracking = client.modes.tracking if client is not None and client.modes is not None else None
                if client is None or tracking is None:
                    continue
                keys = [key for key, by in sorted(changed.items()) if not (tracking.no_loop and by == number)]
                if keys:
                    self._tell(client, tracking, keys, behind_reply=True)

    # ------------------------------------------------------------------ telling

    def _tell_or_keep(
        self,
        client: ClientState,
        tracking: Tracking,
        keys: list[bytes] | None,
        *,
        during: ClientState | None,
        behind_reply: bool = False,
    ) -> None:
        if client is during and client.modes is not None:
            client.modes.own_changes.append(keys)
        else:
            self._tell(client, tracking, keys, behind_reply=behind_reply)

    def tell_own(self, client: ClientState) -> None:
        """The client's command, a whole transaction too, has its reply: behind that comes what it changed of its own keys."""
        if client.modes is None:
            return
        changes, client.modes.own_changes = client.modes.own_changes, []
        for keys in changes:
            self._tell(client, client.modes.tracking or Tracking(), keys, behind_reply=True)

    def _tell(self, client: ClientState, tracking: Tracking, keys: list[bytes] | None, *, behind_reply: bool = False) -> None:
        """Tell the client, or whom it wants to be told instead."""
        if not tracking.redirect:
            self.deliver(client, keys, behind_reply=behind_reply)
        elif tracking.redirect in self._clients:
            self.deliver(self._clients[tracking.redirect], keys, is_redirected=True, behind_reply=behind_reply)
        else:
            self._tell_elsewhere(client, tracking.redirect, keys)

    def deliver(
        self, client: ClientState, keys: Sequence[bytes] | None, *, is_redirected: bool = False, behind_reply: bool = False
    ) -> None:
        """Send an invalidation to this very client, if it can hear one."""
        names = None if keys is None else list(keys)
        if client.resp > 2:
            client.push(encode(Push((b"invalidate", names)), 3), self._limit_bytes(client), behind_reply)
        elif is_redirected and is_subscriber(client):
            client.push(encode(Push((b"message", CHANNEL, names)), 2), self._limit_bytes(client), behind_reply)

    def note_broken(self, client: ClientState) -> None:
        """Whom the client's messages went to is gone."""
        tracking = client.modes.tracking if client.modes is not None else None
        if tracking is None:
            return
        tracking.is_broken = True
        if client.resp > 2:
            client.push(encode(Push((b"tracking-redir-broken", tracking.redirect)), 3), self._limit_bytes(client))
