from collections.abc import Sequence

from storage.fabric.control_messages import NodeDescription, QueuePairAddress, QueuePairReply
from storage.fabric.manual import ManualFabric
from storage.fabric.verbs_device import VerbsDevice

class VerbsFabric(ManualFabric):
    device: VerbsDevice
    queue_pairs: list[QueuePairAddress]
    lost_reason: str | None
    outstanding_count: int
    spin_us: int
    acknowledgement_timeout: int
    @classmethod
    def prepare(cls, device: VerbsDevice, deadline_ms: int = 1000) -> VerbsFabric: ...
    def connect(self, replies: Sequence[QueuePairReply], node: NodeDescription) -> None: ...
    def lose(self, reason: str) -> None: ...
