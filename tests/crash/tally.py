"""Tally: what a run counted, over all clients."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from tests.crash.ledger import Fault

EXAMPLES = 20


@dataclass(slots=True)
class Tally:
    """Counts, faults with some examples, and how long answers took."""

    operations: int = 0
    lost_answers: int = 0
    reconnections: int = 0
    refused_connections: int = 0
    unanswered: int = 0
    faults: Counter[Fault] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    error_replies: Counter[str] = field(default_factory=Counter)
    pipelines_ms: deque[float] = field(default_factory=lambda: deque(maxlen=200_000))
    longest_ms: float = 0.0  # of a pipeline on a connection that did not break, whose worker was not stopped
    longest_on_stopped_ms: float = 0.0  # of one whose own worker was stopped meanwhile
    longest_reconnection_ms: float = 0.0
    longest_loop_lag_ms: float = 0.0  # of the clients' own event loop: part of every time above

    def note(self, fault: Fault | None, text: str) -> None:
        """Count a fault, if it is one."""
        if fault is None:
            return
        self.faults[fault] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{fault}: {text}")

    def quantile_ms(self, share: float) -> float:
        """Return the time that this share of the latest pipelines took at most."""
        times = sorted(self.pipelines_ms)
        return times[min(len(times) - 1, int(len(times) * share))] if times else 0.0
