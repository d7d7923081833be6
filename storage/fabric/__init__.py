"""Fabrics: how the pool is reached (shm, sim; verbs later)."""
