"""Doctor without RDMA: each thing that can be missing is found on a pretended machine, and says what mends it."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvcd import doctor_checks
from kvcd.doctor_checks import Finding, Grade, Machine, check_machine
from kvcd.doctor_report import as_json, print_table
from kvcd.doctor_selftest import check_memory_node
from tests.storage.test_verbs_devices import IPV4, LINK_LOCAL, make_device

IPC_LOCK_HELD, NOTHING_HELD = f"{1 << 14:016x}", f"{0:016x}"


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine on which RDMA works."""
    (tmp_path / "sys/module/ib_uverbs").mkdir(parents=True)
    (tmp_path / "sys/module/mlx5_ib").mkdir()
    write(tmp_path / "dev/infiniband/uverbs0")
    make_device(tmp_path / "sys/class/infiniband", "mlx5_0", [(LINK_LOCAL, "RoCE v2"), (IPV4, "RoCE v2")])
    write(tmp_path / "proc/meminfo", "MemTotal: 67108864 kB\nHugePages_Total: 0\nHugePages_Free: 0\nHugepagesize: 2048 kB\n")
    write(tmp_path / "proc/self/status", f"Name:\tkvcd\nCapEff:\t{IPC_LOCK_HELD}\n")
    return Machine(tmp_path, is_real=False)


def named(findings: list[Finding], name: str) -> Finding:
    [found] = [finding for finding in findings if finding.name == name]
    return found


def failed(findings: list[Finding]) -> list[str]:
    return [finding.name for finding in findings if finding.grade is Grade.FAIL]


def test_nothing_is_wrong_with_a_machine_that_has_everything(machine: Machine) -> None:
    findings = check_machine(machine)
    assert failed(findings) == []
    assert all(finding.grade is Grade.OK and not finding.remedy for finding in findings)
    assert named(findings, "mlx5_0 GID 1").found == "1 (10.0.0.1, RoCE v2, eth0) <- kvcd takes this one"
    assert named(findings, "mlx5_0 port 1").found == "ACTIVE, ethernet, 100 Gb/sec (4X EDR)"
    assert named(findings, "memory").found.startswith("64.0 GiB")


def remove(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).rmdir()


def port_file(name: str, text: str) -> Callable[[Path], None]:
    return lambda root: write(root / "sys/class/infiniband/mlx5_0/ports/1" / name, text)


@pytest.mark.parametrize(
    ("damage", "name", "grade", "remedy"),
    [
        (remove("sys/module/ib_uverbs"), "ib_uverbs", Grade.FAIL, "modprobe ib_uverbs"),
        (lambda root: (root / "dev/infiniband/uverbs0").unlink(), "/dev/infiniband", Grade.FAIL, "--device /dev/infiniband"),
        (lambda root: (root / "sys/class/infiniband/mlx5_0").rename(root / "gone"), "choice", Grade.FAIL, "modprobe rdma_rxe"),
        (port_file("state", "1: DOWN"), "mlx5_0 port 1", Grade.WARN, "ip link set eth0 up"),
        (port_file("state", "1: DOWN"), "choice", Grade.FAIL, "mlx5_0 port 1 is DOWN"),
        (port_file("gids/1", "0000:0000:0000:0000:0000:0000:0000:0000"), "mlx5_0 GID 0", Grade.OK, ""),
        (port_file("gid_attrs/types/1", "IB/RoCE v1"), "mlx5_0 GID 0", Grade.OK, ""),
    ],
)
def test_each_missing_thing_is_found_with_what_mends_it(
    machine: Machine, damage: Callable[[Path], None], name: str, grade: Grade, remedy: str
) -> None:
    damage(machine.root)
    finding = named(check_machine(machine), name)
    assert finding.grade is grade
    assert remedy in finding.remedy


def test_roce_v1_alone_is_warned_of(machine: Machine) -> None:
    for index in (0, 1):
        port_file(f"gid_attrs/types/{index}", "IB/RoCE v1")(machine.root)
    finding = named(check_machine(machine), "choice")
    assert (finding.grade, "ip addr add" in finding.remedy) == (Grade.WARN, True)


def test_a_wrong_device_and_a_wrong_gid_are_said(machine: Machine) -> None:
    assert "there is mlx5_0" in named(check_machine(machine, device="mlx9"), "choice").found
    assert "no GID at index 7" in named(check_machine(machine, gid_index=7), "choice").found


def test_a_closed_device_file_is_found(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_checks.os, "access", lambda _path, _mode: False)
    finding = named(check_machine(machine), "/dev/infiniband")
    assert finding.grade is Grade.FAIL
    assert "chmod a+rw /dev/infiniband/uverbs0" in finding.remedy


@pytest.mark.parametrize(
    ("limit_bytes", "capability", "grade"),
    [
        (resource.RLIM_INFINITY, NOTHING_HELD, Grade.OK),
        (65536, IPC_LOCK_HELD, Grade.OK),
        (65536, NOTHING_HELD, Grade.FAIL),
        (1 << 30, NOTHING_HELD, Grade.WARN),
    ],
)
def test_the_memlock_limit_counts_without_the_capability(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, limit_bytes: int, capability: str, grade: Grade
) -> None:
    write(machine.root / "proc/self/status", f"CapEff:\t{capability}\n")
    monkeypatch.setattr(doctor_checks.resource, "getrlimit", lambda _which: (limit_bytes, limit_bytes))
    finding = named(check_machine(machine), "memlock")
    assert finding.grade is grade
    assert ("--ulimit memlock=-1" in finding.remedy) == (grade is not Grade.OK)


def test_a_build_that_is_missing_is_a_failure(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_checks, "_COMPILED", ("storage.pool", "storage.not_there"))
    finding = named(check_machine(machine), "kvcd")
    assert (finding.grade, finding.found, finding.remedy) == (Grade.FAIL, "not compiled: storage.not_there", "make build")


def test_this_machine_can_be_examined() -> None:
    findings = check_machine(Machine())
    assert {finding.group for finding in findings} >= {"Software", "Kernel", "Limits"}
    assert all(finding.remedy for finding in findings if finding.grade is not Grade.OK)


# ------------------------------------------------------------------- memory node


def test_a_memory_node_that_is_not_there_is_a_failure_with_a_remedy(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("sixteen bytes ok")
    secret.chmod(0o644)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = f"127.0.0.1:{listener.getsockname()[1]}"
    findings = check_memory_node(where, device=None, gid_index=None, secret_file=str(secret))
    assert [(finding.name, finding.grade) for finding in findings] == [("secret", Grade.WARN), ("control", Grade.FAIL)]
    assert "start kvcd memory there" in findings[1].remedy


@pytest.mark.parametrize("where", ["nowhere", "host:", "host:0", "host:99999", "host:port"])
def test_an_address_that_is_none_is_said(where: str) -> None:
    [finding] = check_memory_node(where, device=None, gid_index=None, secret_file=None)
    assert (finding.name, finding.grade) == ("address", Grade.FAIL)


def test_a_missing_secret_is_said(tmp_path: Path) -> None:
    [finding] = check_memory_node("127.0.0.1:7400", device=None, gid_index=None, secret_file=str(tmp_path / "none"))
    assert (finding.name, finding.grade) == ("secret", Grade.FAIL)
    assert "head -c 32 /dev/urandom" in finding.remedy


# ------------------------------------------------------------------------ report

ONE_OF_EACH = [
    Finding("A", "first", Grade.OK, "fine [not markup]"),
    Finding("A", "second", Grade.WARN, "odd", "look"),
    Finding("B", "third", Grade.FAIL, "broken", "mend [it]"),
]


def test_the_table_shows_every_finding_and_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(ONE_OF_EACH)
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("fine [not markup]", "look", "mend [it]", "cannot be used", "1 ok, 1 to look at, 1 failed"))


def test_json_says_the_same_to_programs() -> None:
    report = json.loads(as_json(ONE_OF_EACH))
    assert report["ok"] is False
    assert report["findings"][2] == {"group": "B", "name": "third", "grade": "fail", "found": "broken", "remedy": "mend [it]"}
    assert json.loads(as_json(ONE_OF_EACH[:2]))["ok"] is True


def test_the_command_exits_with_1_when_something_failed() -> None:
    command = [sys.executable, "-m", "kvcd", "doctor", "--json", "--memory", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"]) == (1, False)
    assert report["findings"][-1]["found"] == "is no HOST:PORT"
