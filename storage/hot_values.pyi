class HotValues:
    capacity_bytes: int
    used_bytes: int
    listed: int

    def __init__(self, capacity_bytes: int) -> None: ...
