"""Verbs tests run in the Soft-RoCE guest only: elsewhere they are not even imported, for want of a device and of pyverbs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.rdma.reports import IN_GUEST, REPORT_VARIABLE, SUMMARY, ReportWriter

_WHOLE_MODULE = re.compile(r"^pytestmark\b.*\bmark\.verbs\b", re.MULTILINE)


def pytest_configure(config: pytest.Config) -> None:
    """In the guest: report to the host."""
    if path := os.environ.get(REPORT_VARIABLE):
        config.pluginmanager.register(ReportWriter(Path(path)))


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave modules of verbs tests unread outside the guest: they import what only the guest has."""
    if IN_GUEST or collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    return True if _WHOLE_MODULE.search(collection_path.read_text()) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave single verbs tests out outside the guest."""
    if IN_GUEST:
        return
    if verbs_tests := [item for item in items if item.get_closest_marker("verbs")]:
        config.hook.pytest_deselected(items=verbs_tests)
        items[:] = [item for item in items if item not in verbs_tests]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what the guest did."""
    if summary := config.stash.get(SUMMARY, ""):
        terminalreporter.write_line(summary)
