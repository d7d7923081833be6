from storage.engine import Engine
from storage.membership import Membership
from storage.policy import EvictionPolicy

class Adoption:
    sweeps: int
    adopted_pages: int
    freed_pages: int
    freed_cells: int
    freed_reservations: int
    lowered_overflows: int
    settled_counters: int
    corrected_pages: int
    def __init__(self, engine: Engine, policy: EvictionPolicy, membership: Membership | None = None, alone: bool = False) -> None: ...
    def meet(self, deadline_s: float) -> bool: ...
    def look_for_dead(self) -> list[int]: ...
    def pages_in_use(self) -> dict[str, int]: ...
    def facts(self) -> dict[str, int]: ...
    @property
    def is_idle(self) -> bool: ...
