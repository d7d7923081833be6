from collections.abc import Sequence

NEVER_NS: int

class RunTimes:
    in_histogram: bool
    slow_ns: int
    def counters(self, names: Sequence[str]) -> dict[str, int]: ...
