"""Configuration page: docs/configuration.md, made from the directive tables. `python -m kvcd.configuration_reference` prints it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby

from kvcd.config import DEFAULT_PREFIX, ENVIRONMENT_PREFIX
from kvcd.directive import INT32_MAX, INT64_MAX, UINT64_MAX, Directive, Kind, Standing
from kvcd.directives import HONOURED, OWN, REFUSALS
from kvcd.directives_ignored import IGNORED

_HEAD = f"""\
# Configuration

Made from the directive tables by `make docs`.

    kvcd serve [FILE] [-] [--directive value ...]

FILE has redis.conf's syntax (quotes, `include`, comments), `-` reads more of it from standard input. Every directive can be given in
several places; each beats the ones below it:

1. a flag: `--maxmemory 4gb` (or `--maxmemory=4gb`)
2. the environment: `{ENVIRONMENT_PREFIX}MAXMEMORY=4gb`, dashes as underscores
3. the file: `maxmemory 4gb`
4. a default of whoever packaged kvcd: `{DEFAULT_PREFIX}BIND=...` (the container image uses it); nobody's explicit choice

At run time `CONFIG SET` changes what the tables mark so; `CONFIG GET` shows everything. Units: `k`, `m`, `g` are powers of 1000, `kb`,
`mb`, `gb` powers of 1024, in any case.

A name that neither kvcd nor redis-server knows is refused with the nearest one that is known, and so is a value that makes no sense;
kvcd then exits with status 2.
"""


def page() -> str:
    """Return the page's text."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _HEAD
    for standing, title in ((Standing.OWN, "kvcd's own"), (Standing.HONOURED, "Redis's, with the same meaning")):
        yield f"## {title}"
        yield ""
        rows = sorted((row for row in OWN + HONOURED if row.standing is standing), key=lambda row: (row.group, row.name))
        for group, directives in groupby(rows, key=lambda row: row.group):
            yield f"### {group.capitalize()}"
            yield ""
            yield "| directive | default | value | CONFIG SET | what it is |"
            yield "|---|---|---|---|---|"
            yield from (_row(directive) for directive in directives)
            yield ""
    yield from _refused_lines()
    yield from _ignored_lines()


def _row(directive: Directive) -> str:
    default = f"`{directive.default}`" if directive.default else "empty"
    change = "yes" if directive.mutable else "no"
    return f"| `{directive.name}` | {default} | {_values(directive)} | {change} | {directive.help} |"


def _values(directive: Directive) -> str:
    if directive.kind in (Kind.CHOICE, Kind.CHOICES):
        return ", ".join(f"`{choice}`" for choice in directive.choices)
    kind = str(directive.kind.value).replace("|", " or ")
    if directive.kind in (Kind.INTEGER, Kind.PERCENT, Kind.INTEGER_OR_AUTO):
        most = "" if directive.maximum in (INT32_MAX, INT64_MAX, UINT64_MAX) else f" to {directive.maximum}"
        return f"{kind}, {directive.minimum}{most or ' or more'}"
    if directive.kind in (Kind.MEMORY, Kind.MEMORY_OR_PERCENT) and directive.minimum:
        return f"{kind}, {directive.minimum} or more"
    return kind


def _refused_lines() -> Iterator[str]:
    yield "## Refused"
    yield ""
    yield "What a stack's safety or topology rests on and kvcd cannot do ends the start with an error: silence would be found out too late."
    yield ""
    yield "| directive | taken all the same | why not |"
    yield "|---|---|---|"
    for directive in REFUSALS:
        names = ", ".join(f"`{name}`" for name in (directive.name, *directive.aliases))
        harmless = ", ".join(f"`{value}`" if value else "empty" for value in directive.harmless if not value.isupper()) or "nothing"
        yield f"| {names} | {harmless} | {directive.refusal.partition(':')[0]} |"
    yield ""


def _ignored_lines() -> Iterator[str]:
    yield "## Taken without effect"
    yield ""
    yield (
        "What asks for durability, tuning or something on the side is taken, checked as redis-server checks it, shown by `CONFIG GET`,\n"
        "and has no effect here. kvcd says so in a warning at start, and when `CONFIG SET` changes one. Asking for nothing\n"
        '(`appendonly no`) is no reason for a warning.'
    )
    yield ""
    for reason, directives in groupby(IGNORED, key=lambda row: row.help):
        yield f"- *{reason}*: {', '.join(f'`{directive.name}`' for directive in directives)}"
    yield ""


if __name__ == "__main__":
    sys.stdout.write(page())
