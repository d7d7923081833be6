"""kvcd: the service (CLI, configuration, sessions, command handlers)."""

__version__ = "0.1.0"
