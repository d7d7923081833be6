"""Catalogue: every policy by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kvcd.replay_engine import Mode
from kvcd.simulation.arc import Arc
from kvcd.simulation.leaf_lru import LeafLru
from kvcd.simulation.lfu import Lfu
from kvcd.simulation.lru import Lru
from kvcd.simulation.optimum import Optimum
from kvcd.simulation.policy import Policy
from kvcd.simulation.prefix_rule import PrefixRule
from kvcd.simulation.redis_lru import RedisLru
from kvcd.simulation.s3_fifo import S3Fifo
from kvcd.simulation.sieve import Sieve
from kvcd.trace import Request

_SIMPLE: dict[str, Callable[[int], Policy]] = {
    "lru": Lru,
    "lfu": Lfu,
    "leaf-lru": LeafLru,
    "sieve": Sieve,
    "s3-fifo": S3Fifo,
    "arc": Arc,
    "redis-lru": RedisLru,
}
POLICIES = (*_SIMPLE, "allkeys-prefix", "optimum")


def make_policy(name: str, *, capacity: int, mode: Mode, requests: Sequence[Request]) -> Policy:
    """An empty cache; ``requests`` is the future that the optimum knows. Raises ``ValueError`` for an unknown name."""
    if name == "allkeys-prefix":
        return PrefixRule(capacity, may_refuse=mode is Mode.PREFIX)
    if name == "optimum":
        return Optimum(capacity, (request.hash_ids for request in requests))
    if name not in _SIMPLE:
        raise ValueError(f"no policy {name}; there are {', '.join(POLICIES)}")
    return _SIMPLE[name](capacity)
