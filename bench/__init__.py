"""Benchmarks: kvcd and redis-server side by side on one machine. They print figures and never assert a time."""
