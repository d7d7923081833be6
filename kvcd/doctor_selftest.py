"""Doctor's self-test: control handshake with a memory node, then read, write, CAS and FAA on a scratch place of its region."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator

from kvcd.doctor_checks import Finding, Grade
from kvcd.memory_secret import SecretError, read_secret
from storage.fabric.control_client import ControlClient
from storage.fabric.control_messages import NodeDescription
from storage.fabric.control_protocol import ControlError
from storage.fabric.verbs_devices import VerbsError
from storage.fabric.verbs_probe import Probe
from storage.fabric.verbs_region import find_device

ROUNDS = 50
# In the superblock's page, outside its checksum, where no pool keeps anything: a word for CAS, a word for FAA, 48 bytes.
SWAPPED_WORD, ADDED_WORD, BYTES = 3584, 3592, 3600
_BYTES_COUNT = 48
_WORD_MASK = (1 << 64) - 1
_REMEDIES = {
    "unreachable": "start kvcd memory there, with --listen of an address that this machine reaches; open that TCP port in firewalls",
    "timeout": "is something else listening there? Open that TCP port in firewalls",
    "secret": "give this side the memory node's secret: --secret-file FILE",
    "protocol": "give the address of kvcd memory's --listen, and its secret with --secret-file",
    "version": "run the same version of kvcd on both sides",
    "limit": "close front ends or tools that are connected to that node",
}
_NO_WAY = (
    "on both sides look at the GIDs above: same kind, same network (--gid-index); open UDP port 4791 for RoCE v2; "
    "ping the node's RDMA address; check that both links have one MTU"
)


def check_memory_node(where: str, *, device: str | None, gid_index: int | None, secret_file: str | None) -> list[Finding]:
    """Return what a round trip to the memory node at HOST:PORT shows."""
    group = f"Memory node {where}"
    host, colon, port = where.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        return [Finding(group, "address", Grade.FAIL, "is no HOST:PORT", "kvcd doctor --memory 10.0.0.1:7400")]
    warnings: list[Finding] = []

    def warn(event: str, **particulars: object) -> None:
        warnings.append(Finding(group, "secret", Grade.WARN, event, str(particulars.get("remedy", ""))))

    try:
        secret = read_secret(secret_file, warn=warn)
    except SecretError as error:
        text, _, remedy = str(error).partition(": ")
        return [Finding(group, "secret", Grade.FAIL, text, remedy)]
    return [*warnings, *_check(group, host.strip("[]"), int(port), secret, device, gid_index)]


def _check(group: str, host: str, port: int, secret: bytes, device: str | None, gid_index: int | None) -> Iterator[Finding]:
    try:
        client = ControlClient(host, port, secret)
    except ControlError as error:
        yield Finding(group, "control", Grade.FAIL, str(error), _REMEDIES.get(error.code, ""))
        return
    with client:
        try:
            node = client.hello()
            yield Finding(group, "control", Grade.OK, _describe(node))
            probe = Probe(find_device(device, gid_index))
        except (ControlError, VerbsError) as error:
            yield Finding(group, "control" if isinstance(error, ControlError) else "device", Grade.FAIL, str(error), _NO_WAY)
            return
        try:
            [reply] = client.connect([probe.address()], visitor=True)
            probe.connect(node, reply)
            yield Finding(group, "queue pair", Grade.OK, f"{probe.device.name} GID {probe.device.gid} to {node.device} GID {node.gid}")
            yield from _round_trips(group, probe)
        except ControlError as error:
            yield Finding(group, "queue pair", Grade.FAIL, str(error), _REMEDIES.get(error.code, _NO_WAY))
        except VerbsError as error:
            yield Finding(group, "RDMA", Grade.FAIL, str(error), _NO_WAY)
        finally:
            probe.close()


def _describe(node: NodeDescription) -> str:
    connected = sum(front_end.connected for front_end in node.front_ends)
    state = "formatted" if node.formatted else "blank"
    size = f"{node.size_bytes / (1 << 30):.1f} GiB" if node.size_bytes >= 1 << 30 else f"{node.size_bytes >> 20} MiB"
    return f"{size}, {state}, instance {node.instance[:8]}, {connected} front ends connected"


def _round_trips(group: str, probe: Probe) -> Iterator[Finding]:
    """Each operation many times, checked against what must come back."""
    written = os.urandom(_BYTES_COUNT)
    swapped, added = (int.from_bytes(probe.read(offset, 8), "little") for offset in (SWAPPED_WORD, ADDED_WORD))

    def write(_round: int) -> bool:
        probe.write(BYTES, written)
        return True

    def read(_round: int) -> bool:
        return probe.read(BYTES, _BYTES_COUNT) == written

    def swap(number: int) -> bool:
        expected = (swapped + number) & _WORD_MASK
        return probe.compare_and_swap(SWAPPED_WORD, expected=expected, word=(expected + 1) & _WORD_MASK) == expected

    def add(number: int) -> bool:
        return probe.fetch_and_add(ADDED_WORD, 1) == (added + number) & _WORD_MASK

    for name, operation in (("write", write), ("read", read), ("CAS", swap), ("FAA", add)):
        yield _timed(group, name, operation)


def _timed(group: str, name: str, operation: Callable[[int], bool]) -> Finding:
    taken_us, wrong = [], 0
    for number in range(ROUNDS):
        started_ns = time.perf_counter_ns()
        right = operation(number)
        taken_us.append((time.perf_counter_ns() - started_ns) / 1000)
        wrong += not right
    found = f"{statistics.median(taken_us):.1f} µs (median of {ROUNDS}, least {min(taken_us):.1f}), by Python"
    if wrong:
        remedy = "run it again with no other kvcd doctor at work on this node; if it stays, replace driver, cable or device"
        return Finding(group, name, Grade.FAIL, f"{wrong} of {ROUNDS} brought back something else", remedy)
    return Finding(group, name, Grade.OK, found)
