"""``python -m tests.mutants``: builds every mutant, runs its tests, and says which of them survive."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant
from tests.mutants.workshop import ROOT, Outcome, Verdict, Workshop

UNMUTATED_LIMIT_S = 900.0
_COLOURS = {Verdict.KILLED: "green", Verdict.SURVIVED: "bold red", Verdict.BROKEN: "yellow", Verdict.ADRIFT: "yellow"}


def main(
    only: Annotated[list[str] | None, typer.Option(help="Only mutants whose name holds this text; may be repeated.")] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="How many at a time; each has a copy of the tree.")] = 1,
    skip_unmutated: Annotated[bool, typer.Option("--skip-unmutated", help="Do not run the tests on the sound sources first.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="Name the mutants and end.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all outcomes as JSON.")] = None,
) -> None:
    """Seed every fault in turn and run the tests that must find it; exit status 1 when one survives or cannot be tried."""
    console = Console(stderr=True, highlight=False)
    chosen = [mutant for mutant in MUTANTS if not only or any(text in mutant.name for text in only)]
    if not chosen:
        console.print("mutants: none has such a name; --list names them all", markup=False)
        raise typer.Exit(2)
    if listing:
        for mutant in chosen:
            console.print(f"{mutant.name}: {mutant.why}", markup=False, soft_wrap=True)
        return
    if not skip_unmutated:
        prove_sound(chosen, console)
    began_s = time.monotonic()
    outcomes = run_all(chosen, jobs, console)
    show(outcomes, time.monotonic() - began_s)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_bytes(orjson.dumps([as_json(outcome) for outcome in outcomes], option=orjson.OPT_INDENT_2))
    if any(outcome.verdict != Verdict.KILLED for outcome in outcomes):
        raise typer.Exit(1)


def prove_sound(chosen: list[Mutant], console: Console) -> None:
    """Run all tests on the sources as they are: a red one would kill every mutant."""
    tests = sorted({test for mutant in chosen for test in mutant.tests})
    # A whole file stands for its tests; pytest refuses to run one twice.
    tests = [test for test in tests if "::" not in test or test.split("::")[0] not in tests]
    console.print(f"the tests of {len(chosen)} mutants on the sound sources ...", markup=False)
    began_s = time.monotonic()
    status, log = Workshop(0).run_tests(tests, UNMUTATED_LIMIT_S)
    if status != 0:
        console.print(f"mutants: the tests are not green without any mutant:\n{log}", markup=False)
        raise typer.Exit(2)
    console.print(f"green in {time.monotonic() - began_s:.1f} s", markup=False)


def run_all(chosen: list[Mutant], jobs: int, console: Console) -> list[Outcome]:
    """Try the mutants out, ``jobs`` at a time; outcomes in the order of the catalogue."""
    waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    for mutant in chosen:
        waiting.put(mutant)
    outcomes: dict[str, Outcome] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("mutants", total=len(chosen))

        def note(outcome: Outcome) -> None:
            outcomes[outcome.mutant.name] = outcome
            tally = Counter(str(done.verdict) for done in outcomes.values())
            progress.update(bar, advance=1, description=", ".join(f"{count} {verdict}" for verdict, count in tally.items()))
            progress.console.print(
                f"[{_COLOURS[outcome.verdict]}]{outcome.verdict}[/] {outcome.mutant.name} "
                f"(build {outcome.build_s:.1f} s, tests {outcome.test_s:.1f} s) {outcome.killer}".rstrip(),
                soft_wrap=True,
            )
            if outcome.verdict != Verdict.KILLED:
                progress.console.print(outcome.log, markup=False, soft_wrap=True)

        threads = [threading.Thread(target=work, args=(number, waiting, note)) for number in range(min(jobs, len(chosen)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return [outcomes[mutant.name] for mutant in chosen]


def work(number: int, waiting: queue.SimpleQueue[Mutant], note: Callable[[Outcome], None]) -> None:
    """Take mutants from the queue until it is empty."""
    workshop = Workshop(number)
    while True:
        try:
            mutant = waiting.get_nowait()
        except queue.Empty:
            return
        note(workshop.try_out(mutant))


def show(outcomes: list[Outcome], elapsed_s: float) -> None:
    """Print the table."""
    tally = Counter(outcome.verdict for outcome in outcomes)
    table = Table(title=f"{tally[Verdict.KILLED]} of {len(outcomes)} mutants killed, {elapsed_s:.0f} s")
    table.add_column("mutant", no_wrap=True)
    table.add_column("where", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("killed by", overflow="fold")
    table.add_column("s", justify="right")
    for outcome in outcomes:
        table.add_row(
            outcome.mutant.name,
            ", ".join(outcome.mutant.files()),
            f"[{_COLOURS[outcome.verdict]}]{outcome.verdict}[/]",
            outcome.killer.removeprefix("tests/").replace("[", "\\["),
            f"{outcome.build_s + outcome.test_s:.1f}",
        )
    console = Console()
    Console(width=console.width if console.is_terminal else 180).print(table)


def as_json(outcome: Outcome) -> dict[str, object]:
    """Return an outcome as plain data."""
    return {
        "name": outcome.mutant.name,
        "why": outcome.mutant.why,
        "files": outcome.mutant.files(),
        "tests": list(outcome.mutant.tests),
        "verdict": str(outcome.verdict),
        "killed_by": outcome.killer,
        "build_s": round(outcome.build_s, 2),
        "test_s": round(outcome.test_s, 2),
    }


if __name__ == "__main__":
    assert (ROOT / "setup.py").exists()
    typer.run(main)
