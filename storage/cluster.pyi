from collections.abc import Sequence

from storage.adoption import Adoption
from storage.engine import Engine
from storage.headroom import Headroom
from storage.membership import Membership
from storage.policy import EvictionPolicy

MAX_NODES: int

class Node:
    name: str
    engine: Engine | None
    policy: EvictionPolicy
    headroom: Headroom
    seed: int
    adoption: Adoption | None
    def __init__(self, name: str, engine: Engine | None, policy: str) -> None: ...
    def share(self, membership: Membership | None, *, alone: bool) -> None: ...

class Cluster:
    nodes: list[Node]
    node_count: int
    def __init__(self, nodes: Sequence[Node]) -> None: ...
    def replace(self, nodes: Sequence[Node]) -> None: ...
    def lost(self) -> list[str]: ...
