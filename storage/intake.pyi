"""Intake: puts many values at once into a pool, with their expiry and their place in a chain as they were elsewhere."""

from collections.abc import Sequence
from typing import final

from storage.interface import ArrivingValue, Status
from storage.staging import StagedValue
from storage.store import Store

@final
class Intake:
    """Writes values whatever was under their keys before; a full pool makes room as its policy says."""

    def __init__(self, store: Store) -> None: ...
    def add(self, values: Sequence[ArrivingValue]) -> Status: ...
    def stage(self, value: ArrivingValue) -> StagedValue: ...
    def publish(self, value: ArrivingValue, staged: StagedValue) -> Status: ...
