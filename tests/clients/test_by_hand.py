"""What somebody types into a plain socket, and kvcd's own commands through clients that do not know them."""

from __future__ import annotations

import subprocess

import pytest
import redis

from tests.programs import require_program
from tests.servers import ServerProcess

DEADLINE_S = 60


def test_inline_commands(kvcd_server: ServerProcess) -> None:
    """Bare line feeds, quotes, blanks, an empty line, several at once."""
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        wire.send(b'ping\n\r\n  SET  k  "a\\x41 b" \r\nget k\nSET k \'it\\\'s\'\nGET k\nmget k none\nQUIT\n')
        assert wire.rest() == b"+PONG\r\n+OK\r\n$4\r\naA b\r\n+OK\r\n$4\r\nit's\r\n*2\r\n$4\r\nit's\r\n$-1\r\n+OK\r\n"


@pytest.mark.parametrize("protocol", [2, 3])
def test_own_commands_through_redis_py(kvcd_server: ServerProcess, protocol: int) -> None:
    """It passes on what it does not know."""
    with redis.Redis(port=kvcd_server.port, protocol=protocol, socket_timeout=DEADLINE_S) as client:
        assert client.execute_command("PREFIX.SET", "a", 1, "b", 2, "c", 3) == 3
        assert client.execute_command("PREFIX.MATCH", "a", "b", "none", "c") == 2
        assert client.execute_command("PREFIX.GET", "a", "b", "none") == [b"1", b"2"]
        assert client.get("c") == b"3"
        assert client.info()["kvcd_version"]


def test_own_commands_through_redis_cli(kvcd_server: ServerProcess) -> None:
    """The same of redis-cli."""
    require_program("redis-cli")
    words = ["redis-cli", "-p", str(kvcd_server.port)]
    lines = b"PREFIX.SET a 1 b 2\nPREFIX.MATCH a b c\nINFO server\n"
    done = subprocess.run(words, input=lines, capture_output=True, timeout=DEADLINE_S, check=True)
    assert done.stdout.startswith(b"2\n2\n")
    assert b"kvcd_version:" in done.stdout
