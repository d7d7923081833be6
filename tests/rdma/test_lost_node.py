"""Lost memory nodes: killed under load and in mid-transfer, stopped, restarted empty or with their file, missing, or of another list."""

from __future__ import annotations

import itertools
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.rdma.servers import KvcdProcess, Rack, node_name, until
from tests.servers import free_port
from tests.wire import ReplyError, Wire, encode

pytestmark = pytest.mark.verbs

MIB = 1 << 20
DEADLINE_S = 2
ANSWER_S = DEADLINE_S + 1  # in which every command must have its answer, whatever happens to a node
PAUSE_S = 2  # that other nodes' keys may have
LARGE_BYTES = 6 * MIB
NAMES = [b"key%d" % number for number in range(60)]
_BLOB = random.Random(9).randbytes(LARGE_BYTES + MIB)


def value(name: bytes, length: int = 0) -> bytes:
    """Return this key's value, and no other's."""
    start = int(name[3:]) * 1013
    return _BLOB[start : start + (length or 40 + int(name[3:]) * 50)]


class Pair:
    """Two memory nodes, one with memory alone and one with a file, and a front end."""

    def __init__(self, rack: Rack) -> None:
        self.rack = rack
        self.kept, self.empty = rack.memory_node(file="pool"), rack.memory_node()
        self.kept.ready()
        self.empty.ready()
        self.server = rack.front_end(self.kept, self.empty, memory_node_timeout_ms=1000 * DEADLINE_S).ready()
        self.returns = 0
        self.of_kept: list[bytes] = []
        self.of_empty: list[bytes] = []

    def fill(self) -> None:
        """Give every name its value."""
        assert self.server.call("FLUSHALL") == b"OK"
        assert self.server.call("MSET", *(word for name in NAMES for word in (name, value(name)))) == b"OK"

    def connect(self) -> Wire:
        """Return a connection on which no answer may take longer than it may."""
        return self.server.connect(timeout_s=ANSWER_S)

    def restart(self, node: KvcdProcess) -> KvcdProcess:
        """Start a node anew where it was, and wait until the front end has it back."""
        self.returns += 1
        again = self.rack.memory_node(port=node.port, file="pool" if node is self.kept else None)
        if node is self.kept:
            self.kept = again
        else:
            self.empty = again
        again.ready()
        began_s = time.monotonic()
        self.server.wait_until_said("memory node is back", times=self.returns)
        print(f"back {time.monotonic() - began_s:.1f} s after it was ready")
        return again

    def learn_names(self) -> None:
        """Find out which names live where, from which are absent while a node is lost."""
        with self.connect() as wire:
            self.of_empty = [name for name in NAMES if wire.call("GET", name) is None]
        self.of_kept = [name for name in NAMES if name not in self.of_empty]
        assert self.of_kept
        assert self.of_empty

    def unreachable(self, node: KvcdProcess) -> ReplyError:
        """Return what a change of a lost node's key is answered."""
        return ReplyError(f"ERR memory node {node_name(node)} unreachable")


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with Rack() as rack:
        yield Pair(rack)
        assert "internal error" not in "".join(process.log for process in rack.started)


class Load:
    """A client that reads and writes all the names until told to stop, and notes what it was answered and when."""

    def __init__(self, pair: Pair, number: int) -> None:
        self.pair = pair
        self.pick = random.Random(number)
        self.is_busy, self.is_over = threading.Event(), threading.Event()
        self.heard: list[tuple[float, float, bytes, bool, object]] = []  # sent at, answered at, name, whether a change, reply
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            with self.pair.connect() as wire:
                while not self.is_over.is_set():
                    name, is_change = self.pick.choice(NAMES), self.pick.random() < 0.4
                    began_s = time.monotonic()
                    reply = wire.call("SET", name, value(name)) if is_change else wire.call("GET", name)
                    self.heard.append((began_s, time.monotonic(), name, is_change, reply))
                    if len(self.heard) == 30:
                        self.is_busy.set()
        except BaseException as error:  # noqa: BLE001  raised again by stop()
            self.error = error
            self.is_busy.set()

    def stop(self) -> None:
        """End it; raise what it raised."""
        self.is_over.set()
        self.thread.join()
        if self.error:
            raise self.error

    def pause_s(self, names: list[bytes]) -> float:
        """Return the longest time between two answers for these names."""
        times = [answered_s for _, answered_s, name, _, _ in self.heard if name in names]
        return max(after - before for before, after in itertools.pairwise(times))


@contextmanager
def load(pair: Pair) -> Iterator[list[Load]]:
    """Three such clients, at work when the block begins."""
    clients = [Load(pair, number) for number in range(3)]
    for client in clients:
        assert client.is_busy.wait(60)
    try:
        yield clients
    finally:
        for client in clients:
            client.stop()


def test_a_node_killed_under_load_costs_its_own_keys_alone(pair: Pair) -> None:
    pair.fill()
    lost = pair.empty
    with load(pair) as clients:
        killed_s = time.monotonic()
        lost.crash()
        pair.server.wait_until_said("memory node lost")
        noticed_s = time.monotonic()
        pair.learn_names()
        counts = [len(client.heard) for client in clients]
        until(lambda: all(len(client.heard) > count + 60 for client, count in zip(clients, counts, strict=True)), "work goes on")
        pair.server.call("PING")
    print(f"noticed after {noticed_s - killed_s:.2f} s")
    for client in clients:
        longest_s = max(answered_s - sent_s for sent_s, answered_s, *_ in client.heard)
        print(f"{len(client.heard)} answers, the longest took {longest_s:.2f} s, a pause of {client.pause_s(pair.of_kept):.2f} s")
        assert client.pause_s(pair.of_kept) < PAUSE_S
        for sent_s, answered_s, name, is_change, reply in client.heard:
            right: list[object] = [b"OK" if is_change else value(name)]
            if name in pair.of_empty and answered_s > killed_s:
                right = [pair.unreachable(lost) if is_change else None] + (right if sent_s < noticed_s else [])
            assert reply in right, name


def test_every_command_says_what_is_lost(pair: Pair) -> None:
    """The node of the test before is still away."""
    gone, here = pair.of_empty, pair.of_kept
    refused = pair.unreachable(pair.empty)
    with pair.connect() as wire:
        for command in (
            ("SET", gone[0], "x"), ("DEL", gone[0]), ("INCR", gone[0]), ("APPEND", gone[0], "x"), ("EXPIRE", gone[0], 10),
            ("GETDEL", gone[0]), ("PERSIST", gone[0]), ("SETRANGE", gone[0], 1, "x"), ("MSET", here[0], value(here[0]), gone[0], "x"),
            ("DEL", here[1], gone[0]), ("SET", gone[0], _BLOB[:LARGE_BYTES]), ("PREFIX.SET", gone[0], "x"), ("SETNX", gone[0], "x"),
            ("PREFIX.SET", gone[1], _BLOB[:300_000]), ("SET", gone[0], "x", "NX"), ("GETSET", gone[0], "x"), ("FLUSHDB",),
        ):  # fmt: skip
            assert wire.call(*command) == refused, command[:2]
        # FLUSHDB has emptied what it could reach.
        assert wire.call("DBSIZE") == 0
        assert wire.call("MSET", *(word for name in here for word in (name, value(name)))) == b"OK"
        assert wire.call("GET", gone[0]) is None
        assert wire.call("EXISTS", gone[0], here[0], gone[1]) == 1
        assert wire.call("STRLEN", gone[0]) == 0
        assert wire.call("TTL", gone[0]) == -2
        assert wire.call("MGET", gone[0], here[0]) == [None, value(here[0])]
        assert wire.call("DBSIZE") == len(here)
        assert wire.call("PREFIX.MATCH", *here, gone[0], here[0]) == len(here)
        assert wire.call("PREFIX.MATCH", here[0], gone[0], *here) == 1
        assert wire.call("PREFIX.GET", here[0], here[1], gone[0], here[2]) == [value(here[0]), value(here[1])]
        found, cursor = [], b"0"
        while True:
            cursor, page = wire.call("SCAN", cursor)  # type: ignore[misc]
            found += page
            if cursor == b"0":
                break
        assert sorted(found) == sorted(here)
        # Pipelines: each command has its own answer.
        wire.send(b"".join(encode(*words) for words in (("GET", here[0]), ("SET", gone[0], "x"), ("GET", gone[0]), ("PING",))))
        assert wire.replies(4) == [value(here[0]), refused, None, b"PONG"]


def test_a_node_that_restarts_empty_is_back_by_itself_without_an_old_value(pair: Pair) -> None:
    """And knows its keys again when they are written."""
    pair.restart(pair.empty)
    with pair.connect() as wire:
        assert wire.call("MGET", *pair.of_empty) == [None] * len(pair.of_empty)
        assert wire.call("MGET", *pair.of_kept) == [value(name) for name in pair.of_kept]
        assert wire.call("PREFIX.MATCH", *NAMES) == NAMES.index(pair.of_empty[0])
        pair.fill()
        assert wire.call("MGET", *NAMES) == [value(name) for name in NAMES]
        assert wire.call("PREFIX.MATCH", *NAMES) == len(NAMES)


def test_a_node_with_a_file_comes_back_with_its_values(pair: Pair) -> None:
    pair.fill()
    with pair.connect() as wire:
        changed = pair.of_kept[0]
        wire.call("SET", changed, "the last value")
        wire.call("SET", pair.of_kept[1], _BLOB[:LARGE_BYTES])
        wire.call("DEL", pair.of_kept[2])
        wire.call("PREFIX.MATCH", *NAMES)
        pair.kept.crash()
        until(lambda: wire.call("GET", changed) is None, "a lost key")
        assert wire.call("SET", changed, "lost") == pair.unreachable(pair.kept)
        pair.restart(pair.kept)
        assert wire.call("GET", changed) == b"the last value"
        assert wire.call("GET", pair.of_kept[1]) == _BLOB[:LARGE_BYTES]
        assert wire.call("GET", pair.of_kept[2]) is None
        assert wire.call("MGET", *pair.of_kept[3:]) == [value(name) for name in pair.of_kept[3:]]
        assert wire.call("MGET", *pair.of_empty) == [value(name) for name in pair.of_empty]
        assert wire.call("PREFIX.MATCH", *NAMES) == NAMES.index(pair.of_kept[2])


def test_a_large_value_is_cut_off_with_its_node_and_never_wrong(pair: Pair) -> None:
    """On its way in and on its way out; large values of the other node pass meanwhile."""
    pair.fill()
    gone, here = pair.of_empty[0], pair.of_kept[0]
    slowly = {"receive_buffer": 4096}
    with pair.connect() as wire, pair.server.connect(**slowly) as reader, pair.server.connect(**slowly) as other_reader:
        for name in (gone, here):
            assert wire.call("SET", name, _BLOB[:LARGE_BYTES]) == b"OK"
        for name, each in ((gone, reader), (here, other_reader)):
            each.send(encode("GET", name))
            assert each.reader.readline() == b"$%d\r\n" % LARGE_BYTES
        with pair.connect() as writer, pair.connect() as other_writer:
            frames = [encode("SET", name, _BLOB[MIB : MIB + LARGE_BYTES]) for name in (gone, here)]
            for each, frame in zip((writer, other_writer), frames, strict=True):
                each.send(frame[: LARGE_BYTES // 2])
            until(lambda: int(pair.server.info()["pool_staged_bytes"]) > LARGE_BYTES // 2, "both values half there")
            pair.empty.crash()
            for each, frame in zip((writer, other_writer), frames, strict=True):
                each.send(frame[LARGE_BYTES // 2 :])
            assert writer.reply() == pair.unreachable(pair.empty)
            assert writer.call("GET", gone) is None  # and the connection lives on
            assert other_writer.reply() == b"OK"
        assert _BLOB.startswith(reader.rest())
        assert other_reader.bulk(LARGE_BYTES) == _BLOB[:LARGE_BYTES]
        assert wire.call("GET", here) == _BLOB[MIB : MIB + LARGE_BYTES]
        pair.restart(pair.empty)
        assert wire.call("GET", gone) is None
        info = pair.server.info()
        assert (info["pool_staged_bytes"], info["pool_pinned_bytes"]) == ("0", "0")
        for number in range(3):
            assert wire.call("SET", gone, _BLOB[number : number + LARGE_BYTES]) == b"OK"
            assert wire.call("GET", gone) == _BLOB[number : number + LARGE_BYTES]


def test_stopped_memory_nodes_serve_on(pair: Pair) -> None:
    """One-sided: no memory node's process does anything per operation."""
    pair.fill()
    nodes = (pair.kept, pair.empty)
    lost = pair.server.log.count("memory node lost")
    for node in nodes:
        node.process.send_signal(signal.SIGSTOP)
    try:
        with pair.connect() as wire:
            assert wire.call("MGET", *NAMES) == [value(name) for name in NAMES]
            assert wire.call("SET", NAMES[0], _BLOB[:LARGE_BYTES]) == b"OK"
            assert wire.call("GET", NAMES[0]) == _BLOB[:LARGE_BYTES]
            for number in range(20):
                assert wire.call("INCR", "n") == number + 1
            assert wire.call("DEL", *NAMES) == len(NAMES)
            assert wire.call("DBSIZE") == 1
    finally:
        for node in nodes:
            node.process.send_signal(signal.SIGCONT)
    pair.fill()
    assert pair.server.log.count("memory node lost") == lost


def test_a_front_end_stopped_for_longer_than_its_deadline_goes_on(pair: Pair) -> None:
    pair.fill()
    lost = pair.server.log.count("memory node lost")
    with pair.server.connect(timeout_s=DEADLINE_S + 1) as wire, pair.server.connect() as writer:
        writer.send(encode("SET", NAMES[1], _BLOB[:LARGE_BYTES])[:MIB])
        wire.send(encode("GET", NAMES[0]) * 500 + encode("PING"))
        pair.server.process.send_signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError):  # three seconds, longer than what a node has for an answer
            wire.rest()
        pair.server.process.send_signal(signal.SIGCONT)
        writer.send(encode("SET", NAMES[1], _BLOB[:LARGE_BYTES])[MIB:])
        assert writer.reply() == b"OK"
    with pair.connect() as wire:
        assert wire.call("GET", NAMES[1]) == _BLOB[:LARGE_BYTES]
        assert wire.call("MGET", *NAMES[2:]) == [value(name) for name in NAMES[2:]]
    assert pair.server.log.count("memory node lost") == lost


def test_another_list_of_nodes_is_refused_by_both_lists(pair: Pair) -> None:
    others = [pair.rack.front_end(pair.kept), pair.rack.front_end(pair.empty, pair.kept, free_port())]
    for other in others:
        said = other.refusal()
        assert node_name(pair.kept) in said
        assert ",".join(sorted((node_name(pair.kept), node_name(pair.empty)))) in said or node_name(pair.empty) in said
    assert pair.server.call("PING") == b"PONG"


def test_a_new_pool_wants_all_its_nodes(pair: Pair) -> None:
    blank, missing = pair.rack.memory_node(), free_port()
    blank.ready()
    said = pair.rack.front_end(blank, missing).refusal()
    assert "a new pool wants all its memory nodes" in said
    assert node_name(missing) in said
    # What was refused has left nothing behind.
    server = pair.rack.front_end(blank).ready()
    assert server.call("SET", "k", "v") == b"OK"
