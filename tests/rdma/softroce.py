"""Soft-RoCE guest: a throw-away virtual machine with an RDMA device, for one command.

``python -m tests.rdma.softroce [--share FOLDER] [--mem MIB] [--timeout S] -- COMMAND`` runs the command as root on Debian's
kernel under QEMU, with the device rxe0 at 10.77.0.1. The guest sees this machine's own files at their own paths; what it
writes is gone with it, except below the folders given with --share. The command's output and exit status become this
program's; 77 says that the guest cannot run here (and why), 124 that the time was up, 125 that the guest died.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from tests.rdma.kernel import CannotRunError, Kernel, obtain_kernel

CANNOT_RUN, TIME_IS_UP, GUEST_DIED = 77, 124, 125
QEMU = "qemu-system-x86_64"
BUSYBOX_PLACES = ("/bin/busybox", "/usr/bin/busybox", "/bin/busybox.static")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ADDRESS = "10.77.0.1"
MEMORY_MIB = 2048
DEADLINE_S = 300.0
KVM_START_S = 25  # KVM on a host that only pretends to have it gets nowhere; a guest that works says hello within a second
POLL_S = 0.05
# A plain processor: what AVX, five-level page tables and the like cost under emulation, they never earn (-20 % of an import).
EMULATED_PROCESSOR = "Westmere,+rdrand"
# Without init_on_alloc=0 each 9p request clears a megabyte first: 9.4 s instead of 1.9 s to read 400 small files.
KERNEL_OPTIONS = "mitigations=off init_on_alloc=0 nokaslr no_timer_check random.trust_cpu=on"

# In the initial RAM disk. No switch to the new root: one script from the first mount to the power switch.
INIT = r"""#!/busybox sh
/busybox mkdir -p /bin /proc /sys /dev /host /layer /guest
/busybox --install /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
echo "guest: started"
fail() { echo "guest: $*"; poweroff -f; }
files() { mount -t 9p -o "trans=virtio,version=9p2000.L,msize=512000,$2" "$1" "$3" || fail "cannot mount $1 at $3"; }
for module in /modules/*.ko; do insmod "$module" || fail "cannot load $module"; done

files host ro,cache=loose /host
mount -t tmpfs -o mode=755 layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /guest || fail "cannot mount the overlay"
mount -t proc proc /guest/proc
mount -t sysfs sys /guest/sys
mount -t devtmpfs dev /guest/dev
mkdir -p /guest/dev/shm /guest/dev/pts
mount -t tmpfs -o mode=1777 shm /guest/dev/shm
mount -t devpts pts /guest/dev/pts
ln -s /proc/self/fd /guest/dev/fd
for stream in stdin:0 stdout:1 stderr:2; do ln -s "/proc/self/fd/${stream#*:}" "/guest/dev/${stream%:*}"; done
mount -t tmpfs -o mode=755 run /guest/run
mkdir -p /guest/run/lock /guest/run/guest
files exchange rw,cache=none /guest/run/guest
while read -r tag folder; do
  mkdir -p "/guest$folder"
  files "$tag" rw,cache=mmap "/guest$folder"
done </guest/run/guest/shares

chroot /guest /bin/sh /run/guest/command </dev/null >/guest/run/guest/output 2>/guest/run/guest/errors
status=$?
sync
echo "$status" >/guest/run/guest/status
poweroff -f
"""

# In the guest proper, before the command. One device serves all its processes; MTU 4200 carries RoCE's largest, 4096.
SET_UP = f"""export PATH={SYSTEM_PATH} HOME=/root
hostname softroce 2>/dev/null
ip link set lo up &&
ip link add rdma0 type dummy && ip address add {ADDRESS}/24 dev rdma0 && ip link set rdma0 mtu 4200 up &&
rdma link add rxe0 type rxe netdev rdma0 || {{ echo "guest: no RDMA device" >&2; exit {GUEST_DIED}; }}
read -r up_s idle_s </proc/uptime; echo "$up_s" >/run/guest/up
"""


class GuestDiedError(Exception):
    """The guest ended without a word on its command; the text holds what its console said."""


@dataclass(frozen=True, slots=True)
class GuestExit:
    """How a guest ended: the command's exit status, None when its time was up; seconds up to the command, and in all."""

    status: int | None
    accelerator: str
    boot_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine starts guests with."""

    qemu: str
    busybox: Path
    kernel: Kernel

    @classmethod
    def find(cls) -> Machine:
        """Look for everything that a guest needs; raise CannotRunError when something is missing."""
        if sys.platform != "linux" or os.uname().machine != "x86_64":
            raise CannotRunError("the guest runs on Linux on x86_64 only")
        qemu = shutil.which(QEMU)
        if qemu is None:
            raise CannotRunError(f"no {QEMU}; run `apt-get install qemu-system-x86`")
        for program in ("ip", "rdma"):
            if shutil.which(program, path=SYSTEM_PATH) is None:
                raise CannotRunError(f"no {program}; run `apt-get install iproute2`")
        busybox = next((Path(place) for place in BUSYBOX_PLACES if _is_static(Path(place))), None)
        if busybox is None:
            raise CannotRunError("no statically linked busybox; run `apt-get install busybox-static`")
        return cls(qemu=qemu, busybox=busybox, kernel=obtain_kernel())


def _is_static(program: Path) -> bool:
    """Whether it is an ELF program that asks for no loader (its headers stand in the first page)."""
    try:
        with program.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return head.startswith(b"\x7fELF") and b"/ld-linux" not in head


def accelerators() -> list[str]:
    """Return what to run the guest by, best first: KVM only where the processor has it, and emulation always.

    A /dev/kvm on a processor that shows neither vmx nor svm opens, but is slower than emulation.
    """
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    has_kvm = flags is not None and not {"vmx", "svm"}.isdisjoint(flags[1].split()) and os.access("/dev/kvm", os.R_OK | os.W_OK)
    return ["kvm", "tcg"] if has_kvm else ["tcg"]


def ram_disk(files: Mapping[str, bytes]) -> bytes:
    """Return a cpio archive in the kernel's "newc" form: these files, executable, with the folders that they are in."""
    folders = sorted({str(parent) for name in files for parent in Path(name).parents if parent.name})
    entries = [(name, 0o040755, b"") for name in folders] + [(name, 0o100755, data) for name, data in files.items()]
    archive = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        # inode, mode, owner, group, links, time, size, device (2), node (2), length of the name, checksum
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        archive += bytes(-len(archive) % 4) + data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


class Guest:
    """One run of a guest; what it and the host exchange lies in a folder of its own."""

    def __init__(self, machine: Machine, folder: Path, *, accelerator: str, memory_mib: int, shares: Sequence[Path]) -> None:
        """Lay out the exchange; nothing runs yet."""
        self.machine = machine
        self.accelerator = accelerator
        self.memory_mib = memory_mib
        self.shares = [share.resolve() for share in shares]
        self.console_file = folder / "console"
        self.disk = folder / "disk"
        self.exchange = folder / "exchange"
        self.exchange.mkdir()
        for name in ("output", "errors", "up", "status"):
            (self.exchange / name).touch()
        self.console_file.touch()
        modules = {f"modules/{path.name}": path.read_bytes() for path in machine.kernel.modules}
        self.disk.write_bytes(ram_disk({"init": INIT.encode(), "busybox": machine.busybox.read_bytes()} | modules))
        (self.exchange / "shares").write_text("".join(f"share{number} {share}\n" for number, share in enumerate(self.shares)))

    def qemu_command(self) -> list[str]:
        """Return QEMU's command line."""
        machine = ["-machine", "pc", "-accel", "kvm", "-cpu", "host"]
        if self.accelerator == "tcg":
            machine = ["-machine", "pc", "-accel", "tcg,thread=multi", "-cpu", EMULATED_PROCESSOR]
        command = [self.machine.qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", *machine]
        command += ["-m", str(self.memory_mib), "-smp", str(min(4, os.cpu_count() or 1))]
        command += ["-kernel", str(self.machine.kernel.image), "-initrd", str(self.disk)]
        command += ["-append", "console=ttyS0 quiet panic=-1 " + KERNEL_OPTIONS]
        command += ["-serial", f"file:{self.console_file}"]
        folders = [("host", Path("/"), ",readonly=on"), ("exchange", self.exchange, "")]
        for tag, path, access in folders + [(f"share{number}", share, "") for number, share in enumerate(self.shares)]:
            place = str(path).replace(",", ",,")
            command += ["-fsdev", f"local,id={tag},path={place},security_model=none,multidevs=remap{access}"]
            command += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
        # Whatever becomes of this process, its guest ends with it.
        return ["setpriv", "--pdeathsig", "KILL", *command]

    def run(self, command: Sequence[str], *, folder: Path, deadline_s: float, output: BinaryIO, errors: BinaryIO) -> GuestExit | None:
        """Run the command in ``folder``; None when the guest did not even start. Raises GuestDiedError."""
        (self.exchange / "command").write_text(f"{SET_UP}cd {shlex.quote(str(folder))} && exec {shlex.join(command)}\n")
        began_s = time.monotonic()
        qemu_log = self.exchange.parent / "qemu"
        with ExitStack() as stack:
            log = stack.enter_context(qemu_log.open("wb"))
            said = [(stack.enter_context((self.exchange / "output").open("rb")), output)]
            said += [(stack.enter_context((self.exchange / "errors").open("rb")), errors)]
            qemu = stack.enter_context(subprocess.Popen(self.qemu_command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log))
            stack.callback(qemu.kill)
            while True:
                try:
                    qemu.wait(POLL_S)
                except subprocess.TimeoutExpired:
                    is_over = False
                else:
                    is_over = True
                for source, sink in said:
                    sink.write(source.read())
                    sink.flush()
                passed_s = time.monotonic() - began_s
                if is_over or passed_s > deadline_s:
                    break
                if self.accelerator == "kvm" and passed_s > KVM_START_S and not self.has_started():
                    return None
        status = (self.exchange / "status").read_text()
        if is_over and not status.endswith("\n"):
            if not self.has_started() and self.accelerator == "kvm":
                return None
            told = self.console() + qemu_log.read_text(errors="replace")
            raise GuestDiedError(f"the guest died: {told.strip()[-4000:] or 'without a word'}")
        boot_s = float((self.exchange / "up").read_text() or passed_s)
        return GuestExit(int(status) if is_over else None, self.accelerator, boot_s, passed_s)

    def console(self) -> str:
        """What the guest's kernel and its first process have said."""
        return self.console_file.read_text(errors="replace")

    def has_started(self) -> bool:
        """Whether the guest's first process ran."""
        return "guest: started" in self.console()


def run_in_guest(
    command: Sequence[str],
    *,
    shares: Sequence[Path] = (),
    folder: Path | None = None,
    memory_mib: int = MEMORY_MIB,
    deadline_s: float = DEADLINE_S,
    output: BinaryIO,
    errors: BinaryIO,
) -> GuestExit:
    """Boot a guest, run ``command`` in ``folder`` (the current one when None) and write what it says as it says it.

    Only what is written below ``shares`` outlives the guest. Raises CannotRunError, GuestDiedError.
    """
    machine = Machine.find()
    for accelerator in accelerators():
        with tempfile.TemporaryDirectory(prefix="softroce-") as place:
            guest = Guest(machine, Path(place), accelerator=accelerator, memory_mib=memory_mib, shares=shares)
            ended = guest.run(command, folder=folder or Path.cwd(), deadline_s=deadline_s, output=output, errors=errors)
        if ended is not None:
            return ended
    raise AssertionError("emulation is the last way, and either starts or raises")


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="softroce", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--share", action="append", default=[], type=Path, metavar="FOLDER", help="the guest may write here")
    parser.add_argument("--mem", default=MEMORY_MIB, type=int, metavar="MIB", help=f"the guest's memory; {MEMORY_MIB} when left out")
    parser.add_argument("--timeout", default=DEADLINE_S, type=float, metavar="S", help=f"end it after this time; {DEADLINE_S:.0f}")
    parser.add_argument("--fetch", action="store_true", help="only see to it that everything is there, the kernel too")
    parser.add_argument("command", nargs="*", metavar="COMMAND")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    try:
        if arguments.fetch:
            print(Machine.find().kernel.image)
            return 0
        if not arguments.command:
            parser.error("no command")
        ended = run_in_guest(
            arguments.command,
            shares=arguments.share,
            memory_mib=arguments.mem,
            deadline_s=arguments.timeout,
            output=sys.stdout.buffer,
            errors=sys.stderr.buffer,
        )
    except CannotRunError as error:
        print(f"softroce: cannot run here: {error}", file=sys.stderr)
        return CANNOT_RUN
    except GuestDiedError as error:
        print(f"softroce: {error}", file=sys.stderr)
        return GUEST_DIED
    if ended.status is None:
        print(f"softroce: not done after {arguments.timeout:g} s", file=sys.stderr)
        return TIME_IS_UP
    return ended.status


if __name__ == "__main__":
    sys.exit(main())
