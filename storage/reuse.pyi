from storage.pool import Pool

class Reuse:
    is_on: bool
    follows_rule: bool
    turns: int
    refused: int
    def __init__(self, pool: Pool) -> None: ...
    def switch(self, on: bool) -> None: ...
    def facts(self) -> dict[str, float]: ...
