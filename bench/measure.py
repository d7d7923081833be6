"""Measurements: what one run of one case cost a server, and medians over rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.servers import Server


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run: how much was done, in what time, for how much of the server's processor time."""

    operations: int
    elapsed_s: float
    processor_s: float
    payload_bytes: int = 0

    @property
    def processor_us_per_operation(self) -> float:
        return self.processor_s * 1e6 / self.operations

    @property
    def operations_per_s(self) -> float:
        return self.operations / self.elapsed_s

    @property
    def megabytes_per_s(self) -> float:
        return self.payload_bytes / 1e6 / self.elapsed_s


@dataclass(frozen=True, slots=True)
class Way:
    """One way of doing a case's work; ``command`` is what a server must have for it."""

    name: str
    command: str
    run: Callable[[Server, float], Measurement]  # server, about how many seconds


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the result: work that both servers do, each in its cheapest way.

    The candidate's first way that it supports is the one that counts: it is what it recommends.
    """

    group: str
    name: str
    ways: tuple[Way, ...]
    mark: float | None = None  # the ratio of processor time to reach
    in_megabytes: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Cases that share what is loaded beforehand."""

    name: str
    load: Callable[[Server], None]
    cases: tuple[Case, ...]


@dataclass(slots=True)
class Stopwatch:
    """Filled when the timed block ends."""

    elapsed_s: float = 0.0
    processor_s: float = 0.0


@contextmanager
def timed(server: Server) -> Iterator[Stopwatch]:
    """Time a block, and the processor time that ``server`` spends meanwhile."""
    watch = Stopwatch()
    began_processor_s = server.processor_time_s()
    began_s = time.perf_counter()
    yield watch
    watch.elapsed_s = time.perf_counter() - began_s
    watch.processor_s = server.processor_time_s() - began_processor_s


@dataclass(frozen=True, slots=True)
class Median:
    """Medians of the rounds of one way on one server; the single values stay for judging the spread."""

    processor_us_per_operation: float
    operations_per_s: float
    megabytes_per_s: float
    rounds_processor_us: tuple[float, ...]
    rounds_operations_per_s: tuple[float, ...]

    @classmethod
    def of(cls, measurements: list[Measurement]) -> Median:
        """The median of each figure by itself."""
        costs = tuple(measurement.processor_us_per_operation for measurement in measurements)
        rates = tuple(measurement.operations_per_s for measurement in measurements)
        return cls(
            statistics.median(costs),
            statistics.median(rates),
            statistics.median(measurement.megabytes_per_s for measurement in measurements),
            costs,
            rates,
        )
