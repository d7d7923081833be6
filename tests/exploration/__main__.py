"""Program: explore scenarios and say what was found.

python -m tests.exploration --scenario set-get --kills
python -m tests.exploration --random --seed 1 --count 1000
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator

from tests.exploration.aftermath import judge
from tests.exploration.explorer import Explorer, Report
from tests.exploration.random_walk import Swarm, Walk
from tests.exploration.scenarios import ADOPTIONS, SCENARIOS, Scenario
from tests.exploration.tears import tears
from tests.exploration.world import World


def show(report: Report) -> None:
    """Write how far it is."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{report.scenario:24} {report.kills or '':8} {report.runs:8} orders, {report.too_long} too long ")


def told(report: Report) -> dict[str, object]:
    """Return a report as JSON has it."""
    return {
        "scenario": report.scenario, "kills": report.kills, "orders": report.runs, "too_long": report.too_long,
        "redundant": report.cut_short, "operations": report.operations, "longest": report.longest, "deaths": report.deaths,
        "outcomes": len(report.outcomes), "seconds": round(report.seconds, 2), "complete": report.is_complete,
    }  # fmt: skip


def explorations(scenario: Scenario, *, kills: bool, limit: int, judged: Callable[[World], object] = judge) -> Iterator[Report]:
    """Explore a scenario without deaths, or with each front end dead before its first change, its second, and so on."""
    if not kills:
        yield Explorer(scenario, judged, limit=limit, on_progress=show).explore()
        return
    # Where others adopt at once the first is the one who dies, after its first change, its second, and so on.
    for victim in (0,) if scenario.dies_at_once else range(len(scenario.scripts)):
        changes = int(scenario.dies_at_once)
        while True:
            report = Explorer(scenario, judged, kills={victim: changes}, limit=limit, on_progress=show).explore()
            if not report.deaths:
                break  # it never makes so many
            yield report
            changes += 1


def torn_explorations(scenario: Scenario, at_once: int, *, limit: int, judged: Callable[[World], object] = judge) -> Iterator[Report]:
    """Explore a scenario with torn operations, in every choice of so many places; 0: torn at all places."""
    for cuts in tears(scenario, at_once):
        yield Explorer(scenario, judged, cuts=cuts, limit=limit, on_progress=show).explore()


def row(name: str, reports: list[Report]) -> str:
    """Return what was explored of a scenario, as a line of a table."""
    outcomes = set[object]().union(*(report.outcomes for report in reports))
    figures = [
        len(reports), sum(report.runs for report in reports), sum(report.too_long for report in reports),
        sum(report.operations for report in reports), len(outcomes), f"{sum(report.seconds for report in reports):.1f}",
        "yes" if all(report.is_complete for report in reports) else "no",
    ]  # fmt: skip
    return f"| {name} | {' | '.join(map(str, figures))} |"


def main() -> None:
    """Explore what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.exploration", description="Every order of a scenario's operations.")
    parser.add_argument("--scenario", action="append", choices=[*SCENARIOS, *ADOPTIONS], help="which; all without it")
    parser.add_argument("--kills", action="store_true", help="with the death of each front end before each of its changes")
    parser.add_argument("--limit", type=int, default=1_000_000, help="most orders for each")
    parser.add_argument("--random", action="store_true", help="random walks of several front ends instead")
    parser.add_argument("--seed", type=int, default=1, help="first of the random walks")
    parser.add_argument("--count", type=int, default=1, help="how many of them")
    parser.add_argument("--front-ends", type=int, default=3)
    parser.add_argument("--deaths", type=int, default=1, help="front ends that die in each walk")
    parser.add_argument("--grain", type=int, default=4, help="operations are torn at multiples of so many bytes; 0: not at all")
    parser.add_argument("--bits", type=int, nargs=2, default=(8, 14), metavar=("BINDING", "VERSION"), help="of the walks' pools")
    parser.add_argument("--adopt", action="store_true", help="the dead of a walk are adopted while others work, and newcomers come")
    parser.add_argument("--sleep", action="store_true", help="one front end of each walk is stopped for a while")
    parser.add_argument("--insert", action="store_true", help="all front ends of the walks insert and remove one key")
    parser.add_argument("--small", action="store_true", help="only scenarios that are complete within seconds")
    parser.add_argument("--torn", type=int, metavar="PLACES", help="tear operations at so many places at once, in every choice; 0: at all")
    parser.add_argument("--table", action="store_true", help="a line of a table for each scenario")
    options = parser.parse_args()
    if options.random:
        swarm = Swarm()
        swarm.run(
            range(options.seed, options.seed + options.count),
            lambda seed: Walk(
                seed, front_ends=options.front_ends, kills=options.deaths, grain_bytes=options.grain, binding_bits=options.bits[0],
                version_bits=options.bits[1], adopts=options.adopt, sleeps=options.sleep,
                inserts=options.insert,
            ), judge,
        )  # fmt: skip
        print(
            json.dumps({"walks": swarm.walks, "events": swarm.events, "outcomes": len(swarm.outcomes), "seconds": round(swarm.seconds, 2)})
        )
        return
    for name, scenario in {**SCENARIOS, **ADOPTIONS}.items():
        if (options.scenario and name not in options.scenario) or (options.small and not scenario.is_small):
            continue
        reports = []
        if options.torn is None:
            explored = explorations(scenario, kills=options.kills or scenario.dies_at_once, limit=options.limit)
        else:
            explored = torn_explorations(scenario, options.torn, limit=options.limit)
        for report in explored:
            reports.append(report)
            if not options.table:
                print(json.dumps(told(report)), flush=True)
        if options.table:
            print(row(name, reports), flush=True)


if __name__ == "__main__":
    main()
