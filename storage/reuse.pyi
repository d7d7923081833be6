from storage.pool import Pool

class Reuse:
    follows_rule: bool
    turns: int
    refused: int
    def __init__(self, pool: Pool) -> None: ...
    def facts(self) -> dict[str, float]: ...
