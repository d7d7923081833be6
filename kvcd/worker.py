"""Worker: one front-end process of a service with several. ``python -m kvcd.worker N``: its supervisor is at descriptor N."""

from __future__ import annotations

import socket
import sys

import uvloop

from kvcd import logs
from kvcd.channel_link import read_frame
from kvcd.config import Config
from kvcd.directive import ConfigError
from kvcd.persistence import SnapshotError
from kvcd.placement import Placement
from kvcd.server import Server, serve
from kvcd.service import Service
from kvcd.users import Users
from storage.pool import PoolError

EXIT_FAILURE, EXIT_USAGE = 1, 2
START_DEADLINE_S = 10.0  # for the first frame, which the supervisor sends at once


async def _serve(config: Config, users: Users, placement: Placement, sock: socket.socket) -> int:
    service = Service(placement, sock, queue_limit_bytes=config.number("channel-queue-limit"))

    def ready(server: Server) -> None:
        service.ready({"pool_bytes": server.store.memory()["pool_bytes"]})

    try:
        saved = await serve(config, service, users, on_ready=ready)
    except ConfigError as error:
        await service.fail(str(error), EXIT_USAGE)
        return EXIT_USAGE
    except (PoolError, SnapshotError, OSError) as error:
        await service.fail(str(error), EXIT_FAILURE)
        return EXIT_FAILURE
    return 0 if saved else EXIT_FAILURE


def main() -> int:
    """Serve as the supervisor says; the exit status."""
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.stderr.write("kvcd.worker: this is a part of `kvcd serve --workers N`, which starts it\n")
        return EXIT_USAGE
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.settimeout(START_DEADLINE_S)
    try:
        _, start, _ = read_frame(sock).open()
    except OSError:
        return EXIT_FAILURE  # the supervisor is gone already
    config, placement = Config.restored(start["config"]), Placement.from_plain(start["placement"])
    users = Users()
    users.all_channels_by_default = config["acl-pubsub-default"] == "allchannels"
    users.follow_password(config.string("requirepass").encode("utf-8", "surrogateescape"))
    users.take(start["users"])
    logs.configure(config, worker=placement.place)
    return uvloop.run(_serve(config, users, placement, sock))


if __name__ == "__main__":
    sys.exit(main())
