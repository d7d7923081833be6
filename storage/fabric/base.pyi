class Fabric:
    kind: str
    size_bytes: int
    ordered_reads: bool
    is_remote: bool
    is_lost: bool
    def close(self) -> None: ...
    def operation_counts(self) -> dict[str, int]: ...
