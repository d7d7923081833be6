"""Service view: what the admin port shows of a service, be it one process or a supervisor with its workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from kvcd.service import pool_facts
from kvcd.totals import Tally

if TYPE_CHECKING:
    from kvcd.context import ServerState


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One place for a worker."""

    place: int
    is_up: bool
    restarts: int  # how often another was started at this place


@dataclass(frozen=True, slots=True)
class ServiceSample:
    """Figures of a service at one instant."""

    totals: Tally
    workers: list[WorkerState]
    started_at_ms: int
    run_id: str
    maxclients: int
    facts: dict[str, Any] = field(default_factory=dict)  # kvcd.service.pool_facts; empty when no worker could say


class ServiceView(Protocol):
    """What the admin port asks."""

    def unready(self) -> list[str]:
        """Return why clients cannot be served as they should; empty when they can."""
        ...

    async def sample(self) -> ServiceSample:
        """Return the figures of now, within the deadline of a question to the workers."""
        ...


class StartingView:
    """A service that does not serve yet, or no more."""

    def unready(self) -> list[str]:
        """Say so."""
        return ["the pool is not open yet"]

    async def sample(self) -> ServiceSample:
        """Return figures of nothing."""
        return ServiceSample(Tally(), [], 0, "", 0)


class ProcessView:
    """A service of one process."""

    def __init__(self, server: ServerState) -> None:
        """Show ``server``."""
        self._server = server

    def unready(self) -> list[str]:
        """Name the memory nodes that do not answer."""
        return [f"memory node {name} does not answer" for name in self._server.lost_nodes()]

    async def sample(self) -> ServiceSample:
        """Return the figures of now."""
        server = self._server
        return ServiceSample(
            totals=await server.service.totals(server),
            workers=[WorkerState(0, is_up=True, restarts=0)],
            started_at_ms=server.service.placement.started_at_ms,
            run_id=server.service.placement.run_id,
            maxclients=server.config.number("maxclients"),
            facts=pool_facts(server),
        )
