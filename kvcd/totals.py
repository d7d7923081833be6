"""Totals: what one worker has counted, what several have together, and what those that are gone had."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kvcd.statistics import CommandCount

if TYPE_CHECKING:
    from kvcd.context import ServerState

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class Tally:
    """Counts of one worker, or of several added up.

    ``counters`` only grow, ``baseline`` is where they stood at the last CONFIG RESETSTAT. ``epoch`` counts those resets. What follows
    ``cpu_s`` is the present, and of a worker that is gone nothing.
    """

    epoch: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    baseline: dict[str, int] = field(default_factory=dict)
    commands: dict[str, CommandCount] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)  # processor time by "user", "sys" and the same of "_children"
    clients: int = 0
    operations_per_second: int = 0
    listeners: dict[str, int] = field(default_factory=dict)  # who waits, tracks or subscribes, and to how much (ServerModes.counts)
    longest_input_bytes: int = 0
    longest_output_bytes: int = 0
    private_bytes: int = 0  # resident memory of the process alone
    shared_bytes: int = 0  # and such as others may have mapped too: the touched part of the pool above all

    def since_reset(self) -> dict[str, int]:
        """Return the counters less what they were at the last reset."""
        return {name: count - self.baseline.get(name, 0) for name, count in self.counters.items()}

    def command_calls(self) -> dict[str, int]:
        """Return calls per command since the last reset, of both lanes."""
        calls = {name: count.calls for name, count in self.commands.items()}
        for name, count in self.since_reset().items():
            kind, _, command = name.partition(":")
            if kind == "calls" and count:
                calls[command] = calls.get(command, 0) + count
        return calls

    def command_counts(self) -> dict[str, CommandCount]:
        """Return calls, times and histograms per command since the last reset, of both lanes."""
        counts: dict[str, CommandCount] = {}
        for name, count in self.commands.items():
            counts.setdefault(name, CommandCount()).add(count)
        for field_name, number in self.since_reset().items():
            kind, _, rest = field_name.partition(":")
            command, _, bucket = rest.partition(":")
            if number and kind == "calls":
                counts.setdefault(command, CommandCount()).calls += number
            elif number and kind == "ns":
                counts.setdefault(command, CommandCount()).duration_us += number / 1000
            elif number and kind == "took":
                counts.setdefault(command, CommandCount()).histogram[int(bucket)] = counts[command].histogram.get(int(bucket), 0) + number
        return counts

    @property
    def resident_bytes(self) -> int:
        """Resident memory, what workers share counted once."""
        return self.private_bytes + self.shared_bytes

    def reset(self, epoch: int) -> None:
        """Take part in a CONFIG RESETSTAT that was made elsewhere."""
        self.epoch = epoch
        self.baseline = dict(self.counters)
        self.commands.clear()
        self.errors.clear()

    def end(self) -> None:
        """The worker is gone: what it counted stays, its present does not."""
        self.clients = self.operations_per_second = self.longest_input_bytes = self.longest_output_bytes = 0
        self.private_bytes = self.shared_bytes = 0
        self.listeners.clear()

    def add(self, other: Tally) -> None:
        """Add the other's counts; of lengths and shared memory the larger one counts."""
        for name, count in other.commands.items():
            self.commands.setdefault(name, CommandCount()).add(count)
        _add(self.counters, other.counters)
        _add(self.baseline, other.baseline)
        _add(self.errors, other.errors)
        _add(self.listeners, other.listeners)
        for name, seconds in other.cpu_s.items():
            self.cpu_s[name] = self.cpu_s.get(name, 0.0) + seconds
        self.clients += other.clients
        self.operations_per_second += other.operations_per_second
        self.private_bytes += other.private_bytes
        self.longest_input_bytes = max(self.longest_input_bytes, other.longest_input_bytes)
        self.longest_output_bytes = max(self.longest_output_bytes, other.longest_output_bytes)
        self.shared_bytes = max(self.shared_bytes, other.shared_bytes)

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__ if name != "commands"}
        fields["commands"] = {
            name: [[count.calls, count.duration_us, count.rejected, count.failed], list(count.histogram.items())]
            for name, count in self.commands.items()
        }
        return fields

    @classmethod
    def from_plain(cls, fields: Mapping[str, Any]) -> Tally:
        """Return what ``plain`` was made of."""
        rest = {name: value for name, value in fields.items() if name != "commands"}
        commands = {
            name: CommandCount(calls, duration_us, rejected, failed, dict(buckets))
            for name, ((calls, duration_us, rejected, failed), buckets) in fields["commands"].items()
        }
        return cls(**rest, commands=commands)


def _add(own: dict[str, int], others: Mapping[str, int]) -> None:
    for name, count in others.items():
        own[name] = own.get(name, 0) + count


def total_of(tallies: Iterable[Tally]) -> Tally:
    """Return the sum of several."""
    total = Tally()
    for tally in tallies:
        total.epoch = max(total.epoch, tally.epoch)
        total.add(tally)
    return total


def tally_of(server: ServerState, epoch: int = 0) -> Tally:
    """Return what this process has counted."""
    counters = {**server.counters(), **server.store.counters()}
    rate = counters.pop("operations_per_second", 0)  # has no start to be counted from
    clients = server.clients.values()
    private_bytes, shared_bytes = _resident_bytes()
    return Tally(
        epoch=epoch,
        counters=counters,
        baseline=dict(server.statistics.baseline),
        commands=server.statistics.commands,
        errors=server.statistics.errors,
        cpu_s=_processor_seconds(),
        clients=len(clients),
        operations_per_second=rate,
        listeners=server.modes.counts(),
        longest_input_bytes=max((client.pending_input_bytes for client in clients), default=0),
        longest_output_bytes=max((client.pending_output_bytes for client in clients), default=0),
        private_bytes=private_bytes,
        shared_bytes=shared_bytes,
    )


def _resident_bytes() -> tuple[int, int]:
    with open("/proc/self/statm", encoding="ascii") as file:
        _, resident, shared = file.read().split()[:3]
    return (int(resident) - int(shared)) * _PAGE_BYTES, int(shared) * _PAGE_BYTES


def _processor_seconds() -> dict[str, float]:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"sys": own.ru_stime, "user": own.ru_utime, "sys_children": children.ru_stime, "user_children": children.ru_utime}


class Ledger:
    """The last known tally of every worker, and the sum of those that are gone; so no total falls when a worker dies."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self.epoch = 0
        self._present: dict[int, Tally] = {}
        self._gone = Tally()

    def note(self, place: int, tally: Tally) -> None:
        """Remember what the worker at ``place`` says; what it counted before it heard of the last reset is left out."""
        if tally.epoch == self.epoch:
            self._present[place] = tally

    def end(self, place: int) -> None:
        """The worker at ``place`` is gone."""
        tally = self._present.pop(place, None)
        if tally is not None:
            tally.end()
            self._gone.add(tally)

    def reset(self) -> int:
        """Begin the counts of INFO again (CONFIG RESETSTAT); returns the epoch that starts with it."""
        self.epoch += 1
        for tally in (self._gone, *self._present.values()):
            tally.reset(self.epoch)
        return self.epoch

    def total(self) -> Tally:
        """Return the sum of all, as last heard."""
        return total_of((self._gone, *self._present.values()))
