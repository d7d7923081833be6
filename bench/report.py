"""Results of a benchmark: rows with ratios and marks, as a table for people and as JSON with the machine's description."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.measure import Case, Median
from bench.servers import Server


@dataclass(frozen=True, slots=True)
class Row:
    """One case's outcome on both servers; the medians are by way."""

    case: Case
    candidate: dict[str, Median]
    reference: dict[str, Median]

    @property
    def candidate_way(self) -> str:
        """The candidate's recommended way: the first one it has; a server without PREFIX.MATCH is taken by its cheapest."""
        first = self.case.ways[0].name
        return first if first in self.candidate else _cheapest(self.candidate)

    @property
    def reference_way(self) -> str:
        """The reference's cheapest way."""
        return _cheapest(self.reference)

    @property
    def processor_ratio(self) -> float:
        """The candidate's processor time per operation over the reference's; below 1 is ahead.

        The median of the rounds' own ratios, not the ratio of medians: the two runs of a round lie next to
        each other in time, so a machine that is busy for a while slows both.
        """
        ours, theirs = self.candidate[self.candidate_way], self.reference[self.reference_way]
        return median_of_ratios(ours.rounds_processor_us, theirs.rounds_processor_us)

    @property
    def throughput_ratio(self) -> float:
        """The candidate's operations per second over the reference's, taken likewise; above 1 is ahead."""
        ours, theirs = self.candidate[self.candidate_way], self.reference[self.reference_way]
        return median_of_ratios(ours.rounds_operations_per_s, theirs.rounds_operations_per_s)

    @property
    def reaches_mark(self) -> bool | None:
        """None for a case without a mark."""
        return None if self.case.mark is None else self.processor_ratio <= self.case.mark


def table(rows: list[Row], candidate: Server, reference: Server) -> Table:
    """All rows, each way of the longest prefix with its own figures."""
    result = Table(
        title=f"{candidate.version} against {reference.version}",
        caption="CPU: the server's processor time per operation, median of the rounds. Ratios: first server over second, median of the\n"
        "rounds' own ratios.",
    )
    for heading in ("case", "CPU µs", "CPU µs", "CPU ratio", "mark", "", "rate", "rate", "rate ratio"):
        result.add_column(heading, justify="left" if heading in ("case", "") else "right")
    previous_group = ""
    for row in rows:
        if previous_group and row.case.group != previous_group:
            result.add_section()
        previous_group = row.case.group
        ours, theirs = row.candidate[row.candidate_way], row.reference[row.reference_way]
        verdict = {None: "", True: "[green]PASS[/]", False: "[yellow]not yet[/]"}[row.reaches_mark]
        result.add_row(
            row.case.name,
            _microseconds(ours),
            _microseconds(theirs),
            f"{row.processor_ratio:.2f}",
            "" if row.case.mark is None else f"{row.case.mark:.2f}",
            verdict,
            _rate(row.case, ours),
            _rate(row.case, theirs),
            f"{row.throughput_ratio:.2f}",
        )
        if len(row.case.ways) > 1:
            for way in row.case.ways:
                _add_way(result, row, way.name)
    return result


def as_json(rows: list[Row], candidate: Server, reference: Server, settings: dict[str, Any]) -> dict[str, Any]:
    """The whole result, with every round's figure."""
    return {
        "machine": machine(),
        "settings": settings,
        "candidate": candidate.version,
        "reference": reference.version,
        "cases": [
            {
                "group": row.case.group,
                "name": row.case.name,
                "mark": row.case.mark,
                "reaches_mark": row.reaches_mark,
                "processor_ratio": row.processor_ratio,
                "throughput_ratio": row.throughput_ratio,
                "candidate_way": row.candidate_way,
                "reference_way": row.reference_way,
                "candidate": row.candidate,
                "reference": row.reference,
            }
            for row in rows
        ],
    }


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    processors = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory_kib = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "processor": processors[0] if processors else platform.processor(),
        "processors_usable": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_kib / (1 << 20), 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average_1min": os.getloadavg()[0],
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def median_of_ratios(ours: tuple[float, ...], theirs: tuple[float, ...]) -> float:
    """The median of the rounds' ratios; both have one figure per round."""
    return statistics.median(our / their for our, their in zip(ours, theirs, strict=True))


def _cheapest(medians: dict[str, Median]) -> str:
    return min(medians, key=lambda way: medians[way].processor_us_per_operation)


def _add_way(result: Table, row: Row, way: str) -> None:
    """A dim line with one way's own figures; a side that has no such way stays empty, and a way that neither has is left out."""
    ours, theirs = row.candidate.get(way), row.reference.get(way)
    if ours is None and theirs is None:
        return
    result.add_row(
        f"  {way}",
        _microseconds(ours),
        _microseconds(theirs),
        "",
        "",
        "",
        _rate(row.case, ours),
        _rate(row.case, theirs),
        "",
        style="dim",
    )


def _microseconds(median: Median | None) -> str:
    return "" if median is None else f"{median.processor_us_per_operation:,.2f}"


def _rate(case: Case, median: Median | None) -> str:
    if median is None:
        return ""
    return f"{median.megabytes_per_s:,.0f} MB/s" if case.in_megabytes else f"{median.operations_per_s:,.0f}/s"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
