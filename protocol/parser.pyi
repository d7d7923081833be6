"""Request parser: finds the arguments of RESP and inline requests in a buffer that the caller owns."""

from typing import final

class ProtocolError(ValueError):
    """The request broke the protocol; the text is Redis's, without its ``ERR`` code."""

class RequestParser:
    """Incremental parser without I/O, for compiled callers (see parser.pxd); Python only builds it."""

    def __init__(self, large_bytes: int = 65536, max_bulk_bytes: int = 536870912, authenticated: bool = True) -> None: ...

@final
class PythonParser:
    """Drives a RequestParser over a buffer of its own, for tests and tools.

    With ``stage`` large bulks leave the buffer as a session makes them leave it; otherwise they are declined.
    """

    def __init__(
        self,
        *,
        large_bytes: int = 65536,
        max_bulk_bytes: int = 536870912,
        authenticated: bool = True,
        stage: bool = False,
    ) -> None: ...
    @property
    def inline_flags(self) -> list[bool]:
        """One flag for each command taken so far: whether it came as an inline request."""

    @property
    def wanted_bytes(self) -> int:
        """Bytes still missing for the bulk in progress, its CR LF included; 0 when that is unknown."""

    @property
    def argument_capacity(self) -> int:
        """How many arguments the parser has memory for right now."""

    @property
    def staged_count(self) -> int:
        """How many large bulks were taken out of the buffer so far."""

    def authenticate(self) -> None:
        """Lift the limits that hold before AUTH."""

    def feed(self, data: bytes) -> None:
        """Append received bytes."""

    def take_all(self) -> list[list[bytes]]:
        """Return every complete command.

        Raises ProtocolError, now and at every later call, once the bytes broke the protocol and all commands before
        that were returned.
        """
