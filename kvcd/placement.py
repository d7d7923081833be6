"""Placement: which worker of its service a process is, and what its supervisor hands it."""

from __future__ import annotations

import dataclasses
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# A started worker numbers its clients from its own block, so that no two clients of a service ever share an id: 2^21 starts have
# room below 2^53, the largest whole number that every client library takes.
CLIENT_IDS_PER_START = 2**32


@dataclass(frozen=True, slots=True)
class Placement:
    """What is fixed when a process starts. The defaults are those of a service of one process.

    ``run_id``, ``started_at_ms`` and ``service_pid`` are the service's, the same for all of its workers.
    """

    place: int = 0  # from 0
    workers: int = 1
    run_id: str = field(default_factory=lambda: secrets.token_hex(20))
    started_at_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    service_pid: int = field(default_factory=os.getpid)
    start_number: int = 0  # how many workers the service had started before this one
    epoch: int = 0  # of the statistics (kvcd.totals.Tally)
    pool_bytes: int = 0  # size of a pool that is made; 0: as the configuration says
    memory_descriptor: int = -1  # memory of a `shm:` pool that all workers share
    unix_descriptor: int = -1  # listening Unix socket that all workers share

    @property
    def first_client_id(self) -> int:
        """Id of the first client."""
        return self.start_number * CLIENT_IDS_PER_START + 1

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_plain(cls, fields: Mapping[str, Any]) -> Placement:
        """Return what ``plain`` was made of."""
        return cls(**fields)
