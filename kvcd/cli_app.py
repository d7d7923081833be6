"""The typer application: every command of `kvcd`, with its help."""

from __future__ import annotations

import platform
import sys
from typing import Annotated

import typer

import kvcd
from kvcd import cli
from kvcd.check_snapshot import check_snapshot
from kvcd.doctor import doctor
from kvcd.memory import memory
from kvcd.replay import replay
from kvcd.simulate import simulate
from kvcd.trace_cli import trace_app

app = typer.Typer(
    help="A server for LLM prefix KV-cache blocks that speaks the Redis protocol.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command(rich_help_panel="Service")(memory)
app.command(rich_help_panel="Service")(doctor)
app.command("check-snapshot", rich_help_panel="Service")(check_snapshot)
app.command()(replay)
app.command()(simulate)
app.add_typer(trace_app, name="trace")

# Their own parsers see to these commands' arguments, --help among them.
_RAW = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_RAW, rich_help_panel="Service")
def serve(context: typer.Context) -> None:
    """Serve: `kvcd serve [FILE] [--directive value ...]`, with redis.conf's syntax and names."""
    raise typer.Exit(cli.serve(context.args))


@app.command(context_settings=_RAW, rich_help_panel="Service")
def ping(context: typer.Context) -> None:
    """Ask whether a server answers: `kvcd ping [--url redis://HOST:PORT]`; exit status 0 or 1."""
    from kvcd.ping import main

    raise typer.Exit(main(context.args))


@app.command()
def version(
    short: Annotated[bool, typer.Option("--short", help="The number alone.")] = False,
) -> None:
    """Print kvcd's version and what it runs on."""
    if short:
        print(kvcd.__version__)
        return
    print(f"kvcd {kvcd.__version__} ({platform.python_implementation()} {platform.python_version()}, {sys.platform} {platform.machine()})")
