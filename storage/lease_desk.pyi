from collections.abc import Sequence

class LeaseDesk:
    """Leases blocks of all nodes."""

    share: float
    refused: int
    def lease(self, database: int, keys: Sequence[bytes], until_ms: int) -> int: ...
    def unlease(self, database: int, keys: Sequence[bytes]) -> int: ...
    def leased_bytes(self) -> int: ...
