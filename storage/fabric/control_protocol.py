"""Control protocol: frames, handshake and limits of what front ends say to a memory node; bytes in, bytes out, no I/O.

A frame is a 4-byte big-endian length, a JSON object of that many bytes and, once both sides have proven that they know the
secret, an HMAC over direction, frame number and object. The traffic is authenticated, not encrypted: nothing secret is sent.
"""

from __future__ import annotations

import hmac
import os
import struct
from typing import Any, NoReturn

import orjson

PROTOCOL_VERSION = 1
SECRET_LEAST_BYTES = 16
CHALLENGE_BYTES = 32
MAC_BYTES = 32
FRAME_LIMIT_BYTES = 65536  # of the JSON object; the largest real one, 64 queue pairs, takes 10 000
CONNECTIONS_LIMIT = 128
QUEUE_PAIRS_LIMIT = 64  # of one connection
FRONT_ENDS_LIMIT = 64  # rows of a pool's front-end table
HANDSHAKE_DEADLINE_S = 5.0
# A peer that fell silent (its host died, the network was cut) is found out after 5 + 3 * 2 seconds.
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 5, 2, 3

_LENGTH = struct.Struct(">I")
_TO_NODE, _TO_FRONT_END = b"c", b"s"
_SHOWN_LIMIT = 300  # characters of a peer's text that are repeated in ours

Message = dict[str, Any]


class ProtocolError(Exception):
    """The peer broke the protocol or does not know the secret: nothing that it says is believed, the connection must end."""


class ControlError(Exception):
    """A request was refused or could not be made. ``code`` is one word for programs.

    From the memory node: version, secret, request (malformed), busy, full, fenced, alive, limit, verbs. From the client's
    own side: unreachable, closed, timeout, protocol.
    """

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


class Channel:
    """What both sides share: frames in and out. ``feed`` takes bytes as they come, ``next_message`` hands out objects."""

    def __init__(self, secret: bytes, *, sends: bytes, expects: bytes) -> None:
        if len(secret) < SECRET_LEAST_BYTES:
            raise ValueError(f"a secret of {len(secret)} bytes; at least {SECRET_LEAST_BYTES} are needed")
        self._secret = secret
        self._sends, self._expects = sends, expects
        self._sent_count = self._received_count = 0
        self._session_key: bytes | None = None
        self._input = bytearray()
        self._output = bytearray()
        self._challenge = os.urandom(CHALLENGE_BYTES)

    @property
    def is_authenticated(self) -> bool:
        """Whether the peer has proven that it knows the secret."""
        return self._session_key is not None

    @property
    def has_output(self) -> bool:
        """Whether there is something to send."""
        return bool(self._output)

    def take_output(self) -> bytes:
        """Return what must be sent now; empty when there is nothing."""
        output = bytes(self._output)
        self._output.clear()
        return output

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer. What they mean shows in ``next_message``, which is to be called until it has no more."""
        self._input += data

    def next_message(self) -> Message | None:
        """Return the peer's next object, or None until more bytes come. The handshake is done in here and not returned.

        Raises ProtocolError; ``take_output`` may then hold a last word for the peer. Raises ControlError when the peer
        refused this side's handshake.
        """
        while (message := self._next_frame()) is not None:
            if self.is_authenticated:
                return message
            self._shake_hands(message)
        return None

    def send(self, message: Message) -> None:
        """Append an object to the output. Raises ProtocolError when it is larger than a frame."""
        body = orjson.dumps(message)
        if len(body) > FRAME_LIMIT_BYTES:
            raise ProtocolError(f"a message of {len(body)} bytes; a frame holds {FRAME_LIMIT_BYTES}")
        self._output += _LENGTH.pack(len(body)) + body
        if self._session_key is not None:
            self._output += self._mac(self._session_key, self._sends, self._sent_count, body)
            self._sent_count += 1

    def _next_frame(self) -> Message | None:
        if len(self._input) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._input)
        if not 2 <= length <= FRAME_LIMIT_BYTES:
            raise ProtocolError(f"a frame of {length} bytes; this is not the control protocol of kvcd memory")
        end = _LENGTH.size + length
        whole = end + (MAC_BYTES if self._session_key is not None else 0)
        if len(self._input) < whole:
            return None
        body = bytes(self._input[_LENGTH.size : end])
        if self._session_key is not None:
            expected = self._mac(self._session_key, self._expects, self._received_count, body)
            if not hmac.compare_digest(expected, bytes(self._input[end:whole])):
                raise ProtocolError("a frame that is not the peer's, or was sent before: its authentication code is wrong")
            self._received_count += 1
        del self._input[:whole]
        try:
            message = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ProtocolError(f"a frame that holds no JSON: {error}") from None
        if not isinstance(message, dict):
            raise ProtocolError("a frame that holds no JSON object")
        return message

    @staticmethod
    def _mac(key: bytes, direction: bytes, number: int, body: bytes) -> bytes:
        return hmac.digest(key, direction + number.to_bytes(8, "big") + body, "sha256")

    def _proof(self, role: bytes, *challenges: bytes) -> bytes:
        return hmac.digest(self._secret, role + b"".join(challenges), "sha256")

    def _shake_hands(self, message: Message) -> None:
        raise NotImplementedError


class NodeChannel(Channel):
    """The memory node's side. Its greeting is in the output from the start."""

    def __init__(self, secret: bytes) -> None:
        super().__init__(secret, sends=_TO_FRONT_END, expects=_TO_NODE)
        self.send({"kvcd": "memory", "version": PROTOCOL_VERSION, "challenge": self._challenge.hex()})

    def _shake_hands(self, message: Message) -> None:
        if message.get("version") != PROTOCOL_VERSION:
            spoken = _shown(message.get("version"))
            self._refuse(f"this memory node speaks control protocol {PROTOCOL_VERSION}, the other side {spoken}", "version")
        theirs = _hexadecimal(message, "challenge", CHALLENGE_BYTES)
        response = _hexadecimal(message, "response", MAC_BYTES)
        if not hmac.compare_digest(response, self._proof(b"client", self._challenge, theirs)):
            self._refuse("the secret differs from this memory node's", "secret")
        self.send({"response": self._proof(b"server", theirs, self._challenge).hex()})
        self._session_key = self._proof(b"session", self._challenge, theirs)

    def _refuse(self, text: str, code: str) -> NoReturn:
        self.send({"error": text, "code": code})
        raise ProtocolError(text)


class FrontEndChannel(Channel):
    """The side that connects: a front end, or a tool. ``is_authenticated`` says when the handshake is over."""

    def __init__(self, secret: bytes) -> None:
        super().__init__(secret, sends=_TO_NODE, expects=_TO_FRONT_END)
        self._node_challenge: bytes | None = None

    def _shake_hands(self, message: Message) -> None:
        raise_if_refused(message)
        if self._node_challenge is None:
            self._answer_greeting(message)
            return
        response = _hexadecimal(message, "response", MAC_BYTES)
        if not hmac.compare_digest(response, self._proof(b"server", self._challenge, self._node_challenge)):
            raise ProtocolError("what answers there does not know the secret: it is not the memory node that was meant")
        self._session_key = self._proof(b"session", self._node_challenge, self._challenge)

    def _answer_greeting(self, message: Message) -> None:
        if message.get("kvcd") != "memory":
            raise ProtocolError("what answers there is no kvcd memory node")
        if message.get("version") != PROTOCOL_VERSION:
            raise ControlError(
                f"the memory node speaks control protocol {_shown(message.get('version'))}, this kvcd speaks {PROTOCOL_VERSION}: "
                "run the same version of kvcd on both",
                "version",
            )
        self._node_challenge = _hexadecimal(message, "challenge", CHALLENGE_BYTES)
        response = self._proof(b"client", self._node_challenge, self._challenge)
        self.send({"version": PROTOCOL_VERSION, "challenge": self._challenge.hex(), "response": response.hex()})


def raise_if_refused(reply: Message) -> None:
    """Raise ControlError if a reply says that the request was refused."""
    if "error" in reply:
        raise ControlError(_shown(reply["error"]), _shown(reply.get("code", "refused")))


# ------------------------------------------------------------- fields of messages


def integer(message: Message, name: str, *, least: int, most: int) -> int:
    """Return a whole number within its bounds. Raises ControlError ``request``."""
    value = message.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ControlError(f"{name} must be a whole number from {least} to {most}", "request")
    return value


def text(message: Message, name: str, *, most_characters: int) -> str:
    """Return printable text within its bounds. Raises ControlError ``request``."""
    value = message.get(name)
    if not isinstance(value, str) or len(value) > most_characters or not value.isprintable():
        raise ControlError(f"{name} must be printable text of at most {most_characters} characters", "request")
    return value


def flag(message: Message, name: str) -> bool:
    """Return true or false. Raises ControlError ``request``."""
    value = message.get(name)
    if not isinstance(value, bool):
        raise ControlError(f"{name} must be true or false", "request")
    return value


def objects(message: Message, name: str, *, most: int) -> list[Message]:
    """Return a list of objects within its bounds. Raises ControlError ``request``, or ``limit`` when there are too many."""
    value = message.get(name)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ControlError(f"{name} must be a list of objects", "request")
    if len(value) > most:
        raise ControlError(f"{len(value)} {name}; at most {most} are taken", "limit")
    return value


def _hexadecimal(message: Message, name: str, length_bytes: int) -> bytes:
    value = message.get(name)
    try:
        decoded = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        decoded = b""
    if len(decoded) != length_bytes:
        raise ProtocolError(f"a handshake whose {name} is not {length_bytes} bytes in hexadecimal")
    return decoded


def _shown(value: object) -> str:
    """Return a peer's text for a message or a log: short, and nothing that moves a terminal's cursor."""
    return "".join(character if character.isprintable() else "?" for character in str(value)[:_SHOWN_LIMIT])
