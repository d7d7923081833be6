"""Manners of a service process: going to the background, the pid file, telling systemd, and where to ping it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from kvcd.config import Config
from kvcd.directive import ConfigError

# Names a file to hold the address while the service runs, for `kvcd ping` in the same container.
ADDRESS_FILE_VARIABLE = "KVCD_ADDRESS_FILE"


def go_to_background() -> None:
    """Continue in a child without terminal; the parent exits with 0. Only before there are threads, sockets or a pool."""
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


@contextlib.contextmanager
def announced(config: Config) -> Iterator[None]:
    """Keep the pid file and the address file for as long as the block runs. Raises ConfigError if there can be no pid file."""
    pid_file, address_file = config.path("pidfile"), os.environ.get(ADDRESS_FILE_VARIABLE, "")
    if pid_file:
        try:
            Path(pid_file).write_text(f"{os.getpid()}\n")
        except OSError as error:
            raise ConfigError(f"pidfile {pid_file}: {error.strerror}") from None
    if address_file:
        # A read-only container has none, and its ping tries the usual port.
        with contextlib.suppress(OSError):
            Path(address_file).write_text(f"{local_url(config)}\n")
    try:
        yield
    finally:
        for path in filter(None, (pid_file, address_file)):
            with contextlib.suppress(OSError):
                os.unlink(path)


def local_url(config: Config) -> str:
    """Return the URL under which this machine reaches the service."""
    if config.number("port") == 0 and config.string("unixsocket"):
        return f"unix://{os.path.abspath(config.path('unixsocket'))}"
    scheme, port = ("redis", config.number("port")) if config.number("port") else ("rediss", config.number("tls-port"))
    hosts = [host.removeprefix("-") for host in config.strings("bind")]
    host = next((host for host in hosts if host not in ("*", "0.0.0.0", "::", "::*")), "127.0.0.1")
    if any(host in ("*", "0.0.0.0") for host in hosts) or not hosts:
        host = "127.0.0.1"
    elif all(host in ("::", "::*") for host in hosts):
        host = "::1"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def tell_supervisor(config: Config, state: str) -> None:
    """Tell systemd ``READY=1`` or ``STOPPING=1`` where `supervised` is systemd, or auto and systemd listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if config["supervised"] not in ("systemd", "auto") or not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # the abstract namespace
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        notify.sendto(state.encode(), address)
