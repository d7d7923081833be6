"""Hostile inputs: the page's table, against kvcd and redis-server, and what a table cannot show."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile_inputs import CASES, END, Hostile, page
from tests.servers import ServerProcess, Servers
from tests.wire import Wire, encode

DEADLINE_S = 20
END_REPLY = b"$3\r\nend\r\n"


@pytest.fixture(scope="module")
def both() -> Iterator[dict[str, ServerProcess]]:
    """A kvcd and a redis-server of this module's own: their limits are changed."""
    servers = Servers()
    try:
        yield {"kvcd": servers.kvcd(), "redis": servers.redis()}
    finally:
        servers.close()


def outcome(server: ServerProcess, case: Hostile) -> tuple[bytes, bool]:
    """Return what came back, and whether the connection was closed."""
    changes = [*case.directives, *([("requirepass", case.password)] if case.password else [])]
    with server.connect(timeout_s=DEADLINE_S) as control:
        before = {name: control.call("CONFIG", "GET", name) for name, _ in changes}
        for name, value in changes:
            assert control.call("CONFIG", "SET", name, value) == b"OK"
        try:
            with server.connect(timeout_s=DEADLINE_S) as wire:
                found = _exchange(wire, case)
        finally:
            if case.password:
                control.call("AUTH", case.password)
            for name, old in before.items():
                assert isinstance(old, list)
                assert control.call("CONFIG", "SET", name, old[1]) == b"OK"
        assert control.call("PING") == b"PONG"
        assert control.call("EXISTS", "hostile") == 0
    return found


def _exchange(wire: Wire, case: Hostile) -> tuple[bytes, bool]:
    # What a server that closes has not read makes the kernel reset the connection: nothing is sent after the input then.
    sender = wire.send_in_background(case.data if case.closes else case.data + END)
    received = b""
    closed = False
    while not closed and not received.endswith(END_REPLY):
        try:
            part = wire.reader.read1(65536)
        except ConnectionResetError:
            part = b""
        received += part
        closed = not part
    sender.join(DEADLINE_S)
    return received.removesuffix(END_REPLY), closed


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_a_hostile_input_does_what_the_table_says(both: dict[str, ServerProcess], case: Hostile) -> None:
    """With kvcd, and with redis-server where that does the same."""
    expected = (case.reply, case.closes)
    assert outcome(both["kvcd"], case) == expected
    if not case.differs:
        assert outcome(both["redis"], case) == expected


def test_the_page_is_as_the_table_is_now() -> None:
    """Made by ``python -m tests.hostile_inputs``."""
    root = Path(__file__).resolve().parents[2]
    assert (root / "docs/hostile_inputs.md").read_text() == page()


def test_a_browser_leaves_a_line_in_the_log(both: dict[str, ServerProcess]) -> None:
    """With the address that it came from."""
    server = both["kvcd"]
    with server.connect() as wire:
        address = "{}:{}".format(*wire.socket.getsockname()[:2])
        wire.send(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.rest() == b""
    deadline = time.monotonic() + DEADLINE_S
    while f'"address":"{address}"' not in server.log and time.monotonic() < deadline:
        server.call("PING")
    line = next(line for line in server.log.splitlines() if address in line)
    assert "possible attack" in line


def test_a_huge_count_takes_no_memory(both: dict[str, ServerProcess]) -> None:
    """Nor does an argument's length, before its bytes are there."""
    server = both["kvcd"]
    before = server.private_bytes()
    wires = [server.connect() for _ in range(20)]
    try:
        for wire in wires:
            wire.send(b"*2147483647\r\n$536870912\r\n")
        assert server.call("PING") == b"PONG"
        assert server.private_bytes() - before < 16 * 1024 * 1024
    finally:
        for wire in wires:
            wire.close()


def test_a_slow_sender_costs_only_itself(both: dict[str, ServerProcess]) -> None:
    """One byte at a time, while others are answered."""
    server = both["kvcd"]
    data = encode("ECHO", "x" * 200)
    with server.connect() as slow, server.connect() as other:
        for place in range(len(data)):
            slow.send(data[place : place + 1])
            assert other.call("PING") == b"PONG"
        assert slow.reply() == b"x" * 200


def test_half_commands_leave_nothing(both: dict[str, ServerProcess]) -> None:
    """Connections that end within a command give their memory back."""
    server = both["kvcd"]
    for _ in range(2):
        wires = [server.connect() for _ in range(200)]
        for wire in wires:
            wire.send(b"*2\r\n$3\r\nGET\r\n$60000\r\n" + b"x" * 50_000)
        assert server.call("PING") == b"PONG"
        for wire in wires:
            wire.abort()
        deadline = time.monotonic() + DEADLINE_S
        while int(server.info()["connected_clients"]) > 1 and time.monotonic() < deadline:
            pass
        size = server.private_bytes()
    assert int(server.info()["connected_clients"]) == 1
    assert size < 200 * 1024 * 1024


def test_the_largest_clients_are_closed_until_the_others_fit(both: dict[str, ServerProcess]) -> None:
    """Above maxmemory-clients, and INFO counts them."""
    server = both["kvcd"]
    with server.connect() as control, server.connect(timeout_s=DEADLINE_S) as large, server.connect() as small:
        before = int(server.info()["evicted_clients"])
        assert control.call("CONFIG", "SET", "maxmemory-clients", "500kb") == b"OK"
        try:
            small.send(b"*2\r\n$3\r\nGET\r\n$20000\r\n" + b"x" * 10_000)
            sender = large.send_in_background(b"*2\r\n$3\r\nGET\r\n$3000000\r\n" + b"x" * 2_000_000)
            assert large.rest() == b""
            sender.join(DEADLINE_S)
            small.send(b"x" * 10_000 + b"\r\n")
            assert str(small.reply()).startswith("ERR key is longer")
            assert int(server.info()["evicted_clients"]) == before + 1
        finally:
            assert control.call("CONFIG", "SET", "maxmemory-clients", "0") == b"OK"
