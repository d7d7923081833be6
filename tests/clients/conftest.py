"""The two servers that every client is driven at, and the versions of the clients that ran, said at the end of the run."""

from __future__ import annotations

import pytest

from tests.clients.drive import CLIENT_VERSIONS, Judge
from tests.programs import require_program
from tests.servers import Servers


@pytest.fixture(scope="session")
def judge(servers: Servers, pytestconfig: pytest.Config) -> Judge:
    """A kvcd and a redis-server of the clients' own: drives change their settings."""
    require_program("redis-server")
    versions = pytestconfig.stash.setdefault(CLIENT_VERSIONS, {})
    return Judge(kvcd=servers.kvcd(pool_size="256mb", maxmemory_policy="noeviction"), redis=servers.redis(), versions=versions)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which clients ran, in which version."""
    if versions := config.stash.get(CLIENT_VERSIONS, None):
        terminalreporter.section("clients that were driven at kvcd and at redis-server")
        for name in sorted(versions):
            terminalreporter.line(f"{name} {versions[name]}")
