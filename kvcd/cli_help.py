"""The help of `kvcd serve`: examples first, then every directive with its default."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kvcd.directive import Directive, Kind
from kvcd.directives import HONOURED, OWN, REFUSALS
from kvcd.directives_ignored import IGNORED

_INTRODUCTION = """\
[bold]kvcd serve[/] \\[FILE] \\[-] \\[--directive value ...]

Serves Redis clients on port 6379 of this machine from a pool of shared
memory. FILE has redis.conf's syntax, [bold]-[/] reads standard input, and every
directive is a flag and an environment variable too: a flag beats the
environment, the environment beats the file.

[bold]Examples[/]
  kvcd serve                                         the defaults
  kvcd serve --port 7000 --maxmemory 4gb             another port, less memory
  kvcd serve --pool file:/mnt/kv --pool-size 64gb    a pool in a file
  kvcd serve redis.conf --bind 0.0.0.0 ::            a file, and a flag over it
  kvcd serve --unixsocket /run/kvcd.sock --port 0    a Unix socket alone
  KVCD_CONF_MAXMEMORY_POLICY=noeviction kvcd serve   by the environment
"""

_CLOSING = """\
Units: k, m, g are powers of 1000; kb, mb, gb are powers of 1024.
A directive of redis-server that means nothing here ({ignored} of them, appendonly and io-threads among them) is taken with a warning.
Refused, because others rely on it and kvcd cannot do it: {refused}.
"""


def print_serve_help() -> None:
    """Print the help to standard output."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120  # a file or a pager, where 80 would only break lines
    console.print(_INTRODUCTION)
    meaningful = sorted(OWN + HONOURED, key=lambda directive: (directive.group, directive.name))
    for group, directives in groupby(meaningful, key=lambda directive: directive.group):
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), title=f"[bold]{group.capitalize()}[/]", title_justify="left")
        table.add_column(no_wrap=True, min_width=29)
        table.add_column(no_wrap=True, style="dim", min_width=16)
        table.add_column()
        for directive in directives:
            table.add_row(f"  --{directive.name}", escape(_default(directive)), escape(_explanation(directive)))
        console.print(table)
        console.print()
    refused = ", ".join(directive.name for directive in REFUSALS)
    console.print(_CLOSING.format(ignored=len(IGNORED), refused=refused))


def _default(directive: Directive) -> str:
    if directive.kind is Kind.OUTPUT_LIMITS:
        return "normal 0 0 0 ..."
    return directive.default or '""'


def _explanation(directive: Directive) -> str:
    choices = f" ({', '.join(directive.choices)})" if directive.choices and directive.name != "log-format" else ""
    return directive.help + choices
