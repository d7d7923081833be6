"""Samples: what a service holds at one moment, and whether a row of them is flat."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WARM_UP_SHARE = 0.2  # of the samples, which say how the service fills and not how it stays


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment; rates and times are of the interval before it."""

    elapsed_s: float
    private_bytes: int  # resident, outside the pool, all processes of the service
    pool_bytes: int  # of pages in use
    descriptors: int
    operations_per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Bound:
    """How much a figure may grow over the run, by the straight line through its samples: a share of its mean, or this much."""

    field: str
    share: float
    at_least: float


BOUNDS = (
    Bound("private_bytes", 0.05, 8e6),
    Bound("pool_bytes", 0.05, 8e6),
    Bound("descriptors", 0.02, 2),
    Bound("p50_ms", 0.25, 1.0),
    Bound("p99_ms", 0.35, 5.0),
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """One figure: its mean, what the line through it grows by over the run, and what it may."""

    field: str
    mean: float
    growth: float
    allowed: float

    @property
    def is_flat(self) -> bool:
        """Whether it stayed within its bound."""
        return self.growth <= self.allowed


def judge(samples: Sequence[Sample]) -> list[Judgement]:
    """Judge every bounded figure over the samples behind the warm-up. Raises ValueError for fewer than three of those."""
    counted = samples[int(len(samples) * WARM_UP_SHARE) :]
    if len(counted) < 3:
        raise ValueError(f"{len(counted)} samples behind the warm-up, at least 3 are needed")
    times = [sample.elapsed_s for sample in counted]
    out = []
    for bound in BOUNDS:
        values = [float(getattr(sample, bound.field)) for sample in counted]
        mean = sum(values) / len(values)
        growth = slope(times, values) * (times[-1] - times[0])
        out.append(Judgement(bound.field, mean, growth, max(bound.share * mean, bound.at_least)))
    return out


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of the line of least squares."""
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((time - middle) ** 2 for time in times)
    return sum((time - middle) * (value - mean) for time, value in zip(times, values, strict=True)) / spread if spread else 0.0


def private_bytes(processes: Sequence[int]) -> int:
    """Return what these processes hold in memory that is not the pool's."""
    total = 0
    for process in processes:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines() if ":" in line)
        # A pool file on tmpfs counts as RssShmem, one on a disk as RssFile, so that the heap alone is compared.
        total += int(fields["RssAnon"].split()[0]) * 1024
    return total


def descriptors(processes: Sequence[int]) -> int:
    """Return how many descriptors these processes have open."""
    return sum(len(os.listdir(f"/proc/{process}/fd")) for process in processes)
