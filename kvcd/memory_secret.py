"""Memory secret: what front ends and memory nodes prove to each other that they know; from a file or the environment."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping

from storage.fabric.control_protocol import SECRET_LEAST_BYTES

SECRET_VARIABLE = "KVCD_MEMORY_SECRET"
SECRET_FILE_VARIABLE = "KVCD_MEMORY_SECRET_FILE"
_MOST_BYTES = 4096
_HOW = "make one and give it to every memory node and front end: (umask 077; head -c 32 /dev/urandom | base64 > FILE)"


class SecretError(Exception):
    """There is no usable secret; the text says what to do."""


def read_secret(
    path: str | None, *, warn: Callable[..., None], environment: Mapping[str, str] = os.environ, option: str = "--secret-file"
) -> bytes:
    """Return the secret: from ``path``, else from the file that KVCD_MEMORY_SECRET_FILE names, else KVCD_MEMORY_SECRET's value.

    Blanks and line ends around it do not count. ``warn`` is called when others can read the file; ``option`` is the flag that names
    one. Raises SecretError.
    """
    path = path or environment.get(SECRET_FILE_VARIABLE) or None
    if path is not None:
        origin, text = f"secret file {path}", _read(path, warn)
    elif SECRET_VARIABLE in environment:
        origin, text = SECRET_VARIABLE, os.fsencode(environment[SECRET_VARIABLE])
    else:
        raise SecretError(f"no secret: give {option} FILE, {SECRET_FILE_VARIABLE} or {SECRET_VARIABLE}. To begin, {_HOW}")
    secret = text.strip()
    if len(secret) < SECRET_LEAST_BYTES:
        raise SecretError(f"{origin} holds {len(secret)} bytes, at least {SECRET_LEAST_BYTES} are needed: {_HOW}")
    return secret


def _read(path: str, warn: Callable[..., None]) -> bytes:
    try:
        with open(path, "rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
                warn("others may read the secret", file=path, remedy=f"chmod 600 {path}")
            text = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise SecretError(f"secret file {path}: {error.strerror}. To begin, {_HOW}") from None
    if len(text) > _MOST_BYTES:
        raise SecretError(f"secret file {path} holds more than {_MOST_BYTES} bytes, so it is another file: {_HOW}")
    return text
