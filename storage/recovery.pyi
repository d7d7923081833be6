from dataclasses import dataclass

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

def recover(store: Store) -> RecoveryReport: ...
