from dataclasses import dataclass

from storage.cluster import Node
from storage.engine import Engine
from storage.policy import EvictionPolicy
from storage.store import Store

@dataclass(frozen=True)
class RecoveryReport:
    keys: int
    expires: int
    reservations: int
    flushed: int
    broken: int
    cell_pages: int
    payload_pages: int
    freed_pages: int
    overflow_words: int
    seconds: float

class Recovery:
    def __init__(self, engine: Engine, policy: EvictionPolicy) -> None: ...
    def run(self) -> RecoveryReport: ...

def recover(store: Store) -> RecoveryReport: ...
def recover_node(node: Node) -> RecoveryReport: ...
