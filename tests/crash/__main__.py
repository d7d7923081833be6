"""``python -m tests.crash``: clients that judge every answer, while workers are killed and stopped under them."""

from __future__ import annotations

import asyncio
import os
import platform
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.crash.client import LONGEST_TTL_MS, Client
from tests.crash.connection import Connection
from tests.crash.ledger import Fault
from tests.crash.nemesis import Nemesis
from tests.crash.pages import PagesInUse, pages_in_use
from tests.crash.service import Service, ServiceError
from tests.crash.tally import Tally

SETTLE_LIMIT_S = 20.0
ADOPTION_LIMIT_S = 10.0
BASELINE_S = 3.0
LAG_PAUSE_S = 0.01
CONNECTION_LIMIT_S = 10.0


@dataclass(slots=True)
class Result:
    """What came of a run."""

    tally: Tally
    nemesis: Nemesis
    seconds: float
    audited_keys: int = 0
    keys_by_dbsize: int = 0
    keys_by_scan: int = 0
    pages_before: PagesInUse | None = None
    pages_after: PagesInUse | None = None
    evicted: int = 0
    damaged: int = 0
    exit_statuses: list[int] = field(default_factory=list)

    def failures(self, *, may_evict: bool) -> list[str]:
        """Return what must not be."""
        tolerated = {Fault.MISSING} if may_evict else set()
        found = [f"{count} × {fault}" for fault, count in self.tally.faults.items() if fault not in tolerated]
        if self.keys_by_dbsize != self.keys_by_scan:
            found.append(f"DBSIZE {self.keys_by_dbsize}, SCAN {self.keys_by_scan}")
        for when, pages in (("before any kill", self.pages_before), ("at the end", self.pages_after)):
            if pages is not None and not pages.is_clean:
                found.append(f"{pages.leaked} pages and {pages.cells_in_use} cells leaked {when}")
        if self.tally.unanswered:
            found.append(f"{self.tally.unanswered} pipelines never answered")
        if self.evicted and not may_evict:
            found.append(f"{self.evicted} evicted: give a larger --pool-size")
        if self.damaged:
            found.append(f"{self.damaged} damaged entries met")
        if any(self.exit_statuses):
            found.append(f"exit statuses {self.exit_statuses}")
        return found


def main(
    workers: Annotated[int, typer.Option(min=1, max=60, help="Processes that serve.")] = 4,
    clients: Annotated[int, typer.Option(min=1, max=1000, help="Connections that work and judge.")] = 8,
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 600,
    kill_every_ms: Annotated[int, typer.Option(min=0, help="Pause between two SIGKILLs; 0: none.")] = 300,
    keep_ready: Annotated[int, typer.Option(min=0, help="Kill only while more workers than this are ready.")] = 1,
    stop: Annotated[bool, typer.Option("--stop", help="Let a worker stand still (SIGSTOP) for 1 to 5 s, again and again.")] = False,
    pool: Annotated[str, typer.Option(help="Pool URL; a file on /dev/shm when left out.")] = "",
    pool_size: Annotated[str, typer.Option(help="As in the configuration.")] = "1gb",
    policy: Annotated[str, typer.Option(help="maxmemory-policy; with eviction a missing key is no fault.")] = "noeviction",
    separate: Annotated[bool, typer.Option("--separate", help="Servers with ports of their own on one pool, and no supervisor.")] = False,
    seed: Annotated[int, typer.Option(help="For the choices of clients and nemesis; 0: a new one.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures as JSON.")] = None,
) -> None:
    """Kill workers while clients write and read; exit status 1 when anything acknowledged is lost, wrong or leaked."""
    console = Console(stderr=True, highlight=False)
    seed = seed or random.SystemRandom().randrange(1, 1 << 31)
    with tempfile.TemporaryDirectory(prefix="kvcd-crash-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        url = pool or f"file:{folder}/pool"
        flags = {"pool-size": pool_size, "maxmemory-policy": policy, "index-entries": "131072"}
        try:
            service = Service(workers=workers, pool=url, flags=flags, separate=separate)
            result = asyncio.run(
                drive(
                    service,
                    clients=clients,
                    seconds=seconds,
                    kill_every_s=kill_every_ms / 1000,
                    keep_ready=keep_ready,
                    stop=stop,
                    seed=seed,
                    console=console,
                )
            )
        except ServiceError as error:
            console.print(f"crash: {error}", markup=False)
            raise typer.Exit(2) from error
    failures = result.failures(may_evict=policy != "noeviction")
    show(result, failures)
    if json_file is not None:
        settings = {"workers": workers, "clients": clients, "kill_every_ms": kill_every_ms, "stop": stop, "pool": url, "seed": seed}
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_bytes(orjson.dumps(as_json(result, failures, settings), option=orjson.OPT_INDENT_2))
    if failures:
        console.print(f"seed {seed}\n" + "\n".join(result.tally.examples), markup=False, soft_wrap=True)
        raise typer.Exit(1)


async def drive(
    service: Service, *, clients: int, seconds: float, kill_every_s: float, keep_ready: int, stop: bool, seed: int, console: Console
) -> Result:
    """Run everything against a service that was just started, and stop it."""
    try:
        await service.ready()
        choose = random.Random(seed)

        async def opener() -> tuple[Connection, int]:
            async with asyncio.timeout(CONNECTION_LIMIT_S):
                return await service.open(choose.random())

        tally = Tally()
        crowd: list[Client] = []
        crowd += [Client(number, seed=seed, tally=tally, others=crowd, opener=opener) for number in range(clients)]
        nemesis = Nemesis(service, kill_every_s, seed, stops=stop, keep_ready=keep_ready)
        for client in crowd:
            client.stop_of = nemesis.was_stopped
        result = Result(tally, nemesis, seconds)
        await work(crowd, [], BASELINE_S)
        await settle(service, crowd, result)
        result.pages_before = await pages_in_use(service, ADOPTION_LIMIT_S)
        tally.operations, tally.longest_ms, tally.longest_reconnection_ms, tally.reconnections = 0, 0.0, 0.0, 0
        tally.pipelines_ms.clear()
        with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console) as progress:
            attacks = ([nemesis.kill] if kill_every_s else []) + ([nemesis.stop] if stop else [])
            watcher = asyncio.create_task(watch(progress, result, seconds))
            began_s = time.monotonic()
            await work(crowd, attacks, seconds)
            result.seconds = time.monotonic() - began_s
            await watcher
        service.revive()
        await service.ready()
        result.audited_keys = sum(await asyncio.gather(*(client.audit() for client in crowd)))
        await settle(service, crowd, result, compare=True)
        result.pages_after = await pages_in_use(service, ADOPTION_LIMIT_S)
        info = await service.info()
        result.evicted, result.damaged = int(info["evicted_keys"]), int(info.get("pool_damaged", 0))
        for client in crowd:
            client.close()
    finally:
        statuses = service.close()
    result.exit_statuses = statuses
    return result


async def work(crowd: list[Client], attacks: list[Any], seconds: float) -> None:
    """Let everybody work for some time; any task that fails ends all."""
    stopping = asyncio.Event()
    lag = asyncio.create_task(measure_lag(crowd[0].tally, stopping))
    async with asyncio.TaskGroup() as group:
        for client in crowd:
            group.create_task(client.run(stopping))
        for attack in attacks:
            group.create_task(attack(stopping))
        await asyncio.sleep(seconds)
        stopping.set()
    await lag


async def measure_lag(tally: Tally, stopping: asyncio.Event) -> None:
    """How late this event loop is: the clients' own part in every time that they measure."""
    while not stopping.is_set():
        began_s = time.monotonic()
        await asyncio.sleep(LAG_PAUSE_S)
        tally.longest_loop_lag_ms = max(tally.longest_loop_lag_ms, (time.monotonic() - began_s - LAG_PAUSE_S) * 1000)


async def watch(progress: Progress, result: Result, seconds: float) -> None:
    """Keep the progress bar true."""
    tally = result.tally
    bar = progress.add_task("", total=seconds)
    began_s = time.monotonic()
    while (elapsed_s := time.monotonic() - began_s) < seconds:
        faults = sum(tally.faults.values())
        progress.update(
            bar,
            completed=elapsed_s,
            description=f"{result.nemesis.kills} kills, {tally.operations} operations, {tally.lost_answers} unanswered, {faults} faults",
        )
        await asyncio.sleep(0.5)


async def settle(service: Service, crowd: list[Client], result: Result, *, compare: bool = False) -> None:
    """Compare DBSIZE with SCAN once nothing expires any more, then delete everything."""
    deadline_s = time.monotonic() + SETTLE_LIMIT_S + LONGEST_TTL_MS / 1000
    connection, _ = await service.open(0.0)
    while compare:
        result.keys_by_dbsize = await connection.call(b"DBSIZE")
        result.keys_by_scan = len(await scan(connection))
        if result.keys_by_dbsize == result.keys_by_scan or time.monotonic() > deadline_s:
            break
        await asyncio.sleep(0.2)
    await asyncio.gather(*(client.delete_all() for client in crowd))
    for key in await scan(connection):
        await connection.call(b"DEL", key)
    connection.close()


async def scan(connection: Connection) -> set[bytes]:
    """Return every key that SCAN names."""
    found: set[bytes] = set()
    cursor = b"0"
    while True:
        cursor, keys = await connection.call(b"SCAN", cursor, b"COUNT", b"10000")
        found.update(keys)
        if cursor == b"0":
            return found


def figures(result: Result) -> dict[str, Any]:
    """Return the figures by their names."""
    tally, nemesis, before, after = result.tally, result.nemesis, result.pages_before, result.pages_after
    return {
        "seconds": round(result.seconds, 1),
        "kills": nemesis.kills,
        "kills put off for want of ready workers": nemesis.spared,
        "stops": nemesis.stop_count,
        "fewest ready workers at a kill": nemesis.fewest_ready if nemesis.kills else None,
        "operations": tally.operations,
        "operations per second": round(tally.operations / result.seconds),
        "answers lost with their connection": tally.lost_answers,
        "reconnections": tally.reconnections,
        "refused connections": tally.refused_connections,
        "error replies": sum(tally.error_replies.values()),
        **{str(fault): tally.faults[fault] for fault in Fault},
        "keys audited at the end": result.audited_keys,
        "DBSIZE": result.keys_by_dbsize,
        "SCAN": result.keys_by_scan,
        "evicted": result.evicted,
        "damaged": result.damaged,
        "spare pages when all is deleted, before": before.total if before is not None else None,
        "spare pages when all is deleted, after": after.total if after is not None else None,
        "pages leaked": after.leaked if after is not None else None,
        "cells leaked": after.cells_in_use if after is not None else None,
        "pipeline p50 ms": round(tally.quantile_ms(0.5), 2),
        "pipeline p99 ms": round(tally.quantile_ms(0.99), 2),
        "longest stall of a client of another worker ms": round(tally.longest_ms, 1),
        "longest stall of a stopped worker's client ms": round(tally.longest_on_stopped_ms, 1),
        "longest reconnection ms": round(tally.longest_reconnection_ms, 1),
        "longest lag of the clients' own loop ms": round(tally.longest_loop_lag_ms, 1),
        "pipelines never answered": tally.unanswered,
    }


def show(result: Result, failures: list[str]) -> None:
    """Print the table."""
    verdict = "[bold red]" + "; ".join(failures) + "[/]" if failures else "[green]nothing lost, nothing wrong, nothing leaked[/]"
    nemesis = result.nemesis
    table = Table(title=f"{verdict}\n{nemesis.kills} kills, {nemesis.spared} put off, {nemesis.stop_count} stops")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures(result).items():
        table.add_row(name, str(value))
    for text, count in result.tally.error_replies.most_common(5):
        table.add_row(f"error reply: {text[:80]}".replace("[", "\\["), str(count))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def as_json(result: Result, failures: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    """Return everything as plain data."""
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "kernel": platform.release()}
    return {
        "settings": settings,
        "machine": machine,
        "figures": figures(result),
        "error_replies": dict(result.tally.error_replies),
        "failures": failures,
        "examples": result.tally.examples,
    }


if __name__ == "__main__":
    typer.run(main)
