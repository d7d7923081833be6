"""Large values: GET and SET of 2 MiB and 32 MiB by four clients in threads, over preallocated buffers."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from bench.measure import Case, Group, Measurement, Way, timed
from bench.servers import Server
from bench.wire import Connection, WireError, encode

CLIENTS = 4
_MIB = 1 << 20
SIZES_MIB = {2: 16, 32: 6}  # value size and number of keys: more than the processor's cache, less than a small machine's memory
MARKS = {(2, "GET"): 0.9, (2, "SET"): 1.1}

# the same bytes in all values of a size, random so that nothing on the way can compress or elide them
_PAYLOADS = {size: random.Random(size).randbytes(size * _MIB) for size in SIZES_MIB}


def group() -> Group:
    """GET and SET of each size."""
    cases = tuple(
        Case(
            "large",
            f"{command} {size} MiB, {CLIENTS} clients",
            (Way(command, command, _runner(command, size)),),
            MARKS.get((size, command)),
            in_megabytes=True,
        )
        for size in SIZES_MIB
        for command in ("GET", "SET")
    )
    return Group("large", load, cases)


def load(server: Server) -> None:
    """Set every key, get it back once and compare all bytes."""
    with Connection(server.host, server.port) as connection:
        for size, key_count in SIZES_MIB.items():
            payload = _PAYLOADS[size]
            reply = b"$%d\r\n%s\r\n" % (len(payload), payload)
            for number in range(key_count):
                connection.ask(encode(b"SET", _key(size, number), payload), b"+OK\r\n")
                connection.ask(encode(b"GET", _key(size, number)), reply)


def _key(size: int, number: int) -> bytes:
    return b"large:%d:%d" % (size, number)


def _runner(command: str, size: int) -> Callable[[Server, float], Measurement]:
    one = _get_loop if command == "GET" else _set_loop

    def run(server: Server, seconds: float) -> Measurement:
        counts = [0] * CLIENTS
        failures: list[Exception] = []
        ready = threading.Barrier(CLIENTS + 1)
        deadline_s = [0.0]

        def client(index: int) -> None:
            try:
                with Connection(server.host, server.port) as connection:
                    operation = one(connection, size)
                    operation(index)  # warm: connection, buffers and the server's thread
                    ready.wait()
                    ready.wait()  # the deadline is set in between
                    while time.perf_counter() < deadline_s[0]:
                        operation(index + counts[index])
                        counts[index] += 1
            except (OSError, WireError) as error:
                failures.append(error)
                ready.abort()
            except threading.BrokenBarrierError:
                pass  # another client failed

        threads = [threading.Thread(target=client, args=(index,)) for index in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            ready.wait()
            with timed(server) as watch:
                deadline_s[0] = time.perf_counter() + seconds
                ready.wait()
                for thread in threads:
                    thread.join()
        except threading.BrokenBarrierError:
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]
        operations = sum(counts)
        return Measurement(operations, watch.elapsed_s, watch.processor_s, operations * size * _MIB)

    return run


def _get_loop(connection: Connection, size: int) -> Callable[[int], None]:
    """A function that gets the key of a given turn and looks at the reply's two ends."""
    requests = [encode(b"GET", _key(size, number)) for number in range(SIZES_MIB[size])]
    head = b"$%d\r\n" % (size * _MIB)
    reply_size_bytes = len(head) + size * _MIB + 2
    buffer = bytearray(reply_size_bytes)
    view = memoryview(buffer)
    tail = _PAYLOADS[size][-64:] + b"\r\n"

    def get(turn: int) -> None:
        connection.send(requests[turn % len(requests)])
        connection.receive_into(view, len(head))
        if buffer[: len(head)] != head:
            raise WireError(f"got {bytes(buffer[:100])!r} where a value of {size} MiB was due")
        connection.receive_into(view[len(head) :], reply_size_bytes - len(head))
        if buffer[-len(tail) :] != tail:
            raise WireError("a value's last bytes are wrong")

    return get


def _set_loop(connection: Connection, size: int) -> Callable[[int], None]:
    """A function that sets the key of a given turn."""
    payload = _PAYLOADS[size]
    heads = [
        b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (len(key), key, len(payload))
        for key in (_key(size, number) for number in range(SIZES_MIB[size]))
    ]
    buffer = bytearray(5)

    def set_value(turn: int) -> None:
        connection.send(heads[turn % len(heads)], more=True)
        connection.send(payload, more=True)
        connection.send(b"\r\n")
        connection.expect(b"+OK\r\n", buffer)

    return set_value
