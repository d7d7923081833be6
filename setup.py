"""Build of the compiled modules: finds every .pyx of the three packages and chooses the compiler's flags."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
PACKAGES = ("kvcd", "protocol", "storage")
DEBUG = os.environ.get("KVCD_DEBUG", "") not in ("", "0")


def compile_arguments() -> list[str]:
    """Return the C compiler's flags.

    Wheels and images move between machines, so the instruction set is the oldest that servers of the last fifteen
    years share (x86-64-v2: CX16, SSE4.2), never that of the building machine.
    """
    arguments = ["-std=gnu11", "-fno-strict-aliasing", "-Wall", "-Wno-unused-function", "-Wno-unreachable-code"]
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
        chosen.update(linetrace=True, boundscheck=True, initializedcheck=True, nonecheck=True)
    return chosen


def extensions() -> list[Extension]:
    """Return one extension per .pyx, named after its place in the tree."""
    return [
        Extension(
            ".".join(source.relative_to(ROOT).with_suffix("").parts),
            [source.relative_to(ROOT).as_posix()],
            include_dirs=["."],
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
    modules = [] if os.environ.get("KVCD_BUILD_EXTENSIONS", "1") == "0" else extensions()
    compiling = any(command in sys.argv for command in ("build_ext", "build", "bdist_wheel", "editable_wheel", "install"))
    if modules and compiling:
        modules = cythonize(
            modules,
            nthreads=jobs if len(modules) > 1 else 0,
            build_dir=f"build/{'debug' if DEBUG else 'release'}/generated",
            compiler_directives=directives(),
            include_path=["."],
            emit_linenums=DEBUG,
        )
    setup(ext_modules=modules, options={"build_ext": {"parallel": jobs}})


if __name__ == "__main__":
    main()
