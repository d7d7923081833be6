"""Counts that INFO shows of the slow lane's commands, and where CONFIG RESETSTAT starts counting again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kvcd.latency import LatencyMonitor, bucket_of
from kvcd.slow_log import SlowLog

MAX_ERROR_KINDS = 128  # codes come from our own replies; the bound is against a mistake there


@dataclass(slots=True)
class CommandCount:
    """Calls of one command."""

    calls: int = 0
    duration_us: float = 0.0
    rejected: int = 0  # refused before the handler ran
    failed: int = 0  # the handler answered an error
    histogram: dict[int, int] = field(default_factory=dict)  # calls by kvcd.latency.bucket_of their time

    def add_call(self, duration_ns: int, *, in_histogram: bool) -> None:
        """Count one call that was carried out."""
        self.calls += 1
        self.duration_us += duration_ns / 1000
        if in_histogram:
            bucket = bucket_of(duration_ns)
            self.histogram[bucket] = self.histogram.get(bucket, 0) + 1

    def add(self, other: CommandCount) -> None:
        """Add the other's counts."""
        self.calls += other.calls
        self.duration_us += other.duration_us
        self.rejected += other.rejected
        self.failed += other.failed
        for bucket, count in other.histogram.items():
            self.histogram[bucket] = self.histogram.get(bucket, 0) + count


@dataclass(slots=True)
class Statistics:
    """Counts per command and per error code since the start or the last reset, and what took long."""

    commands: dict[str, CommandCount] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    baseline: dict[str, int] = field(default_factory=dict)
    slow_log: SlowLog = field(default_factory=SlowLog)
    latency: LatencyMonitor = field(default_factory=LatencyMonitor)
    tracks_latency: bool = True

    def of(self, full_name: str) -> CommandCount:
        """Return the count of a command, new at its first call."""
        count = self.commands.get(full_name)
        if count is None:
            count = self.commands[full_name] = CommandCount()
        return count

    def count_error(self, text: str) -> None:
        """Count an error reply under its code."""
        code = text.partition(" ")[0]
        if code in self.errors or len(self.errors) < MAX_ERROR_KINDS:
            self.errors[code] = self.errors.get(code, 0) + 1

    def reset(self, counters: Mapping[str, int]) -> None:
        """Forget the counts; ``counters`` are the monotonic ones as they stand."""
        self.commands.clear()
        self.errors.clear()
        self.baseline = dict(counters)

    @property
    def total_calls(self) -> int:
        """Calls of all commands."""
        return sum(count.calls for count in self.commands.values())
