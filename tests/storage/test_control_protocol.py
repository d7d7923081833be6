"""Control protocol: handshake at every split, wrong secrets, replayed and tampered frames, limits, hostile bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.fabric import control_protocol as protocol
from storage.fabric.control_messages import FrontEndStatus, NodeDescription, QueuePairAddress, replies_from
from storage.fabric.control_protocol import Channel, ControlError, FrontEndChannel, NodeChannel, ProtocolError

SECRET = b"sixteen bytes ok"


def pump(source: Channel, target: Channel) -> list[dict[str, Any]]:
    """Carry what one side has to send to the other; return what it means there."""
    target.feed(source.take_output())
    found = []
    while (message := target.next_message()) is not None:
        found.append(message)
    return found


def shaken(secret: bytes = SECRET) -> tuple[NodeChannel, FrontEndChannel]:
    """Return both sides after the handshake."""
    node, front_end = NodeChannel(secret), FrontEndChannel(secret)
    for source, target in ((node, front_end), (front_end, node), (node, front_end)):
        assert pump(source, target) == []
    assert node.is_authenticated
    assert front_end.is_authenticated
    return node, front_end


def frame(message: object) -> bytes:
    body = json.dumps(message).encode()
    return struct.pack(">I", len(body)) + body


def test_messages_pass_both_ways_after_the_handshake() -> None:
    node, front_end = shaken()
    for number in range(3):
        front_end.send({"request": "hello", "n": number})
        assert pump(front_end, node) == [{"request": "hello", "n": number}]
        node.send({"answer": number})
        assert pump(node, front_end) == [{"answer": number}]


def test_every_split_of_the_bytes_means_the_same() -> None:
    node, front_end = NodeChannel(SECRET), FrontEndChannel(SECRET)
    seen: list[dict[str, Any]] = []

    def one_byte_at_a_time(source: Channel, target: Channel) -> None:
        for byte in source.take_output():
            target.feed(bytes([byte]))
            while (message := target.next_message()) is not None:
                seen.append(message)

    one_byte_at_a_time(node, front_end)
    one_byte_at_a_time(front_end, node)
    one_byte_at_a_time(node, front_end)
    front_end.send({"a": 1})
    front_end.send({"b": 2})
    one_byte_at_a_time(front_end, node)
    assert seen == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("split", range(1, 45))
def test_two_requests_in_one_piece_cut_anywhere_are_two(split: int) -> None:
    node, front_end = shaken()
    front_end.send({"a": 1})
    front_end.send({"b": 2})
    output = front_end.take_output()
    found = []
    for piece in (output[:split], output[split:]):
        node.feed(piece)
        while (message := node.next_message()) is not None:
            found.append(message)
    assert found == [{"a": 1}, {"b": 2}]


def test_a_client_with_another_secret_is_told_so_and_gets_nothing() -> None:
    node, front_end = NodeChannel(SECRET), FrontEndChannel(b"another sixteen bytes")
    pump(node, front_end)
    with pytest.raises(ProtocolError, match="secret"):
        pump(front_end, node)
    assert not node.is_authenticated
    with pytest.raises(ControlError, match="secret differs") as refused:
        pump(node, front_end)
    assert refused.value.code == "secret"


def test_a_node_that_does_not_know_the_secret_is_not_believed() -> None:
    node, front_end = NodeChannel(SECRET), FrontEndChannel(SECRET)
    pump(node, front_end)
    front_end.take_output()
    front_end.feed(frame({"response": "00" * 32}))
    with pytest.raises(ProtocolError, match="does not know the secret"):
        front_end.next_message()


def test_a_node_that_sends_the_clients_own_proof_back_is_not_believed() -> None:
    node, front_end = NodeChannel(SECRET), FrontEndChannel(SECRET)
    pump(node, front_end)
    answer = json.loads(front_end.take_output()[4:])
    front_end.feed(frame({"response": answer["response"]}))
    with pytest.raises(ProtocolError):
        front_end.next_message()


def test_a_recorded_handshake_opens_no_second_connection() -> None:
    node, front_end = NodeChannel(SECRET), FrontEndChannel(SECRET)
    pump(node, front_end)
    recorded = front_end.take_output()
    node.feed(recorded)
    assert node.next_message() is None
    assert node.is_authenticated
    second = NodeChannel(SECRET)
    second.feed(recorded)
    with pytest.raises(ProtocolError, match="secret"):
        second.next_message()


def test_a_replayed_frame_is_refused() -> None:
    node, front_end = shaken()
    front_end.send({"request": "leave"})
    recorded = front_end.take_output()
    node.feed(recorded)
    assert node.next_message() == {"request": "leave"}
    node.feed(recorded)
    with pytest.raises(ProtocolError, match="authentication code"):
        node.next_message()


def test_a_frame_sent_back_to_its_sender_is_refused() -> None:
    node, front_end = shaken()
    front_end.send({"request": "hello"})
    front_end.feed(front_end.take_output())
    with pytest.raises(ProtocolError, match="authentication code"):
        front_end.next_message()
    assert node.is_authenticated


def test_frames_in_another_order_are_refused() -> None:
    node, front_end = shaken()
    front_end.send({"a": 1})
    first = front_end.take_output()
    front_end.send({"b": 2})
    node.feed(front_end.take_output() + first)
    with pytest.raises(ProtocolError, match="authentication code"):
        node.next_message()


@given(position=st.integers(0, 80), bit=st.integers(0, 7))
def test_one_flipped_bit_is_never_believed(position: int, bit: int) -> None:
    node, front_end = shaken()
    front_end.send({"request": "fence", "front_end": 1, "incarnation": 7})
    output = bytearray(front_end.take_output())
    position %= len(output)
    output[position] ^= 1 << bit
    node.feed(bytes(output))
    try:
        message = node.next_message()
    except ProtocolError:
        return
    assert message is None, "a longer frame is still waited for"
    assert position < 4


def test_another_version_is_named_to_both_sides() -> None:
    front_end = FrontEndChannel(SECRET)
    front_end.feed(frame({"kvcd": "memory", "version": 9, "challenge": "00" * 32}))
    with pytest.raises(ControlError, match=r"protocol 9, this kvcd speaks 1") as refused:
        front_end.next_message()
    assert refused.value.code == "version"
    node = NodeChannel(SECRET)
    node.take_output()
    node.feed(frame({"version": 9, "challenge": "00" * 32, "response": "00" * 32}))
    with pytest.raises(ProtocolError, match=r"protocol 1, the other side 9"):
        node.next_message()
    assert json.loads(node.take_output()[4:])["code"] == "version"


@pytest.mark.parametrize(
    "hostile",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        struct.pack(">I", protocol.FRAME_LIMIT_BYTES + 1),
        struct.pack(">I", 0),
        b"\xff" * 64,
        frame([1, 2]),
        frame("text"),
        struct.pack(">I", 4) + b"{no}",
        struct.pack(">I", 40000) + b"[" * 40000,
        frame({}),
        frame({"version": 1}),
        frame({"version": 1, "challenge": "zz" * 32, "response": "00" * 32}),
        frame({"version": 1, "challenge": "00" * 31, "response": "00" * 32}),
        frame({"version": 1, "challenge": 7, "response": None}),
        frame({"version": True, "challenge": "00" * 32, "response": "00" * 32}),
        frame({"version": "1", "challenge": "00" * 32, "response": "00" * 32}),
    ],
)
@pytest.mark.parametrize("make", [NodeChannel, FrontEndChannel])
def test_hostile_bytes_end_the_connection(make: Callable[[bytes], Channel], hostile: bytes) -> None:
    channel = make(SECRET)
    channel.feed(hostile)
    with pytest.raises(ProtocolError):
        channel.next_message()
    assert not channel.is_authenticated


@given(st.binary(max_size=200))
def test_random_bytes_never_authenticate(data: bytes) -> None:
    node = NodeChannel(SECRET)
    node.feed(data)
    try:
        assert node.next_message() is None
    except ProtocolError:
        pass
    assert not node.is_authenticated


def test_a_message_larger_than_a_frame_is_not_sent() -> None:
    _, front_end = shaken()
    with pytest.raises(ProtocolError, match="a frame holds 65536"):
        front_end.send({"name": "x" * protocol.FRAME_LIMIT_BYTES})
    assert not front_end.has_output


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        NodeChannel(b"short")


def test_a_peers_text_cannot_move_the_cursor() -> None:
    with pytest.raises(ControlError) as refused:
        protocol.raise_if_refused({"error": "no\x1b[2J\n" + "x" * 1000, "code": "busy"})
    assert str(refused.value).startswith("no?[2J?xxx")
    assert len(str(refused.value)) == 300


# ---------------------------------------------------------------------- messages

ADDRESS = QueuePairAddress(number=17, psn=99, lid=0, gid="::ffff:10.0.0.1", mtu=5, max_rd_atomic=16)


def test_a_node_describes_itself_and_is_understood() -> None:
    node = NodeDescription(
        instance="00" * 16, size_bytes=1 << 30, formatted=True, device="mlx5_0", link_layer="ethernet", lid=0, gid="fe80::1", gid_index=3,
        mtu=3, max_rd_atomic=16, address=1 << 47, rkey=7, front_ends=(FrontEndStatus(0, None, True), FrontEndStatus(5, 9, False)),
    )  # fmt: skip
    assert NodeDescription.from_message(json.loads(json.dumps(node.as_message()))) == node


def test_sixty_four_queue_pairs_fit_a_frame() -> None:
    _, front_end = shaken()
    longest = QueuePairAddress((1 << 24) - 1, (1 << 24) - 1, 65535, ":".join(["ffff"] * 8), 5, 255)
    front_end.send({"request": "connect", "queue_pairs": [longest.as_message()] * protocol.QUEUE_PAIRS_LIMIT, "visitor": False})
    assert front_end.has_output


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", -1), ("number", 1 << 24), ("number", "7"), ("number", True), ("number", 1.0), ("number", None),
        ("psn", 1 << 24), ("lid", 1 << 16), ("mtu", 0), ("mtu", 6), ("max_rd_atomic", 0), ("max_rd_atomic", 256),
        ("gid", "10.0.0.1"), ("gid", ""), ("gid", 5), ("gid", "fe80::1%eth0"),
    ],
)  # fmt: skip
def test_a_queue_pair_out_of_bounds_is_refused(name: str, value: object) -> None:
    assert QueuePairAddress.from_message(ADDRESS.as_message()).number == ADDRESS.number
    with pytest.raises(ControlError) as refused:
        QueuePairAddress.from_message(ADDRESS.as_message() | {name: value})
    assert refused.value.code == "request"


def test_an_answer_with_too_few_queue_pairs_is_refused() -> None:
    with pytest.raises(ControlError, match="0 queue pairs in answer to 1"):
        replies_from({"queue_pairs": []}, count=1)
