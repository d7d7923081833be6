"""Admin port: /healthz, /readyz and /metrics over HTTP, one small answer for each connection."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import orjson

from kvcd import logs
from kvcd.config import Config
from kvcd.directive import ConfigError
from kvcd.listeners import bound_sockets
from kvcd.metrics import exposition
from kvcd.service_view import ServiceView, StartingView

REQUEST_LINE_LIMIT_BYTES = 8 * 1024
HEADER_LIMIT_BYTES = 16 * 1024
EXCHANGE_DEADLINE_S = 5.0  # from the connection to the last byte of the answer
CONNECTIONS_LIMIT = 32

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}
_JSON, _TEXT = "application/json", "text/plain; charset=utf-8"

_log = logs.get_logger("admin")


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered."""

    status: int
    body: bytes
    content_type: str = _TEXT
    headers: dict[str, str] = field(default_factory=dict)


class RequestError(Exception):
    """A request that is none; ``status`` is the answer's."""

    def __init__(self, status: int, text: str) -> None:
        """Keep both for the answer."""
        super().__init__(text)
        self.status = status


class AdminServer:
    """Listens on `admin-port`, if there is one, and shows one view of the service."""

    def __init__(self, config: Config) -> None:
        """Show a service that is starting."""
        self._config = config
        self._view: ServiceView = StartingView()
        self._listeners: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()

    def show(self, view: ServiceView) -> None:
        """Show ``view`` from now on."""
        self._view = view

    async def open(self) -> None:
        """Listen. Raises ConfigError, as for `bind`; a port that is only an image's default, and taken, is done without."""
        try:
            await self._listen(self._config.number("admin-port"))
        except ConfigError as error:
            if self._config.is_explicit("admin-port"):
                raise
            _log.warning("admin port not opened", reason=str(error))

    async def _listen(self, port: int) -> None:
        if not port:
            return
        for host in self._config.strings("admin-bind") or ("127.0.0.1",):
            for sock in bound_sockets(host, port, name="admin-bind"):
                server = await asyncio.start_server(self._accept, sock=sock, limit=HEADER_LIMIT_BYTES + REQUEST_LINE_LIMIT_BYTES)
                self._listeners.append(server)
        _log.notice("admin port is open", port=port, addresses=list(self._config.strings("admin-bind")))

    async def close(self) -> None:
        """Stop listening and end what is under way."""
        for listener in self._listeners:
            listener.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= CONNECTIONS_LIMIT:
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            async with asyncio.timeout(EXCHANGE_DEADLINE_S):
                await self._exchange(reader, writer)
        except (TimeoutError, ConnectionError):
            writer.transport.abort()
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request: Request | None = None
        try:
            request = await read_request(reader)
            response = await self._respond(request)
        except RequestError as error:
            response = Response(error.status, f"{error}\n".encode())
        except asyncio.IncompleteReadError:
            return  # gone before it had asked
        headers = {
            "Content-Type": response.content_type,
            "Content-Length": str(len(response.body)),
            "Cache-Control": "no-store",
            "Connection": "close",
            **response.headers,
        }
        head = f"HTTP/1.1 {response.status} {_REASONS[response.status]}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
        writer.write(head.encode("latin-1"))
        if request is None or request.method != "HEAD":
            writer.write(response.body)
        await writer.drain()

    async def _respond(self, request: Request) -> Response:
        if request.path not in ("/healthz", "/readyz", "/metrics"):
            raise RequestError(404, "there are /healthz, /readyz and /metrics")
        if request.method not in ("GET", "HEAD"):
            return Response(405, b"only GET and HEAD\n", headers={"Allow": "GET, HEAD"})
        if request.path == "/healthz":
            return Response(200, b'{"status":"ok"}\n', _JSON)
        if request.path == "/readyz":
            reasons = self._view.unready()
            status = 503 if reasons else 200
            return Response(status, orjson.dumps({"ready": not reasons, "reasons": reasons}) + b"\n", _JSON)
        body, content_type = exposition(await self._view.sample(), request.headers.get("accept", ""))
        return Response(200, body, content_type)


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Read a request's head; what may follow is not read. Raises RequestError, or IncompleteReadError at the stream's end."""
    line = await _read_line(reader, REQUEST_LINE_LIMIT_BYTES)
    words = line.split(" ")
    if len(words) != 3 or not words[0].isalpha() or not words[2].startswith("HTTP/"):
        raise RequestError(400, "this is no HTTP request")
    if words[2] not in ("HTTP/1.0", "HTTP/1.1"):
        raise RequestError(505, "only HTTP/1.0 and HTTP/1.1")
    headers: dict[str, str] = {}
    left_bytes = HEADER_LIMIT_BYTES
    while line := await _read_line(reader, left_bytes):
        left_bytes -= len(line) + 2
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise RequestError(400, "a header line without a name")
        headers[name.lower()] = value.strip()
    return Request(words[0].upper(), words[1].partition("?")[0], headers)


async def _read_line(reader: asyncio.StreamReader, limit_bytes: int) -> str:
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        raise RequestError(431, "too long") from None
    if len(line) > limit_bytes:
        raise RequestError(431, "too long")
    return line.decode("latin-1").rstrip("\r\n")
