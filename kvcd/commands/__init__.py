"""Command handlers, by group."""
