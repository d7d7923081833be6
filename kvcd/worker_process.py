"""Worker process: one worker as its supervisor sees it, from its start to its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

from kvcd.channel_link import SUPERVISOR, Kind, encode
from kvcd.config import Config
from kvcd.placement import Placement
from kvcd.users import Users

START = "start"  # topic of the first frame: what to be


class WorkerProcess:
    """A started ``python -m kvcd.worker``. It is nobody's but its supervisor's: signals of a terminal do not reach it."""

    def __init__(self, process: asyncio.subprocess.Process, sock: socket.socket) -> None:
        """Use ``start``."""
        self._process = process
        self.socket = sock  # this end of the channel

    @classmethod
    async def start(cls, config: Config, users: Users, placement: Placement, *, descriptors: Iterable[int]) -> WorkerProcess:
        """Start one. It inherits ``descriptors``, and gets the configuration and the users as they are now. Raises OSError."""
        own, others = socket.socketpair()
        # By its own interpreter and program text, never by a fork: nothing of the supervisor's state goes along.
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *_path_option(),
                "-m",
                "kvcd.worker",
                str(others.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(others.fileno(), *descriptors),
                start_new_session=True,
            )
        except BaseException:
            own.close()
            raise
        finally:
            others.close()
        own.sendall(
            encode(
                Kind.TELL,
                sender=SUPERVISOR,
                receiver=placement.place,
                topic=START,
                payload={"config": config.dump(), "users": users.dump(), "placement": placement.plain()},
            )
        )
        return cls(process, own)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def wait(self) -> int:
        """Wait for its end; the exit status, or a signal's number below zero."""
        return await self._process.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens when it has ended."""
        if self._process.returncode is None:
            self._process.send_signal(number)


def how_it_ended(status: int) -> dict[str, object]:
    """Return an exit status as facts for the log."""
    if status >= 0:
        return {"exit_status": status}
    try:
        return {"signal": signal.Signals(-status).name}
    except ValueError:
        return {"signal": str(-status)}


def _path_option() -> list[str]:
    """The worker finds kvcd where this process found it: beside the current directory only if that is where it came from."""
    root = Path(__file__).resolve().parents[1]
    return [] if root == Path.cwd().resolve() and str(root) in map(os.path.abspath, sys.path) else ["-P"]
