"""Control client: a front end's connection to one memory node's control port; blocking, with a deadline on everything."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from types import TracebackType

from storage.fabric import control_protocol
from storage.fabric.control_messages import Entered, NodeDescription, QueuePairAddress, QueuePairReply, replies_from
from storage.fabric.control_protocol import ControlError, FrontEndChannel, Message, ProtocolError

_RECEIVE_BYTES = 65536
# Sent and not acknowledged for as long as keepalive takes to find out a silent peer.
_USER_TIMEOUT_MS = 1000 * (
    control_protocol.KEEPALIVE_IDLE_S + control_protocol.KEEPALIVE_INTERVAL_S * control_protocol.KEEPALIVE_COUNT
)


class ControlClient:
    """One authenticated connection. Whatever this front end's queue pairs at the node are, they end with it.

    Every method raises ControlError: with the node's code when it refused (the connection lives on), or with
    ``unreachable``, ``closed``, ``timeout``, ``protocol``, after which the connection is closed. Not for several threads.
    """

    def __init__(self, host: str, port: int, secret: bytes, timeout_s: float = 5.0) -> None:
        """Connect and shake hands within ``timeout_s``, which is also the deadline of every later request."""
        self.where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._timeout_s = timeout_s
        self._channel = FrontEndChannel(secret)
        deadline_s = time.monotonic() + timeout_s
        try:
            self._socket = socket.create_connection((host, port), timeout=timeout_s)
        except OSError as error:
            raise ControlError(
                f"memory node {self.where} cannot be reached ({error.strerror or error}): is kvcd memory running there?", "unreachable"
            ) from None
        keep_alive(self._socket)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._exchange(deadline_s, until_authenticated=True)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # ------------------------------------------------------------------ requests

    def hello(self) -> NodeDescription:
        """Ask for the node's region, how to reach it, and who is there."""
        return NodeDescription.from_message(self.request("hello"))

    def enter(self, name: str, previous: tuple[int, str] | None = None) -> Entered:
        """Become a front end of this node. ``previous``: number and token of a connection that was lost.

        Codes: ``busy`` while another one, alone, has not said ready; ``full``; ``fenced`` when ``previous`` is gone for good.
        """
        before = None if previous is None else {"number": previous[0], "token": previous[1]}
        return Entered.from_message(self.request("enter", name=name, previous=before))

    def incarnation(self, value: int) -> None:
        """Tell the incarnation that this front end's row of the pool gave it. Code ``fenced``: that one may not come back."""
        self.request("incarnation", value=value)

    def connect(self, queue_pairs: Sequence[QueuePairAddress], *, visitor: bool = False) -> list[QueuePairReply]:
        """Have a connected queue pair made for each of ours, in order; call it again for more.

        A ``visitor`` is no front end (a self-test): it has not entered, and gets one queue pair. Codes: ``limit``, ``verbs``.
        """
        request = {"queue_pairs": [queue_pair.as_message() for queue_pair in queue_pairs], "visitor": visitor}
        return replies_from(self.request("connect", **request), count=len(queue_pairs))

    def ready(self) -> None:
        """Say that the pool is formatted or recovered: others may enter."""
        self.request("ready")

    def fence(self, front_end: int, incarnation: int) -> None:
        """Have it recorded that another front end is gone for good. Code ``alive`` while its connection is open."""
        self.request("fence", front_end=front_end, incarnation=incarnation)

    def forget(self, front_end: int, incarnation: int) -> None:
        """Let the number of a fenced front end be given away: its row of the pool says that it is gone."""
        self.request("forget", front_end=front_end, incarnation=incarnation)

    def leave(self) -> None:
        """End in order: the queue pairs are closed and the number is free at once."""
        self.request("leave")

    def request(self, kind: str, **fields: object) -> Message:
        """Send one request and return its reply; what the other methods are made of."""
        deadline_s = time.monotonic() + self._timeout_s
        try:
            self._channel.send({"request": kind, **fields})
        except ProtocolError as error:
            raise ControlError(f"memory node {self.where}: {error}", "limit") from None
        reply = self._exchange(deadline_s)
        control_protocol.raise_if_refused(reply)
        return reply

    # ---------------------------------------------------------------- connection

    def fileno(self) -> int:
        """Return the socket's descriptor: readable at a moment when nothing was asked means that the node has gone."""
        return self._socket.fileno()

    def is_closed(self) -> bool:
        """Whether the node has ended the connection, or its host was found to be gone; without waiting.

        Bytes that nobody asked for count too: a node never sends any, and whoever waits on ``fileno`` would wait no more.
        """
        if self._socket.fileno() < 0:
            return True
        try:
            self._socket.settimeout(0)  # MSG_DONTWAIT alone would not do: Python waits before it asks the kernel
            self._socket.recv(1, socket.MSG_PEEK)
            return True
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Close the connection; the node then destroys this front end's queue pairs. Harmless when called again."""
        self._socket.close()

    def _exchange(self, deadline_s: float, *, until_authenticated: bool = False) -> Message:
        """Send what waits and return the next message; with ``until_authenticated`` return when the handshake is over."""
        try:
            while True:
                output = self._channel.take_output()
                if output:
                    self._arm(deadline_s)
                    self._socket.sendall(output)
                if (message := self._channel.next_message()) is not None:
                    return message
                if until_authenticated and self._channel.is_authenticated:
                    return {}
                if self._channel.has_output:
                    continue  # the handshake's next step
                self._arm(deadline_s)
                data = self._socket.recv(_RECEIVE_BYTES)
                if not data:
                    raise ControlError(f"memory node {self.where} closed the connection", "closed")
                self._channel.feed(data)
        except TimeoutError:
            self.close()
            raise ControlError(f"memory node {self.where} did not answer within {self._timeout_s:g} s", "timeout") from None
        except ProtocolError as error:
            self.close()
            raise ControlError(f"memory node {self.where}: {error}", "protocol") from None
        except ControlError as error:
            self.close()
            raise ControlError(str(error) if self.where in str(error) else f"memory node {self.where}: {error}", error.code) from None
        except OSError as error:
            self.close()
            raise ControlError(f"memory node {self.where}: {error.strerror or error}", "closed") from None

    def _arm(self, deadline_s: float) -> None:
        """Let the next call on the socket end at the deadline."""
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(left_s)


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel probe a silent peer; a listening socket hands this on to the connections that it accepts."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, control_protocol.KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, control_protocol.KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, control_protocol.KEEPALIVE_COUNT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
