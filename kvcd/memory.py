"""``kvcd memory``: the command line of a memory node."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

EXIT_FAILURE = 1


def memory(
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where front ends find this node: control traffic alone, over TCP.")],
    size: Annotated[str, typer.Option(metavar="SIZE", help="Memory to lend: 64gb. All of it is pinned.")],
    device: Annotated[str | None, typer.Option(metavar="NAME", help="RDMA device; by default the first with an active port.")] = None,
    gid_index: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Address of the port; by default RoCE v2 over IPv4 where there is one.")
    ] = None,
    huge_pages: Annotated[bool, typer.Option("--huge-pages", help="Take the memory from the reserved huge pages.")] = False,
    file: Annotated[str | None, typer.Option(metavar="PATH", help="Keep the pool in a file on tmpfs or hugetlbfs, over restarts.")] = None,
    secret_file: Annotated[
        str | None, typer.Option(metavar="PATH", help="What front ends must know too; else KVCD_MEMORY_SECRET_FILE, KVCD_MEMORY_SECRET.")
    ] = None,
) -> None:
    """Lend memory of this machine to front ends, which use it by one-sided RDMA.

    The first front end formats it. RDMA traffic is not encrypted: the network must be trusted.

    Example: kvcd memory --listen 10.0.0.1:7400 --size 64gb --secret-file /etc/kvcd/secret
    """
    import kvcd
    from kvcd import logs
    from kvcd.config import Config
    from kvcd.directive import ConfigError
    from kvcd.memory_node import NodeError, read_options, run
    from kvcd.memory_secret import SecretError, read_secret
    from storage.fabric.verbs_devices import VerbsError
    from storage.pool import PoolError

    try:
        config = Config.load()
        logs.configure(config)
        log = logs.get_logger("memory")
        log.notice("kvcd memory is starting", version=kvcd.__version__, pid=os.getpid())
        options = read_options(listen, size, device, gid_index, huge_pages, file)
        secret = read_secret(secret_file, warn=log.warning)
        status = run(config, options, secret, log)
    except (NodeError, SecretError, VerbsError, PoolError, ConfigError) as error:
        sys.stderr.write(f"kvcd memory: {error}\n")
        raise typer.Exit(EXIT_FAILURE) from None
    raise typer.Exit(status)


def main(arguments: list[str]) -> int:
    """Run `kvcd memory` alone, without what the other commands import; the exit status."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.command()(memory)
    try:
        app(args=arguments, prog_name="kvcd memory")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0
