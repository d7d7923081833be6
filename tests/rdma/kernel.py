"""Guest kernel: Debian's, downloaded into a cache folder and never installed; the kernel image and the few modules that the guest loads."""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

META_PACKAGE = "linux-image-amd64"
COMMAND_DEADLINE_S = 300  # 70 MB over a slow line

# What the guest needs to see the host's files and to have an RDMA device; their dependencies follow from the modules.
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "dummy", "ib_uverbs", "rdma_ucm", "rdma_rxe")
# rdma_rxe asks the crypto layer for "crc32" by name, which no dependency tells. Newest kernels have it built in, under no name.
OPTIONAL_MODULES = ("crc32_generic",)


class CannotRunError(Exception):
    """This machine cannot run the guest; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel in the cache: its image, and its modules in the order in which they load."""

    image: Path
    modules: tuple[Path, ...]


def cache_folder() -> Path:
    """Where kernels are kept: KVCD_VM_CACHE, else below the user's cache folder."""
    if chosen := os.environ.get("KVCD_VM_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kvcd-vm"


def obtain_kernel() -> Kernel:
    """Return the cached kernel; without one, download Debian's (70 MB) and keep what the guest needs of it.

    Raises CannotRunError when there is none and none can be had.
    """
    cache = cache_folder()
    kernels = sorted(cache.glob("linux-image-*"), key=lambda folder: folder.stat().st_mtime)
    folder = kernels[-1] if kernels else _download(cache)
    return Kernel(image=folder / "kernel", modules=tuple(sorted((folder / "modules").iterdir())))


def _download(cache: Path) -> Path:
    """Make ``cache``/PACKAGE: all of it or nothing, also when two do so at once."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise CannotRunError(f"no kernel in {cache}, and this system has no apt-get to download Debian's with")
    depends = _output("apt-cache", "depends", "--important", META_PACKAGE, folder=Path.cwd())
    found = re.search(r"Depends: (linux-image-\S+)", depends)
    if found is None:
        raise CannotRunError(f"apt knows no {META_PACKAGE}; run `apt-get update` first")
    package = found[1]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="unfinished-") as name:
            work = Path(name)
            # Root may download into a folder that apt's own user cannot write to: as root then, not with a warning.
            _output("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", package, folder=work)
            _output("dpkg-deb", "--extract", str(next(work.glob("*.deb"))), str(work / "package"), folder=work)
            made = work / "made"
            (made / "modules").mkdir(parents=True)
            image = next((work / "package" / "boot").glob("vmlinuz-*"))
            (made / "kernel").write_bytes(unpacked_image(image.read_bytes()))
            for number, module in enumerate(modules_in_load_order(work / "package")):
                (made / "modules" / f"{number:02}-{module.name.split('.')[0]}.ko").write_bytes(_unpacked_module(module))
            if not (cache / package).exists():
                made.rename(cache / package)
    except OSError as error:
        raise CannotRunError(f"cannot keep a kernel in {cache}: {error}; KVCD_VM_CACHE chooses another folder") from error
    return cache / package


def _output(*command: str, folder: Path) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=COMMAND_DEADLINE_S, check=True)
    except subprocess.CalledProcessError as error:
        raise CannotRunError(f"`{' '.join(command)}` failed: {error.stderr.strip()[-500:]}") from error
    except subprocess.TimeoutExpired as error:
        raise CannotRunError(f"`{' '.join(command)}` did not end within {COMMAND_DEADLINE_S} s") from error
    return done.stdout


def unpacked_image(image: bytes) -> bytes:
    """Return the ELF kernel that a bzImage carries, or the bzImage itself where that is packed in another way.

    QEMU enters an ELF kernel directly; under emulation the guest would need seconds to unpack itself. Offsets: the
    kernel's x86 boot protocol (Documentation/arch/x86/boot.rst), 2.08 and newer.
    """
    setup_sectors = image[0x1F1] or 4
    begin = (setup_sectors + 1) * 512 + int.from_bytes(image[0x248:0x24C], "little")
    payload = image[begin : begin + int.from_bytes(image[0x24C:0x250], "little")]
    # Four bytes of size follow the packed kernel; they are no part of it.
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return gzip.decompress(payload[:-4])
    return image


def _unpacked_module(path: Path) -> bytes:
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def modules_in_load_order(package: Path) -> list[Path]:
    """Return the modules that the guest loads, each after those that it depends on."""
    root = next((package / "lib" / "modules").iterdir())
    present = {_module_name(path): path for path in (root / "kernel").rglob("*.ko*")}
    built_in = {_module_name(Path(line)) for line in (root / "modules.builtin").read_text().split()}
    ordered: dict[str, Path] = {}

    def add(name: str) -> None:
        if name in ordered or name in built_in:
            return
        if name not in present:
            raise CannotRunError(f"the kernel {root.name} has no module {name}")
        for dependency in _dependencies(_unpacked_module(present[name])):
            add(dependency)
        ordered[name] = present[name]

    for name in (*(name for name in OPTIONAL_MODULES if name in present), *MODULES):
        add(name)
    return list(ordered.values())


def _module_name(path: Path) -> str:
    return path.name.split(".")[0].replace("-", "_")


def _dependencies(module: bytes) -> Iterator[str]:
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    if found and found[1]:
        yield from (name.replace("-", "_") for name in found[1].decode().split(","))
