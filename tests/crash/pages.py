"""Pages that a service uses though all its keys are deleted: spare ones, and those that nobody will ever give back."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tests.crash.service import Service, ServiceError

PAUSE_S = 0.2
CONNECTIONS_LIMIT = 200  # the kernel chooses who answers: with 4 workers one is missed by so many once in 10**25 times


@dataclass(frozen=True, slots=True)
class PagesInUse:
    """What INFO pool says on all workers of a service without keys. A worker may keep one empty page of each cell class."""

    payload: int
    cells: int
    spare: int  # pairs of a worker and a class of which it has a page
    cells_in_use: int

    @property
    def total(self) -> int:
        """Pages in use."""
        return self.payload + self.cells

    @property
    def leaked(self) -> int:
        """Pages beyond what a service keeps that nobody killed."""
        return self.payload + max(0, self.cells - self.spare)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is left of the values."""
        return self.leaked == self.cells_in_use == 0


def judge(answers: Mapping[int, Mapping[str, str]]) -> PagesInUse:
    """Put the answers of all workers together; those about the whole pool are the same whoever gives them."""
    spare = cells_in_use = 0
    for facts in answers.values():
        for name, value in facts.items():
            if re.fullmatch(r"pool_cells_\d+", name):
                spare += 1
                cells_in_use += int(dict(part.split("=") for part in value.split(","))["used"])
    last = list(answers.values())[-1]
    return PagesInUse(int(last["pool_pages_payload"]), int(last["pool_pages_cells"]), spare, cells_in_use)


async def pages_in_use(service: Service, limit_s: float) -> PagesInUse:
    """Ask until nothing is left, or no longer than adoption may take."""
    deadline_s = time.monotonic() + limit_s
    while True:
        found = judge(await ask_all(service))
        if found.is_clean or time.monotonic() > deadline_s:
            return found
        await asyncio.sleep(PAUSE_S)


async def ask_all(service: Service) -> dict[int, dict[str, str]]:
    """Return every worker's INFO, by its process."""
    answers: dict[int, dict[str, str]] = {}
    for number in range(CONNECTIONS_LIMIT):
        connection, worker = await service.open(number % service.workers / service.workers)
        if worker not in answers:
            info = await connection.call(b"INFO", b"pool")
            answers[worker] = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        connection.close()
        if len(answers) == service.workers:
            return answers
    raise ServiceError(f"{len(answers)} of {service.workers} workers answer")
