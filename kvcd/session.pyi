import asyncio
from typing import Any

from kvcd.fastlane import FastLane
from kvcd.run_times import RunTimes

class Hub:
    server: Any
    lane: FastLane
    clients: dict[int, Any]
    next_id: int
    times: RunTimes
    first_database: int
    password_required: bool
    protected: bool
    slow_reasons: int
    first_slow_reasons: int
    max_clients: int
    query_buffer_limit_bytes: int
    max_bulk_bytes: int
    batch_size_limit: int
    infers_chains: bool
    lanes_limit: int
    stall_limit_ms: int
    def __init__(self, server: Any, lane: FastLane, loop: asyncio.AbstractEventLoop, log: Any) -> None: ...
    def wake(self) -> None: ...
    def check_waiting(self) -> None: ...
    def calls(self) -> int: ...
    def counters(self) -> dict[str, int]: ...

class Session(asyncio.BufferedProtocol):
    id: int
    name: bytes
    db: int
    resp: int
    authenticated: bool
    user: bytes
    lib_name: bytes
    lib_ver: bytes
    address: str
    local_address: str
    descriptor: int
    created_at_ms: int
    last_interaction_ms: int
    last_command: str
    net_input_bytes: int
    net_output_bytes: int
    pending_input_bytes: int
    pending_output_bytes: int
    close_after_reply: bool
    slow_reasons: int
    stalled_since_ms: int
    modes: Any
    replies_off: bool
    skips_next: bool
    skipping: bool
    is_blocked: bool
    def __init__(self, hub: Hub) -> None: ...
    def kill(self) -> None: ...
    def push(self, message: bytes, limit_bytes: int = 0, behind_reply: bool = False) -> None: ...
    def take_pushes(self) -> bytes: ...
    def take_late_pushes(self) -> bytes: ...
    def is_busy(self) -> bool: ...
    def holds_memory(self) -> bool: ...
    def try_again(self, since_ms: int) -> None: ...
