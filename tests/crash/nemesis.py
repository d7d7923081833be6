"""Nemesis: kills workers as soon as they are ready, and stops some for seconds."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from dataclasses import dataclass, field

from tests.crash.service import Service

LONGEST_STOP_S = 5.0
SHORTEST_STOP_S = 1.0
PAUSE_BETWEEN_STOPS_S = 2.0


@dataclass(slots=True)
class Nemesis:
    """Sends the signals, and remembers to whom and when."""

    service: Service
    kill_every_s: float
    seed: int
    stops: bool = False
    keep_ready: int = 1  # workers that must be left: a service that nobody serves shows nothing
    kills: int = 0
    spared: int = 0
    stop_count: int = 0
    fewest_ready: int = 1 << 30
    stopped: dict[int, list[tuple[float, float]]] = field(default_factory=dict)  # from and to, by process; monotonic seconds

    def was_stopped(self, worker: int, begin_s: float, end_s: float) -> bool:
        """Whether that process stood still at some time of an interval."""
        return any(begin <= end_s and end >= begin_s for begin, end in self.stopped.get(worker, ()))

    async def kill(self, stopping: asyncio.Event) -> None:
        """Kill a random worker that is ready, again and again."""
        choose = random.Random(self.seed)
        next_s = time.monotonic()
        while not stopping.is_set():
            next_s = max(next_s + self.kill_every_s, time.monotonic())
            await _sleep_until(next_s, stopping)
            self.service.revive()
            ready = [worker for worker in self.service.ready_workers() if not self._stands_still(worker)]
            self.fewest_ready = min(self.fewest_ready, len(ready))
            if len(ready) <= self.keep_ready or stopping.is_set():
                self.spared += 1
                continue
            self._signal(choose.choice(ready), signal.SIGKILL)
            self.kills += 1
            await asyncio.sleep(0)
            self.service.revive()

    async def stop(self, stopping: asyncio.Event) -> None:
        """Let a random worker stand still for some seconds, again and again."""
        choose = random.Random(self.seed + 1)
        while not stopping.is_set():
            ready = self.service.ready_workers()
            if len(ready) > 1:
                worker = choose.choice(ready)
                begin_s = time.monotonic()
                end_s = begin_s + choose.uniform(SHORTEST_STOP_S, LONGEST_STOP_S)
                self.stopped.setdefault(worker, []).append((begin_s, end_s + 0.5))  # what waited is served after it woke
                self._signal(worker, signal.SIGSTOP)
                self.stop_count += 1
                await _sleep_until(end_s, stopping)
                self._signal(worker, signal.SIGCONT)
                woke_s = time.monotonic()
                self.stopped[worker][-1] = (begin_s, woke_s + 0.5)
            await _sleep_until(time.monotonic() + PAUSE_BETWEEN_STOPS_S, stopping)

    def _stands_still(self, worker: int) -> bool:
        now_s = time.monotonic()
        return self.was_stopped(worker, now_s, now_s)

    @staticmethod
    def _signal(worker: int, number: signal.Signals) -> None:
        try:
            os.kill(worker, number)
        except ProcessLookupError:
            pass


async def _sleep_until(moment_s: float, stopping: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(max(0.0, moment_s - time.monotonic())):
            await stopping.wait()
    except TimeoutError:
        pass
