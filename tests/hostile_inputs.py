"""Hostile inputs: what is sent, and what redis-server and kvcd do about it. ``python -m tests.hostile_inputs`` prints the page."""

from __future__ import annotations

import sys
from dataclasses import dataclass

KIB = 1024
END = b"\r\n*2\r\n$4\r\nECHO\r\n$3\r\nend\r\n"  # its reply shows that the connection lives


@dataclass(frozen=True, slots=True)
class Hostile:
    """One input on a connection of its own. ``reply`` is what comes back, up to where the connection closes or goes on."""

    title: str
    data: bytes
    reply: bytes
    closes: bool
    password: str = ""  # the server asks for it, and it is not given
    directives: tuple[tuple[str, str], ...] = ()
    differs: str = ""  # in what kvcd differs from redis-server, and why; else both do the same


def _error(text: str) -> bytes:
    return f"-ERR {text}\r\n".encode()


CASES = (
    Hostile("a line of 64 KiB without an end", b"x" * (64 * KIB + 1), _error("Protocol error: too big inline request"), closes=True),
    Hostile("a count of 64 KiB of digits", b"*" + b"1" * (64 * KIB + 1), _error("Protocol error: too big mbulk count string"), closes=True),
    Hostile(
        "a length of 64 KiB of digits",
        b"*1\r\n$" + b"1" * (64 * KIB + 1),
        _error("Protocol error: too big bulk count string"),
        closes=True,
    ),
    Hostile("more than 2^31 arguments", b"*2147483648\r\n", _error("Protocol error: invalid multibulk length"), closes=True),
    Hostile("a count that is no number", b"*1x\r\n", _error("Protocol error: invalid multibulk length"), closes=True),
    Hostile("an argument above proto-max-bulk-len", b"*1\r\n$536870913\r\n", _error("Protocol error: invalid bulk length"), closes=True),
    Hostile("a negative length", b"*1\r\n$-1\r\n", _error("Protocol error: invalid bulk length"), closes=True),
    Hostile("a length that is no number", b"*1\r\n$1x\r\n", _error("Protocol error: invalid bulk length"), closes=True),
    Hostile("an argument without a length", b"*1\r\nGET\r\n", _error("Protocol error: expected '$', got 'G'"), closes=True),
    Hostile("counts of nothing, and empty lines", b"*0\r\n*-1\r\n*-99\r\n\r\n\n\r\n", b"", closes=False),
    Hostile("a quote that is not closed", b'SET a "b\r\n', _error("Protocol error: unbalanced quotes in request"), closes=True),
    Hostile("a request of a browser", b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET hostile 1\r\n", b"", closes=True),
    Hostile(
        "a request of a browser by GET",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\nSET hostile 1\r\n",
        b"",
        closes=True,
    ),
    Hostile(
        "line ends in the name of a command, to forge a reply",
        b"*2\r\n$12\r\nfoo\r\n+OK\r\n:1\r\n$3\r\n\r\n1\r\n",
        _error("unknown command 'foo  +OK  :1', with args beginning with: '  1' "),
        closes=False,
    ),
    Hostile(
        "zero bytes in the name of a command",
        b"*1\r\n$5\r\nget\0x\r\n",
        _error("unknown command 'get', with args beginning with: "),
        closes=False,
    ),
    Hostile(
        "an unknown command with a name and arguments of some KiB",
        b"*3\r\n$2000\r\n%b\r\n$2000\r\n%b\r\n$1\r\nc\r\n" % (b"a" * 2000, b"b" * 2000),
        _error(f"unknown command '{'a' * 128}', with args beginning with: '{'b' * 128}' "),
        closes=False,
    ),
    Hostile(
        "line ends in a subcommand",
        b"*2\r\n$6\r\nCLIENT\r\n$5\r\nx\r\n-y\r\n",
        _error("unknown subcommand 'x  -y'. Try CLIENT HELP."),
        closes=False,
    ),
    Hostile(
        "more than 10 arguments before a login",
        b"*11\r\n",
        _error("Protocol error: unauthenticated multibulk length"),
        closes=True,
        password="secret",
    ),
    Hostile(
        "an argument of more than 16 KiB before a login",
        b"*1\r\n$16385\r\n",
        _error("Protocol error: unauthenticated bulk length"),
        closes=True,
        password="secret",
    ),
    Hostile(
        "a pattern of many stars on a long key",
        b"*3\r\n$3\r\nSET\r\n$5000\r\n%b\r\n$1\r\n1\r\n*2\r\n$4\r\nKEYS\r\n$61\r\n%bb\r\n*2\r\n$3\r\nDEL\r\n$5000\r\n%b\r\n"
        % (b"a" * 5000, b"a*" * 30, b"a" * 5000),
        b"+OK\r\n*0\r\n:1\r\n",
        closes=False,
    ),
    Hostile(
        "an unfinished argument above client-query-buffer-limit",
        b"*2\r\n$3\r\nGET\r\n$4000000\r\n" + b"x" * 3_000_000,
        b"",
        closes=True,
        directives=(("client-query-buffer-limit", "1048576"),),
    ),
    Hostile(
        "an unfinished argument, with little memory for all clients",
        b"*2\r\n$3\r\nGET\r\n$4000000\r\n" + b"x" * 3_000_000,
        b"",
        closes=True,
        directives=(("maxmemory-clients", "1048576"),),
    ),
    Hostile(
        "a SETBIT that would make a value of 512 MiB and more",
        b"SETBIT hostile 4294967296 1\r\n",
        _error("bit offset is not an integer or out of range"),
        closes=False,
    ),
    Hostile(
        "a SETRANGE that would make one",
        b"SETRANGE hostile 536870911 ab\r\n",
        _error("string exceeds maximum allowed size (proto-max-bulk-len)"),
        closes=False,
    ),
    Hostile(
        "a payload whose checksum is right and whose content is not",
        b"*4\r\n$7\r\nRESTORE\r\n$7\r\nhostile\r\n$1\r\n0\r\n$12\r\n\x00\x05\x0a\x00\x5b\x4b\xf3\x45\x3f\x8c\x6d\x11\r\n",
        _error("DUMP payload version or checksum are wrong"),
        closes=False,
    ),
    Hostile(
        "a script",
        b"EVAL while(1)end 0\r\n",
        _error("unknown command 'EVAL', with args beginning with: 'while(1)end' '0' "),
        closes=False,
        differs="redis-server runs scripts",
    ),
)

# What a table of bytes cannot show has a test of its own.
_OTHERS = (
    ("a count of 2^31 - 1 arguments, and nothing after it", "waits for the first; takes no memory for the rest"),
    ("a thousand connections that send half a command and leave", "their memory is given back"),
    ("a client that sends one byte at a time", "is answered; others do not wait"),
    ("a client that reads no replies", "closed at client-output-buffer-limit; others do not wait"),
    ("many clients that ask for a large value at once, and hardly read", "served 16 MiB at a time, others in between"),
    ("a client that sends nothing", "closed after `timeout` seconds, where that is set; else TCP asks after `tcp-keepalive`"),
    ("more than maxclients connections", "`-ERR max number of clients reached`, closes"),
    ("a connection from the network while there is no password", "`-DENIED` (protected mode), closes"),
)

_HEAD = """\
# Hostile inputs, and what happens

Made by `python -m tests.hostile_inputs`; `tests/kvcd/test_hostile_inputs.py` sends each of them to kvcd and to redis-server 7.0 and
compares what comes back. After each of them other connections are served as before. A `POST` or `Host:` also leaves a line in the log
that names the address.
"""


def _shown(reply: bytes) -> str:
    text = reply.decode("latin-1").replace("\r\n", " ").strip()
    return f"`{text[:90]}{'...' if len(text) > 90 else ''}`" if text else "no reply"


def page() -> str:
    """Return the page's text."""
    lines = [_HEAD, "| input | what comes back | connection | redis-server |", "|---|---|---|---|"]
    for case in CASES:
        limits = "".join(f" ({name} {value})" for name, value in case.directives)
        lines.append(
            f"| {case.title}{limits} | {_shown(case.reply)} | {'closed' if case.closes else 'goes on'} | {case.differs or 'the same'} |"
        )
    lines += ["", "And what takes more than one connection or some time:", "", "| input | what happens |", "|---|---|"]
    lines += [f"| {title} | {outcome} |" for title, outcome in _OTHERS]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
