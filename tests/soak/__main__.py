"""``python -m tests.soak``: full load for long, and whether memory, descriptors and latency stay flat."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import random
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.crash.client import Client
from tests.crash.connection import Connection
from tests.crash.service import Service, ServiceError
from tests.crash.tally import Tally
from tests.soak.picture import picture
from tests.soak.samples import Judgement, Sample, descriptors, judge, private_bytes

PAGE_BYTES = 65_536


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long.")] = 30,
    workers: Annotated[int, typer.Option(min=1, max=60, help="Processes that serve.")] = 2,
    clients: Annotated[int, typer.Option(min=1, max=1000, help="Connections that work; every answer is judged.")] = 16,
    every_s: Annotated[float, typer.Option(min=0.5, help="Pause between two samples, seconds.")] = 10,
    pool_size: Annotated[str, typer.Option(help="As in the configuration. A small one is full all the time, and evicts.")] = "1gb",
    policy: Annotated[str, typer.Option(help="maxmemory-policy.")] = "allkeys-lru",
    separate: Annotated[bool, typer.Option("--separate", help="Servers with ports of their own on one pool, and no supervisor.")] = False,
    seed: Annotated[int, typer.Option(help="For the choices of the clients; 0: a new one.")] = 0,
    picture_file: Annotated[Path, typer.Option("--picture", metavar="FILE", help="Draw the samples (SVG).")] = Path("build/soak.svg"),
    json_file: Annotated[Path, typer.Option("--json", metavar="FILE", help="Write all samples as JSON.")] = Path("build/soak.json"),
) -> None:
    """Work at full load and sample; exit status 1 when something grows beyond its bound or an answer is wrong."""
    console = Console(stderr=True, highlight=False)
    seed = seed or random.SystemRandom().randrange(1, 1 << 31)
    tally, samples = Tally(), list[Sample]()
    with tempfile.TemporaryDirectory(prefix="kvcd-soak-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        flags = {"pool-size": pool_size, "maxmemory-policy": policy, "index-entries": "131072"}
        try:
            service = Service(workers=workers, pool=f"file:{folder}/pool", flags=flags, separate=separate)
            asyncio.run(soak(service, tally, samples, clients=clients, seconds=minutes * 60, every_s=every_s, seed=seed, console=console))
        except ServiceError as error:
            console.print(f"soak: {error}", markup=False)
            raise typer.Exit(2) from error
    judgements = judge(samples)
    title = f"{workers} workers, {clients} clients, {minutes:g} minutes, {tally.operations} operations"
    picture_file.parent.mkdir(parents=True, exist_ok=True)
    picture_file.write_text(picture(samples, title))
    # Where a full pool evicts, an acknowledged value may be missing; nothing else may be.
    faults = {str(fault): count for fault, count in tally.faults.items() if "missing" not in fault or policy == "noeviction"}
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "kernel": platform.release()}
    report = {"title": title, "seed": seed, "machine": machine, "faults": faults, "samples": [asdict(sample) for sample in samples],
              "judgements": [asdict(judgement) | {"is_flat": judgement.is_flat} for judgement in judgements]}  # fmt: skip
    json_file.parent.mkdir(parents=True, exist_ok=True)
    json_file.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    Console(width=None if sys.stdout.isatty() else 120).print(table(judgements, title))
    console.print(f"picture: {picture_file}, samples: {json_file}", markup=False)
    if faults:
        console.print("\n".join([f"{fault}: {count}" for fault, count in faults.items()] + tally.examples), markup=False)
    if faults or not all(judgement.is_flat for judgement in judgements):
        raise typer.Exit(1)


async def soak(
    service: Service, tally: Tally, samples: list[Sample], *, clients: int, seconds: float, every_s: float, seed: int, console: Console
) -> None:
    """Work and sample until the time is over, and stop the service."""
    try:
        await service.ready()
        choose = random.Random(seed)

        async def opener() -> tuple[Connection, int]:
            return await service.open(choose.random())

        crowd: list[Client] = []
        crowd += [Client(number, seed=seed, tally=tally, others=crowd, opener=opener) for number in range(clients)]
        stopping = asyncio.Event()
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("", total=seconds)
            async with asyncio.TaskGroup() as group:
                for client in crowd:
                    group.create_task(client.run(stopping))
                began_s = time.monotonic()
                while (elapsed_s := time.monotonic() - began_s) < seconds:
                    sample = await take(service, tally, began_s, min(every_s, seconds - elapsed_s))
                    samples.append(sample)
                    faults = sum(tally.faults.values())
                    progress.update(
                        bar,
                        completed=sample.elapsed_s,
                        description=f"{sample.private_bytes / 1e6:.1f} MB, {sample.descriptors} descriptors, "
                        f"{sample.operations_per_s:.0f} operations/s, p99 {sample.p99_ms:.1f} ms, {faults} faults",
                    )
                stopping.set()
        for client in crowd:
            client.close()
    finally:
        statuses = service.close()
    if any(statuses):
        raise ServiceError(f"exit statuses {statuses}:\n{service.tail()}")


async def take(service: Service, tally: Tally, began_s: float, pause_s: float) -> Sample:
    """Wait, and look at what the interval was like."""
    before, since_s = tally.operations, time.monotonic()
    tally.pipelines_ms.clear()
    await asyncio.sleep(pause_s)
    now_s = time.monotonic()
    rate = (tally.operations - before) / (now_s - since_s)
    times = tally.quantile_ms(0.5), tally.quantile_ms(0.99)
    processes = service.all_processes()
    with contextlib.suppress(FileNotFoundError):
        info = await service.info()
        return Sample(
            now_s - began_s, private_bytes(processes), int(info["pool_pages_used"]) * PAGE_BYTES, descriptors(processes), rate, *times
        )
    raise ServiceError(f"a process of the service ended:\n{service.tail()}")


def table(judgements: list[Judgement], title: str) -> Table:
    """Print means and growth."""
    flat = all(judgement.is_flat for judgement in judgements)
    out = Table(title=f"{title}: {'[green]flat[/]' if flat else '[bold red]not flat[/]'}")
    for heading in ("figure", "mean", "growth over the run", "allowed", ""):
        out.add_column(heading, justify="right" if heading not in ("figure", "") else "left")
    for judgement in judgements:
        verdict = "[green]flat[/]" if judgement.is_flat else "[bold red]grows[/]"
        out.add_row(judgement.field, f"{judgement.mean:,.1f}", f"{judgement.growth:+,.1f}", f"{judgement.allowed:,.1f}", verdict)
    return out


if __name__ == "__main__":
    typer.run(main)
