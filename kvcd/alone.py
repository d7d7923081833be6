"""Alone: the whole service in one process."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

import uvloop

from kvcd import logs
from kvcd.access_file import load_users
from kvcd.config import Config, available_memory_bytes
from kvcd.daemon import tell_supervisor
from kvcd.persistence import SnapshotError
from kvcd.server import Server, serve
from kvcd.service import Service
from storage.pool import PoolError

EXIT_FAILURE = 1


async def _serve_alone(config: Config) -> int:
    """The whole service in this process."""
    log = logs.get_logger("server")

    def announce(server: Server) -> None:
        log.notice("Server initialized")
        log.notice(
            "Ready to accept connections",
            port=config.number("port"),
            pid=os.getpid(),
            pool=config.string("pool"),
            pool_bytes=server.store.memory()["pool_bytes"],
            memory_bytes=available_memory_bytes(),
        )
        tell_supervisor(config, "READY=1")

    try:
        async with contextlib.AsyncExitStack() as opened:
            on_ready: Callable[[Server], object] = announce
            if config.number("admin-port"):
                on_ready = await _open_admin_port(config, opened, announce)
            users = load_users(config)
            saved = await serve(config, Service(), users, on_ready=on_ready, on_stop=lambda: tell_supervisor(config, "STOPPING=1"))
    except (PoolError, SnapshotError, OSError) as error:
        log.warning("cannot start", reason=str(error))
        sys.stderr.write(f"kvcd: {error}\n")
        return EXIT_FAILURE
    log.notice("stopped; bye")
    return 0 if saved else EXIT_FAILURE


async def _open_admin_port(
    config: Config, opened: contextlib.AsyncExitStack, announce: Callable[[Server], object]
) -> Callable[[Server], object]:
    """Open the admin port; what is returned shows the server there, and announces it."""
    from kvcd.admin import AdminServer  # only who has that port needs what it imports
    from kvcd.service_view import ProcessView

    admin = AdminServer(config)
    opened.push_async_callback(admin.close)
    await admin.open()

    def show(server: Server) -> None:
        admin.show(ProcessView(server))
        announce(server)

    return show


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; the exit status. Raises ConfigError for a configuration that cannot work."""
    return uvloop.run(_serve_alone(config))
