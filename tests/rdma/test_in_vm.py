"""The verbs tests, in a Soft-RoCE guest: one boot for all of them, and one test here for each of their modules.

A module takes part when it stands below GUEST_PATHS and has tests marked ``verbs``. Everything that the guest's pytest says
is in build/rdma-guest.log while it runs. Time allowed: KVCD_GUEST_DEADLINE_S seconds, or ten minutes.
"""

from __future__ import annotations

import compileall
import faulthandler
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.programs import cannot_run
from tests.rdma.kernel import CannotRunError
from tests.rdma.reports import IN_GUEST, REPORT_VARIABLE, SUMMARY, GuestReport
from tests.rdma.softroce import GuestDiedError, run_in_guest
from tests.storage.in_guest import IN_EVERY_RUN

ROOT = Path(__file__).resolve().parents[2]
LOG = ROOT / "build" / "rdma-guest.log"
GUEST_PATHS = ("tests/rdma", "tests/storage")
# What a module says that has tests for the guest: the mark itself, or the parametrisations of tests/storage/pools.py.
MARKS = ("mark." + "verbs", "every_" + "fabric", "remote_" + "fabrics")
DEADLINE_S = 600.0  # it takes two to five minutes, by what else the machine does
LOG_TAIL_LINES = 40

# Python starts slowly under emulation, so pytest brings along what the tests need and nothing else.
PLUGINS = ("-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider", "-p", "no:doctest", "-p", "no:junitxml")
# Every process of the guest would compile these anew, for seconds each time.
COMPILED_AHEAD = ("kvcd", "protocol", "storage", "tests")
PASSED_ON = ("REQUIRE_VERBS", "REQUIRE_PROGRAMS", "KVCD_TRACE_DIR")

pytestmark = pytest.mark.skipif(IN_GUEST, reason="this is the guest")


def guest_modules() -> list[str]:
    """Return the modules with verbs tests, as paths from the repository's root."""
    found: set[Path] = set()
    for place in GUEST_PATHS:
        path = ROOT / place
        found.update(path.rglob("test_*.py") if path.is_dir() else [path])
    return sorted(str(path.relative_to(ROOT)) for path in found if any(mark in path.read_text() for mark in MARKS))


@dataclass(frozen=True, slots=True)
class GuestRun:
    """What became of the guest: its report, and why it is not complete, if it is not."""

    report: GuestReport
    trouble: str


def guest_command(modules: list[str], *, report: Path, marks: str) -> list[str]:
    """Return what the guest runs."""
    environment = [f"{name}={os.environ[name]}" for name in PASSED_ON if name in os.environ]
    environment += ["KVCD_VERBS=1", f"{REPORT_VARIABLE}={report}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1"]
    # The host's old temporary folders would be cleared away in the guest too, one slow call after another.
    options = ["-v", "-m", f"verbs and ({marks})" if marks else "verbs", "--basetemp=/run/pytest", *PLUGINS]
    return ["env", *environment, sys.executable, "-m", "pytest", *options, *modules]


@pytest.fixture(scope="module")
def guest_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GuestRun:
    """Boot the guest, run the chosen modules there, and read its report."""
    faulthandler.cancel_dump_traceback_later()  # this takes minutes, and has a deadline of its own
    if importlib.util.find_spec("pyverbs") is None:
        cannot_run("no pyverbs in this environment; `.ci/prepare test` links Debian's python3-pyverbs into it", required_by="REQUIRE_VERBS")
    here = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == Path(__file__)]
    chosen = [str(item.callspec.params["module"]) for item in here]
    deadline_s = float(os.environ.get("KVCD_GUEST_DEADLINE_S") or DEADLINE_S)
    report_file = tmp_path_factory.mktemp("guest") / "report"
    command = guest_command(chosen, report=report_file, marks=request.config.getoption("-m"))
    LOG.parent.mkdir(exist_ok=True)
    for package in COMPILED_AHEAD:
        compileall.compile_dir(ROOT / package, quiet=2)
    summary, trouble = "", ""
    try:
        with LOG.open("wb") as log:
            ended = run_in_guest(command, shares=[report_file.parent], folder=ROOT, deadline_s=deadline_s, output=log, errors=log)
    except CannotRunError as error:
        cannot_run(f"the Soft-RoCE guest cannot run here: {error}", required_by="REQUIRE_VERBS")
    except GuestDiedError as error:
        trouble = str(error)
    else:
        summary = f"Soft-RoCE guest ({ended.accelerator}): {ended.boot_s:.0f} s to boot, {ended.total_s:.0f} s in all; {LOG}"
        if ended.status is None:
            trouble = f"the guest was not done after {deadline_s:g} s (KVCD_GUEST_DEADLINE_S allows more)"
        elif ended.status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
            trouble = f"the guest's pytest ended with status {ended.status}"
    with report_file.open() if report_file.exists() else open(os.devnull) as lines:
        report = GuestReport.parse(lines)
    request.config.stash[SUMMARY] = summary
    return GuestRun(report, trouble)


def log_tail() -> str:
    """Return the last lines that the guest wrote."""
    return "\n".join(LOG.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])


def as_parameter(module: str) -> object:
    """Return the module, marked when all that it has for the guest takes long."""
    path = Path(module)
    is_long = path.parent.name == "storage" and path.stem not in IN_EVERY_RUN
    is_long |= re.search(r"^pytestmark\b.*\bmark\.long\b", (ROOT / path).read_text(), re.MULTILINE) is not None
    return pytest.param(module, marks=pytest.mark.long) if is_long else module


@pytest.mark.parametrize("module", [as_parameter(module) for module in guest_modules()])
def test_module_passes_in_the_guest(guest_run: GuestRun, module: str) -> None:
    """Every verbs test of the module has run in the guest, and none has failed."""
    report = guest_run.report
    said = [f"{each.test} failed in the guest ({each.phase}, {each.seconds:.1f} s):\n{each.text}" for each in report.failures(module)]
    if unfinished := report.unfinished(module):
        begun = report.begun[-1] if report.begun else "none"
        said.append(f"{len(unfinished)} tests did not run to their end in the guest, from {unfinished[0]} on; begun last: {begun}")
    if guest_run.trouble and (unfinished or not report.chosen):
        said.append(f"{guest_run.trouble}\nthe end of {LOG}:\n{log_tail()}")
    elif not report.chosen and not said:
        said.append(f"the guest found no test at all\nthe end of {LOG}:\n{log_tail()}")
    if said:
        pytest.fail("\n\n".join(said), pytrace=False)
    if not report.has_chosen(module):
        pytest.skip("-m leaves out all verbs tests of this module")
    print(*(f"{each.test}: {each.outcome}, {each.seconds:.2f} s" for each in report.outcomes if each.test.startswith(module)), sep="\n")
