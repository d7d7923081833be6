"""CONFIG SET port, bind and tls-port: the listeners move, connected clients stay, and what cannot be had changes nothing."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tests.kvcd.certificates import Authority
from tests.programs import require_program
from tests.servers import ServerProcess, Servers, free_port
from tests.wire import ReplyError, Wire

DEADLINE_S = 20


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody answers there."""
    try:
        with Wire((host, port), timeout_s=DEADLINE_S) as wire:
            return wire.call("PING") == b"PONG"
    except OSError:
        return False


def becomes(port: int, answering: bool, host: str = "127.0.0.1") -> bool:
    """Whether somebody, or nobody, answers there before long."""
    end_s = time.monotonic() + DEADLINE_S
    while answers(port, host) is not answering:
        if time.monotonic() > end_s:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(params=["kvcd", "kvcd of two", "redis"])
def server(request: pytest.FixtureRequest, servers: Servers) -> ServerProcess:
    """Return a kvcd, one of two workers, and a redis-server, which says what is right."""
    if request.param == "redis":
        require_program("redis-server")
        return servers.redis(bind="127.0.0.1")
    return servers.kvcd(bind="127.0.0.1", workers=2 if request.param == "kvcd of two" else 1)


def test_the_port_moves(server: ServerProcess) -> None:
    other = free_port()
    with server.connect() as wire:
        assert wire.call("CONFIG", "SET", "port", server.port) == b"OK"  # where it is
        assert answers(server.port)
        assert wire.call("CONFIG", "SET", "port", other) == b"OK"
        for _ in range(4):  # whichever worker answers
            assert becomes(other, True)
        assert becomes(server.port, False)
        assert wire.call("PING") == b"PONG"
        assert b"tcp_port:%d\r\n" % other in wire.call("INFO", "server")
        with Wire(("127.0.0.1", other)) as moved:
            assert moved.call("CONFIG", "GET", "port") == [b"port", b"%d" % other]
            assert moved.call("CONFIG", "SET", "port", server.port) == b"OK"
        assert becomes(server.port, True)
        assert becomes(other, False)


def test_a_port_that_is_taken_changes_nothing(server: ServerProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, server.connect() as wire:
        refused = wire.call("CONFIG", "SET", "port", taken.getsockname()[1])
        assert refused == ReplyError(
            "ERR CONFIG SET failed (possibly related to argument 'port') - Unable to listen on this port. Check server logs."
        )
        assert wire.call("CONFIG", "GET", "port") == [b"port", b"%d" % server.port]
    assert answers(server.port)


def test_the_addresses_change(server: ServerProcess) -> None:
    with server.connect() as wire:
        assert not answers(server.port, "127.0.0.2")
        assert wire.call("CONFIG", "SET", "bind", "127.0.0.1 127.0.0.2") == b"OK"
        assert becomes(server.port, True, "127.0.0.2")
        assert becomes(server.port, True)
        refused = wire.call("CONFIG", "SET", "bind", "999.999.999.999")
        assert refused == ReplyError("ERR CONFIG SET failed (possibly related to argument 'bind') - Failed to bind to specified addresses.")
        assert wire.call("CONFIG", "GET", "bind") == [b"bind", b"127.0.0.1 127.0.0.2"]
        assert becomes(server.port, True, "127.0.0.2")
        assert becomes(server.port, True)
        assert wire.call("CONFIG", "SET", "bind", "127.0.0.2") == b"OK"
        assert becomes(server.port, False)
        assert becomes(server.port, True, "127.0.0.2")
        assert wire.call("PING") == b"PONG"


def test_a_tls_port_opens_and_closes(servers: Servers, tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    own = authority.sign("server")
    directives = {"tls-cert-file": own.file, "tls-key-file": own.key, "tls-ca-cert-file": authority.own.file}
    port = free_port()
    with servers.kvcd(bind="127.0.0.1") as server, server.connect() as wire:
        assert wire.call("CONFIG", "SET", "tls-port", port) == ReplyError(
            "ERR CONFIG SET failed (possibly related to argument 'tls-port') - Unable to update TLS configuration. Check server logs."
        )
        assert answers(server.port)
        for name, value in directives.items():
            assert wire.call("CONFIG", "SET", name, str(value)) == b"OK"
        assert wire.call("CONFIG", "SET", "tls-port", port) == b"OK"
        end_s = time.monotonic() + DEADLINE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert time.monotonic() < end_s
                time.sleep(0.02)
        assert wire.call("CONFIG", "SET", "tls-port", 0) == b"OK"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
