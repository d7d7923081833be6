"""Memory node over real verbs: its region from afar, queue pairs that end with their front end, a file kept, wrong options.

Most nodes here are forks of the test's process: starting Python takes many seconds in an emulated machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from kvcd import logs
from kvcd.config import Config
from kvcd.doctor_checks import Grade, Machine, check_machine
from kvcd.doctor_report import print_table
from kvcd.doctor_selftest import check_memory_node
from kvcd.logs import Logger
from kvcd.memory_node import NodeError, NodeOptions, run
from storage.fabric.control_client import ControlClient
from storage.fabric.control_messages import NodeDescription, QueuePairReply
from storage.fabric.control_protocol import ControlError
from storage.fabric.verbs_devices import VerbsError
from storage.fabric.verbs_probe import Probe
from storage.fabric.verbs_region import find_device
from storage.pool import PoolError

pytestmark = pytest.mark.verbs

SECRET = b"sixteen bytes ok"
SIZE_BYTES = 8 << 20
SCRATCH = 3584
DEADLINE_S = 60
NOBODY = 65534
OPTIONS = NodeOptions(host="127.0.0.1", port=0, size_bytes=SIZE_BYTES, device=None, gid_index=None, huge_pages=False, path=None)


class Quiet:
    """A logger for nobody."""

    def notice(self, event: str, **particulars: object) -> None:
        pass

    warning = debug = notice


LOG = cast(Logger, Quiet())


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a fork of this process; return its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException as error:  # noqa: BLE001  a fork must not go on as the test run
        os.write(2, f"child: {error!r}\n".encode())
    finally:
        os._exit(status)


def end(child: int, number: int = signal.SIGTERM) -> int:
    """Send a signal, wait, return the exit status (negative: the signal)."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def until_cut_off(probe: Probe) -> None:
    """Read until the node, which sees the end of a connection a moment after it came, has closed the queue pair."""
    deadline_s, said = time.monotonic() + DEADLINE_S, ""
    while time.monotonic() < deadline_s and not said:
        try:
            probe.read(SCRATCH, 8)
        except VerbsError as error:
            said = str(error)
    assert "RETRY_EXC_ERR" in said, said or "the queue pair is still open"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Node:
    """A memory node in a process of its own."""

    def __init__(self, options: NodeOptions) -> None:
        self.port = free_port()
        options = replace(options, port=self.port)
        self.pid = in_child(lambda: run_node(options))
        self._ended = False
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            try:
                self.client().close()
                return
            except ControlError:
                assert time.monotonic() < deadline_s
                assert os.waitpid(self.pid, os.WNOHANG) == (0, 0), "the node has ended"

    def client(self) -> ControlClient:
        return ControlClient("127.0.0.1", self.port, SECRET, DEADLINE_S)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self._ended:
            return 0
        self._ended = True
        return end(self.pid, number)


def run_node(options: NodeOptions) -> None:
    config = Config.load(environment={})
    logs.configure(config)
    run(config, options, SECRET, logs.get_logger("memory"))


@pytest.fixture(scope="module")
def shared_node() -> Iterator[Node]:
    node = Node(OPTIONS)
    yield node
    assert node.end() == 0


class Reached:
    """A control connection and a probe that is connected through it."""

    def __init__(self, node: Node, *, visitor: bool = True) -> None:
        self.client = node.client()
        self.facts: NodeDescription = self.client.hello()
        self.probe = Probe(find_device())
        if not visitor:
            self.entered = self.client.enter("test")
        [reply] = self.client.connect([self.probe.address()], visitor=visitor)
        self.probe.connect(self.facts, reply)

    def close(self) -> None:
        self.probe.close()
        self.client.close()


@pytest.fixture
def reached(shared_node: Node) -> Iterator[Reached]:
    made = Reached(shared_node)
    yield made
    made.close()


def test_hello_describes_the_region_and_the_roce_v2_address(reached: Reached) -> None:
    facts = reached.facts
    assert (facts.size_bytes, facts.formatted, facts.device, facts.link_layer) == (SIZE_BYTES, False, "rxe0", "ethernet")
    assert (facts.gid, facts.mtu, facts.lid) == ("::ffff:a4d:1", 5, 0)
    assert facts.max_rd_atomic >= 16
    assert len(bytes.fromhex(facts.instance)) == 16


def test_the_region_is_read_written_and_changed_atomically_from_afar(reached: Reached) -> None:
    probe = reached.probe
    probe.write(SCRATCH, b"\5" + bytes(7))
    assert probe.compare_and_swap(SCRATCH, expected=5, word=9) == 5
    assert probe.compare_and_swap(SCRATCH, expected=5, word=11) == 9
    assert probe.fetch_and_add(SCRATCH, 2**64 - 1) == 9
    assert probe.read(SCRATCH, 8) == b"\x08" + bytes(7)
    probe.write(SIZE_BYTES - 4, b"last")
    assert probe.read(SIZE_BYTES - 8, 8)[4:] == b"last"


@pytest.mark.parametrize("offset", [SIZE_BYTES - 4, -8])
def test_outside_the_region_nothing_is_lent(reached: Reached, offset: int) -> None:
    with pytest.raises(VerbsError, match="REM_ACCESS_ERR"):
        reached.probe.read(offset, 8)


def test_the_end_of_a_connection_closes_its_queue_pairs_and_no_others(shared_node: Node, reached: Reached) -> None:
    one = Reached(shared_node)
    one.probe.write(SCRATCH, b"12345678")
    one.client.close()
    until_cut_off(one.probe)
    one.close()
    assert reached.probe.read(SCRATCH, 8) == b"12345678"


def test_a_front_end_killed_loses_its_queue_pairs_and_can_be_fenced(shared_node: Node) -> None:
    # The control connection is the child's, the queue pair is ours: so it is the node that closes its side.
    addresses, replies = os.pipe(), os.pipe()

    def front_end() -> None:
        client = shared_node.client()
        client.enter("doomed")
        client.incarnation(7)
        os.read(addresses[0], 1)
        with open(addresses[0], "rb", closefd=False) as file:
            message = json.loads(file.readline())
        reply = client.request("connect", queue_pairs=[message], visitor=False)
        client.ready()
        os.write(replies[1], json.dumps(reply).encode() + b"\n")
        signal.pause()

    child = in_child(front_end)
    probe, observer = Probe(find_device()), shared_node.client()
    facts = observer.hello()
    os.write(addresses[1], b"." + json.dumps(probe.address().as_message()).encode() + b"\n")
    with open(replies[0], "rb", closefd=False) as file:
        [reply] = json.loads(file.readline())["queue_pairs"]
    probe.connect(facts, QueuePairReply.from_message(reply))
    probe.write(SCRATCH, b"lives on")
    other = observer.enter("observer")
    assert (other.front_end, other.alone) == (1, False)
    with pytest.raises(ControlError) as alive:
        observer.fence(0, 7)
    assert alive.value.code == "alive"
    assert end(child, signal.SIGKILL) == -signal.SIGKILL
    until_cut_off(probe)
    observer.fence(0, 7)
    observer.leave()
    for descriptor in (*addresses, *replies):
        os.close(descriptor)
    probe.close()
    observer.close()


def test_a_stopped_node_closes_all_and_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    node = Node(OPTIONS)
    reached = Reached(node, visitor=False)
    assert reached.entered.alone
    assert node.end() == 0
    assert reached.client.is_closed()
    with pytest.raises(VerbsError):
        reached.probe.read(SCRATCH, 8)
    reached.close()
    assert "stopped; bye" in capfd.readouterr().out


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_file_keeps_what_was_written_from_afar(tmp_path: Path, how: signal.Signals) -> None:
    with contextlib.ExitStack() as stack:
        folder = Path("/dev/shm") if Path("/dev/shm").is_dir() else tmp_path
        path = folder / f"kvcd-test-{os.getpid()}-{how}"
        for name in (path, path.with_name(f"{path.name}.lock")):
            stack.callback(name.unlink, missing_ok=True)
        options = replace(OPTIONS, path=str(path))
        instances = []
        for attempt in range(2):
            node = Node(options)
            reached = Reached(node, visitor=False)
            instances.append(reached.facts.instance)
            assert reached.facts.formatted is (attempt == 1)
            if attempt == 0:
                reached.probe.write(SIZE_BYTES - 8, b"12345678")
                format_by_hand(reached.probe)
            else:
                assert reached.probe.read(SIZE_BYTES - 8, 8) == b"12345678"
            reached.close()
            node.end(how)
            assert path.read_bytes()[1024] == (1 if how == signal.SIGTERM else 0)
        assert instances[0] == instances[1]


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """Eight pages of 2 MiB, for as long as a test runs."""
    setting = Path("/proc/sys/vm/nr_hugepages")
    before = setting.read_text()
    setting.write_text("8")
    if int(setting.read_text()) < 8:
        pytest.skip("the guest's memory is too fragmented for huge pages")
    yield
    setting.write_text(before)


def test_huge_pages_are_lent_and_missing_ones_are_said(huge_pages: None) -> None:
    node = Node(replace(OPTIONS, huge_pages=True))
    assert "HugePages_Free:        4" in Path("/proc/meminfo").read_text()
    reached = Reached(node)
    reached.probe.write(SIZE_BYTES - 8, b"12345678")
    assert reached.probe.read(SIZE_BYTES - 8, 8) == b"12345678"
    with pytest.raises(PoolError, match=r"16 huge pages of 2048 KiB are needed, 4 are free: sysctl vm.nr_hugepages=16"):
        run(Config.load(environment={}), replace(OPTIONS, huge_pages=True, size_bytes=32 << 20), SECRET, LOG)
    reached.close()
    assert node.end() == 0


def test_a_file_on_hugetlbfs_is_lent_and_kept(huge_pages: None, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "hugetlbfs", "none", str(tmp_path)], check=True)
    try:
        options, instances = replace(OPTIONS, path=str(tmp_path / "pool")), []
        for _attempt in range(2):
            node = Node(options)
            reached = Reached(node)
            instances.append(reached.facts.instance)
            format_by_hand(reached.probe)
            reached.close()
            assert node.end() == 0
        assert instances[0] == instances[1]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def format_by_hand(probe: Probe) -> None:
    """Write the superblock that a front end would."""
    import struct
    import zlib

    from storage.pool import VERSION

    block = struct.pack("<8sII4Q16sIIQ32s16s", b"KVCDPOOL", VERSION, 2, SIZE_BYTES, 10, 8, 70, bytes(16), 8, 14, 1, bytes(32), bytes(16))
    probe.write(0, block + struct.pack("<I", zlib.crc32(block)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"device": "mlx9_0"}, "no RDMA device 'mlx9_0'; there is rxe0"),
        ({"gid_index": 2}, r"no GID at index 2\. It has 0 .*1 \(10\.77\.0\.1, RoCE v2"),
        ({"gid_index": 99999}, "no GID at index 99999"),
    ],
)
def test_a_wrong_device_or_gid_lists_what_is_there(changes: dict[str, object], said: str) -> None:
    with pytest.raises(VerbsError, match=said):
        run(Config.load(environment={}), replace(OPTIONS, **changes), SECRET, LOG)


def test_a_taken_port_is_said_before_any_memory_is_pinned(shared_node: Node) -> None:
    with pytest.raises(NodeError, match=f"port {shared_node.port} is taken"):
        run(Config.load(environment={}), replace(OPTIONS, port=shared_node.port), SECRET, LOG)


def test_more_memory_than_there_is_is_refused_at_once() -> None:
    with pytest.raises(NodeError, match="give a smaller --size"):
        run(Config.load(environment={}), replace(OPTIONS, size_bytes=200 << 30), SECRET, LOG)


def test_a_low_memlock_limit_says_how_to_raise_it() -> None:
    said, saying = os.pipe()

    def poor() -> None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
        os.setresuid(NOBODY, NOBODY, NOBODY)  # root may lock what it likes
        try:
            run(Config.load(environment={}), OPTIONS, SECRET, LOG)
        except VerbsError as error:
            os.write(saying, str(error).encode())

    child = in_child(poor)
    os.close(saying)
    with open(said, "rb") as file:
        text = file.read().decode()
    assert end(child, 0) == 0
    assert "may lock 65536 bytes of memory (ulimit -l)" in text
    assert "--ulimit memlock=-1" in text


def test_doctor_finds_this_machine_fit_and_the_node_well(shared_node: Node, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    secret.chmod(0o600)
    findings = check_machine(Machine())
    findings += check_memory_node(f"127.0.0.1:{shared_node.port}", device=None, gid_index=None, secret_file=str(secret))
    print_table(findings)
    assert [finding for finding in findings if finding.grade is Grade.FAIL] == []
    grades = {finding.name: finding.grade for finding in findings}
    needed = ("libibverbs", "pyverbs", "rxe0", "control", "queue pair", "write", "read", "CAS", "FAA")
    assert all(grades[name] is Grade.OK for name in needed)
    [chosen] = [finding.found for finding in findings if "takes this one" in finding.found]
    assert chosen.startswith("1 (10.77.0.1, RoCE v2, rdma0)")


def test_doctor_says_what_a_wrong_secret_needs(shared_node: Node, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"another sixteen bytes")
    secret.chmod(0o600)
    [finding] = check_memory_node(f"127.0.0.1:{shared_node.port}", device=None, gid_index=None, secret_file=str(secret))
    assert (finding.grade, finding.name) == (Grade.FAIL, "control")
    assert "--secret-file" in finding.remedy


@pytest.mark.long  # half a minute of imports
def test_the_command_serves_until_sigterm(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    secret.chmod(0o600)
    command = [sys.executable, "-m", "kvcd", "memory", "--listen", "127.0.0.1:0", "--size", "8mb", "--secret-file", str(secret)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KVCD_")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        ready = next(fields for line in process.stdout if "address" in (fields := json.loads(line)))
        assert (ready["event"], ready["size_bytes"], ready["device"]) == ("Ready to accept connections", 8 << 20, "rxe0")
        assert "10.77.0.1, RoCE v2" in ready["gid"]
        with ControlClient("127.0.0.1", int(ready["address"].rpartition(":")[2]), SECRET, DEADLINE_S) as client:
            assert client.hello().instance == ready["instance"]
        process.send_signal(signal.SIGTERM)
        assert "stopped; bye" in process.stdout.read()
        assert process.wait(DEADLINE_S) == 0
