"""kvcd: the service (CLI, configuration, sessions, command handlers)."""

__version__ = "0.1.0"
REDIS_VERSION = "7.2.4"  # whose commands clients may expect when they ask for a version
