"""Ping: a health check that imports next to nothing, so that it can run every few seconds."""

from __future__ import annotations

import os
import socket
import sys
from urllib.parse import unquote, urlsplit

USAGE = """\
kvcd ping [--url redis://[[USER]:PASSWORD@]HOST[:PORT] | rediss://HOST[:PORT] | unix:///PATH] [--timeout-ms 1000]

Exits with 0 if the server answers, with 1 if it does not. Works with any Redis-protocol server.
Without --url: the server that runs in this container, or else port 6379 (KVCD_CONF_PORT) of this machine.
"""

# A server that wants a password, or has no free connection for it, is alive.
_ALIVE = (b"+PONG", b"-NOAUTH", b"-WRONGPASS", b"-NOPERM")
_REPLY_LIMIT_BYTES = 4096


def main(arguments: list[str]) -> int:
    """Run ``kvcd ping`` with these arguments and return its exit status."""
    url, timeout_ms = "", "1000"
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name in ("--help", "-h"):
            sys.stdout.write(USAGE)
            return 0
        if name not in ("--url", "--timeout-ms") or not (equals or rest):
            wrong = f"{name} needs a value" if name in ("--url", "--timeout-ms") else f"no such option: {name}"
            sys.stderr.write(f"kvcd ping: {wrong}\n{USAGE}")
            return 2
        value = value if equals else rest.pop(0)
        if name == "--url":
            url = value
        else:
            timeout_ms = value
    if not timeout_ms.isdigit() or int(timeout_ms) == 0:
        sys.stderr.write(f"kvcd ping: --timeout-ms {timeout_ms}: a number of milliseconds is needed\n")
        return 2
    url = url or default_url()
    try:
        reply = ping(url, timeout_s=int(timeout_ms) / 1000)
    except ValueError as error:
        sys.stderr.write(f"kvcd ping: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"kvcd ping: {url.rpartition('@')[2]}: {error.strerror or error}\n")
        return 1
    sys.stdout.write(reply.decode("utf-8", "replace").lstrip("+") + "\n")
    return 0 if reply.startswith(_ALIVE) else 1


def default_url() -> str:
    """Return the URL that the service of this container or shell is expected at."""
    try:
        with open(os.environ.get("KVCD_ADDRESS_FILE", ""), encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return f"redis://127.0.0.1:{os.environ.get('KVCD_CONF_PORT', '6379')}"


def ping(url: str, *, timeout_s: float) -> bytes:
    """Send PING (after AUTH, if the URL has a password) and return the first line of its reply.

    Raises ValueError for what is no such URL, OSError if there is no answer in time.
    """
    parts = urlsplit(url)
    address: str | tuple[str, int]
    if parts.scheme in ("redis", "rediss", "valkey", "tcp") and parts.hostname:
        family, address = socket.AF_UNSPEC, (parts.hostname, parts.port or 6379)
    elif parts.scheme in ("unix", "redis+unix", "redis+socket") and parts.path:
        family, address = socket.AF_UNIX, unquote(parts.path)
    else:
        raise ValueError(f"{url!r} is neither redis://HOST:PORT nor unix:///PATH")
    commands = [["PING"]]
    if parts.scheme == "rediss":
        return _ping_over_tls((parts.hostname or "", parts.port or 6379), timeout_s)
    if parts.password:
        commands.insert(0, ["AUTH", *([unquote(parts.username)] if parts.username else []), unquote(parts.password)])
    with _connect(family, address, timeout_s) as connection:
        connection.sendall(b"".join(_encode(command) for command in commands))
        return _read_lines(connection, len(commands))[-1]


def _ping_over_tls(address: tuple[str, int], timeout_s: float) -> bytes:
    """Ask over TLS. Nobody's certificate is looked at, so no password is said either: the question is only whether it answers."""
    import ssl  # half of a health check's memory, where there is TLS

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(address, timeout=timeout_s) as plain, context.wrap_socket(plain) as connection:
            try:
                connection.sendall(_encode(["PING"]))
                return _read_lines(connection, 1)[-1]
            except ConnectionError:
                # In TLS 1.3 a client hears only after its handshake that its certificate was wanted; uvloop just closes then.
                return b"-NOAUTH the server closed after the handshake: it asks for a certificate"
    except ssl.SSLError as error:
        if "CERTIFICATE_REQUIRED" in (error.reason or "") or "HANDSHAKE_FAILURE" in (error.reason or ""):
            return b"-NOAUTH the server asks for a certificate"
        raise


def _connect(family: int, address: str | tuple[str, int], timeout_s: float) -> socket.socket:
    if isinstance(address, tuple):
        return socket.create_connection(address, timeout=timeout_s)
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def _encode(command: list[str]) -> bytes:
    words = [word.encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _read_lines(connection: socket.socket, count: int) -> list[bytes]:
    received = b""
    while received.count(b"\r\n") < count:
        chunk = connection.recv(_REPLY_LIMIT_BYTES)
        if not chunk or len(received) > _REPLY_LIMIT_BYTES:
            raise ConnectionError("the server closed the connection" if not chunk else "that is no Redis-protocol server")
        received += chunk
    return received.split(b"\r\n")[:count]
