"""Gate: where commands wait while clients are paused, or while another client's transaction runs."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable

from kvcd.context import ClientState, SlowReason


class Pause(enum.IntEnum):
    """Which commands wait; the larger one wins."""

    NONE = 0
    WRITE = 1
    ALL = 2


class Gate:
    """Holds commands back until it opens again; whoever waits goes on in the order of coming."""

    def __init__(self, hold_back: Callable[[int, bool], None], now_ms: Callable[[], int]) -> None:
        """``hold_back`` sends all commands to the slow lane, where they meet the gate."""
        self._hold_back = hold_back
        self._now_ms = now_ms
        self._waiting: list[asyncio.Future[None]] = []
        self._owner: ClientState | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.pause = Pause.NONE
        self.paused_until_ms = 0

    # ------------------------------------------------------------------- pause

    def begin_pause(self, pause: Pause, until_ms: int) -> None:
        """Hold commands back until then; a pause that runs is never shortened or weakened."""
        self.pause = max(self.pause, pause)
        self.paused_until_ms = max(self.paused_until_ms, until_ms)
        self._hold_back(SlowReason.PAUSED, True)
        self._set_timer()

    def end_pause(self) -> None:
        """Let everything go on."""
        self.pause, self.paused_until_ms = Pause.NONE, 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._hold_back(SlowReason.PAUSED, False)
        self._open()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # A day at a time: the loop takes no delay of years.
        delay_s = min(max(self.paused_until_ms - self._now_ms(), 0) / 1000, 86400)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._look)

    def _look(self) -> None:
        if self.paused_until_ms <= self._now_ms():
            self.end_pause()
        else:
            self._set_timer()

    # ------------------------------------------------------------- transactions

    def enter(self, client: ClientState) -> None:
        """Nothing of other clients runs until ``leave``."""
        assert self._owner is None
        self._owner = client
        self._hold_back(SlowReason.EXCLUSIVE, True)

    def leave(self) -> None:
        """The transaction has ended."""
        self._owner = None
        self._hold_back(SlowReason.EXCLUSIVE, False)
        self._open()

    # ----------------------------------------------------------------- passing

    @property
    def is_closed(self) -> bool:
        """Whether anything is held back at all."""
        return self._owner is not None or self.pause is not Pause.NONE

    def holds(self, client: ClientState, *, writes: bool) -> bool:
        """Whether a command of this client has to wait."""
        if self._owner is not None and self._owner is not client:
            return True
        if client.modes is not None and client.modes.is_monitor:
            return False
        return self.pause is Pause.ALL or (self.pause is Pause.WRITE and writes)

    async def wait(self, client: ClientState, *, writes: bool) -> None:
        """Wait until a command of this client may run."""
        client.is_blocked = True
        try:
            while self.holds(client, writes=writes):
                opened = asyncio.get_running_loop().create_future()
                self._waiting.append(opened)
                await opened
        finally:
            client.is_blocked = False

    def _open(self) -> None:
        waiting, self._waiting = self._waiting, []
        for opened in waiting:
            if not opened.done():
                opened.set_result(None)
