"""Offline simulation of eviction policies: what a trace would hit in a cache of so many blocks."""
