"""The machine's limits: how much memory this process may count on, and how many processors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# cgroup v1 says "no limit" as the largest multiple of the page size; anything as large is none.
_NO_LIMIT_BYTES = 2**60


def available_memory_bytes(root: Path = Path("/")) -> int:
    """Return the memory of the machine or, if that is less, of the container: the smallest limit of cgroup v1 or v2.

    ``root`` is where ``proc`` and ``sys`` lie.
    """
    return min([_machine_memory_bytes(root), *_group_limits_bytes(root)])


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many processors this process may use: those it is not barred from, and no more than its container's quota pays for."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota_us, period_us = (root / "sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota_us == "max" else max(1, min(cores, -(-int(quota_us) // int(period_us))))


def _machine_memory_bytes(root: Path) -> int:
    for line in (root / "proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    raise OSError("no MemTotal in /proc/meminfo")


def _group_limits_bytes(root: Path) -> Iterator[int]:
    """Yield the limit of this process's groups and of every group above them, as far as they can be seen from here."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    groups = root / "sys/fs/cgroup"
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        if controllers == "":
            mount, file = groups, "memory.max"
        elif "memory" in controllers.split(","):
            mount, file = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        # Inside a container the path may be the host's, which is not there: its mount's root is then this group.
        group = mount / path.lstrip("/")
        for directory in [group, *group.parents]:
            limit = _read_limit_bytes(directory / file)
            if limit is not None:
                yield limit
            if directory == mount:
                break


def _read_limit_bytes(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < _NO_LIMIT_BYTES else None
