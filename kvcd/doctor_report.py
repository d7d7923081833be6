"""Doctor's report: findings as a table for people or as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kvcd.doctor_checks import Finding, Grade

_COLOURS = {Grade.OK: "green", Grade.WARN: "yellow", Grade.FAIL: "bold red"}
_FILE_WIDTH = 140  # of a file or pipe, where 80 columns would only break lines


def as_json(findings: Sequence[Finding]) -> str:
    """Return ``{"ok": ..., "findings": [...]}``, with a line end."""
    report = {
        "ok": all(finding.grade is not Grade.FAIL for finding in findings),
        "findings": [
            {"group": one.group, "name": one.name, "grade": one.grade.value, "found": one.found, "remedy": one.remedy or None}
            for one in findings
        ],
    }
    return orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() + "\n"


def print_table(findings: Sequence[Finding]) -> None:
    """Print the findings to standard output, a remedy below what it mends."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    for group, members in groupby(findings, key=lambda finding: finding.group):
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), title=f"[bold]{escape(group)}[/]", title_justify="left")
        table.add_column(no_wrap=True, min_width=6)
        table.add_column(no_wrap=True, min_width=22)
        table.add_column()
        for finding in members:
            text = escape(finding.found)
            if finding.remedy:
                text += f"\n[cyan]{escape(finding.remedy)}[/]"
            table.add_row(f"  [{_COLOURS[finding.grade]}]{finding.grade.value}[/]", escape(finding.name), text)
        console.print(table)
        console.print()
    counts = {grade: sum(finding.grade is grade for finding in findings) for grade in Grade}
    verdict = "RDMA cannot be used as things are" if counts[Grade.FAIL] else "RDMA can be used"
    console.print(f"[bold]{verdict}[/]: {counts[Grade.OK]} ok, {counts[Grade.WARN]} to look at, {counts[Grade.FAIL]} failed")
