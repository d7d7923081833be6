"""Large values through the socket: into pages and out again, byte by byte; slow, stuck and vanishing clients; shares and limits."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.servers import ServerProcess, Servers
from tests.wire import ReplyError, Wire, encode

DEADLINE_S = 60
KIB, MIB = 1024, 1024 * 1024
SIZES = (64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 100_000, 98_304, 2 * MIB, 2 * MIB + 40_000)
_BLOB = random.Random(7).randbytes(40 * MIB)


def value(length: int, seed: int = 0) -> bytes:
    """Return bytes in which one in the wrong place shows: a piece of random ones that begins elsewhere for each seed."""
    start = seed * 65_599 % (7 * MIB)
    return _BLOB[start : start + length]


def until(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Ask again until the server says so; every question is a round trip, so this does not spin."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, f"never so: {what}"


def pages_used(server: ServerProcess) -> int:
    """Return how many pages of the pool are in use."""
    return int(server.info()["pool_pages_used"])


def number_of(wire: Wire) -> int:
    """Return the connection's client number."""
    number = wire.call("CLIENT", "ID")
    assert isinstance(number, int)
    return number


def unsent_bytes(server: ServerProcess, number: int) -> int:
    """Return what waits for that client; -1 when it is gone."""
    line = server.call("CLIENT", "LIST", "ID", number)
    assert isinstance(line, bytes)
    fields = dict(field.split(b"=", 1) for field in line.split())
    return int(fields[b"omem"]) if fields else -1


# -------------------------------------------------------------- every command


def exchanges(size: int) -> list[tuple[bytes, list[object]]]:
    """Return for each command that takes values: what is sent, small commands before and behind it, and the replies."""
    one, two = value(size, 1), value(size, 2)
    head = value(100, 3)
    cases: list[tuple[list[bytes], list[object]]] = [
        ([encode("SET", "k", one)], [b"OK"]),
        ([encode("SET", "k", one, "EX", 100)], [b"OK"]),
        ([encode("SET", "k", one, "NX"), encode("SET", "k", two, "NX")], [b"OK", None]),
        ([encode("SET", "k", one), encode("SET", "k", one, "GET")], [b"OK", one]),
        ([encode("SET", "k", one, "XX"), encode("SET", "k", one)], [None, b"OK"]),
        ([encode("SETEX", "k", 100, one)], [b"OK"]),
        ([encode("PSETEX", "k", 100_000, one)], [b"OK"]),
        ([encode("SETNX", "k", one), encode("SETNX", "k", two)], [1, 0]),
        ([encode("GETSET", "k", two), encode("GETSET", "k", one)], [None, two]),
        ([encode("MSET", "l", two, "k", one), encode("GET", "l")], [b"OK", two]),
        ([encode("MSET", "k", two, "k", one)], [b"OK"]),
        ([encode("MSET", "k", two, "s", "small", "k", one), encode("GET", "s")], [b"OK", b"small"]),
        ([encode("MSETNX", "l", two, "k", one), encode("MSETNX", "l", one, "m", two), encode("MGET", "l", "m")], [1, 0, [two, None]]),
        ([encode("APPEND", "k", one)], [size]),
        ([encode("SET", "k", one[:100]), encode("APPEND", "k", one[100:] + b"x" * 65_536), encode("GETRANGE", "k", 0, size - 1)],
         [b"OK", size + 65_536, one]),
        ([encode("SETRANGE", "k", 0, one)], [size]),
        ([encode("SET", "k", head), encode("SETRANGE", "k", 100, two), encode("GET", "k")], [b"OK", size + 100, head + two]),
        ([encode("PREFIX.SET", "l", two, "k", one), encode("PREFIX.GET", "l", "k", "none")], [2, [two, one]]),
        ([encode("PREFIX.SET", "NX", "EX", 100, "PARENT", "p", "k", one, "s", "t", "l", two), encode("PREFIX.GET", "s", "l")],
         [3, [b"t", two]]),
        ([encode("PREFIX.SET", "PARENT", "ex", "k", one), encode("GET", "k")], [1, one]),
    ]  # fmt: skip
    keeps_one = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 17, 18, 19}
    made = []
    for number, (commands, replies) in enumerate(cases):
        data = encode("PING", "before") + b"".join(commands) + encode("GET", "k") + encode("PING", "behind")
        last: object = one if number in keeps_one else two
        if number == 14:
            last = one + b"x" * 65_536
        if number == 16:
            last = head + two
        made.append((data, [b"before", *replies, last, b"behind"]))
    return made


@pytest.mark.parametrize("size", SIZES)
def test_every_command_that_takes_a_value(kvcd_server: ServerProcess, size: int) -> None:
    """Whole, and cut at odd places: in headers, in line ends, within the value; between small commands."""
    pick = random.Random(size)
    with kvcd_server.connect(timeout_s=DEADLINE_S) as wire:
        for data, replies in exchanges(size):
            header = data.find(b"$%d\r\n" % size)
            odd = [header + shift for shift in (1, 2, 5, 7, 8, 9, 10)] + [header + size + shift for shift in range(4, 14)]
            for cuts in ([], [pick.choice(odd)], pick.sample(odd, 4), [pick.randrange(len(data)) for _ in range(6)]):
                wire.call("FLUSHALL")
                sender = threading.Thread(target=wire.send_pieces, args=(data, [cut for cut in cuts if 0 < cut < len(data)]))
                sender.start()
                assert wire.replies(len(replies)) == replies, data[:60]
                sender.join()


def test_thirty_two_mebibytes(servers: Servers) -> None:
    """The size of one block of a model of today, by the commands that a cache uses."""
    size = 32 * MIB
    one, two = value(size, 1), value(size + 12_345, 2)
    with servers.kvcd(pool_size="512mb", maxmemory_policy="noeviction") as server, server.connect(timeout_s=DEADLINE_S) as wire:
        empty = pages_used(server)
        frames: dict[bytes, object] = {
            encode("SET", "k", one): b"OK",
            encode("SETEX", "k", 100, one): b"OK",
            encode("MSET", "k", one, "l", two): b"OK",
            encode("PREFIX.SET", "k", one, "l", two): 2,
        }
        for frame, reply in frames.items():
            sender = wire.send_in_background(encode("PING", "before") + frame + encode("GET", "k") + encode("PING"))
            assert wire.replies(4) == [b"before", reply, one, b"PONG"]
            sender.join()
        assert wire.call("MGET", "k", "none", "l") == [one, None, two]
        assert wire.call("GETSET", "k", two) == one
        assert wire.call("APPEND", "k", one[: 10 * MIB]) == len(two) + 10 * MIB
        assert wire.call("GETRANGE", "k", len(two) - 5, len(two) + 4) == two[-5:] + one[:5]
        assert wire.call("SETRANGE", "k", 3, one) == len(two) + 10 * MIB
        assert wire.call("GETRANGE", "k", 0, size) == two[:3] + one[: size - 2]
        wire.call("DEL", "k", "l")
        until(lambda: pages_used(server) <= empty + 4, "pages come back")


@pytest.mark.long
def test_half_a_gibibyte(servers: Servers) -> None:
    """The largest value there is, twice; one byte more is a protocol error."""
    size = 512 * MIB
    blob = (_BLOB[: 37 * MIB + 1] * 14)[:size]
    with servers.kvcd(pool_size="2gb", maxmemory_policy="noeviction") as server, server.connect(timeout_s=DEADLINE_S) as wire:
        for name, reply in (("SET", b"OK"), ("PREFIX.SET", 1)):
            sender = wire.send_in_background(encode(name, "k", blob) + encode("STRLEN", "k") + encode("GET", "k"))
            assert wire.replies(2) == [reply, size]
            assert wire.reply() == blob
            sender.join()
        assert server.private_bytes() < 150 * MIB
        assert isinstance(wire.call("APPEND", "k", "x"), ReplyError)
        wire.call("DEL", "k")
        assert wire.call("APPEND", "k", blob[:-1]) == size - 1
        assert wire.call("SETRANGE", "k", size - 1, "x") == size
        wire.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % (size + 1))
        assert b"invalid bulk length" in wire.rest()


# ------------------------------------------------------- clients that vanish


def test_a_client_that_vanishes_while_it_sends_gives_its_pages_back(kvcd_server: ServerProcess) -> None:
    """At any point of one large value or of the second in one command, by a close and by a reset."""
    frames = [encode("SET", "gone", value(10 * MIB)), encode("MSET", "gone", value(3 * MIB), "gone too", value(5 * MIB), "s", "t")]
    before = pages_used(kvcd_server)
    for frame in frames:
        for part in (0.0001, 0.3, 0.5, 0.9, 1.0):
            for abort in (False, True):
                wire = kvcd_server.connect(timeout_s=DEADLINE_S)
                number = number_of(wire)
                wire.send(memoryview(frame)[: min(int(len(frame) * part), len(frame) - 1)])
                wire.abort() if abort else wire.close()
                until(lambda number=number: unsent_bytes(kvcd_server, number) < 0, "the client is gone")  # type: ignore[misc]
                assert pages_used(kvcd_server) == before
    assert kvcd_server.call("EXISTS", "gone", "gone too", "s") == 0


def test_a_client_that_vanishes_while_it_receives_gives_its_pins_back(servers: Servers) -> None:
    """More such clients than the pool has pins or pages for, one after the other."""
    with servers.kvcd(pool_size="64mb", maxmemory_policy="noeviction") as server:
        before = pages_used(server)
        for round_number in range(12):
            assert server.call("SET", "large", value(12 * MIB, round_number)) == b"OK"
            with server.connect(timeout_s=DEADLINE_S, receive_buffer=32 * KIB) as wire:
                wire.send(encode("GET", "large") * 4)
                assert wire.reader.readline() == b"$%d\r\n" % (12 * MIB)
                server.call("DEL", "large")
                if round_number % 2:
                    wire.abort()
        until(lambda: pages_used(server) <= before + 3, "the pages come back")


def test_a_client_that_vanishes_after_its_value_was_refused(servers: Servers) -> None:
    """In the middle of a command whose first large value found no room."""
    with servers.kvcd(pool_size="64mb", maxmemory="8mb", maxmemory_policy="noeviction") as server:
        frame = encode("MSET", "a", value(20 * MIB), "b", value(20 * MIB), "c", "d")
        for part in (0.1, 0.49, 0.5001, 0.7, 0.99999):
            with server.connect(timeout_s=DEADLINE_S) as wire:
                number = number_of(wire)
                wire.send(memoryview(frame)[: int(len(frame) * part)])
            until(lambda number=number: unsent_bytes(server, number) < 0, "the client is gone")  # type: ignore[misc]
            assert server.call("PING") == b"PONG"


# ----------------------------------------------------------- slow readers


def test_a_reader_that_stops_holds_up_nobody_and_gets_the_right_bytes(servers: Servers) -> None:
    """Its value is overwritten and deleted and its pool filled meanwhile."""
    size = 32 * MIB
    with servers.kvcd(pool_size="192mb", maxmemory_policy="allkeys-lru") as server, server.connect(timeout_s=DEADLINE_S) as other:
        old = value(size, 1)
        assert other.call("SET", "large", old) == b"OK"
        with server.connect(timeout_s=DEADLINE_S, receive_buffer=64 * KIB) as slow:
            slow.send(encode("GET", "large") + encode("GET", "large") + encode("PING"))
            assert slow.reader.readline() == b"$%d\r\n" % size
            longest_s = 0.0
            for number in range(60):
                began_s = time.monotonic()
                assert other.call("SET", "small", number) == b"OK"
                assert other.call("GET", "small") == b"%d" % number
                longest_s = max(longest_s, time.monotonic() - began_s)
                if number == 20:
                    assert other.call("SET", "large", value(size, 2)) == b"OK"
                if number == 30:
                    assert other.call("DEL", "large") == 1
                if number > 30:
                    assert other.call("SET", f"filler{number}", value(8 * MIB, number)) == b"OK"
            assert longest_s < 2
            assert slow.bulk(size) == old
            # The second GET was read behind the first reply, or waited: it finds what there was then.
            assert slow.reply() in (old, None, value(size, 2))
            assert slow.reply() == b"PONG"


@pytest.mark.parametrize("receive_buffer", [0, 8 * KIB])
def test_replies_of_many_pieces(servers: Servers, receive_buffer: int) -> None:
    """Values on pages that do not lie together, small ones and nulls between them, over more pieces than go in one call."""
    with servers.kvcd(pool_size="64mb") as server, server.connect(timeout_s=DEADLINE_S) as other:
        for number in range(800):
            assert other.call("SET", f"hole{number}", value(60_000, number)) == b"OK"
        for number in range(0, 800, 2):
            assert other.call("DEL", f"hole{number}") == 1
        kept: dict[str, bytes | None] = {"none": None, "small": b"s", "medium": value(30_000, 3)}
        for number in range(6):
            kept[f"large{number}"] = value(2 * MIB + number * 9_000, number)
        kept |= {f"hole{number}": value(60_000, number) for number in range(1, 200, 2)}
        for key, bytes_of in kept.items():
            if bytes_of is not None and not key.startswith("hole"):
                assert other.call("SET", key, bytes_of) == b"OK"
        pick = random.Random(5)
        commands, replies = [], []
        for _ in range(60):
            keys = pick.choices(list(kept), k=pick.choice([1, 1, 3, 90]))
            found = [kept[key] for key in keys]
            if len(keys) == 1:
                commands.append(encode("GET", keys[0]))
                replies.append(found[0])
            elif pick.random() < 0.5:
                commands.append(encode("MGET", *keys))
                replies.append(found)
            else:
                commands.append(encode("PREFIX.GET", *keys))
                replies.append(found[: found.index(None)] if None in found else found)
        with server.connect(timeout_s=DEADLINE_S, receive_buffer=receive_buffer) as wire:
            sender = threading.Thread(target=wire.send, args=(b"".join(commands),))
            sender.start()
            for number, reply in enumerate(replies):
                assert wire.reply() == reply, number
            sender.join()
            assert wire.call("PING") == b"PONG"
        assert other.call("FLUSHALL") == b"OK"
        until(lambda: pages_used(server) < 20, "the pages of what was sent given back")


def test_the_last_piece_of_a_value_is_kept_until_it_is_sent(servers: Servers) -> None:
    """The reader stops when only the end of the value is left; its pages are wanted for other values just then.

    Over a unix socket, whose buffer is smaller than what the transport is given at a time: the end often waits there. Where it
    does, the line end behind it is all that is still queued.
    """
    flags = {"unixsocket": f"{servers.folder}/last.sock", "maxmemory_policy": "noeviction"}
    hits = 0
    with servers.kvcd(**flags) as server, server.connect(timeout_s=DEADLINE_S) as other:  # type: ignore[arg-type]
        for attempt in range(30):
            size = 4 * MIB + attempt * 37_000
            old = value(size, attempt)
            assert other.call("FLUSHALL") == b"OK"
            assert other.call("SET", "large", old) == b"OK"
            with Wire(server.unix_path, timeout_s=DEADLINE_S) as slow:
                number = number_of(slow)
                slow.send(encode("GET", "large"))
                assert slow.reader.readline() == b"$%d\r\n" % size
                received = bytearray()
                while (unsent := unsent_bytes(server, number)) > 2:
                    received += slow.reader.read(32 * KIB)
                hits += unsent == 2
                assert other.call("DEL", "large") == 1
                filled = 0
                while other.call("SET", f"filler{filled}", value(2 * MIB, filled + 40)) == b"OK":
                    filled += 1
                assert filled > 10
                received += slow.reader.read(size - len(received))
                assert bytes(received) == old
                assert slow.reader.read(2) == b"\r\n"
            if hits == 3:
                return
    raise AssertionError(f"the end waited in the transport {hits} times only")


def test_values_behind_a_gap_are_not_kept(servers: Servers) -> None:
    """PREFIX.GET answers the leading run only; what it looked at behind the gap can be replaced at once."""
    with servers.kvcd(pool_size="64mb", maxmemory_policy="noeviction") as server, server.connect(timeout_s=DEADLINE_S) as wire:
        for round_number in range(8):
            large = value(9 * MIB, round_number)
            assert wire.call("MSET", "first", large, "behind", large) == b"OK"
            assert wire.call("PREFIX.GET", "first", "gap", "behind") == [large]
            assert wire.call("PREFIX.GET", "gap", "first", "behind") == []
            assert wire.call("DEL", "first", "behind") == 2
        until(lambda: pages_used(server) <= 2, "the pages come back")
        assert server.info()["pool_pinned_bytes"] == "0"


def test_many_readers_of_one_value(kvcd_server: ServerProcess) -> None:
    """One pin serves them all, and the value goes only when the last has read it."""
    size = 6 * MIB
    old = value(size, 1)
    kvcd_server.call("SET", "large", old)
    wires = [kvcd_server.connect(timeout_s=DEADLINE_S, receive_buffer=64 * KIB) for _ in range(20)]
    try:
        for wire in wires:
            wire.send(encode("GET", "large"))
            assert wire.reader.readline() == b"$%d\r\n" % size
        kvcd_server.call("SET", "large", value(size, 2))
        for number, wire in enumerate(wires):
            if number % 2:
                wire.close()
            else:
                assert wire.bulk(size) == old
    finally:
        for wire in wires:
            wire.close()
    assert kvcd_server.call("GET", "large") == value(size, 2)


def test_readers_that_come_together_let_others_in_between(servers: Servers) -> None:
    """What is sent to all of them in one turn of the loop is limited, not only what one gets."""
    with servers.kvcd(maxmemory="100mb", pool_size="200mb") as server, server.connect() as other:
        other.call("SET", "big", value(8 * MIB))
        readers = [server.connect(receive_buffer=4096) for _ in range(40)]
        assert all(reader.call("PING") == b"PONG" for reader in readers)
        before = int(server.info()["total_net_output_bytes"])
        os.kill(server.pid, signal.SIGSTOP)  # so that all come in one turn, the other behind them
        try:
            for reader in readers:
                reader.send(encode("GET", "big"))
            other.send(encode("INFO", "stats"))
        finally:
            os.kill(server.pid, signal.SIGCONT)
        reply = other.reply()
        assert isinstance(reply, bytes)
        fields = dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
        assert int(fields["total_net_output_bytes"]) - before < 24 * MIB
        for reader in readers[::8]:
            assert reader.reply() == value(8 * MIB)
        for reader in readers:
            reader.abort()


# ---------------------------------------------------------- no room for it


def test_a_value_without_room_is_an_error_and_the_stream_stays_in_step(servers: Servers) -> None:
    """Under noeviction and under LRU, alone and second in a command, cut anywhere; keys that are there stay."""
    with servers.kvcd(pool_size="96mb", maxmemory="16mb", maxmemory_policy="noeviction") as server:  # noqa: SIM117 - shorter lines
        with server.connect(timeout_s=DEADLINE_S) as wire:
            wire.call("SET", "there", value(MIB, 9))
            before = pages_used(server)
            for policy in ("noeviction", "allkeys-lru"):
                wire.call("CONFIG", "SET", "maxmemory-policy", policy)
                for frame in (
                    encode("SET", "k", value(32 * MIB)),
                    encode("SET", "k", value(32 * MIB), "EX", 10),
                    encode("MSET", "k", "small", "l", value(32 * MIB), "m", "n"),
                    encode("MSET", "k", value(32 * MIB), "l", value(2 * MIB)),
                    encode("PREFIX.SET", "k", value(32 * MIB)),
                    encode("APPEND", "k", value(32 * MIB)),
                    encode("GETSET", "k", value(32 * MIB)),
                ):
                    sender = wire.send_in_background(encode("PING") + frame + encode("PING", "behind") + encode("GET", "there"))
                    first, second, third, fourth = wire.replies(4)
                    sender.join()
                    assert (first, third) == (b"PONG", b"behind"), frame[:40]
                    assert isinstance(second, ReplyError), frame[:40]
                    assert second.startswith("OOM "), second
                    assert fourth == value(MIB, 9)
                    assert wire.call("EXISTS", "k", "l", "m") == 0
                    assert pages_used(server) <= before + 2
            assert wire.call("SET", "k", value(4 * MIB)) == b"OK"
            assert wire.call("GET", "k") == value(4 * MIB)


def test_a_value_that_fits_only_what_is_evicted_for_it(servers: Servers) -> None:
    """Under LRU a full pool takes value after value, each readable."""
    with servers.kvcd(pool_size="64mb", maxmemory_policy="allkeys-lru") as server, server.connect(timeout_s=DEADLINE_S) as wire:
        for number in range(40):
            data = value(5 * MIB + number, number)
            assert wire.call("SET", f"k{number}", data) == b"OK"
            assert wire.call("GET", f"k{number}") == data


# ------------------------------------------------------------------ shares


@pytest.fixture
def small_server(servers: Servers) -> Iterator[ServerProcess]:
    """A kvcd in whose pool unfinished and unread values have 16 MiB each, and where who stands still is soon closed."""
    with servers.kvcd(pool_size="64mb", maxmemory_policy="noeviction", stall_limit_ms=400) as server:
        yield server


def test_many_unfinished_values_take_turns(servers: Servers) -> None:
    """Together they want more than their share: some wait, all end, and others are answered meanwhile."""
    with servers.kvcd(pool_size="128mb", maxmemory_policy="noeviction", inflight_share=10) as server:
        wires = [server.connect(timeout_s=DEADLINE_S) for _ in range(12)]
        data = [value(6 * MIB + number, number) for number in range(12)]
        try:
            frames = [encode("SET", f"k{number}", data[number]) for number in range(12)]
            halves = [wire.send_in_background(frame[: len(frame) // 2]) for wire, frame in zip(wires, frames, strict=True)]
            for number in range(50):
                assert server.call("ECHO", number) == b"%d" % number
            assert pages_used(server) < 12 * 50  # half of all would be twelve times 48 pages
            rest: list[threading.Thread] = []
            for half, wire, frame in reversed(list(zip(halves, wires, frames, strict=True))):
                if not half.is_alive():
                    rest.append(wire.send_in_background(frame[len(frame) // 2 :]))
                else:
                    rest.append(threading.Thread(target=_send_behind, args=(half, wire, frame, len(frame) // 2)))
                    rest[-1].start()
            assert [wire.reply() for wire in wires] == [b"OK"] * 12
            for thread in rest:
                thread.join()
            for number in range(12):
                assert wires[number].call("GET", f"k{number}") == data[number]
        finally:
            for wire in wires:
                wire.close()


def _send_behind(first: threading.Thread, wire: Wire, frame: bytes, start: int) -> None:
    """Send the rest of a frame once a thread has sent its beginning."""
    first.join()
    wire.send(frame[start:])


def test_one_command_may_bring_more_than_the_share(small_server: ServerProcess) -> None:
    """A client does not wait for itself: its second value goes on although its first holds the share."""
    one, two, three = value(14 * MIB, 1), value(13 * MIB, 2), value(9 * MIB, 3)
    with small_server.connect(timeout_s=DEADLINE_S) as wire:
        sender = wire.send_in_background(encode("MSET", "a", one, "b", two, "c", three))
        assert wire.reply() == b"OK"
        sender.join()
        assert wire.call("MGET", "a", "b", "c") == [one, two, three]


def test_two_commands_that_each_bring_two_values(small_server: ServerProcess) -> None:
    """Neither waits for the other's first value with its own second one for ever."""
    with small_server.connect(timeout_s=DEADLINE_S) as one, small_server.connect(timeout_s=DEADLINE_S) as two:
        first = encode("MSET", "a", value(9 * MIB, 1), "b", value(9 * MIB, 2))
        second = encode("MSET", "c", value(7 * MIB, 3), "d", value(9 * MIB, 4))
        senders = []
        for wire, frame in ((one, first), (two, second)):
            senders.append(wire.send_in_background(frame[: 7 * MIB + 100_000]))
        for wire, frame, sender in ((one, first, senders[0]), (two, second, senders[1])):
            threading.Thread(target=_send_behind, args=(sender, wire, frame, 7 * MIB + 100_000), daemon=True).start()
        assert one.reply() == b"OK"
        assert two.reply() == b"OK"
        assert one.call("MGET", "a", "b", "c", "d") == [value(9 * MIB, 1), value(9 * MIB, 2), value(7 * MIB, 3), value(9 * MIB, 4)]


@pytest.mark.parametrize("sent", ["half of a value", "a value and half of the next", "a value of an unfinished command"])
def test_a_sender_that_stands_still_is_closed_when_others_wait(small_server: ServerProcess, sent: str) -> None:
    """And not before: alone it may take its time."""
    frames = {
        "half of a value": encode("SET", "stuck", value(20 * MIB))[: 17 * MIB],
        "a value and half of the next": encode("MSET", "stuck", value(14 * MIB), "b", value(12 * MIB))[: 18 * MIB],
        "a value of an unfinished command": encode("MSET", "stuck", value(17 * MIB)) + b"$1\r\nx\r\n$4\r\n",
    }
    frame = frames[sent]
    if sent.startswith("a value of"):
        frame = frame.replace(b"*3\r\n", b"*5\r\n", 1)
    with small_server.connect(timeout_s=DEADLINE_S) as stuck, small_server.connect(timeout_s=DEADLINE_S) as other:
        stuck.send(frame)
        until(lambda: pages_used(small_server) >= 16 * 16, "the value's beginning has arrived")
        end_s = time.monotonic() + 0.6
        until(lambda: time.monotonic() > end_s, "longer than the limit")
        assert "closing the slowest" not in small_server.log
        data = value(6 * MIB, 5)
        sender = other.send_in_background(encode("SET", "k", data) + encode("GET", "k"))
        assert other.replies(2) == [b"OK", data]
        sender.join()
        assert stuck.rest() == b""
    assert "closing the slowest client" in small_server.log
    assert small_server.call("EXISTS", "stuck") == 0


def test_readers_that_stand_still_are_closed_when_others_wait_for_pins(small_server: ServerProcess) -> None:
    """Unread values hold their share: the next large GET waits, small commands do not, and then the slowest goes."""
    for number in range(4):
        assert small_server.call("SET", f"k{number}", value(10 * MIB, number)) == b"OK"
    slow = [small_server.connect(timeout_s=DEADLINE_S, receive_buffer=32 * KIB) for _ in range(3)]
    try:
        for number, wire in enumerate(slow[:2]):
            wire.send(encode("GET", f"k{number}"))
        until(lambda: int(small_server.info()["pool_pinned_bytes"]) > 16 * MIB, "more than their share is pinned")
        slow[2].send(encode("GET", "k2"))
        with small_server.connect(timeout_s=DEADLINE_S) as other, small_server.connect(timeout_s=DEADLINE_S) as third:
            other.send(encode("PING") + encode("GET", "k3") + encode("PING", "behind"))
            assert other.reply() == b"PONG"
            for number in range(20):
                assert third.call("ECHO", number) == b"%d" % number
            assert other.replies(2) == [value(10 * MIB, 3), b"behind"]
        assert "closing the slowest client" in small_server.log
    finally:
        for wire in slow:
            wire.close()


def test_readers_that_move_are_not_closed_although_others_wait(small_server: ServerProcess) -> None:
    """Slow is not stuck: who reads a little now and then keeps its connection, and the bytes are right."""
    data = [value(10 * MIB, number) for number in range(3)]
    for number in range(3):
        assert small_server.call("SET", f"k{number}", data[number]) == b"OK"
    with (
        small_server.connect(timeout_s=DEADLINE_S, receive_buffer=64 * KIB) as one,
        small_server.connect(timeout_s=DEADLINE_S, receive_buffer=64 * KIB) as two,
        small_server.connect(timeout_s=DEADLINE_S) as other,
    ):
        for number, wire in enumerate((one, two)):
            wire.send(encode("GET", f"k{number}"))
            assert wire.reader.readline() == b"$%d\r\n" % len(data[number])
        other.send(encode("GET", "k2"))
        received = [bytearray(), bytearray()]
        while min(map(len, received)) < 10 * MIB:
            for number, wire in enumerate((one, two)):
                received[number] += wire.reader.read(min(128 * KIB, 10 * MIB - len(received[number])))
            small_server.call("PING")
        assert received == data[:2]
        assert other.reply() == data[2]


# ------------------------------------------------------------------ memory


def test_memory_outside_the_pool_stays_flat(servers: Servers) -> None:
    """16 clients move 32 MiB values in and out, again and again: what the process holds beside the pool is under 150 MB."""
    clients, rounds, size = 16, 3, 32 * MIB
    with servers.kvcd(pool_size="1200mb", maxmemory_policy="allkeys-lru") as server:
        done = threading.Event()
        peaks = [server.private_bytes()]
        failures: list[BaseException] = []

        def watch() -> None:
            while not done.wait(0.01):
                peaks.append(server.private_bytes())

        def move(number: int) -> None:
            try:
                data = memoryview(_BLOB)[number * 4096 : number * 4096 + size]
                frame = encode("SET", f"k{number}", data)
                buffer = bytearray(size + 2)
                with server.connect(timeout_s=DEADLINE_S) as wire:
                    for _ in range(rounds):
                        wire.send(frame)
                        assert wire.reply() == b"OK"
                        wire.send(encode("GET", f"k{number}"))
                        header = wire.reader.readline()
                        if header == b"$-1\r\n":
                            continue  # evicted
                        assert header == b"$%d\r\n" % size
                        position = 0
                        while position < size + 2:
                            position += wire.reader.readinto1(memoryview(buffer)[position:])
                        assert memoryview(buffer)[:size] == data
            except BaseException as error:  # noqa: BLE001 - a thread's failure is the test's
                failures.append(error)

        watcher = threading.Thread(target=watch)
        watcher.start()
        movers = [threading.Thread(target=move, args=(number,)) for number in range(clients)]
        for mover in movers:
            mover.start()
        for mover in movers:
            mover.join()
        done.set()
        watcher.join()
        assert not failures, failures[0]
        assert len(peaks) > 10
        print(f"outside the pool: {peaks[0] / 1e6:.1f} MB at start, {max(peaks) / 1e6:.1f} MB at most")
        assert max(peaks) < 150_000_000
