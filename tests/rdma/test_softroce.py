"""The Soft-RoCE guest itself: what it is made of, how it ends, and what it says where it cannot run."""

from __future__ import annotations

import gzip
import io
import lzma
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import cannot_run
from tests.rdma.kernel import CannotRunError, modules_in_load_order, obtain_kernel, unpacked_image
from tests.rdma.reports import GuestReport
from tests.rdma.softroce import CANNOT_RUN, GuestDiedError, GuestExit, Machine, ram_disk, run_in_guest

ROOT = Path(__file__).resolve().parents[2]


def boot_image(payload: bytes) -> bytes:
    """Return what a bzImage looks like as far as its payload goes: two sectors of set-up, then 100 bytes of code."""
    image = bytearray(3 * 512 + 100)
    image[0x1F1] = 2
    image[0x248:0x24C] = (100).to_bytes(4, "little")
    image[0x24C:0x250] = len(payload).to_bytes(4, "little")
    return bytes(image) + payload + b"what follows"


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress], ids=["xz", "gzip"])
def test_kernel_is_taken_out_of_its_boot_image(pack: object) -> None:
    assert callable(pack)
    assert unpacked_image(boot_image(pack(b"\x7fELF kernel") + b"size")) == b"\x7fELF kernel"


def test_boot_image_packed_otherwise_stays_as_it_is() -> None:
    image = boot_image(b"\x28\xb5\x2f\xfd unknown")
    assert unpacked_image(image) == image


def module_package(folder: Path, modules: dict[str, str]) -> Path:
    """Make a kernel package with these modules and what each depends on."""
    root = folder / "lib" / "modules" / "6.1"
    (root / "kernel").mkdir(parents=True)
    (root / "modules.builtin").write_text("kernel/drivers/virtio/virtio_pci.ko\nkernel/net/9p/9pnet-virtio.ko\nkernel/fs/9p/9p.ko\n")
    for name, depends in modules.items():
        (root / "kernel" / name).write_bytes(b"\x7fELF\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0")
    return folder


def test_modules_load_after_what_they_depend_on(tmp_path: Path) -> None:
    needed = {"overlay.ko": "", "dummy.ko": "", "ib_uverbs.ko": "ib_core", "rdma_ucm.ko": "rdma-cm", "rdma_rxe.ko": "udp-tunnel,ib_uverbs"}
    package = module_package(tmp_path, needed | {"udp_tunnel.ko": "", "rdma_cm.ko": "ib_core", "ib_core.ko": "", "other.ko": ""})
    names = [path.name for path in modules_in_load_order(package)]
    assert sorted(names) == sorted([*needed, "udp_tunnel.ko", "rdma_cm.ko", "ib_core.ko"])
    for first, then in [("ib_core", "ib_uverbs"), ("rdma_cm", "rdma_ucm"), ("udp_tunnel", "rdma_rxe"), ("ib_uverbs", "rdma_rxe")]:
        assert names.index(f"{first}.ko") < names.index(f"{then}.ko")


def test_kernel_without_a_needed_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotRunError, match="no module overlay"):
        modules_in_load_order(module_package(tmp_path, {"dummy.ko": ""}))


def test_ram_disk_is_read_by_cpio(tmp_path: Path) -> None:
    machine = find_machine()
    archive = ram_disk({"init": b"#!/busybox sh\n", "modules/00-one.ko": b"12345"})
    subprocess.run([machine.busybox, "cpio", "-i", "-d"], input=archive, cwd=tmp_path, check=True, capture_output=True, timeout=30)
    assert (tmp_path / "init").read_bytes() == b"#!/busybox sh\n"
    assert (tmp_path / "init").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "modules" / "00-one.ko").read_bytes() == b"12345"


def test_machine_without_qemu_says_what_to_install(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.rdma.softroce", "--", "true"],
        cwd=ROOT,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == CANNOT_RUN
    assert "apt-get install qemu-system-x86" in ended.stderr


def test_machine_without_a_kernel_or_apt_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVCD_VM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotRunError, match=r"no kernel in .*cache"):
        obtain_kernel()


def test_report_that_breaks_off_tells_what_was_under_way() -> None:
    lines = [
        '{"chosen": ["a.py::one", "a.py::two", "a.py::three", "b.py::one"]}\n',
        '{"begun": "a.py::one"}\n',
        '{"test": "a.py::one", "outcome": "failed", "phase": "call", "seconds": 0.1, "text": "why"}\n',
        '{"begun": "a.py::two"}\n',
        '{"test": "a.py::two", "outc',
    ]
    report = GuestReport.parse(lines)
    assert [each.test for each in report.failures("a.py")] == ["a.py::one"]
    assert report.unfinished("a.py") == ["a.py::two", "a.py::three"]
    assert report.begun[-1] == "a.py::two"
    assert report.failures("b.py") == []
    assert report.unfinished("b.py") == ["b.py::one"]
    assert report.has_chosen("b.py")
    assert not report.has_chosen("c.py")


def find_machine() -> Machine:
    """Return what guests are started with here, or skip the test."""
    try:
        return Machine.find()
    except CannotRunError as error:
        cannot_run(f"the Soft-RoCE guest cannot run here: {error}", required_by="REQUIRE_VERBS")


def run(script: str, *, deadline_s: float = 120, shares: tuple[Path, ...] = ()) -> tuple[GuestExit, str, str]:
    """Run a shell script in a guest; return how it ended and what it said on both streams."""
    find_machine()
    output, errors = io.BytesIO(), io.BytesIO()
    ended = run_in_guest(["sh", "-c", script], shares=shares, deadline_s=deadline_s, output=output, errors=errors)
    return ended, output.getvalue().decode(), errors.getvalue().decode()


@pytest.mark.long
def test_guest_hands_back_what_its_command_said_and_only_shares_outlive_it(tmp_path: Path) -> None:
    shared, other = tmp_path / "shared", tmp_path / "other"
    shared.mkdir()
    other.mkdir()
    script = f"cat /sys/class/infiniband/rxe0/ports/1/state; echo no >&2; echo kept >{shared}/file; echo lost >{other}/file; exit 7"
    ended, output, errors = run(script, shares=(shared,))
    assert (ended.status, output, errors) == (7, "4: ACTIVE\n", "no\n")
    assert (shared / "file").read_text() == "kept\n"
    assert list(other.iterdir()) == []


@pytest.mark.long
def test_guest_is_ended_when_its_time_is_up() -> None:
    ended, output, _ = run("echo begun; exec sleep 1000", deadline_s=60)
    assert (ended.status, output) == (None, "begun\n")
    assert 60 <= ended.total_s < 90


@pytest.mark.long
def test_guest_that_dies_is_told_from_one_that_ends() -> None:
    with pytest.raises(GuestDiedError, match="Power"):
        run("echo 1 >/proc/sys/kernel/sysrq; echo o >/proc/sysrq-trigger; exec sleep 1000")
