class Fabric:
    kind: str
    node_count: int
    size_bytes: int
    ordered_reads: bool
    def close(self) -> None: ...
    def operation_counts(self) -> dict[str, int]: ...
