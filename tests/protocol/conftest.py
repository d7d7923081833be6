"""A real redis-server for the tests of the protocol: the judge of every frame, error and reply."""

from __future__ import annotations

import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.programs import require_program

PASSWORD = b"correct-horse"
OPTIONS = ("--requirepass", PASSWORD.decode(), "--enable-debug-command", "yes", "--daemonize", "no")
TIMEOUT_S = 30


class RedisServer:
    """One redis-server 7 on a unix socket, behind a password so that both sides of AUTH can be seen."""

    def __init__(self, folder: Path) -> None:
        self.socket_path = folder / "redis.sock"
        self.process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", str(self.socket_path), "--dir", str(folder), "--save", "", *OPTIONS],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if b"eady to accept connections" in line:
                return
        raise RuntimeError("redis-server did not start")

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=TIMEOUT_S)

    def exchange(self, data: bytes, *, authenticated: bool = True) -> bytes:
        """Every byte that the server answers to ``data``, sent on a connection of its own and followed by its end."""
        prefix = b"AUTH " + PASSWORD + b"\r\n" if authenticated else b""
        received = b""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(str(self.socket_path))
            try:
                connection.sendall(prefix + data)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # closed on us after a protocol error: what it said is still to be read
            try:
                while chunk := connection.recv(65536):
                    received += chunk
            except ConnectionResetError:
                pass
        if authenticated:
            assert received.startswith(b"+OK\r\n"), received
            received = received[5:]
        return received


@pytest.fixture(scope="session")
def redis_exchange() -> Iterator[Callable[..., bytes]]:
    """``RedisServer.exchange`` of a server that runs for the whole session."""
    require_program("redis-server")
    # Not pytest's own folder: a unix socket's path is limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="kvcd-redis-") as folder:
        server = RedisServer(Path(folder))
        try:
            yield server.exchange
        finally:
            server.stop()
