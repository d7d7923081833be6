"""Latency: spikes by what caused them, for LATENCY, and how long commands take, as histograms."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

SAMPLES = 160  # of one event, as in Redis
_SMALLEST_POWER = 10  # of two, in nanoseconds: the finest border is about a microsecond
_PRECISION_BITS = 7  # Redis's histograms tell values apart by their upper eight bits


def bucket_of(duration_ns: int) -> int:
    """Return the power of two of nanoseconds up to which, within Redis's precision, the duration reaches."""
    power = max((max(duration_ns, 1) - 1).bit_length(), _SMALLEST_POWER)
    lower = power - 1
    if lower >= _SMALLEST_POWER and duration_ns < (1 << lower) + (1 << (lower - _PRECISION_BITS)):
        return lower
    return power


def border_us(bucket: int) -> int:
    """Return the largest duration of a bucket in whole microseconds, as Redis shows it."""
    return ((1 << bucket) + (1 << (bucket - _PRECISION_BITS)) - 1) // 1000


def cumulative(histogram: Mapping[int, int]) -> list[tuple[int, int]]:
    """Return (border in microseconds, how many took no longer) of each bucket that something fell into."""
    total, out = 0, []
    for bucket in sorted(histogram):
        total += histogram[bucket]
        out.append((border_us(bucket), total))
    return out


def percentile_us(histogram: Mapping[int, int], percent: float) -> float:
    """Return the border below which so many per cent of the calls lie, in microseconds."""
    total, seen = sum(histogram.values()), 0
    for bucket in sorted(histogram):
        seen += histogram[bucket]
        if seen * 100 >= total * percent:
            return ((1 << bucket) + (1 << (bucket - _PRECISION_BITS)) - 1) / 1000
    return 0.0


@dataclass(frozen=True, slots=True)
class Spike:
    """One time that something took long."""

    at_s: int
    latency_ms: int


@dataclass(slots=True)
class Event:
    """The spikes of one cause."""

    spikes: deque[Spike] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    largest_ms: int = 0

    def add(self, at_s: int, latency_ms: int) -> None:
        """Remember a spike; of those within one second the longest."""
        self.largest_ms = max(self.largest_ms, latency_ms)
        if self.spikes and self.spikes[-1].at_s == at_s:
            latency_ms = max(latency_ms, self.spikes.pop().latency_ms)
        self.spikes.append(Spike(at_s, latency_ms))


class LatencyMonitor:
    """Events by name, while ``threshold_ms`` is more than 0."""

    def __init__(self) -> None:
        """Begin switched off, as Redis does."""
        self.threshold_ms = 0
        self.events: dict[str, Event] = {}

    def note(self, name: str, *, duration_ms: int, at_s: int) -> None:
        """Remember it when it took long enough to be of interest."""
        if 0 < self.threshold_ms <= duration_ms:
            self.events.setdefault(name, Event()).add(at_s, duration_ms)

    def reset(self, names: list[str]) -> int:
        """Forget these events, or all; returns how many there were."""
        chosen = [name for name in (names or list(self.events)) if name in self.events]
        for name in dict.fromkeys(chosen):
            del self.events[name]
        return len(dict.fromkeys(chosen))
