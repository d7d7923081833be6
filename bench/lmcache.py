"""``python -m bench.lmcache``: LMCache's connectors against kvcd and redis-server in turn, MB/s beside each other."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from bench.__main__ import REFERENCE, candidate_command
from bench.report import machine, median_of_ratios
from bench.servers import BenchError, Server, running

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv-lmcache"
CONNECTORS = ("redis", "valkey", "resp", "l2resp", "l2valkey")  # resp: the native client
RUN_TIMEOUT_S = 300

# LMCache names CUDA packages among its dependencies, so it comes without them, and what it imports on a machine without a GPU by name.
_INSTALL_STEPS: tuple[tuple[str, ...], ...] = (
    ("torch==2.13.0", "numpy<=2.2.6", "redis"),
    ("--no-deps", "lmcache==0.5.6"),
    (
        *("aiofile", "aiofiles", "aiohttp", "awscrt", "blake3", "cachetools", "cryptography", "fastapi", "grpcio", "httptools", "httpx"),
        *("msgspec", "numba", "nvtx", "opentelemetry-api", "opentelemetry-sdk", "prometheus_client", "protobuf<7", "psutil", "py-cpuinfo"),
        *("pyyaml", "pyzmq", "requests", "safetensors", "sortedcontainers", "transformers", "uvicorn", "valkey-glide-sync"),
    ),
)


def main(
    rounds: Annotated[int, typer.Option(min=1, max=100, help="How often each server is driven; medians count.")] = 3,
    chunks: Annotated[int, typer.Option(min=8, max=4096, help="Chunks moved in one run.")] = 32,
    layers: Annotated[int, typer.Option(min=1, max=128, help="8: chunks of 8 MiB; 32, the whole model: 32 MiB.")] = 8,
    candidate: Annotated[
        str, typer.Option(help="Command line with {port}, or redis://HOST:PORT on this machine; kvcd when left out.")
    ] = "",
    connectors: Annotated[str, typer.Option(metavar="NAME[,NAME...]", help=f"Of these: {', '.join(CONNECTORS)}.")] = ",".join(CONNECTORS),
    password: Annotated[str, typer.Option(help="requirepass of both servers while they are driven.")] = "",
    reference: Annotated[str, typer.Option(help="The server to compare with, in the same form.")] = REFERENCE,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures as JSON.")] = None,
) -> None:
    """Drive LMCache's connectors and second-level adapters; exit code 1 when a connector fails or gets a wrong byte."""
    console = Console(stderr=True, highlight=False)
    failed = False
    results: list[dict[str, Any]] = []
    try:
        chosen = _chosen(connectors)
        python = ensure_environment(console)
        with running("candidate", candidate or candidate_command()) as ours, running("reference", reference) as theirs:
            for number in range(rounds):
                for server in (ours, theirs) if number % 2 == 0 else (theirs, ours):
                    for connector in chosen:
                        result = _drive(python, server, connector, chunks, layers, password)
                        results.append({"server": server.label, "round": number} | result)
                        if "failed" in result:
                            failed = True
                            console.print(f"{server.version}, {connector}: {result['failed']}", markup=False)
            table = _table(results, ours, theirs)
    except (BenchError, ValueError, OSError, subprocess.SubprocessError) as error:
        console.print(f"bench: {error}", markup=False)
        raise typer.Exit(1) from error
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        document = {"machine": machine(), "candidate": ours.version, "reference": theirs.version, "runs": results}
        json_file.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    raise typer.Exit(1 if failed else 0)


def ensure_environment(console: Console) -> Path:
    """Return the interpreter of an environment with LMCache in it, made on first use.

    pip's own settings choose where packages come from: set them to PyTorch's CPU packages to spare several GB.
    Raises ``BenchError`` when it cannot be made.
    """
    python = ENVIRONMENT / "bin" / "python"
    complete = ENVIRONMENT / ".complete"
    if complete.exists():
        return python
    console.print(f"making {ENVIRONMENT.name} with LMCache and PyTorch; this takes minutes, once")
    steps = [[sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)]]
    steps += [[str(python), "-m", "pip", "install", "--quiet", *packages] for packages in _INSTALL_STEPS]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchError(f"{' '.join(step[:5])} ... failed:\n{done.stderr[-2000:]}")
    (ENVIRONMENT / ".gitignore").write_text("*\n")
    complete.touch()
    return python


def _chosen(names: str) -> tuple[str, ...]:
    """The connectors named; raises ``ValueError`` for one that LMCache does not have."""
    for name in (chosen := tuple(names.split(","))):
        if name not in CONNECTORS:
            raise ValueError(f"--connectors: no connector {name!r}; there are {', '.join(CONNECTORS)}")
    return chosen


def _drive(python: Path, server: Server, connector: str, chunks: int, layers: int, password: str) -> dict[str, Any]:
    """One run of the driver on an emptied server; its figures, and the server's processor time per GB moved."""
    with server.client() as client:
        client.flushall()
        if password:
            client.config_set("requirepass", password)
    try:
        return _run_driver(python, server, connector, chunks, layers, password)
    finally:
        if password:
            with server.client() as client:
                client.execute_command("AUTH", password)
                client.config_set("requirepass", "")


def _run_driver(python: Path, server: Server, connector: str, chunks: int, layers: int, password: str) -> dict[str, Any]:
    began_s = server.processor_time_s()
    # -P keeps the script's folder off the import path, where this module would stand in for LMCache's package
    command = [str(python), "-P", str(ROOT / "bench" / "lmcache_driver.py"), connector, "--host", server.host, "--port", str(server.port)]
    options = ["--chunks", str(chunks), "--layers", str(layers)]
    if password:
        options += ["--username", "default", "--password", password]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)
    processor_s = server.processor_time_s() - began_s
    try:
        result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        return {"connector": connector, "failed": f"the driver ended with exit code {done.returncode}: {done.stderr[-1000:]}"}
    if "failed" not in result:
        times = 2 if connector.startswith("l2") else 3  # put once, got once or twice
        moved_bytes = times * chunks * result["chunk_bytes"]
        result["server_processor_s_per_gigabyte"] = processor_s / (moved_bytes / 1e9)
    return result


def _table(results: list[dict[str, Any]], ours: Server, theirs: Server) -> Table:
    """Medians of each figure on both servers, and the median of the rounds' ratios where both ran every round."""
    table = Table("connector", "figure", title=f"LMCache on {ours.version} and on {theirs.version}")
    for heading in (ours.version, theirs.version, "ratio"):
        table.add_column(heading, justify="right")
    for connector in dict.fromkeys(result["connector"] for result in results):
        runs = [result for result in results if result["connector"] == connector and "failed" not in result]
        figures = [name for name in runs[0] if name not in ("server", "round", "connector", "chunk_bytes")] if runs else []
        for figure in figures:
            first, second = ([run[figure] for run in runs if run["server"] == server.label] for server in (ours, theirs))
            if len(first) == len(second) > 0:
                medians = (f"{statistics.median(values):,.2f}" for values in (first, second))
                ratio = median_of_ratios(tuple(first), tuple(second))
                table.add_row(connector, figure.replace("_", " "), *medians, f"{ratio:.2f}")
        if len(runs) < len([result for result in results if result["connector"] == connector]):
            table.add_row(connector, "[red]a run failed[/]", "", "", "")
    return table


if __name__ == "__main__":
    typer.run(main)
