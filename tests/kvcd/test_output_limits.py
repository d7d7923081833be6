"""Output limits: who is closed for not reading, and after how long."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from kvcd.directive import OutputLimit
from kvcd.output_limits import OutputWatch
from tests.servers import Servers
from tests.wire import encode


@dataclass
class Client:
    pending_output_bytes: int


def test_without_limits_nobody_is_too_slow() -> None:
    assert OutputWatch().too_slow({1: Client(2**40)}, OutputLimit(0, 0, 0), 0) == []


def test_above_the_hard_limit_is_too_slow_at_once() -> None:
    clients = {1: Client(100), 2: Client(101)}
    assert OutputWatch().too_slow(clients, OutputLimit(100, 0, 0), 0) == [2]


def test_above_the_soft_limit_counts_from_when_it_began_and_begins_anew() -> None:
    watch, client, limit = OutputWatch(), Client(51), OutputLimit(0, 50, 10)
    assert watch.too_slow({1: client}, limit, 1_000) == []
    assert watch.too_slow({1: client}, limit, 10_999) == []
    client.pending_output_bytes = 50
    assert watch.too_slow({1: client}, limit, 11_000) == []
    client.pending_output_bytes = 51
    assert watch.too_slow({1: client}, limit, 11_001) == []
    assert watch.too_slow({1: client}, limit, 21_000) == []
    assert watch.too_slow({1: client}, limit, 21_001) == [1]


def test_a_client_that_does_not_read_is_closed_and_said_so(servers: Servers) -> None:
    server = servers.kvcd(pool_size="256mb", client_output_buffer_limit="normal 8mb 0 0")
    with server, server.connect(receive_buffer=65536) as wire, server.connect() as other:
        assert other.call("SET", "k", b"v" * 2**25) == b"OK"
        wire.send(encode("GET", "k"))
        while b"cmd=get" in bytes(str(other.call("CLIENT", "LIST")), "ascii"):  # until it is closed
            pass
        with pytest.raises(ConnectionError, match="closed within a reply"):
            wire.reply()
        assert other.call("PING") == b"PONG"
    assert "client-output-buffer-limit" in server.log
