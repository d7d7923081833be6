"""Workshop: a copy of the tree with compiled modules, in which one mutant after the other is built, tried and taken out again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.mutants.mutant import Mutant, MutantError

ROOT = Path(__file__).resolve().parents[2]
BUILD_LIMIT_S = 600.0
_COPIED = ("bench", "kvcd", "protocol", "storage", "tests", "docs", "setup.py", "pyproject.toml", "README.md")
_SKIPPED = ("__pycache__", ".hypothesis", "*.pyc")
_LOG_LINES = 40


class Verdict(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "SURVIVED"
    BROKEN = "BROKEN BUILD"
    ADRIFT = "TEXT NOT FOUND"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A mutant's verdict, the test that killed it, and what it took."""

    mutant: Mutant
    verdict: Verdict
    killer: str
    build_s: float
    test_s: float
    log: str


class Workshop:
    """One copy of the tree, taken at once: whoever goes on editing the original changes nothing of a run."""

    def __init__(self, number: int) -> None:
        """Make the copy, afresh."""
        self.tree = ROOT / "build" / "mutants" / f"tree-{number}"
        if self.tree.exists():
            shutil.rmtree(self.tree)
        self.tree.mkdir(parents=True)
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.tree / name, ignore=shutil.ignore_patterns(*_SKIPPED))
            elif source.exists():
                shutil.copy2(source, self.tree / name)

    def try_out(self, mutant: Mutant) -> Outcome:
        """Build the mutant, run its tests, and put the tree back in order."""
        changed = [self.tree / file for file in mutant.files()]
        built = [path for module in mutant.modules() for path in _compiled(self.tree, module)]
        try:
            kept = {path: path.read_bytes() for path in [*changed, *built]}
            mutant.apply(self.tree)
        except (MutantError, OSError) as error:
            return Outcome(mutant, Verdict.ADRIFT, "", 0.0, 0.0, str(error))
        try:
            for path in built:
                path.unlink()
            return self._build_and_run(mutant)
        finally:
            for module in mutant.modules():
                for path in _compiled(self.tree, module):
                    path.unlink()
            for path, content in kept.items():
                path.write_bytes(content)

    def _build_and_run(self, mutant: Mutant) -> Outcome:
        began_s = time.monotonic()
        if mutant.modules():
            status, log = self.run([sys.executable, "-m", "tests.mutants.compile_modules", *mutant.modules()], BUILD_LIMIT_S)
            if status != 0:
                return Outcome(mutant, Verdict.BROKEN, "", time.monotonic() - began_s, 0.0, log)
        built_s = time.monotonic()
        status, log = self.run_tests(list(mutant.tests), mutant.limit_s)
        test_s = time.monotonic() - built_s
        if status == 0:
            verdict, killer = Verdict.SURVIVED, ""
        elif status is None:
            verdict, killer = Verdict.KILLED, f"no answer within {mutant.limit_s:.0f} s"
        elif status < 0:
            verdict, killer = Verdict.KILLED, f"ended by {signal.Signals(-status).name}"
        elif status == 1:
            red = re.search(r"^(?:FAILED|ERROR) (\S+)", log, re.MULTILINE)
            verdict, killer = Verdict.KILLED, red.group(1) if red else "a red test"
        else:
            # Not a red test but none at all: pytest could not collect them.
            verdict, killer = Verdict.BROKEN, ""
        return Outcome(mutant, verdict, killer, built_s - began_s, test_s, log)

    def run_tests(self, tests: list[str], limit_s: float) -> tuple[int | None, str]:
        """Run tests in the tree until one is red."""
        options = ["-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", "-m", "not long"]
        command = [sys.executable, "-m", "pytest", *options, *tests]
        return self.run(command, limit_s)

    def run(self, command: list[str], limit_s: float) -> tuple[int | None, str]:
        """Run a command in the tree; its exit status (None when it took too long) and the end of what it wrote."""
        environment = os.environ | {"PYTHONPATH": str(self.tree), "PYTHONDONTWRITEBYTECODE": "1"}
        process = subprocess.Popen(
            command, cwd=self.tree, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=limit_s)
            status: int | None = process.returncode
        except subprocess.TimeoutExpired:
            status, output = None, ""
        finally:
            # Servers that a killed test left behind are of its session.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        return status, "\n".join(output.splitlines()[-_LOG_LINES:])


def _compiled(root: Path, module: str) -> list[Path]:
    """Return the shared objects of a module."""
    source = root / module
    return sorted(source.parent.glob(f"{source.stem}.*.so"))
