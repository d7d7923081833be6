"""Doctor's checks: what of this machine RDMA depends on, each as a finding with what mends it."""

from __future__ import annotations

import ctypes
import enum
import importlib.util
import os
import re
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kvcd.machine import available_memory_bytes
from storage.fabric import verbs_devices
from storage.fabric.verbs_devices import ETHERNET, Port, VerbsError
from storage.fabric.verbs_region import Verbs

MEMLOCK_LEAST_BYTES = 64 << 20  # less does not even hold a front end's registered buffers
_CAP_IPC_LOCK = 14
_SHOWN_GIDS = 8
_COMMAND_DEADLINE_S = 5
_DRIVERS = ("mlx5_ib", "mlx4_ib", "irdma", "bnxt_re", "qedr", "hns_roce", "efa", "erdma", "mana_ib", "rdma_rxe", "siw")
_COMPILED = ("protocol.parser", "storage.pool", "storage.store", "kvcd.fastlane", "kvcd.session")
_MTU_BYTES = {1: 256, 2: 512, 3: 1024, 4: 2048, 5: 4096}


class Grade(enum.Enum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; ``remedy`` says what to do, empty when all is well."""

    group: str
    name: str
    grade: Grade
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the checks look: the real machine, or in tests a folder that pretends to be one."""

    root: Path = Path("/")
    is_real: bool = True  # libraries and pyverbs can be asked

    @property
    def devices_root(self) -> Path:
        """The kernel's folder of RDMA devices."""
        return self.root / verbs_devices.SYSTEM_ROOT.relative_to("/")


def check_machine(machine: Machine, *, device: str | None = None, gid_index: int | None = None) -> list[Finding]:
    """Return what was found, group by group; never raises for what is merely missing."""
    findings = [*_check_packages(), *_check_libraries(machine), *_check_kernel(machine)]
    findings += [*_check_devices(machine, device, gid_index), *_check_limits(machine)]
    return findings


# ------------------------------------------------------------------------ software


def _check_packages() -> Iterator[Finding]:
    missing = [name for name in _COMPILED if importlib.util.find_spec(name) is None]
    if missing:
        yield Finding("Software", "kvcd", Grade.FAIL, f"not compiled: {', '.join(missing)}", "make build")
    else:
        yield Finding("Software", "kvcd", Grade.OK, "compiled modules are there")


def _check_libraries(machine: Machine) -> Iterator[Finding]:
    if not machine.is_real:
        return
    try:
        ctypes.CDLL("libibverbs.so.1")
    except OSError as error:
        yield Finding("Software", "libibverbs", Grade.FAIL, f"not there ({error})", "apt install libibverbs1 ibverbs-providers")
    else:
        yield Finding("Software", "libibverbs", Grade.OK, f"version {_mapped_version('libibverbs.so') or 'unknown'}")
    drivers = sorted(path.stem for path in (machine.root / "etc/libibverbs.d").glob("*.driver"))
    if drivers:
        yield Finding("Software", "providers", Grade.OK, f"user-space drivers of libibverbs: {', '.join(drivers)}")
    else:
        yield Finding("Software", "providers", Grade.WARN, "no user-space drivers in /etc/libibverbs.d", "apt install ibverbs-providers")
    try:
        Verbs()
    except VerbsError as error:
        text, _, remedy = str(error).partition(". ")
        yield Finding("Software", "pyverbs", Grade.FAIL, text, remedy)
    else:
        yield Finding("Software", "pyverbs", Grade.OK, f"version {_package_version('python3-pyverbs') or 'unknown (not by dpkg)'}")


def _mapped_version(library: str) -> str:
    """Return the version in the file name of a library that this process has loaded."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return ""
    found = re.search(rf"(/\S*/{re.escape(library)}\S*)", maps)
    return os.path.realpath(found[1]).rpartition(".so.")[2] if found else ""


def _package_version(package: str) -> str:
    """Return a Debian package's version; nothing where there is no dpkg."""
    command = ["dpkg-query", "--show", "--showformat=${Version}", package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_DEADLINE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


# -------------------------------------------------------------------------- kernel


def _check_kernel(machine: Machine) -> Iterator[Finding]:
    modules = machine.root / "sys/module"
    if (modules / "ib_uverbs").is_dir() or (machine.root / "sys/class/infiniband_verbs").is_dir():
        yield Finding("Kernel", "ib_uverbs", Grade.OK, "programs can reach RDMA devices")
    else:
        remedy = "modprobe ib_uverbs; for every boot: echo ib_uverbs > /etc/modules-load.d/rdma.conf (in a container: on the host)"
        yield Finding("Kernel", "ib_uverbs", Grade.FAIL, "the module is not loaded", remedy)
    drivers = [name for name in _DRIVERS if (modules / name).is_dir()]
    if drivers:
        yield Finding("Kernel", "drivers", Grade.OK, f"loaded: {', '.join(drivers)}")
    elif verbs_devices.device_names(machine.devices_root):
        yield Finding("Kernel", "drivers", Grade.OK, "built into the kernel, or of a kind that is not known here")
    else:
        yield Finding("Kernel", "drivers", Grade.FAIL, "no driver of an RDMA device is loaded", "modprobe mlx5_ib, or modprobe rdma_rxe")
    yield _check_nodes(machine.root / "dev/infiniband")


def _check_nodes(folder: Path) -> Finding:
    nodes = sorted(folder.glob("uverbs*"))
    if not nodes:
        remedy = "on the host: modprobe ib_uverbs; in a container: --device /dev/infiniband"
        return Finding("Kernel", "/dev/infiniband", Grade.FAIL, "no uverbs* in /dev/infiniband", remedy)
    closed = [node.name for node in nodes if not os.access(node, os.R_OK | os.W_OK)]
    if closed:
        remedy = f"chmod a+rw {' '.join(f'/dev/infiniband/{name}' for name in closed)}, or a udev rule with MODE=0666 (rdma-core has one)"
        return Finding("Kernel", "/dev/infiniband", Grade.FAIL, f"{', '.join(closed)} closed to user {os.geteuid()}", remedy)
    names = ", ".join(node.name for node in nodes)
    return Finding("Kernel", "/dev/infiniband", Grade.OK, f"{names} open to user {os.geteuid()}")


# ------------------------------------------------------------------------- devices


def _check_devices(machine: Machine, device: str | None, gid_index: int | None) -> Iterator[Finding]:
    names = verbs_devices.device_names(machine.devices_root)
    for name in names:
        for port in verbs_devices.list_ports(name, machine.devices_root):
            yield _check_port(port)
        if machine.is_real:
            yield from _check_abilities(name)
    try:
        port = verbs_devices.choose_port(names, device, machine.devices_root)
        gid = verbs_devices.choose_gid(port, gid_index)
    except VerbsError as error:
        text, _, remedy = str(error).partition(": ")
        yield Finding("Devices", "choice", Grade.FAIL, text, remedy)
        return
    for other in port.gids[:_SHOWN_GIDS]:
        chosen = " <- kvcd takes this one" if other == gid else ""
        yield Finding("Devices", f"{port.device} GID {other.index}", Grade.OK, f"{other}{chosen}")
    if len(port.gids) > _SHOWN_GIDS and gid not in port.gids[:_SHOWN_GIDS]:
        yield Finding("Devices", f"{port.device} GID {gid.index}", Grade.OK, f"{gid} <- kvcd takes this one")
    if port.link_layer == ETHERNET and gid.kind != verbs_devices.ROCE_V2:
        remedy = "give the interface an IPv4 address (ip addr add ADDRESS dev INTERFACE), or --gid-index of a RoCE v2 entry"
        yield Finding("Devices", "choice", Grade.WARN, f"GID {gid} is {gid.kind}, which no router passes on", remedy)


def _check_port(port: Port) -> Finding:
    name = f"{port.device} port {port.number}"
    found = f"{port.state}, {port.link_layer}, {port.rate or 'rate unknown'}"
    if not port.is_active:
        interface = next((gid.interface for gid in port.gids if gid.interface), "INTERFACE")
        remedy = f"ip link set {interface} up" if port.link_layer == ETHERNET else "start opensm on the fabric"
        remedy = f"check the cable; {remedy}"
        return Finding("Devices", name, Grade.WARN, found, remedy)
    return Finding("Devices", name, Grade.OK, found)


def _check_abilities(name: str) -> Iterator[Finding]:
    """What only the device itself can tell; nothing without pyverbs, which is a finding of its own."""
    try:
        verbs = Verbs()
    except VerbsError:
        return
    try:
        with verbs.device.Context(name=name) as context:
            limits, mtu = context.query_device(), context.query_port(1).active_mtu
    except verbs.error as error:
        remedy = "apt install ibverbs-providers; in a container: --device /dev/infiniband"
        yield Finding("Devices", name, Grade.FAIL, f"cannot be opened: {error}", remedy)
        return
    reads = min(limits.max_qp_rd_atom, limits.max_qp_init_rd_atom)
    facts = f"MTU {_MTU_BYTES.get(mtu, mtu)}, {reads} reads at once, {limits.max_qp} queue pairs"
    if limits.atomic_caps == verbs.enums.IBV_ATOMIC_NONE:
        remedy = "use another device (--device): a pool needs CAS and FAA"
        yield Finding("Devices", name, Grade.FAIL, f"no atomic operations; {facts}", remedy)
    else:
        span = "among all that reach the memory" if limits.atomic_caps == verbs.enums.IBV_ATOMIC_GLOB else "among users of this device"
        yield Finding("Devices", name, Grade.OK, f"atomic operations {span}; {facts}")


# -------------------------------------------------------------------------- limits


def _check_limits(machine: Machine) -> Iterator[Finding]:
    may_lock = _has_capability(machine, _CAP_IPC_LOCK)
    yield Finding("Limits", "IPC_LOCK", Grade.OK, "held: no memlock limit counts" if may_lock else "not held: the memlock limit counts")
    yield _check_memlock(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0], may_lock)
    yield _check_huge_pages(machine)
    try:
        memory_bytes = available_memory_bytes(machine.root)
    except OSError as error:
        yield Finding("Limits", "memory", Grade.WARN, f"cannot be told: {error}", "mount /proc")
    else:
        yield Finding("Limits", "memory", Grade.OK, f"{memory_bytes / (1 << 30):.1f} GiB for this machine or container")


def _check_memlock(limit_bytes: int, may_lock: bool) -> Finding:
    if limit_bytes == resource.RLIM_INFINITY:
        return Finding("Limits", "memlock", Grade.OK, "unlimited")
    found = f"{limit_bytes >> 10} KiB (ulimit -l)"
    if may_lock:
        return Finding("Limits", "memlock", Grade.OK, f"{found}, of no effect with IPC_LOCK")
    remedy = "ulimit -l unlimited as root; Docker: --ulimit memlock=-1; systemd: LimitMEMLOCK=infinity; PAM: /etc/security/limits.conf"
    if limit_bytes < MEMLOCK_LEAST_BYTES:
        return Finding("Limits", "memlock", Grade.FAIL, f"{found}: too little to register anything useful", remedy)
    return Finding("Limits", "memlock", Grade.WARN, f"{found}: a memory node can lend no more than that", remedy)


def _check_huge_pages(machine: Machine) -> Finding:
    try:
        text = (machine.root / "proc/meminfo").read_text()
    except OSError:
        text = ""
    fields = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines() if ":" in line and line.split()[1].isdigit()}
    total, free, size_kib = fields.get("HugePages_Total", 0), fields.get("HugePages_Free", 0), fields.get("Hugepagesize", 0)
    if total == 0:
        return Finding("Limits", "huge pages", Grade.OK, "none reserved; kvcd memory --huge-pages would need them (vm.nr_hugepages)")
    return Finding("Limits", "huge pages", Grade.OK, f"{free} of {total} free, of {size_kib} KiB each")


def _has_capability(machine: Machine, number: int) -> bool:
    try:
        text = (machine.root / "proc/self/status").read_text()
    except OSError:
        return False
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", text, re.MULTILINE)
    return bool(found and int(found[1], 16) >> number & 1)
