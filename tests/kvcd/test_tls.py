"""TLS beside plain connections: certificates of both sides, large values, slow readers, new certificates, wrong settings."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from kvcd.config import Config, ConfigError
from kvcd.ping import ping
from kvcd.tls import server_context
from tests.kvcd.certificates import Authority, Certificate
from tests.kvcd.worker_servers import fields_of
from tests.programs import require_program
from tests.servers import ServerProcess, Servers, free_port
from tests.wire import Wire

DEADLINE_S = 20
LARGE = 3_000_000


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Certificate:
    return authority.sign("server")


def flags(authority: Authority, certificate: Certificate, **more: str | int) -> dict[str, str | int]:
    """Return the directives of a TLS port of its own."""
    return {
        "tls_port": free_port(),
        "tls_cert_file": str(certificate.file),
        "tls_key_file": str(certificate.key),
        "tls_ca_cert_file": str(authority.own.file),
        **more,
    }


@pytest.fixture(scope="module", params=[1, 2], ids=["alone", "workers"])
def secure(
    request: pytest.FixtureRequest, servers: Servers, authority: Authority, certificate: Certificate
) -> Iterator[tuple[int, ServerProcess]]:
    """A server with both ports; clients need no certificate. Gives the TLS port and the server."""
    given = flags(authority, certificate, tls_auth_clients="no", workers=request.param, pool_size="128mb")
    with servers.kvcd(**given) as server:
        yield int(given["tls_port"]), server


def client_of(port: int, authority: Authority, **more: object) -> redis.Redis:
    """Return a client that checks the server's certificate."""
    return redis.Redis(
        port=port, ssl=True, ssl_ca_certs=str(authority.own.file), ssl_check_hostname=True, retry=Retry(NoBackoff(), 0), **more
    )  # type: ignore[arg-type]


def shown_name(port: int, authority: Authority) -> str:
    """Return the name in the certificate that the server shows."""
    context = ssl.create_default_context(cafile=str(authority.own.file))
    with (
        socket.create_connection(("127.0.0.1", port), DEADLINE_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        found = wrapped.getpeercert()
        assert found
        return str(dict(pair[0] for pair in found["subject"])["commonName"])  # type: ignore[index,misc]


@pytest.mark.parametrize("size", [0, 1, 5000, 65_536, 70_001, LARGE])
def test_values_of_any_size_pass(secure: tuple[int, ServerProcess], authority: Authority, size: int) -> None:
    """Small ones through the buffer, large ones straight into the pool and out of it; plain connections see the same."""
    port, server = secure
    value = os.urandom(size)
    with client_of(port, authority) as client:
        assert client.set("k", value)
        assert client.get("k") == value
        assert server.call("GET", "k") == value
        assert client.mget("k", "absent", "k") == [value, None, value]


def test_pipelines_pass_in_order(secure: tuple[int, ServerProcess], authority: Authority) -> None:
    port, _ = secure
    with client_of(port, authority, protocol=3) as client:
        pipeline = client.pipeline(transaction=False)
        for number in range(1500):
            pipeline.set(f"k{number}", b"%d" % number * 700)
        for number in range(1500):
            pipeline.get(f"k{number}")
        assert pipeline.execute()[1500:] == [b"%d" % number * 700 for number in range(1500)]


def test_a_slow_reader_gets_all_and_costs_only_itself(secure: tuple[int, ServerProcess], authority: Authority) -> None:
    """Who does not read is waited for, not buffered for; others are served meanwhile."""
    port, server = secure
    value = os.urandom(LARGE)
    reply = b"$%d\r\n%b\r\n" % (len(value), value)
    context = ssl.create_default_context(cafile=str(authority.own.file))
    with (
        client_of(port, authority) as other,
        socket.create_connection(("127.0.0.1", port), DEADLINE_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as slow,
    ):
        other.set("large", value)
        slow.sendall(b"*2\r\n$3\r\nGET\r\n$5\r\nlarge\r\n" * 20)
        assert slow.recv(4) == reply[:4]
        assert other.get("large") == value
        with server.connect() as wire:
            lines = wire.call("CLIENT", "LIST")
            assert isinstance(lines, bytes)
        received = bytearray(reply[:4])
        while len(received) < 20 * len(reply):
            piece = slow.recv(1 << 20)
            assert piece, "closed"
            received += piece
        assert received == reply * 20


def test_a_reader_that_leaves_gives_its_pages_back(secure: tuple[int, ServerProcess], authority: Authority) -> None:
    port, server = secure
    context = ssl.create_default_context(cafile=str(authority.own.file))
    server.call("FLUSHALL")
    with client_of(port, authority) as client:
        client.set("large", os.urandom(LARGE))
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as plain:
                wrapped = context.wrap_socket(plain, server_hostname="localhost")
                wrapped.sendall(b"*2\r\n$3\r\nGET\r\n$5\r\nlarge\r\n" * 5)
                wrapped.recv(1000)
                wrapped.close()
        client.delete("large")
        for _ in range(60):  # more than the pool holds: pages that were never given back would be missed
            assert client.set("large", b"x" * LARGE)


def test_plain_bytes_on_the_tls_port_end_that_connection_alone(secure: tuple[int, ServerProcess], authority: Authority) -> None:
    port, _ = secure
    with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as plain:
        plain.sendall(b"PING\r\n" * 10)
        try:
            while plain.recv(1000):
                pass
        except ConnectionError:
            pass
    with client_of(port, authority) as client:
        assert client.ping()


def test_redis_cli_speaks_tls(secure: tuple[int, ServerProcess], authority: Authority) -> None:
    require_program("redis-cli")
    port, _ = secure
    command = ["redis-cli", "--tls", "--cacert", str(authority.own.file), "-p", str(port)]
    done = subprocess.run([*command, "PING"], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert done.stdout == "PONG\n"


def test_a_health_check_asks_over_tls(secure: tuple[int, ServerProcess]) -> None:
    port, _ = secure
    assert ping(f"rediss://127.0.0.1:{port}", timeout_s=DEADLINE_S) == b"+PONG"


def test_every_worker_speaks_tls(secure: tuple[int, ServerProcess], authority: Authority) -> None:
    port, server = secure
    with server.connect() as wire:
        workers = int(fields_of(wire, "server").get("workers", "1"))
    found = set()
    for _ in range(200):
        with client_of(port, authority) as client:
            found.add(client.info("server").get("worker", 0))
        if len(found) == workers:
            return
    raise AssertionError(f"only {found} of {workers} workers answered")


def test_new_certificates_are_taken_while_clients_stay(secure: tuple[int, ServerProcess], authority: Authority) -> None:
    """All workers take them, at once for new connections; wrong ones change nothing."""
    port, server = secure
    before = shown_name(port, authority)
    second = authority.sign("renewed")
    first = Certificate(Path(str(authority.folder / "server.crt")), Path(str(authority.folder / "server.key")))
    with client_of(port, authority) as client, server.connect() as admin:
        assert client.ping()
        refused = admin.call("CONFIG", "SET", "tls-cert-file", "/nowhere")
        assert "tls-cert-file') - Unable to update TLS configuration. Check server logs." in str(refused)
        assert "Unable to update" in str(admin.call("CONFIG", "SET", "tls-cert-file", str(second.file)))  # of another key
        assert shown_name(port, authority) == before
        assert admin.call("CONFIG", "SET", "tls-cert-file", str(second.file), "tls-key-file", str(second.key)) == b"OK"
        assert {shown_name(port, authority) for _ in range(12)} == {"renewed"}
        assert client.ping()
        assert admin.call("CONFIG", "SET", "tls-cert-file", str(first.file), "tls-key-file", str(first.key)) == b"OK"
        assert {shown_name(port, authority) for _ in range(12)} == {before}


def test_clients_must_show_certificates_where_that_is_asked(
    servers: Servers, authority: Authority, certificate: Certificate, tmp_path: Path
) -> None:
    """yes: nobody without a good one; optional: none, or a good one. TLS alone, without a plain port."""
    mine = authority.sign("client")
    other = Authority.make(tmp_path, "other").sign("stranger")
    own = {"ssl_certfile": str(mine.file), "ssl_keyfile": str(mine.key)}
    strange = {"ssl_certfile": str(other.file), "ssl_keyfile": str(other.key)}
    given = flags(authority, certificate, port=0, unixsocket=str(tmp_path / "socket"))
    with servers.kvcd(**given):
        port = int(given["tls_port"])
        assert ping(f"rediss://127.0.0.1:{port}", timeout_s=DEADLINE_S).startswith(b"-NOAUTH")
        with client_of(port, authority, **own) as client:
            assert client.ping()
        for wrong in ({}, strange):
            with client_of(port, authority, **wrong) as client, pytest.raises(redis.ConnectionError):
                client.ping()
        with redis.Redis(unix_socket_path=str(tmp_path / "socket")) as admin:
            admin.config_set("tls-auth-clients", "optional")
        for right in ({}, own):
            with client_of(port, authority, **right) as client:
                assert client.ping()
        with client_of(port, authority, **strange) as client, pytest.raises(redis.ConnectionError):
            client.ping()


def test_versions_and_ciphers_are_those_asked_for(servers: Servers, authority: Authority, certificate: Certificate) -> None:
    given = flags(
        authority, certificate, tls_auth_clients="no", tls_protocols="TLSv1.2", tls_ciphers="ECDHE-ECDSA-AES256-GCM-SHA384",
        tls_prefer_server_ciphers="yes", tls_session_caching="no",
    )  # fmt: skip
    with servers.kvcd(**given) as server:
        context = ssl.create_default_context(cafile=str(authority.own.file))
        with socket.create_connection(("127.0.0.1", int(given["tls_port"])), DEADLINE_S) as plain:
            wrapped = context.wrap_socket(plain, server_hostname="localhost")
            assert wrapped.version() == "TLSv1.2"
            assert wrapped.cipher()[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"  # type: ignore[index]
            assert wrapped.session.has_ticket is False  # type: ignore[union-attr]
            wrapped.close()
        assert server.call("CONFIG", "SET", "tls-protocols", "TLSv1.3") == b"OK"
        with socket.create_connection(("127.0.0.1", int(given["tls_port"])), DEADLINE_S) as plain:
            wrapped = context.wrap_socket(plain, server_hostname="localhost")
            assert wrapped.version() == "TLSv1.3"
            wrapped.close()


def test_an_encrypted_key_needs_its_password(authority: Authority) -> None:
    encrypted = authority.sign("encrypted", secret="open sesame")
    right = flags(authority, encrypted, tls_key_file_pass="open sesame")
    server_context(Config.load(words_of(right), environment={}))
    with pytest.raises(ConfigError, match="tls-key-file") as refused:
        server_context(Config.load(words_of(right | {"tls_key_file_pass": "wrong word"}), environment={}))
    assert "wrong word" not in str(refused.value)


def words_of(given: dict[str, str | int]) -> list[str]:
    """Return flags as words of a command line."""
    return ["--port", str(free_port()), "--pool-size", "64mb"] + [
        word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tls_cert_file": ""}, "tls-port needs a certificate"),
        ({"tls_cert_file": "/nowhere.crt"}, "tls-cert-file /nowhere.crt: No such file or directory"),
        ({"tls_key_file": "/nowhere.key"}, "tls-key-file /nowhere.key: No such file or directory"),
        ({"tls_key_file": "{other}"}, "key values mismatch"),
        ({"tls_ca_cert_file": ""}, "tls-auth-clients asks clients for certificates"),
        ({"tls_ca_cert_file": "/nowhere.crt"}, "tls-ca-cert-file /nowhere.crt: No such file"),
        ({"tls_ca_cert_dir": "/nowhere"}, "tls-ca-cert-dir /nowhere: no such folder"),
        ({"tls_protocols": "SSLv3"}, "tls-protocols SSLv3: the versions are"),
        ({"tls_protocols": "TLSv1.1 TLSv1.3"}, "one between these is missing"),
        ({"tls_ciphers": "nonsense"}, "tls-ciphers nonsense: OpenSSL knows none of them"),
        ({"tls_ciphersuites": "TLS_AES_128_GCM_SHA256"}, "tls-ciphersuites"),
    ],
)
def test_wrong_settings_are_clear_errors(authority: Authority, certificate: Certificate, change: dict[str, str], said: str) -> None:
    change = {name: str(authority.own.key) if value == "{other}" else value for name, value in change.items()}
    with pytest.raises(ConfigError, match=re.escape(said)):
        server_context(Config.load(words_of(flags(authority, certificate) | change), environment={}))


@pytest.mark.parametrize("workers", [1, 2])
def test_wrong_settings_end_the_start(servers: Servers, authority: Authority, certificate: Certificate, workers: int) -> None:
    server = servers.launch_kvcd(*words_of(flags(authority, certificate, workers=workers) | {"tls_cert_file": "/nowhere.crt"}))
    assert server.wait(DEADLINE_S) == 2
    assert "tls-cert-file /nowhere.crt: No such file or directory" in server.log


def test_a_folder_of_authorities_is_taken(servers: Servers, authority: Authority, certificate: Certificate, tmp_path: Path) -> None:
    """`tls-ca-cert-dir` holds certificates under the names that OpenSSL looks for."""
    digest = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", str(authority.own.file)], capture_output=True, text=True, check=True
    ).stdout.strip()
    shutil.copy(authority.own.file, tmp_path / f"{digest}.0")
    mine = authority.sign("client")
    given = flags(authority, certificate, tls_ca_cert_file="", tls_ca_cert_dir=str(tmp_path))
    with (
        servers.kvcd(**given),
        client_of(int(given["tls_port"]), authority, ssl_certfile=str(mine.file), ssl_keyfile=str(mine.key)) as client,
    ):
        assert client.ping()


def test_the_plain_port_is_not_what_tls_asks_for(secure: tuple[int, ServerProcess]) -> None:
    _, server = secure
    with Wire(server.address) as wire:
        assert wire.call("PING") == b"PONG"
