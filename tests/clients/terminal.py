"""A program on a terminal of its own: what somebody would see who types at it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from types import TracebackType

DEADLINE_S = 30
COLUMNS = 200  # linenoise asks the terminal where its cursor is when it does not know the width


class Terminal:
    """Starts the program; use it as a context manager."""

    def __init__(self, *command: str) -> None:
        """Start it in a terminal of COLUMNS columns."""
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
            environment = dict(os.environ) | {"TERM": "xterm", "HOME": "/nonexistent"}  # neither history nor settings
            os.execvpe(command[0], command, environment)
        self.shown = b""
        self._seen = 0

    def until(self, text: str) -> None:
        """Read until this is shown, after what the last call waited for."""
        ends = time.monotonic() + DEADLINE_S
        while text.encode() not in self.shown[self._seen :]:
            ready, _, _ = select.select([self.descriptor], [], [], max(0.0, ends - time.monotonic()))
            piece = b""
            if ready:
                try:
                    piece = os.read(self.descriptor, 65536)
                except OSError:  # Linux's way to say that the other side is closed
                    piece = b""
            assert piece, f"{text!r} was never shown, but:\n{self.shown.decode(errors='replace')}"
            self.shown += piece
        self._seen = self.shown.index(text.encode(), self._seen) + len(text.encode())

    def type(self, text: str) -> None:
        """Type."""
        os.write(self.descriptor, text.encode())

    def __enter__(self) -> Terminal:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the program."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.descriptor)
