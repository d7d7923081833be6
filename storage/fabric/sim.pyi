from collections.abc import Callable

from storage.fabric.base import Fabric

class SimulatedFabric(Fabric):
    journal: list[tuple[str, int, int]] | None
    before_round: Callable[[list[tuple[str, int, int]]], object] | None
    def __init__(self, size_bytes: int, seed: int = 1) -> None: ...
    def peek(self, offset: int, length: int) -> bytes: ...
    def poke(self, offset: int, data: bytes) -> None: ...
