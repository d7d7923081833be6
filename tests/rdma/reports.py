"""Guest reports: what the guest's pytest says of each test, a line at a time, so that a crash or a hang leaves all that came before it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

IN_GUEST = os.environ.get("KVCD_VERBS") == "1"
SUMMARY = pytest.StashKey[str]()  # on the host: one line on the guest, for the end of pytest's own report
REPORT_VARIABLE = "KVCD_GUEST_REPORT"  # in the guest: the file to write to, below a folder that it shares with the host


class ReportWriter:
    """A pytest plugin that writes what happens as JSON lines."""

    def __init__(self, path: Path) -> None:
        """Write to this file."""
        self._file = path.open("w", buffering=1)

    def _write(self, **line: object) -> None:
        self._file.write(json.dumps(line) + "\n")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Say which tests will run."""
        self._write(chosen=[item.nodeid for item in session.items])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Say which modules cannot be read."""
        if report.failed:
            self._write(test=report.nodeid, outcome="failed", phase="collection", seconds=0, text=report.longreprtext)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Say which test begins."""
        self._write(begun=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Say how a test went: once for its call, and once more for a set-up or an end that did not pass."""
        if report.when == "call" or not report.passed:
            said = [report.longreprtext, *(f"--- {title}\n{text}" for title, text in report.sections if report.failed)]
            text = "\n".join(said)
            self._write(test=report.nodeid, outcome=report.outcome, phase=report.when, seconds=report.duration, text=text)

    def pytest_unconfigure(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class TestOutcome:
    """How one phase of one test went; ``outcome`` is passed, failed or skipped."""

    __test__ = False  # pytest takes it for a test otherwise

    test: str
    outcome: str
    phase: str
    seconds: float
    text: str


@dataclass(slots=True)
class GuestReport:
    """What the host read of a report."""

    chosen: list[str] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    outcomes: list[TestOutcome] = field(default_factory=list)

    @classmethod
    def parse(cls, lines: Iterable[str]) -> GuestReport:
        """Read the lines; a last one that was cut off is left out."""
        report = cls()
        for line in lines:
            if not line.endswith("\n"):
                break
            fields = json.loads(line)
            if "chosen" in fields:
                report.chosen += fields["chosen"]
            elif "begun" in fields:
                report.begun.append(fields["begun"])
            else:
                report.outcomes.append(TestOutcome(**fields))
        return report

    def failures(self, module: str) -> list[TestOutcome]:
        """Return what failed in a module, a path from the repository's root."""
        return [each for each in self.outcomes if each.outcome == "failed" and each.test.partition("::")[0] == module]

    def unfinished(self, module: str) -> list[str]:
        """Return the tests of a module that were chosen and have not ended."""
        ended = {each.test for each in self.outcomes}
        return [test for test in self.chosen if test.partition("::")[0] == module and test not in ended]

    def has_chosen(self, module: str) -> bool:
        """Whether the guest was to run any test of a module."""
        return any(test.partition("::")[0] == module for test in self.chosen)
