"""Build of the compiled modules: finds every .pyx of the three packages and chooses the compiler's flags."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
PACKAGES = ("kvcd", "protocol", "storage")
# What a debug build checks although the source says no. Not cdivision or wraparound, which change results; not nonecheck, which
# cannot be compiled without the interpreter lock.
CHECKS = ("boundscheck", "initializedcheck")
DEBUG = os.environ.get("KVCD_DEBUG", "") not in ("", "0")


def compile_arguments() -> list[str]:
    """Return the C compiler's flags.

    Wheels and images move between machines, so the instruction set is the oldest that servers of the last fifteen
    years share (x86-64-v2: CX16, SSE4.2), never that of the building machine.
    """
    arguments = ["-std=gnu11", "-fno-strict-aliasing", "-Wall", "-Wno-unused-function", "-Wno-unreachable-code", "-Wno-sign-compare"]
    # Debian's Python makes this an error. Cython may keep a literal in a variable, where the compiler no longer sees that it is one.
    arguments.append("-Wno-error=format-security")
    arguments += ["-O0", "-g", "-UNDEBUG"] if DEBUG else ["-O3", "-g1"]
    if platform.machine() in ("x86_64", "AMD64"):
        arguments.append("-march=x86-64-v2")
    return arguments


def macros() -> list[tuple[str, str | None]]:
    """Return the C macros: in a debug build the ones that make line tracing work."""
    if not DEBUG:
        return []
    # CPython 3.12 traces through sys.monitoring, which Cython supports from 3.13 on; older ones use the profiler's hook.
    return [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]


def directives() -> dict[str, bool | int]:
    """Return Cython's directives for all modules; a debug build adds checks and never changes what the code means."""
    chosen: dict[str, bool | int] = {"language_level": 3, "embedsignature": True}
    if DEBUG:
        chosen.update(linetrace=True, **dict.fromkeys(CHECKS, True))
    return chosen


def source_root() -> Path:
    """Return the tree to compile: this one, or for a debug build a copy of it whose checks are switched on.

    A directive inside a file beats one from here, so the only way to check a module that switched its checks off is to
    compile other text. Line numbers stay.
    """
    if not DEBUG:
        return ROOT
    copy = ROOT / "build" / "debug" / "sources"
    switched_off = re.compile(rf"\b({'|'.join(CHECKS)})(\s*=\s*|\()False")
    for package in PACKAGES:
        for source in (ROOT / package).rglob("*"):
            if source.suffix not in (".pyx", ".pxd", ".h") and source.name != "__init__.py":
                continue
            text = switched_off.sub(r"\1\2True", source.read_text())
            target = copy / source.relative_to(ROOT)
            if not target.exists() or target.read_text() != text:  # an untouched file is not compiled again
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)
    return copy


def extensions(tree: Path) -> list[Extension]:
    """Return one extension per .pyx of the checkout, named after its place and compiled from ``tree``."""
    return [
        Extension(
            ".".join(source.relative_to(ROOT).with_suffix("").parts),
            [(tree / source.relative_to(ROOT)).relative_to(ROOT).as_posix()],
            include_dirs=[tree.relative_to(ROOT).as_posix() or "."],
            extra_compile_args=compile_arguments(),
            define_macros=macros(),
        )
        for package in PACKAGES
        for source in sorted((ROOT / package).rglob("*.pyx"))
    ]


def main() -> None:
    """Build with the generated C kept apart by mode, so that a release and a debug build never mix."""
    os.chdir(ROOT)  # relative paths: a build says the same on every machine
    jobs = max(1, int(os.environ.get("KVCD_BUILD_JOBS", "2")))  # 2: one more compiler needs about 1 GB more memory
    wanted = os.environ.get("KVCD_BUILD_EXTENSIONS", "1") != "0"
    compiling = any(command in sys.argv for command in ("build_ext", "build", "bdist_wheel", "editable_wheel", "install"))
    tree = source_root() if wanted and compiling else ROOT
    modules = extensions(tree) if wanted else []
    if modules and compiling:
        modules = cythonize(
            modules,
            nthreads=jobs if len(modules) > 1 else 0,
            build_dir=f"build/{'debug' if DEBUG else 'release'}/generated",
            compiler_directives=directives(),
            include_path=[tree.relative_to(ROOT).as_posix()],
            emit_linenums=DEBUG,
        )
    setup(ext_modules=modules, options={"build_ext": {"parallel": jobs}})


if __name__ == "__main__":
    main()
