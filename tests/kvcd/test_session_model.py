"""The server through its socket against the model: any commands, in any pieces, on several connections at once."""

from __future__ import annotations

import os
import threading
import time

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from protocol.encoder import encode
from tests.differential import Command, RawConnection, encode_command, equal
from tests.kvcd.service import PlainClient, Service
from tests.servers import ServerProcess

CONNECTIONS = 2
KEYS = st.sampled_from([b"a", b"b", b"c", b"", b"\x00\r\n", b"k" * 300])
SIZES = (0, 1, 7, 40, 500, 4000, 32_700, 32_768, 40_000, 65_535, 65_536, 65_537, 98_304, 131_072, 200_000)
_BLOB = os.urandom(SIZES[-1] + 4096)
VALUES = st.one_of(
    st.sampled_from([b"0", b"41", b"-7", b"9223372036854775807", b"1.5", b"x"]),
    st.builds(lambda size, start: _BLOB[start : start + size], st.sampled_from(SIZES), st.integers(0, 4095)),
)
NUMBERS = st.integers(-5, 70_000).map(lambda number: b"%d" % number)


def words(*parts: object) -> st.SearchStrategy[Command]:
    """Return commands of these words; a strategy stands for any of its examples."""
    return st.tuples(*(part if isinstance(part, st.SearchStrategy) else st.just(part) for part in parts))


def repeated(name: bytes, *parts: st.SearchStrategy[bytes], least: int = 1, most: int = 4) -> st.SearchStrategy[Command]:
    """Return a name followed by groups of words."""
    groups = st.lists(st.tuples(*parts), min_size=least, max_size=most)
    return groups.map(lambda found: (name, *(word for group in found for word in group)))


def send_each(connection: RawConnection, pieces: list[bytes]) -> None:
    """Send every piece with a system call of its own."""
    for piece in pieces:
        connection.socket.sendall(piece)


SET_OPTIONS = st.sampled_from([(), (b"NX",), (b"XX",), (b"GET",), (b"KEEPTTL",), (b"EX", b"1000"), (b"px", b"1000000", b"xx")])
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    words(b"GET", KEYS),
    st.builds(lambda key, value, options: (b"SET", key, value, *options), KEYS, VALUES, SET_OPTIONS),
    repeated(b"MGET", KEYS),
    repeated(b"MSET", KEYS, VALUES, most=3),
    repeated(b"MSETNX", KEYS, VALUES, most=3),
    repeated(b"DEL", KEYS),
    repeated(b"EXISTS", KEYS),
    repeated(b"PREFIX.MATCH", KEYS),
    repeated(b"PREFIX.EXISTS", KEYS),
    repeated(b"PREFIX.GET", KEYS),
    repeated(b"PREFIX.SET", KEYS, VALUES, most=3),
    st.builds(lambda key, value: (b"PREFIX.SET", b"NX", key, value), KEYS, VALUES),
    words(b"STRLEN", KEYS),
    words(b"TTL", KEYS),
    words(b"APPEND", KEYS, VALUES),
    words(b"GETSET", KEYS, VALUES),
    words(b"GETDEL", KEYS),
    words(b"SETNX", KEYS, VALUES),
    words(b"SETEX", KEYS, b"1000", VALUES),
    words(b"GETRANGE", KEYS, NUMBERS, NUMBERS),
    words(b"SETRANGE", KEYS, NUMBERS, VALUES),
    words(b"INCRBY", KEYS, NUMBERS),
    words(b"EXPIRE", KEYS, st.sampled_from([b"1000", b"-1", b"0"])),
    words(b"PERSIST", KEYS),
    words(b"RENAME", KEYS, KEYS),
    words(b"COPY", KEYS, KEYS, b"REPLACE"),
    words(b"SELECT", st.sampled_from([b"0", b"1"])),
    words(b"HELLO", st.sampled_from([b"2", b"3"])),
    words(b"PING", VALUES),
    words(b"DBSIZE"),
    words(b"FLUSHDB"),
    words(b"NONSENSE", VALUES),
)


class Sessions(RuleBasedStateMachine):
    """Two connections to the server, and the model's handlers beside it."""

    server: ServerProcess  # set by the test

    def __init__(self) -> None:
        """Empty the server and connect."""
        super().__init__()
        assert self.server.call("FLUSHALL") == b"OK"
        self.service = Service()
        self.connections = [RawConnection(self.server.address) for _ in range(CONNECTIONS)]
        self.clients = [self.service.connect() for _ in range(CONNECTIONS)]

    def teardown(self) -> None:
        """Close the connections."""
        for connection in self.connections:
            connection.close()

    def expected(self, client: PlainClient, command: Command) -> bytes:
        """Return the model's reply."""
        self.service.server.store.now_ms = time.time_ns() // 1_000_000
        self.service.client = client
        return encode(self.service.do(*command), client.resp)

    @rule(
        number=st.integers(0, CONNECTIONS - 1),
        commands=st.lists(COMMANDS, min_size=1, max_size=10),
        cuts=st.lists(st.floats(0, 1, exclude_max=True), max_size=5),
    )
    def send(self, number: int, commands: list[Command], cuts: list[float]) -> None:
        """Send a pipeline in pieces; every reply is the model's."""
        client, connection = self.clients[number], self.connections[number]
        data = b"".join(map(encode_command, commands))
        ends = [*sorted(int(cut * len(data)) for cut in cuts), len(data)]
        pieces = [data[start:end] for start, end in zip([0, *ends], ends, strict=False) if end > start]
        sender = threading.Thread(target=send_each, args=(connection, pieces), daemon=True)
        sender.start()
        for command in commands:
            ours, model = connection.reply(), self.expected(client, command)
            if command[0] == b"HELLO":
                assert ours[:1] == model[:1]
                continue
            assert equal(command, ours, model), (command[0], [len(word) for word in command], ours[:80], model[:80])
        sender.join()

    @rule(command=COMMANDS, part=st.floats(0, 1, exclude_max=True))
    def break_off(self, command: Command, part: float) -> None:
        """A third connection ends in the middle of a command: it had no effect."""
        data = encode_command(command)
        connection = RawConnection(self.server.address)
        connection.socket.sendall(data[: int(part * len(data))])
        connection.close()

    @invariant()
    def same_keys(self) -> None:
        """Both have as many keys in each database."""
        for client, connection in zip(self.clients, self.connections, strict=True):
            assert connection.exchange([(b"DBSIZE",)])[0] == self.expected(client, (b"DBSIZE",))


@pytest.mark.parametrize("examples", [pytest.param(25, id="short"), pytest.param(600, id="long", marks=pytest.mark.long)])
def test_sessions_against_the_model(kvcd_server: ServerProcess, examples: int) -> None:
    """Whatever is sent, replies are the model's."""
    Sessions.server = kvcd_server
    run_state_machine_as_test(
        Sessions,
        settings=settings(
            max_examples=examples, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
        ),
    )
