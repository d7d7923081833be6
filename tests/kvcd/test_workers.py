"""Workers: a client sees the same service whichever worker it reached, also while one is killed or stopped."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
import redis

from tests.kvcd.worker_servers import WorkerServer, fields_of, is_running, start
from tests.servers import Servers
from tests.wire import ReplyError, Wire, encode

DEADLINE_S = 30
BOTH = (0, 1)


def lines(wire: Wire, *words: str) -> list[dict[str, str]]:
    """Return CLIENT LIST's lines as fields."""
    reply = wire.call("CLIENT", "LIST", *words)
    assert isinstance(reply, bytes), reply
    return [dict(word.split("=", 1) for word in line.split(" ")) for line in reply.decode().splitlines()]


def stats_of(wire: Wire) -> dict[bytes, int]:
    """Return PREFIX.STATS."""
    reply = wire.call("PREFIX.STATS")
    assert isinstance(reply, list)
    return dict(zip(reply[::2], reply[1::2], strict=True))


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds."""
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        if condition():
            return
    raise AssertionError(f"never: {what}")


# ----------------------------------------------------------------------- one service


def test_keys_are_everybodys(worker_server: WorkerServer) -> None:
    """Values, large ones too, expiries, deletion and FLUSHALL."""
    large = os.urandom(3_000_000)
    with worker_server.connect_to(0) as one, worker_server.connect_to(1) as two:
        assert one.call("SET", "k", "v", "EX", 1000) == b"OK"
        assert two.call("SET", "large", large) == b"OK"
        assert two.call("GET", "k") == b"v"
        assert two.call("TTL", "k") in range(990, 1001)
        assert one.call("GET", "large") == large
        assert one.call("PREFIX.MATCH", "k", "large", "x") == two.call("PREFIX.MATCH", "k", "large", "x") == 2
        assert two.call("DEL", "k") == 1
        assert one.call("GET", "k") is None
        assert one.call("DBSIZE") == two.call("DBSIZE") == 1
        assert fields_of(one)["db0"] == fields_of(two)["db0"] == "keys=1,expires=0,avg_ttl=0"
        assert one.call("FLUSHALL") == b"OK"
        assert two.call("EXISTS", "large") == 0


def test_who_is_the_service(worker_server: WorkerServer) -> None:
    """Run, start, port and process are the service's; the worker says which it is."""
    with worker_server.connect_to(0) as one, worker_server.connect_to(1) as two:
        first, second = fields_of(one), fields_of(two)
        for name in ("run_id", "process_id", "tcp_port", "workers", "master_replid", "maxclients"):
            assert first[name] == second[name], name
        assert first["process_id"] == str(worker_server.process.pid)
        assert (first["workers"], first["worker"], second["worker"]) == ("2", "0", "1")
        assert first["worker_process_id"] != second["worker_process_id"]


def test_clients_are_listed_wherever_they_are(worker_server: WorkerServer) -> None:
    """By id, each once; chosen ids in the order asked for; ids differ between workers."""
    with worker_server.connect_to(0) as one, worker_server.connect_to(1) as two, worker_server.connect_to(1) as three:
        ids = []
        for wire, name in ((one, "one"), (two, "two"), (three, "three")):
            wire.call("CLIENT", "SETNAME", name)
            ids.append(str(wire.call("CLIENT", "ID")))
        assert len(set(ids)) == 3
        for wire in (one, two):
            found = lines(wire)
            assert [int(line["id"]) for line in found] == sorted(int(line["id"]) for line in found)
            assert {line["name"]: line["id"] for line in found if line["name"]} == dict(zip(("one", "two", "three"), ids, strict=True))
            assert lines(wire, "TYPE", "normal")[0].keys() == found[0].keys()
            assert lines(wire, "TYPE", "pubsub") == []
            order = [ids[2], ids[0], ids[1]]
            assert [line["id"] for line in lines(wire, "ID", *order, "999999999")] == order
            assert fields_of(wire)["connected_clients"] == str(len(found))
        info = one.call("CLIENT", "INFO")
        assert isinstance(info, bytes)
        assert f"id={ids[0]} ".encode() in info


def test_first_ids_are_those_of_one_process(servers: Servers) -> None:
    """1, 2, 3, ... at the first worker; at the others from far above, below 2^53."""
    with start(servers).process as server:
        ids = [server.call("CLIENT", "ID") for _ in range(40)]
        first = [number for number in ids if isinstance(number, int) and number < 2**32]
        assert first == list(range(1, len(first) + 1))
        assert all(isinstance(number, int) and 2**32 < number < 2**53 for number in set(ids) - set(first))
        assert 0 < len(first) < 40


def test_clients_are_killed_wherever_they_are(worker_server: WorkerServer) -> None:
    """By every filter and by address, counted over all workers; an absent one is an error or nothing."""
    for here in BOTH:
        with worker_server.connect_to(here) as asking, worker_server.connect_to(1 - here) as other:
            number = other.call("CLIENT", "ID")
            assert asking.call("CLIENT", "KILL", "ID", str(number)) == 1
            assert other.rest() == b""
            assert asking.call("CLIENT", "KILL", "ID", str(number)) == 0
        with worker_server.connect_to(here) as asking, worker_server.connect_to(1 - here) as other:
            address = "{}:{}".format(*other.socket.getsockname())
            assert asking.call("CLIENT", "KILL", address) == b"OK"
            assert other.rest() == b""
            assert asking.call("CLIENT", "KILL", address) == ReplyError("ERR No such client")
            with worker_server.connect_to(0) as one, worker_server.connect_to(1) as two:
                laddr = f"127.0.0.1:{worker_server.process.port}"
                end_s = time.monotonic() + DEADLINE_S
                while str(asking.call("CLIENT", "LIST")).count("laddr=") != 3:  # those that were closed are gone in a moment
                    assert time.monotonic() < end_s
                assert asking.call("CLIENT", "KILL", "LADDR", laddr, "USER", "default", "TYPE", "normal", "SKIPME", "yes") == 2
                assert one.rest() == two.rest() == b""
            assert asking.call("CLIENT", "KILL", "TYPE", "pubsub") == 0
            assert asking.call("CLIENT", "KILL", "USER", "default", "SKIPME", "no") == 1
            assert asking.rest() == b""


def test_settings_are_everybodys(worker_server: WorkerServer) -> None:
    """CONFIG SET has happened everywhere when it is answered, and in workers that are started later; a refused one nowhere."""
    with worker_server.connect_to(0) as one, worker_server.connect_to(1) as two:
        before = two.call("CONFIG", "GET", "timeout")
        assert one.call("CONFIG", "SET", "timeout", "777", "maxmemory-policy", "noeviction") == b"OK"
        assert two.call("CONFIG", "GET", "timeout", "maxmemory-policy") == one.call("CONFIG", "GET", "timeout", "maxmemory-policy")
        assert two.call("CONFIG", "GET", "timeout") == [b"timeout", b"777"]
        refused = two.call("CONFIG", "SET", "timeout", "888", "hz", "x")
        assert isinstance(refused, ReplyError)
        assert one.call("CONFIG", "GET", "timeout") == two.call("CONFIG", "GET", "timeout") == [b"timeout", b"777"]
        assert "can't set immutable" in str(two.call("CONFIG", "SET", "workers", "5"))
        pid = worker_server.pid_of(1)
    os.kill(pid, signal.SIGKILL)
    worker_server.wait_for_other(1, pid)
    with worker_server.connect_to(1) as two:
        assert two.call("CONFIG", "GET", "maxmemory-policy") == [b"maxmemory-policy", b"noeviction"]
        assert two.call("CONFIG", "GET", "timeout") == [b"timeout", b"777"]
        assert isinstance(before, list)
        assert two.call("CONFIG", "SET", "timeout", before[1], "maxmemory-policy", "allkeys-lru") == b"OK"


def test_settings_from_two_sides_end_the_same(worker_server: WorkerServer) -> None:
    """Two at a time: whichever came last, all workers agree on it."""
    with worker_server.connect_to(0) as one, worker_server.connect_to(1) as two:
        for number in range(0, 300, 2):
            one.send(encode("CONFIG", "SET", "stall-limit-ms", 10_000 + number))
            two.send(encode("CONFIG", "SET", "stall-limit-ms", 10_001 + number))
            assert one.replies(1) == two.replies(1) == [b"OK"]
            assert one.call("CONFIG", "GET", "stall-limit-ms") == two.call("CONFIG", "GET", "stall-limit-ms")
        assert two.call("CONFIG", "SET", "stall-limit-ms", 10_000) == b"OK"


def test_counts_are_totals(worker_server: WorkerServer) -> None:
    """The same from everywhere, over a death, until CONFIG RESETSTAT; PREFIX.STATS only grows."""
    with worker_server.connect_to(0) as one, worker_server.connect_to(1) as two:
        assert one.call("CONFIG", "RESETSTAT") == b"OK"
        one.call("SET", "k", "v")
        for number, wire in enumerate((one, two)):
            for _ in range(10 + number):
                assert wire.call("GET", "k") == b"v"
                assert isinstance(wire.call("INCRBY", "k", "x"), ReplyError)
            wire.call("GET", "none")
        for wire in (one, two):
            fields = fields_of(wire)
            assert fields["cmdstat_get"].startswith("calls=23,")
            assert fields["cmdstat_incrby"].endswith("rejected_calls=0,failed_calls=21")
            assert (fields["keyspace_hits"], fields["keyspace_misses"]) == ("21", "2")
            assert fields["errorstat_ERR"] == "count=21"
            assert int(fields["total_commands_processed"]) >= 44
        rss = int(fields["used_memory_rss"])
        cpu_s = float(fields["used_cpu_user"])
        hits = stats_of(one)[b"hits"]
        assert stats_of(two)[b"hits"] == hits
        pid = worker_server.pid_of(1)
        os.kill(pid, signal.SIGKILL)
        worker_server.wait_for_other(1, pid)
        fields = fields_of(one)
        assert fields["cmdstat_get"].startswith("calls=23,")
        assert (fields["keyspace_hits"], fields["errorstat_ERR"]) == ("21", "count=21")
        assert float(fields["used_cpu_user"]) >= cpu_s
        assert rss / 4 < int(fields["used_memory_rss"]) < rss * 4
        assert stats_of(one)[b"hits"] >= hits
    with worker_server.connect_to(1) as two, worker_server.connect_to(0) as one:
        assert two.call("CONFIG", "RESETSTAT") == b"OK"
        for wire in (one, two):
            fields = fields_of(wire)
            assert (fields["keyspace_hits"], "cmdstat_get" in fields, "errorstat_ERR" in fields) == ("0", False, False)


def test_the_limit_of_clients_is_everybodys(servers: Servers) -> None:
    """maxclients counts the clients of all workers, as they were a moment ago."""
    with start(servers, maxclients=12).process as server:
        wires: list[Wire] = []
        try:
            for _ in range(12):
                wires.append(server.connect())
                assert wires[-1].call("PING") == b"PONG"
            until(lambda: all(_is_refused(server.connect()) for _ in range(20)), "refused by both workers")
            assert fields_of(wires[0])["connected_clients"] == "12"
            wires.pop().close()
            until(lambda: not _is_refused(server.connect()), "let in again")
        finally:
            for wire in wires:
                wire.close()


def _is_refused(wire: Wire) -> bool:
    with wire:
        try:
            return wire.call("PING") != b"PONG"
        except ConnectionError:
            return True  # closed before the PING was written: the refusal was dropped with it


def test_shutdown_ends_all(servers: Servers) -> None:
    """From any worker; the asking connection closes without a reply, as redis-py expects."""
    service = start(servers)
    with service.connect_to(1) as wire:
        assert wire.call("SHUTDOWN", "ABORT") == ReplyError("ERR No shutdown in progress.")
        assert wire.call("SHUTDOWN", "LATER") == ReplyError("ERR syntax error")
        wire.send(b"PING\r\nSHUTDOWN NOSAVE\r\nPING\r\n")
        assert wire.rest() == b"+PONG\r\n"
    assert service.process.wait() == 0
    assert "stopped; bye" in service.process.log
    with servers.kvcd() as server:
        redis.Redis(port=server.port, retry=None).shutdown(nosave=True)
        assert server.wait() == 0


# -------------------------------------------------------------- killed and stopped


def test_a_killed_worker_is_back_and_others_notice_nothing(worker_server: WorkerServer) -> None:
    """Connections to the other one go on; ids of clients are never used twice; everything written is there."""
    with worker_server.connect_to(0) as other:
        pid = worker_server.pid_of(1)
        ids = {other.call("CLIENT", "ID")}
        for round_number in range(3):
            with worker_server.connect_to(1) as wire:
                assert wire.call("SET", f"k{round_number}", "v") == b"OK"
                number = wire.call("CLIENT", "ID")
                assert number not in ids
                ids.add(number)
                os.kill(pid, signal.SIGKILL)
                assert other.call("SET", f"o{round_number}", "v") == b"OK"
                assert other.call("MGET", f"k{round_number}", f"o{round_number}") == [b"v", b"v"]
                assert str(number) not in {line["id"] for line in lines(other)}
            pid = worker_server.wait_for_other(1, pid)
    assert "signal" in worker_server.process.log
    assert "SIGKILL" in worker_server.process.log


def test_a_stopped_worker_holds_nobody_up(worker_server: WorkerServer) -> None:
    """INFO, CLIENT LIST and CONFIG SET are answered within the deadline of a question; the stopped one hears of it when it wakes."""
    pid = worker_server.pid_of(1)
    with worker_server.connect_to(0) as one, worker_server.connect_to(1) as two:
        calls = int(fields_of(one)["total_connections_received"])
        number = str(two.call("CLIENT", "ID"))
        os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(2):
                began_s = time.monotonic()
                assert int(fields_of(one)["total_connections_received"]) >= calls
                assert number not in {line["id"] for line in lines(one)}
                assert one.call("CONFIG", "SET", "timeout", "555") == b"OK"
                assert time.monotonic() - began_s < 3 * 1.5 + 1
            # Not heard of for a while, it is not waited for any more.
            until(lambda: _seconds(lambda: fields_of(one)) < 0.5, "quick again")
            assert one.call("GET", "k") is None
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: two.call("CONFIG", "GET", "timeout") == [b"timeout", b"555"], "the change arrived")
        assert number in {line["id"] for line in lines(one)}
        assert two.call("CONFIG", "SET", "timeout", "0") == b"OK"


@pytest.mark.long
def test_a_stopped_worker_that_leaves_too_much_unread_is_replaced(servers: Servers) -> None:
    """Beyond `channel-queue-limit` it is ended; the one that takes its place knows what was set meanwhile."""
    service = start(servers, channel_queue_limit="1mb")
    with service.process as server:
        pid = service.pid_of(1)
        with service.connect_to(0) as one:
            os.kill(pid, signal.SIGSTOP)
            assert one.call("CONFIG", "SET", "timeout", "333") == b"OK"
            numbers = [str(2**40 + number) for number in range(5000)]
            until(lambda: one.call("CLIENT", "LIST", "ID", *numbers) == b"" and not is_running(pid), "ended")
            service.wait_for_other(1, pid)
            with service.connect_to(1) as two:
                assert two.call("CONFIG", "GET", "timeout") == [b"timeout", b"333"]
        assert "it left more messages unread than channel-queue-limit allows" in server.log


def _seconds(work: Callable[[], object]) -> float:
    began_s = time.monotonic()
    work()
    return time.monotonic() - began_s


# --------------------------------------------------------- commands on several keys


def _race(worker_server: WorkerServer, work: Callable[[Wire, int], None]) -> None:
    """Run the same work against both workers at a time; a failure of either fails the test."""
    failures: list[Exception] = []

    def run(worker: int) -> None:
        try:
            with worker_server.connect_to(worker) as wire:
                work(wire, worker)
        except (AssertionError, OSError) as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(worker,)) for worker in BOTH]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert not failures


def test_rename_never_loses_the_value(worker_server: WorkerServer) -> None:
    """Two workers pass one value back and forth between two names: in the end it is there, once."""
    worker_server.process.call("SET", "a", "the value")

    def pass_on(wire: Wire, worker: int) -> None:
        source, destination = ("a", "b") if worker == 0 else ("b", "a")
        for _ in range(1000):
            assert wire.call("RENAME", source, destination) in (b"OK", ReplyError("ERR no such key"))

    _race(worker_server, pass_on)
    values = worker_server.process.call("MGET", "a", "b")
    assert isinstance(values, list)
    assert sorted(value or b"" for value in values) == [b"", b"the value"]


def test_at_no_time_has_a_renamed_value_no_name(worker_server: WorkerServer) -> None:
    """Another worker's client that looks at the old name and then at the new one finds it under one of them, or both."""
    numbers, rounds = range(200), 40
    at_start = threading.Barrier(2)
    renaming = threading.Event()
    pairs_seen = 0

    def work(wire: Wire, worker: int) -> None:
        nonlocal pairs_seen
        for _ in range(rounds):
            if worker == 1:
                wire.send(b"".join(encode("DEL", f"new{number}") + encode("SET", f"old{number}", "v") for number in numbers))
                wire.replies(2 * len(numbers))
                renaming.set()
            at_start.wait(DEADLINE_S)
            if worker == 1:
                wire.send(b"".join(encode("RENAME", f"old{number}", f"new{number}") for number in numbers))
                assert wire.replies(len(numbers)) == [b"OK"] * len(numbers)
                renaming.clear()
            while worker == 0 and renaming.is_set():
                # ECHO parts the two: reads that stand beside each other are one batch, and have no order among themselves.
                looks = [encode("GET", f"old{number}") + encode("ECHO", "-") + encode("GET", f"new{number}") for number in numbers]
                wire.send(b"".join(looks))
                replies = wire.replies(3 * len(numbers))
                assert all(old or new for old, new in zip(replies[::3], replies[2::3], strict=True))
                pairs_seen += len(numbers)
            at_start.wait(DEADLINE_S)

    _race(worker_server, work)
    assert pairs_seen > rounds * len(numbers) / 2


def test_rename_takes_what_was_written_last(worker_server: WorkerServer) -> None:
    """A SET to the source while it is renamed goes along or stays at the source: an acknowledged write is not lost."""
    writing = threading.Event()
    writing.set()

    def work(wire: Wire, worker: int) -> None:
        if worker == 0:
            try:
                for number in range(0, 20_000, 10):
                    # Several, so that some come after a rename has read the one before and has not deleted it yet.
                    sets = b"".join(encode("SET", "source", number + step) for step in range(10))
                    wire.send(sets + encode("GET", "source") + encode("ECHO", "-") + encode("GET", "destination"))
                    *acknowledged, source, _, destination = wire.replies(13)
                    assert acknowledged == [b"OK"] * 10
                    assert b"%d" % (number + 9) in (source, destination)
            finally:
                writing.clear()
        else:
            while writing.is_set():
                wire.send(encode("RENAME", "source", "destination") * 50)
                assert set(wire.replies(50)) <= {b"OK", ReplyError("ERR no such key")}

    _race(worker_server, work)


def test_msetnx_and_copy_are_atomic_by_key(worker_server: WorkerServer) -> None:
    """Of two front ends at a time: each key has a whole value of one of them; with one front end's clients it is all or none."""

    def work(wire: Wire, worker: int) -> None:
        for number in range(300):
            value = f"{worker}-" + "x" * 100
            wire.call("MSETNX", f"m{number}", value, f"n{number}", value)
            wire.call("COPY", f"m{number}", f"c{number}")

    _race(worker_server, work)
    whole = {f"{worker}-".encode() + b"x" * 100 for worker in BOTH}
    for number in range(300):
        values = worker_server.process.call("MGET", f"m{number}", f"n{number}", f"c{number}")
        assert isinstance(values, list)
        assert set(values) <= whole


@pytest.mark.parametrize("words", [("MSETNX", "x", "1", "y", "1"), ("RENAMENX", "x", "y")])
def test_of_one_front_end_nothing_is_seen_half(worker_server: WorkerServer, words: tuple[str, ...]) -> None:
    """Clients of the same worker see a command on several keys as one step."""
    with worker_server.connect_to(1) as acting, worker_server.connect_to(1) as watching:
        done = threading.Event()
        halves: list[object] = []

        def watch() -> None:
            while not done.is_set():
                present = watching.call("MGET", "x", "y")
                if words[0] == "MSETNX" and present not in ([None, None], [b"1", b"1"]):
                    halves.append(present)
                if words[0] == "RENAMENX" and present not in ([None, None], [b"1", None], [None, b"1"]):
                    halves.append(present)

        thread = threading.Thread(target=watch)
        thread.start()
        for _ in range(500):
            acting.call("DEL", "x", "y")
            if words[0] == "RENAMENX":
                acting.call("SET", "x", "1")
            assert acting.call(*words) == 1
        done.set()
        thread.join(DEADLINE_S)
        assert halves == []
