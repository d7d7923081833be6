"""Location cache; compiled callers use it (see locations.pxd), Python only makes one."""

class LocationCache:
    def __init__(self, entries: int = 65536) -> None: ...
