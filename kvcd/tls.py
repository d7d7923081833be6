"""TLS: the server's side of it, as the `tls-...` directives say."""

from __future__ import annotations

import ssl
from pathlib import Path

from kvcd.config import Config
from kvcd.directive import ConfigError

# All that decide what a new TLS connection meets; a change of one makes the context anew.
DIRECTIVES = (
    "tls-cert-file",
    "tls-key-file",
    "tls-key-file-pass",
    "tls-ca-cert-file",
    "tls-ca-cert-dir",
    "tls-auth-clients",
    "tls-protocols",
    "tls-ciphers",
    "tls-prefer-server-ciphers",
    "tls-dh-params-file",
    "tls-session-caching",
)

_CLIENT_CERTIFICATES = {"yes": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "no": ssl.CERT_NONE}
# In their order: OpenSSL takes a range of them.
_VERSIONS = {
    "tlsv1": ssl.TLSVersion.TLSv1,
    "tlsv1.1": ssl.TLSVersion.TLSv1_1,
    "tlsv1.2": ssl.TLSVersion.TLSv1_2,
    "tlsv1.3": ssl.TLSVersion.TLSv1_3,
}
_DEFAULT_VERSIONS = "TLSv1.2 TLSv1.3"


def server_context(config: Config) -> ssl.SSLContext:
    """Return what connections of the TLS port begin with. Raises ConfigError that names the directive at fault."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # A client that renegotiates makes the server work; and a compressed secret can be guessed from its length.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    _choose_versions(context, config.string("tls-protocols") or _DEFAULT_VERSIONS)
    _load_certificate(context, config)
    _ask_clients(context, config)
    _choose_ciphers(context, config)
    if not config.flag("tls-session-caching"):
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _choose_versions(context: ssl.SSLContext, text: str) -> None:
    wanted = text.lower().split()
    unknown = [word for word in wanted if word not in _VERSIONS]
    if unknown or not wanted:
        raise ConfigError(f"tls-protocols {text}: the versions are TLSv1, TLSv1.1, TLSv1.2 and TLSv1.3")
    chosen = [number for number, word in enumerate(_VERSIONS) if word in wanted]
    if chosen != list(range(chosen[0], chosen[-1] + 1)):
        raise ConfigError(f"tls-protocols {text}: OpenSSL takes versions that follow each other, and one between these is missing")
    versions = list(_VERSIONS.values())
    context.minimum_version, context.maximum_version = versions[chosen[0]], versions[chosen[-1]]


def _load_certificate(context: ssl.SSLContext, config: Config) -> None:
    certificate, key, secret = (config.string(name) for name in ("tls-cert-file", "tls-key-file", "tls-key-file-pass"))
    if not certificate:
        raise ConfigError("tls-port needs a certificate: give tls-cert-file, and tls-key-file unless that file holds the key too")
    for name, path in (("tls-cert-file", certificate), ("tls-key-file", key or certificate)):
        _check_readable(name, path)
    try:
        # Without a password OpenSSL would ask at the terminal.
        context.load_cert_chain(certificate, key or None, password=lambda: secret)
    except ssl.SSLError as error:
        raise ConfigError(f"tls-cert-file {certificate}, tls-key-file {key or certificate}: {_reason(error)}") from None
    except ValueError as error:
        raise ConfigError(f"tls-key-file-pass: {error}") from None


def _ask_clients(context: ssl.SSLContext, config: Config) -> None:
    file, folder = config.string("tls-ca-cert-file"), config.string("tls-ca-cert-dir")
    if file:
        _check_readable("tls-ca-cert-file", file)
    if folder and not Path(folder).is_dir():
        raise ConfigError(f"tls-ca-cert-dir {folder}: no such folder")
    if file or folder:
        try:
            context.load_verify_locations(file or None, folder or None)
        except ssl.SSLError as error:
            raise ConfigError(f"tls-ca-cert-file {file}: {_reason(error)}") from None
    elif config.string("tls-auth-clients") != "no":
        raise ConfigError(
            "tls-auth-clients asks clients for certificates: give tls-ca-cert-file or tls-ca-cert-dir, or say tls-auth-clients no"
        )
    context.check_hostname = False  # a client's certificate names nobody that could be asked
    context.verify_mode = _CLIENT_CERTIFICATES[config.string("tls-auth-clients")]


def _choose_ciphers(context: ssl.SSLContext, config: Config) -> None:
    if config.string("tls-ciphers"):
        try:
            context.set_ciphers(config.string("tls-ciphers"))
        except ssl.SSLError:
            raise ConfigError(f"tls-ciphers {config.string('tls-ciphers')}: OpenSSL knows none of them") from None
    preference = ssl.OP_CIPHER_SERVER_PREFERENCE
    context.options = context.options | preference if config.flag("tls-prefer-server-ciphers") else context.options & ~preference
    if config.string("tls-dh-params-file"):
        _check_readable("tls-dh-params-file", config.string("tls-dh-params-file"))
        try:
            context.load_dh_params(config.string("tls-dh-params-file"))
        except ssl.SSLError as error:
            raise ConfigError(f"tls-dh-params-file {config.string('tls-dh-params-file')}: {_reason(error)}") from None


def _check_readable(name: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{name} {path}: {error.strerror}") from None


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
