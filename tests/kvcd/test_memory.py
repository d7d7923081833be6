"""Memory node without RDMA: its control server with a stand-in for the region, its secret, its command line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from kvcd import memory_control
from kvcd.logs import Logger
from kvcd.memory_control import ControlServer
from kvcd.memory_node import NodeError, read_options
from kvcd.memory_secret import SecretError, read_secret
from storage.fabric import control_protocol
from storage.fabric.control_client import ControlClient
from storage.fabric.control_messages import FrontEndStatus, NodeDescription, QueuePairAddress
from storage.fabric.control_protocol import ControlError, FrontEndChannel
from storage.fabric.verbs_devices import VerbsError

SECRET = b"sixteen bytes ok"
PEER = QueuePairAddress(number=17, psn=99, lid=0, gid="::ffff:10.0.0.1", mtu=5, max_rd_atomic=16)
UNREACHABLE = QueuePairAddress(number=18, psn=99, lid=0, gid="fe80::dead", mtu=5, max_rd_atomic=16)
DEADLINE_S = 20


class PretendQueuePair:
    """Counts as open until it is closed."""

    def __init__(self, number: int) -> None:
        self.number, self.psn = number, number + 1000
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class PretendRegion:
    """Makes queue pairs that do nothing."""

    def __init__(self) -> None:
        self.made: list[PretendQueuePair] = []

    def connect(self, peers: Sequence[QueuePairAddress]) -> list[PretendQueuePair]:
        if UNREACHABLE in peers:
            raise VerbsError("no route to fe80::dead")
        made = [PretendQueuePair(len(self.made) + index) for index in range(len(peers))]
        self.made += made
        return made

    def describe(self, front_ends: tuple[FrontEndStatus, ...]) -> NodeDescription:
        return NodeDescription(
            instance="ab" * 16, size_bytes=1 << 20, formatted=False, device="none", link_layer="ethernet", lid=0, gid="fe80::1",
            gid_index=0, mtu=5, max_rd_atomic=16, address=4096, rkey=1, front_ends=front_ends,
        )  # fmt: skip

    @property
    def open_count(self) -> int:
        return sum(not queue_pair.closed.is_set() for queue_pair in self.made)


class Recorder:
    """A logger that keeps what operators would see."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, object]]] = []

    def notice(self, event: str, **particulars: object) -> None:
        self.lines.append((event, particulars))

    warning = notice

    def debug(self, event: str, **particulars: object) -> None:
        pass


class Node:
    """A control server in a thread of its own."""

    def __init__(self) -> None:
        self.region = PretendRegion()
        self.log = Recorder()
        self.control = ControlServer(self.region, SECRET, cast(Logger, self.log))
        self.port = 0
        self._clients: list[ControlClient] = []
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._started.wait(DEADLINE_S)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await self._loop.create_server(self.control.protocol_factory, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        self.control.close()
        await asyncio.sleep(0)

    def client(self, secret: bytes = SECRET, timeout_s: float = DEADLINE_S) -> ControlClient:
        """Return a new connection."""
        client = ControlClient("127.0.0.1", self.port, secret, timeout_s)
        self._clients.append(client)
        return client

    def raw(self) -> socket.socket:
        """Return a connection that has received the greeting and said nothing."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)
        assert sock.recv(65536)
        return sock

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    try:
        yield made
    finally:
        made.close()


def refused(code: str) -> contextlib.AbstractContextManager[object]:
    """Expect a request to be refused with this code."""

    @contextlib.contextmanager
    def expect() -> Iterator[None]:
        with pytest.raises(ControlError) as error:
            yield
        assert error.value.code == code, error.value

    return expect()


def until(condition: Callable[[], bool]) -> None:
    """Poll something that only another thread or the kernel can make true."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.005)


# ------------------------------------------------------------------- front ends


def test_hello_describes_the_node(node: Node) -> None:
    facts = node.client().hello()
    assert (facts.instance, facts.size_bytes, facts.front_ends) == ("ab" * 16, 1 << 20, ())


def test_the_first_front_end_is_alone_and_others_wait_until_it_is_ready(node: Node) -> None:
    first, second = node.client(), node.client()
    entered = first.enter("first")
    assert (entered.front_end, entered.alone) == (0, True)
    with refused("busy"):
        second.enter("second")
    with refused("busy"):
        second.enter("second", previous=(0, entered.token))
    first.ready()
    later = second.enter("second")
    assert (later.front_end, later.alone) == (1, False)


def test_one_that_dies_while_alone_makes_room_for_the_next(node: Node) -> None:
    first, second = node.client(), node.client()
    first.enter("first")
    first.close()
    until(lambda: node.control.membership._exclusive is None)
    assert second.enter("second").alone


def test_a_lost_connection_closes_its_queue_pairs_and_keeps_its_number_taken(node: Node) -> None:
    first, second = node.client(), node.client()
    first.enter("first")
    first.incarnation(5)
    replies = first.connect([PEER, PEER])
    assert [(reply.number, reply.psn) for reply in replies] == [(0, 1000), (1, 1001)]
    first.ready()
    second.enter("second")
    first.close()
    assert all(queue_pair.closed.wait(DEADLINE_S) for queue_pair in node.region.made)
    until(lambda: not second.hello().front_ends[0].connected)
    assert second.hello().front_ends == (FrontEndStatus(0, 5, False), FrontEndStatus(1, None, True))
    assert node.client().enter("third").front_end == 2


def test_the_same_front_end_gets_its_number_back(node: Node) -> None:
    first, second = node.client(), node.client()
    entered = first.enter("first")
    first.ready()
    second.enter("second")
    first.close()
    again = node.client().enter("first", previous=(entered.front_end, entered.token))
    assert (again.front_end, again.token, again.alone) == (0, entered.token, False)


def test_one_that_comes_back_before_its_loss_was_seen_takes_its_number_over(node: Node) -> None:
    first = node.client()
    entered = first.enter("first")
    first.ready()
    first.connect([PEER])
    node.client().enter("first", previous=(entered.front_end, entered.token))
    assert node.region.open_count == 0
    until(first.is_closed)
    assert [front_end.connected for front_end in node.client().hello().front_ends] == [True]


@pytest.mark.parametrize("previous", [(0, "0" * 32), (3, "0" * 32), (0, "")])
def test_a_wrong_token_is_refused(node: Node, previous: tuple[int, str]) -> None:
    first = node.client()
    first.enter("first")
    first.ready()
    with refused("fenced"):
        node.client().enter("thief", previous=previous)
    assert not first.is_closed()


def test_one_that_comes_alone_forgets_all_earlier_ones(node: Node) -> None:
    first = node.client()
    entered = first.enter("first")
    first.ready()
    first.close()
    until(lambda: not node.control.membership._front_ends[0].connection)
    second = node.client()
    newcomer = second.enter("second")
    assert (newcomer.front_end, newcomer.alone) == (0, True)
    second.ready()
    with refused("fenced"):
        node.client().enter("first", previous=(0, entered.token))


def test_leaving_frees_the_number_and_closes_the_queue_pairs(node: Node) -> None:
    first, second = node.client(), node.client()
    first.enter("first")
    first.connect([PEER])
    first.ready()
    second.enter("second")
    first.leave()
    assert node.region.open_count == 0
    assert node.client().enter("third").front_end == 0


def test_fence_is_refused_while_connected_and_final_afterwards(node: Node) -> None:
    first, second = node.client(), node.client()
    entered = first.enter("first")
    first.incarnation(5)
    first.ready()
    second.enter("second")
    with refused("alive"):
        second.fence(0, 5)
    second.fence(0, 4)  # an earlier incarnation of that row is gone by definition
    first.close()
    until(lambda: not second.hello().front_ends[0].connected)
    second.fence(0, 5)
    second.fence(0, 5)
    with refused("fenced"):
        node.client().enter("first", previous=(0, entered.token))


def test_one_whose_incarnation_is_unknown_cannot_be_fenced_while_connected(node: Node) -> None:
    first, second = node.client(), node.client()
    first.enter("first")
    first.ready()
    second.enter("second")
    with refused("alive"):
        second.fence(0, 1)


def test_a_fenced_incarnation_may_not_come_back_under_a_freed_number(node: Node) -> None:
    first, second = node.client(), node.client()
    first.enter("first")
    first.incarnation(5)
    first.ready()
    second.enter("second")
    first.leave()
    second.fence(0, 5)
    third = node.client()
    assert third.enter("third").front_end == 0
    with refused("fenced"):
        third.incarnation(5)
    third.incarnation(6)


def test_fenced_incarnations_are_remembered_within_a_limit(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_control, "FENCED_LIMIT", 3)
    first = node.client()
    first.enter("first")
    for incarnation in range(6):
        first.fence(9, incarnation)
    assert list(node.control.membership._fenced) == [(9, 3), (9, 4), (9, 5)]


def test_sixty_four_front_ends_and_no_more(node: Node) -> None:
    first = node.client()
    first.enter("first")
    first.ready()
    others = [node.client() for _ in range(64)]
    assert [other.enter("other").front_end for other in others[:63]] == list(range(1, 64))
    with refused("full"):
        others[63].enter("one too many")
    others[0].leave()
    assert others[63].enter("room now").front_end == 1


# ------------------------------------------------------------------ queue pairs


def test_only_a_front_end_connects_queue_pairs_and_a_visitor_one(node: Node) -> None:
    client = node.client()
    with refused("request"):
        client.connect([PEER])
    with refused("limit"):
        client.connect([PEER, PEER], visitor=True)
    assert len(client.connect([PEER], visitor=True)) == 1
    with refused("limit"):
        client.connect([PEER], visitor=True)
    client.close()
    assert node.region.made[0].closed.wait(DEADLINE_S)


def test_queue_pairs_of_a_connection_are_limited(node: Node) -> None:
    client = node.client()
    client.enter("first")
    client.connect([PEER] * 60)
    with refused("limit"):
        client.connect([PEER] * 5)
    client.connect([PEER] * 4)
    with refused("limit"):
        client.connect([PEER])
    assert node.region.open_count == control_protocol.QUEUE_PAIRS_LIMIT


def test_a_queue_pair_that_cannot_be_made_says_why_and_the_connection_lives(node: Node) -> None:
    client = node.client()
    client.enter("first")
    with pytest.raises(ControlError, match="no route to fe80::dead") as error:
        client.connect([UNREACHABLE])
    assert error.value.code == "verbs"
    client.connect([PEER])


# --------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("nonsense", {}), ("enter", {}), ("enter", {"name": "a\nb"}), ("enter", {"name": "x" * 129}), ("enter", {"name": 5}),
        ("enter", {"name": "a", "previous": 5}), ("enter", {"name": "a", "previous": {}}),
        ("enter", {"name": "a", "previous": {"number": 64, "token": ""}}),
        ("enter", {"name": "a", "previous": {"number": 0, "token": "é"}}),
        ("incarnation", {"value": 1}), ("ready", {}), ("fence", {"front_end": 0, "incarnation": 1}), ("leave", {}),
        ("connect", {"queue_pairs": None, "visitor": True}), ("connect", {"queue_pairs": [1], "visitor": True}),
        ("connect", {"queue_pairs": [{}], "visitor": True}), ("connect", {}), ("__init__", {}), ("_close_queue_pairs", {}),
    ],
)  # fmt: skip
def test_a_malformed_request_is_refused_and_the_connection_lives(node: Node, kind: str, fields: dict[str, object]) -> None:
    client = node.client()
    with refused("request"):
        client.request(kind, **fields)
    assert client.hello().front_ends == ()


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("incarnation", {}), ("incarnation", {"value": 0x8000}), ("incarnation", {"value": -1}),
        ("fence", {"front_end": 64, "incarnation": 1}), ("fence", {"front_end": 0}), ("enter", {"name": "again"}),
    ],
)  # fmt: skip
def test_a_malformed_request_of_a_front_end_is_refused(node: Node, kind: str, fields: dict[str, object]) -> None:
    client = node.client()
    client.enter("first")
    with refused("request"):
        client.request(kind, **fields)


def test_hostile_bytes_end_that_connection_alone(node: Node) -> None:
    client = node.client()
    for hostile in (b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x00", b"\xff" * 100_000):
        with node.raw() as sock, contextlib.suppress(OSError):
            sock.sendall(hostile)
            while sock.recv(65536):
                pass
    until(lambda: len(node.log.lines) == 3)
    assert {event for event, _ in node.log.lines} == {"connection ended"}
    assert client.hello().front_ends == ()


def test_a_wrong_secret_gets_nothing(node: Node) -> None:
    with pytest.raises(ControlError, match="secret differs") as error:
        node.client(b"another sixteen bytes")
    assert error.value.code == "secret"


def test_a_replayed_request_ends_the_connection(node: Node) -> None:
    with socket.create_connection(("127.0.0.1", node.port), timeout=DEADLINE_S) as sock:
        channel = FrontEndChannel(SECRET)
        while not channel.is_authenticated:
            channel.feed(sock.recv(65536))
            assert channel.next_message() is None
            sock.sendall(channel.take_output())
        channel.send({"request": "hello"})
        request = channel.take_output()
        sock.sendall(request)
        channel.feed(sock.recv(65536))
        assert channel.next_message() is not None
        sock.sendall(request)
        assert sock.recv(65536) == b""


def test_who_says_nothing_is_sent_away(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_protocol, "HANDSHAKE_DEADLINE_S", 0.05)
    with node.raw() as sock:
        assert sock.recv(65536) == b""


def test_an_authenticated_connection_may_be_silent_for_longer_than_a_handshake(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_protocol, "HANDSHAKE_DEADLINE_S", 0.2)
    client = node.client()
    with node.raw() as sock:
        assert sock.recv(65536) == b""  # its deadline is later than the client's was
    assert not client.is_closed()
    assert client.hello().front_ends == ()


def test_connections_are_limited_and_the_one_too_many_is_told(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_protocol, "CONNECTIONS_LIMIT", 2)
    first, _second = node.client(), node.client()
    with refused("limit"):
        node.client()
    first.close()
    until(lambda: len(node.control._connections) == 1)
    assert node.client().hello().front_ends == ()


def test_the_end_of_the_node_is_seen_at_once(node: Node) -> None:
    client = node.client()
    assert not client.is_closed()
    assert client.fileno() >= 0
    node._loop.call_soon_threadsafe(node.control.close)
    until(client.is_closed)
    with refused("closed"):
        client.hello()
    assert client.is_closed()


def test_nobody_there_and_somebody_else_there_are_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with refused("timeout"):
            ControlClient("127.0.0.1", silent.getsockname()[1], SECRET, timeout_s=0.2)
        port = silent.getsockname()[1]
    with pytest.raises(ControlError, match="is kvcd memory running there") as error:
        ControlClient("127.0.0.1", port, SECRET, timeout_s=1)
    assert error.value.code == "unreachable"


def test_a_redis_server_is_no_memory_node() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"-ERR unknown command\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ControlError, match="not the control protocol") as error:
            ControlClient("127.0.0.1", server.getsockname()[1], SECRET, timeout_s=DEADLINE_S)
        thread.join(DEADLINE_S)
    assert error.value.code == "protocol"


# ----------------------------------------------------------------------- secret


def test_the_secret_comes_from_the_option_the_file_variable_or_the_variable(tmp_path: Path) -> None:
    warnings: list[dict[str, object]] = []

    def warn(_event: str, **particulars: object) -> None:
        warnings.append(particulars)

    one, two = tmp_path / "one", tmp_path / "two"
    for path, text in ((one, b"the first secret here\n"), (two, b" the second secret here \n")):
        path.write_bytes(text)
        path.chmod(0o600)
    variables = {"KVCD_MEMORY_SECRET": "the third secret here", "KVCD_MEMORY_SECRET_FILE": str(two)}
    assert read_secret(str(one), warn=warn, environment=variables) == b"the first secret here"
    assert read_secret(None, warn=warn, environment=variables) == b"the second secret here"
    assert read_secret(None, warn=warn, environment={"KVCD_MEMORY_SECRET": "the third secret here"}) == b"the third secret here"
    assert warnings == []
    one.chmod(0o640)
    read_secret(str(one), warn=warn, environment={})
    assert warnings == [{"file": str(one), "remedy": f"chmod 600 {one}"}]


def test_a_missing_short_or_huge_secret_says_how_to_make_one(tmp_path: Path) -> None:
    short, huge = tmp_path / "short", tmp_path / "huge"
    short.write_bytes(b"fifteen bytes..\n\n\n")
    huge.write_bytes(b"x" * 5000)
    for path in (None, str(short), str(huge), str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(SecretError, match=r"head -c 32 /dev/urandom \| base64"):
            read_secret(path, warn=lambda *_a, **_k: None, environment={})


# ----------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("listen", "size", "said"),
    [
        ("nowhere", "8mb", "HOST:PORT is needed"),
        ("fd00::1:7400", "8mb", r"\[fd00::1\]:7400"),
        ("127.0.0.1:99999", "8mb", "HOST:PORT is needed"),
        ("127.0.0.1:", "8mb", "HOST:PORT is needed"),
        ("127.0.0.1:0", "64xb", "a size is needed, such as 64gb"),
        ("127.0.0.1:0", "1mb", "lends from 4mb to 256gb"),
        ("127.0.0.1:0", "257gb", "run several nodes"),
    ],
)
def test_a_wrong_address_or_size_says_what_is_right(listen: str, size: str, said: str) -> None:
    with pytest.raises(NodeError, match=said):
        read_options(listen, size, None, None, False, None)


@pytest.mark.parametrize(
    ("listen", "host"), [("10.0.0.1:7400", "10.0.0.1"), ("[fd00::1]:7400", "fd00::1"), ("*:7400", ""), (":7400", ""), ("name:7400", "name")]
)
def test_addresses_are_understood(listen: str, host: str) -> None:
    options = read_options(listen, "64gb", None, None, False, None)
    assert (options.host, options.port, options.size_bytes) == (host, 7400, 64 << 30)


def test_huge_pages_come_from_a_file_or_from_the_option() -> None:
    with pytest.raises(NodeError, match="a file on hugetlbfs has huge pages"):
        read_options("*:7400", "8mb", None, None, True, "pool")


def test_without_a_secret_it_says_how_to_make_one_and_exits_with_1() -> None:
    done = _memory("--listen", "127.0.0.1:0", "--size", "8mb", "--secret-file", "/nowhere/secret")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "head -c 32 /dev/urandom" in done.stderr


def test_an_address_of_another_machine_is_refused() -> None:
    done = _memory("--listen", "192.0.2.1:7400", "--size", "8mb")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "does not have that address" in done.stderr


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = _memory("--listen", f"127.0.0.1:{port}", "--size", "8mb")
    assert done.returncode == 1
    assert f"127.0.0.1 port {port} is taken" in done.stderr


def _memory(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KVCD_")}
    return subprocess.run(
        [sys.executable, "-m", "kvcd", "memory", *arguments], capture_output=True, text=True, timeout=60, check=False,
        env=environment | {"KVCD_MEMORY_SECRET": SECRET.decode()},
    )  # fmt: skip
