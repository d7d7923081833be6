"""Servers for all tests: real processes, started when first asked for, ended with the run whatever happens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kvcd.worker_servers import WorkerServer, start
from tests.programs import require_program
from tests.servers import ServerProcess, Servers


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Makes kvcd and redis-server processes."""
    made = Servers()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def shared_kvcd(servers: Servers) -> ServerProcess:
    """A kvcd that many tests share: each empties it first, and leaves its settings as they were."""
    return servers.kvcd(pool_size="512mb", index_entries=262144, maxmemory_policy="noeviction")


@pytest.fixture
def kvcd_server(shared_kvcd: ServerProcess) -> ServerProcess:
    """The shared kvcd, emptied."""
    assert shared_kvcd.is_running(), f"an earlier test ended the server:\n{shared_kvcd.log[-4000:]}"
    shared_kvcd.call("FLUSHALL")
    return shared_kvcd


@pytest.fixture
def kvcd_port(kvcd_server: ServerProcess) -> int:
    """Port of the shared kvcd."""
    return kvcd_server.port


@pytest.fixture(scope="session")
def shared_workers(servers: Servers) -> WorkerServer:
    """A kvcd of two workers that many tests share; they may kill a worker, and leave its settings as they were."""
    return start(servers, pool_size="256mb")


@pytest.fixture
def worker_server(shared_workers: WorkerServer) -> WorkerServer:
    """That service, emptied."""
    assert shared_workers.process.is_running(), f"an earlier test ended the service:\n{shared_workers.process.log[-4000:]}"
    shared_workers.process.call("FLUSHALL")
    return shared_workers


@pytest.fixture(scope="session")
def redis_server(servers: Servers) -> ServerProcess:
    """A redis-server that many tests share."""
    require_program("redis-server")
    return servers.redis()


@pytest.fixture
def redis_port(redis_server: ServerProcess) -> int:
    """Port of the shared redis-server."""
    return redis_server.port
