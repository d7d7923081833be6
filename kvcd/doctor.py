"""``kvcd doctor``: whether this machine can use RDMA, what is wrong, and the command that mends it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

EXIT_FAILURE = 1


def doctor(
    memory: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Read, write, CAS and FAA on this memory node too.")] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="RDMA device; by default the first with an active port.")] = None,
    gid_index: Annotated[int | None, typer.Option(metavar="N", min=0, help="Address of the port to use for that.")] = None,
    secret_file: Annotated[
        str | None, typer.Option(metavar="PATH", help="The memory node's secret; else KVCD_MEMORY_SECRET_FILE, KVCD_MEMORY_SECRET.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The findings as JSON on standard output.")] = False,
) -> None:
    """Check what RDMA needs here: libraries, devices, ports, addresses, rights, limits. With --memory: a round trip.

    Every line says ok, warn or fail; a line that is not ok says what to do. Exit code 0: nothing failed; 1: something did.
    """
    from kvcd.doctor_checks import Grade, Machine, check_machine
    from kvcd.doctor_report import as_json, print_table
    from kvcd.doctor_selftest import check_memory_node

    findings = check_machine(Machine(), device=device, gid_index=gid_index)
    if memory is not None:
        findings += check_memory_node(memory, device=device, gid_index=gid_index, secret_file=secret_file)
    if json:
        sys.stdout.write(as_json(findings))
    else:
        print_table(findings)
    raise typer.Exit(EXIT_FAILURE if any(finding.grade is Grade.FAIL for finding in findings) else 0)
