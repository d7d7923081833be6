class Pairs:
    """Sees to it that of two keys that belong together none is left alone by an eviction."""
