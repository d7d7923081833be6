from storage.engine import Room

class EvictionPolicy(Room):
    sweep_left: int
    def choose(self, name: str) -> None: ...
