from collections.abc import Sequence

from storage.engine import Engine
from storage.policy import EvictionPolicy

MAX_NODES: int

class Node:
    name: str
    engine: Engine | None
    policy: EvictionPolicy
    seed: int
    def __init__(self, name: str, engine: Engine | None, policy: str) -> None: ...

class Cluster:
    nodes: list[Node]
    node_count: int
    def __init__(self, nodes: Sequence[Node]) -> None: ...
    def replace(self, nodes: Sequence[Node]) -> None: ...
    def lost(self) -> list[str]: ...
