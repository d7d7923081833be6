"""Place keeper: keeps one place of a service filled with a worker, and starts another when that ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from kvcd import logs
from kvcd.channel_link import Link
from kvcd.worker_process import WorkerProcess, how_it_ended

LEAST_BETWEEN_STARTS_S = 0.1
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0  # after a worker that never served; doubling from the one to the other
LONGEST_PAUSE_AFTER_KILL_S = 1.0  # where somebody killed it: it might have served
LAST_FRAMES_DEADLINE_S = 1.0  # for reading what a worker sent before it ended

_log = logs.get_logger("supervisor")


@dataclass(frozen=True, slots=True)
class StartFailure:
    """Why a worker did not begin to serve."""

    text: str
    status: int


class PlaceKeeper:
    """One place. ``starter`` starts a worker there and returns it with its link; ``on_end`` is called when it is gone."""

    def __init__(
        self, place: int, *, starter: Callable[[int], Awaitable[tuple[WorkerProcess, Link]]], on_end: Callable[[PlaceKeeper], object]
    ) -> None:
        """The place is empty until ``keep`` runs."""
        self.place = place
        self.is_ready = False
        self.is_closing = False  # its clients are gone, and only the pool is to be closed
        self.restarts = 0
        self.failure: StartFailure | None = None  # of the last worker, which did not begin to serve
        self.lost_nodes: list[str] = []
        self._starter = starter
        self._on_end = on_end
        self._process: WorkerProcess | None = None
        self._was_killed = False
        self._has_stopped = asyncio.Event()
        self._stopping = asyncio.Event()

    async def keep(self) -> None:
        """Start worker after worker until ``stop`` is called, and the last one has ended."""
        pause_s = FIRST_PAUSE_S
        try:
            while not self._stopping.is_set():
                began_s = time.monotonic()
                was_ready = await self._run_one()
                if self._stopping.is_set():
                    break
                if was_ready:
                    pause_s = FIRST_PAUSE_S
                    await self._pause(began_s + LEAST_BETWEEN_STARTS_S - time.monotonic())
                else:
                    await self._pause(min(pause_s, LONGEST_PAUSE_AFTER_KILL_S) if self._was_killed else pause_s)
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                self.restarts += 1
        finally:
            self._has_stopped.set()

    async def _run_one(self) -> bool:
        """Start a worker and see it to its end; whether it ever served."""
        self.is_ready = self.is_closing = self._was_killed = False
        self.failure = None
        try:
            process, link = await self._starter(self.place)
        except OSError as error:
            self.failure = StartFailure(f"a worker cannot be started: {error}", 1)
            _log.warning("worker not started", worker=self.place, reason=str(error))
            self._on_end(self)
            return False
        self._process = process
        if self._stopping.is_set():
            process.send_signal(signal.SIGTERM)
        status = await process.wait()
        await link.wait_until_lost(LAST_FRAMES_DEADLINE_S)
        self._process = None
        was_ready, self.is_ready = self.is_ready, False
        self._was_killed = status == -signal.SIGKILL
        ending = how_it_ended(status)
        if not was_ready and self.failure is None:
            how = " ".join(f"{name}={value}" for name, value in ending.items())
            self.failure = StartFailure(f"worker {self.place} ended before it served: {how}", 1)
        if self._stopping.is_set():
            _log.verbose("worker stopped", worker=self.place, worker_pid=process.pid, **ending)
        else:
            reason = self.failure.text if self.failure is not None else None
            _log.warning("worker ended; another takes its place", worker=self.place, worker_pid=process.pid, **ending, reason=reason)
        self._on_end(self)
        return was_ready

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), max(0.0, seconds))

    # ----------------------------------------------------------------------- the end

    def stop(self) -> None:
        """Let the worker stop, and start no other."""
        self._stopping.set()
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    async def wait_stopped(self, deadline_s: float, close_deadline_s: float) -> None:
        """Wait until it has ended; after the first deadline it is killed unless its pool is all that is open, after the second anyway."""
        if await self._ends_within(deadline_s):
            return
        if not self.is_closing or not await self._ends_within(close_deadline_s):
            self.kill("it did not stop in time")
            await self._has_stopped.wait()

    async def _ends_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._has_stopped.wait(), seconds)
        return self._has_stopped.is_set()

    def kill(self, reason: str) -> None:
        """End the worker at once."""
        if self._process is not None:
            _log.warning("killing a worker", worker=self.place, worker_pid=self._process.pid, reason=reason)
            self._process.send_signal(signal.SIGKILL)

    @property
    def pid(self) -> int | None:
        """Process id of the worker that is there."""
        return None if self._process is None else self._process.pid
