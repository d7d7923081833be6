"""Session: any split of the bytes, order of replies, half-closed and killed connections, hostile input."""

from __future__ import annotations

import random
import socket

import pytest

from tests.servers import ServerProcess, Servers
from tests.wire import ReplyError, Wire, encode

DEADLINE_S = 20
LARGE = 300_000


def big(length: int, seed: int = 0) -> bytes:
    """Return bytes in which a byte in the wrong place shows."""
    return random.Random(seed).randbytes(length)


# ------------------------------------------------------------------ splits


def test_every_split_of_a_pipeline(kvcd_server: ServerProcess) -> None:
    """Two pieces, cut at every byte; multibulk, inline, empty lines and both lanes."""
    data = (
        encode("SET", "key", "value")
        + b"\r\n"
        + b"GET key\r\n"
        + encode("INCR", "n")
        + b'set "a b" \'c\'\n'
        + encode("MGET", "key", "a b", "none")
        + encode("DEL", "n")
        + b"*0\r\n"
        + encode("ECHO", "last")
    )
    expected = [b"OK", b"value", 1, b"OK", [b"value", b"c", None], 1, b"last"]
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        for cut in range(len(data) + 1):
            wire.send_pieces(data, [cut])
            assert wire.replies(7) == expected, cut


def test_one_byte_at_a_time_from_many_clients(kvcd_server: ServerProcess) -> None:
    """200 connections, each sending its command byte by byte in turn: sessions do not mix their unfinished bytes."""
    wires = [kvcd_server.connect(timeout_s=DEADLINE_S) for _ in range(200)]
    try:
        frames = [encode("SET", f"key{number}", f"value {number}" * 3) + encode("GET", f"key{number}") for number in range(200)]
        for position in range(max(map(len, frames))):
            for wire, frame in zip(wires, frames, strict=True):
                if position < len(frame):
                    wire.send(frame[position : position + 1])
        for number, wire in enumerate(wires):
            assert wire.replies(2) == [b"OK", f"value {number}".encode() * 3]
    finally:
        for wire in wires:
            wire.close()


@pytest.mark.parametrize("seed", range(6))
def test_random_splits_of_large_and_small_arguments(kvcd_server: ServerProcess, seed: int) -> None:
    """Frames with arguments that go to the pool's pages, cut at random and at odd places."""
    pick = random.Random(seed)
    one, two, three = big(65_536, seed), big(100_001, seed + 1), big(LARGE, seed + 2)
    data = (
        encode("PING")
        + encode("SET", "one", one)
        + encode("MSET", "two", two, "small", "s", "three", three)
        + encode("STRLEN", "two")
        + encode("MGET", "one", "small", "two", "three")
        + encode("PING", "end")
    )
    starts = [data.find(part[:50]) for part in (one, two, three)]
    ends = [start + len(part) for start, part in zip(starts, (one, two, three), strict=True)]
    edges = [edge + shift for edge in starts + ends for shift in (-8, -3, -2, -1, 0, 1, 2, 3)]
    expected = [b"PONG", b"OK", b"OK", len(two), [one, b"s", two, three], b"end"]
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        for _ in range(6):
            cuts = pick.sample(edges, pick.randint(1, 6)) + [pick.randrange(1, len(data)) for _ in range(pick.randint(0, 8))]
            wire.send_pieces(data, [cut for cut in cuts if 0 < cut < len(data)])
            assert wire.replies(6) == expected
        for edge in edges:
            wire.send_pieces(data, [edge])
            assert wire.replies(6) == expected


def test_a_command_of_many_small_arguments_and_a_large_one_behind_it(kvcd_server: ServerProcess) -> None:
    """The buffer that grew for a long command brings the beginning of the large value behind it."""
    pairs = [word for number in range(60_000) for word in (f"k{number:06}", "v" * 90)]
    value = big(9_000_000)
    data = encode("MSET", *pairs) + encode("SET", "large", value) + encode("GET", "large")
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        sender = wire.send_in_background(data)
        assert wire.replies(2) == [b"OK", b"OK"]
        assert wire.reply() == value
        sender.join()
        assert wire.call("MGET", "k000000", "k059999") == [b"v" * 90] * 2


# ------------------------------------------------------- ends of a connection


def test_replies_reach_a_client_that_has_closed_its_sending_side(kvcd_server: ServerProcess) -> None:
    """Half-close behind small commands, behind large replies, and with nothing asked."""
    value = big(5_000_000)
    kvcd_server.call("SET", "large", value)
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        wire.send(encode("PING") + encode("INCR", "n"))
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.rest() == b"+PONG\r\n:1\r\n"
    with kvcd_server.connect(timeout_s=DEADLINE_S, receive_buffer=65536) as wire:
        wire.send(encode("GET", "large") * 5 + encode("PING"))
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.replies(6) == [value] * 5 + [b"PONG"]
        assert wire.rest() == b""
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.rest() == b""


def test_half_a_frame_then_close(kvcd_server: ServerProcess) -> None:
    """Nothing of it takes effect, and what was complete did."""
    large = big(LARGE)
    small = (encode("SET", "half", "x" * 100), b"SET half x\r\n")
    for frame in (*small, encode("SET", "half", large), encode("MSET", "half", large, "b", "c")):
        for length in (1, 5, len(frame) // 2, len(frame) - 1):
            with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
                wire.send(encode("SET", "whole", length) + frame[:length])
                wire.socket.shutdown(socket.SHUT_WR)
                assert wire.rest() == b"+OK\r\n"
            assert kvcd_server.call("MGET", "half", "whole") == [None, b"%d" % length]


def test_quit_answers_what_came_before_it(kvcd_server: ServerProcess) -> None:
    """Replies before QUIT arrive, large ones too; what follows QUIT is not run."""
    value = big(3_000_000)
    kvcd_server.call("SET", "large", value)
    with kvcd_server.connect(timeout_s=DEADLINE_S, receive_buffer=65536) as wire:
        wire.send(encode("GET", "large") * 3 + encode("QUIT") + encode("SET", "after", "quit"))
        assert wire.replies(4) == [value] * 3 + [b"OK"]
        assert wire.rest() == b""
    assert kvcd_server.call("EXISTS", "after") == 0


def test_a_killed_client_with_a_queue_is_gone_at_once(kvcd_server: ServerProcess) -> None:
    """CLIENT KILL of a client that reads nothing gives its memory back."""
    kvcd_server.call("SET", "large", big(8_000_000))
    with kvcd_server.connect(timeout_s=DEADLINE_S, receive_buffer=65536) as slow, kvcd_server.connect(timeout_s=DEADLINE_S) as other:
        number = slow.call("CLIENT", "ID")
        slow.send(encode("GET", "large") * 20)
        listed = b""
        while b"omem=0" in listed or not listed:  # until its queue shows
            reply = other.call("CLIENT", "LIST", "ID", number)  # type: ignore[arg-type]
            assert isinstance(reply, bytes)
            listed = reply
        assert other.call("CLIENT", "KILL", "ID", number) == 1  # type: ignore[arg-type]
        other.call("DEL", "large")
        with pytest.raises((ConnectionError, AssertionError)):
            slow.replies(20)
        assert other.call("CLIENT", "LIST", "ID", number) == b""  # type: ignore[arg-type]
        assert other.call("PING") == b"PONG"


def test_a_client_may_kill_itself(kvcd_server: ServerProcess) -> None:
    """The replies before and of the kill still arrive."""
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        number = wire.call("CLIENT", "ID")
        assert isinstance(number, int)
        wire.send(encode("PING") + encode("CLIENT", "KILL", "ID", number, "SKIPME", "no") + encode("SET", "after", "kill"))
        assert wire.rest() == b"+PONG\r\n:1\r\n"
    assert kvcd_server.call("EXISTS", "after") == 0


# ------------------------------------------------------------------- hostile

_CLOSING = {
    b"*1000000000\r\n": None,  # announces much, and sends nothing: no memory is taken for it
    b"*2147483648\r\n": b"-ERR Protocol error: invalid multibulk length\r\n",
    b"*x\r\n": b"-ERR Protocol error: invalid multibulk length\r\n",
    b"*1\r\n$536870913\r\n": b"-ERR Protocol error: invalid bulk length\r\n",
    b"*1\r\n$-1\r\n": b"-ERR Protocol error: invalid bulk length\r\n",
    b"*1\r\n!": None,
    b"*1\r\n!4\r\n": b"-ERR Protocol error: expected '$', got '!'\r\n",
    b'SET "a\r\n': b"-ERR Protocol error: unbalanced quotes in request\r\n",
    b"x" * 70_000: b"-ERR Protocol error: too big inline request\r\n",
    b"*" + b"1" * 70_000: b"-ERR Protocol error: too big mbulk count string\r\n",
}


@pytest.mark.parametrize("data", _CLOSING, ids=lambda data: repr(data[:24]))
def test_broken_frames(kvcd_server: ServerProcess, data: bytes) -> None:
    """A protocol error is answered behind the replies that came before, then the connection closes; others go on."""
    expected = _CLOSING[data]
    before = kvcd_server.private_bytes()
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        wire.send(encode("SET", "k", "v") + encode("GET", "k") + data)
        assert wire.replies(2) == [b"OK", b"v"]
        if expected is None:
            assert kvcd_server.call("PING") == b"PONG"
        else:
            assert wire.rest() == expected
    assert kvcd_server.private_bytes() - before < 4 << 20


def test_http_is_not_answered(kvcd_server: ServerProcess) -> None:
    """A browser's POST is closed before its body is taken for commands."""
    for request in (b"POST / HTTP/1.1\r\nSET http 1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nSET http 1\r\n"):
        with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
            wire.send(request)
            assert b"OK" not in wire.rest()
    assert kvcd_server.call("EXISTS", "http") == 0
    assert "possible attack" in kvcd_server.log


def test_replies_never_reach_another_client(kvcd_server: ServerProcess) -> None:
    """What a client had coming when it was closed in the middle of a batch is not sent to the next one."""
    for _ in range(3):
        with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
            wire.send(encode("ECHO", "secret") + b"POST / HTTP/1.1\r\n")
            wire.rest()
        with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
            wire.send(encode("PING"))
            wire.socket.shutdown(socket.SHUT_WR)
            assert wire.rest() == b"+PONG\r\n"


def test_never_ending_lines_and_arguments_have_a_bound(servers: Servers) -> None:
    """An inline request, a multibulk of endless small arguments: closed at their limits, memory comes back."""
    with servers.kvcd(client_query_buffer_limit="2mb") as server, server.connect(timeout_s=DEADLINE_S) as other:
        before = server.private_bytes()
        for data in (b"a" * 200_000, b"*1000000\r\n" + b"$10\r\n0123456789\r\n" * 400_000):
            with server.connect(timeout_s=DEADLINE_S) as wire:
                sender = wire.send_in_background(data)
                assert len(wire.rest()) < 100
                sender.join()
            assert other.call("PING") == b"PONG"
        assert server.private_bytes() - before < 24 << 20


_WORDS = [
    b"*", b"$", b"\r\n", b"\n", b"1", b"2", b"3", b"0", b"-1", b"65536", b"100000", b"GET", b"SET", b"MSET", b"PING", b"'", b'"', b"\\x00",
    b"\x00", b"\xff", b" ", b"k", b"*2\r\n", b"*3\r\n", b"*5\r\n", b"*1\r\n", b"$1\r\nk\r\n", b"$3\r\nGET\r\n", b"$4\r\nPING\r\n",
    b"$3\r\nSET\r\n", b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n", b"$4\r\nMSET\r\n", b"$536870912\r\n", b"*1000000\r\n",
    b"$65536\r\n" + b"v" * 65_536 + b"\r\n", b"$70000\r\n" + b"w" * 70_000,
    encode("SET", "k", "v"), encode("GET", "k"), encode("MGET", "k", "l"), encode("HELLO", 3), encode("PREFIX.SET", "k", "v"),
    encode("APPEND", "k", b"z" * 66_000), encode("RESET"), encode("SELECT", 1), encode("FLUSHALL"), encode("CLIENT", "LIST"),
]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes_never_end_the_server(kvcd_server: ServerProcess, seed: int) -> None:
    """Words of the protocol and noise in any order and any pieces; another client is served after each."""
    pick = random.Random(seed)
    with kvcd_server.connect(timeout_s=DEADLINE_S) as other:
        for number in range(100):
            count = pick.randint(1, 25)
            data = b"".join(pick.choice(_WORDS) if pick.random() < 0.9 else pick.randbytes(pick.randint(1, 30)) for _ in range(count))
            with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
                try:
                    wire.send_pieces(data, [pick.randrange(len(data) + 1) for _ in range(pick.choice((0, 1, 3)))])
                    if pick.random() < 0.5:
                        wire.socket.shutdown(socket.SHUT_WR)
                        wire.rest()
                except OSError:
                    pass  # closed on us, as it may be
            assert other.call("ECHO", number) == b"%d" % number
    assert kvcd_server.is_running()
    assert "Traceback" not in kvcd_server.log
    kvcd_server.call("FLUSHALL")


# ------------------------------------------------------------ authentication


def test_before_the_password_little_is_taken(servers: Servers) -> None:
    """Redis's limits for strangers; no byte of theirs enters the pool; then the password opens everything."""
    with servers.kvcd(requirepass="sesame") as server:
        used = server_pages(server, password="sesame")
        for data, reply in (
            (b"*11\r\n", b"-ERR Protocol error: unauthenticated multibulk length\r\n"),
            (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$16385\r\n", b"-ERR Protocol error: unauthenticated bulk length\r\n"),
        ):
            with server.connect(timeout_s=DEADLINE_S) as wire:
                wire.send(data)
                assert wire.rest() == reply
        with server.connect(timeout_s=DEADLINE_S) as wire:
            wire.send(encode("SET", "k", "v") + encode("GET", "k") + b"GET k\r\n" + encode("AUTH", "wrong") + encode("PING"))
            replies = wire.replies(5)
            assert [str(reply).split()[0] for reply in replies] == ["NOAUTH", "NOAUTH", "NOAUTH", "WRONGPASS", "NOAUTH"]
            wire.send(encode("AUTH", "sesame") + encode("SET", "k", big(LARGE)) + encode("STRLEN", "k"))
            assert wire.replies(3) == [b"OK", b"OK", LARGE]
            wire.send(encode("RESET") + encode("GET", "k"))
            assert wire.reply() == b"RESET"
            assert isinstance(wire.reply(), ReplyError)
            wire.send(encode("HELLO", 3, "AUTH", "default", "sesame") + encode("DEL", "k"))
            assert isinstance(wire.reply(), dict)
            assert wire.reply() == 1
        assert server_pages(server, password="sesame") - used <= 1


def server_pages(server: ServerProcess, password: str = "") -> int:
    """Return how many pages of the pool are in use."""
    with server.connect(timeout_s=DEADLINE_S) as wire:
        if password:
            assert wire.call("AUTH", password) == b"OK"
        reply = wire.call("INFO", "everything")
    assert isinstance(reply, bytes)
    return int(dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)["pool_pages_used"])


def test_resp3_and_resp2_on_two_connections(kvcd_server: ServerProcess) -> None:
    """The protocol belongs to the connection, and changes between the commands of one write."""
    with kvcd_server.connect(timeout_s=DEADLINE_S) as three, kvcd_server.connect(timeout_s=DEADLINE_S) as two:
        three.send(encode("GET", "none") + encode("HELLO", 3) + encode("GET", "none") + encode("HELLO", 2) + encode("GET", "none"))
        three.socket.shutdown(socket.SHUT_WR)
        reply = three.rest()
        assert reply.startswith(b"$-1\r\n%7\r\n")
        assert b"_\r\n*14\r\n" in reply
        assert reply.endswith(b"$-1\r\n")
        two.send(encode("GET", "none"))
        assert two.socket.recv(100) == b"$-1\r\n"


def test_a_large_key_or_command_name_is_just_an_argument(kvcd_server: ServerProcess) -> None:
    """Large arguments where no value belongs stay out of the pool and get an answer."""
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        huge = big(200_000).replace(b"\r", b"x").replace(b"\n", b"x")
        assert isinstance(wire.call(huge, "x"), ReplyError)
        assert isinstance(wire.call("SET", huge, "x"), ReplyError)
        assert isinstance(wire.call("SET", huge, huge), ReplyError)
        assert isinstance(wire.call("SET", "k", "v", huge), ReplyError)
        assert isinstance(wire.call("SET", "k", "v", "EX", huge), ReplyError)
        assert wire.call("ECHO", huge) == huge
        assert wire.call("PING", huge) == huge
        assert wire.call("SET", "k", huge, "EX", "100") == b"OK"
        assert wire.call("SET", "k", huge, "GET") == huge
        assert wire.call("GET", "k") == huge


def test_connections_that_come_and_go(kvcd_server: ServerProcess) -> None:
    """A thousand of them, with and without an orderly end, leave neither clients nor memory behind."""
    kvcd_server.call("SET", "large", big(1_000_000))
    for number in range(1000):
        wire = Wire(kvcd_server.address, timeout_s=DEADLINE_S)
        wire.send(encode("GET", "large") * 2 if number % 10 == 0 else encode("PING"))
        if number % 3 == 0:
            wire.reply()
        wire.abort() if number % 2 else wire.close()
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        left = 2
        while left > 1:  # bounded by the connection's deadline and the test's
            reply = wire.call("CLIENT", "LIST")
            assert isinstance(reply, bytes)
            left = reply.count(b"\n")
        assert wire.call("PING") == b"PONG"
