"""Handlers about connections and the server: what clients parse of INFO and CLIENT LIST, login, counting, scanning."""

from __future__ import annotations

import pytest

from kvcd.commands.information import human_size
from protocol.encoder import encode
from protocol.replies import NO_REPLY, OK, Error, Simple, Verbatim
from tests.kvcd.service import Service


def info(service: Service, *sections: str) -> dict[str, str]:
    """Return INFO's fields."""
    reply = service.do("INFO", *sections)
    assert isinstance(reply, Verbatim)
    lines = reply.text.decode().split("\r\n")
    assert lines[-1] == ""
    return dict(line.split(":", 1) for line in lines if line and not line.startswith("#"))


def closes(service: Service) -> bool:
    """Whether the asking connection closes after its reply."""
    return service.client.close_after_reply


def fields(line: bytes) -> dict[str, str]:
    """Return the fields of a line of CLIENT LIST."""
    return dict(word.split("=", 1) for word in line.decode().strip().split(" "))


def test_info_has_what_clients_parse() -> None:
    """Names and values that redis-py, exporters and LMCache look for."""
    service = Service()
    service.do("MSET", "a", "1", "b", "2")
    service.do("EXPIRE", "a", 100)
    service.do("MGET", "a", "x")
    service.do("SELECT", 3)
    service.do("SET", "c", "1")
    found = info(service)
    assert found["redis_version"] == "7.2.4"
    assert found["redis_mode"] == "standalone"
    assert found["role"] == "master"
    assert found["loading"] == found["cluster_enabled"] == found["connected_slaves"] == "0"
    assert found["db0"] == "keys=2,expires=1,avg_ttl=0"
    assert found["db3"] == "keys=1,expires=0,avg_ttl=0"
    assert found["used_memory"] == "6"
    assert found["used_memory_human"] == "6B"
    assert found["connected_clients"] == "1"
    assert (found["keyspace_hits"], found["keyspace_misses"]) == ("2", "1")
    assert found["uptime_in_seconds"] == str(service.server.now_ms() // 1000)
    assert found["pool_used_bytes"] == "6"
    assert float(found["used_cpu_user"]) > 0
    assert int(found["used_memory_rss"]) > 1_000_000


def test_info_shows_the_pool() -> None:
    """Classes of cells as fields of their own, ratios short."""
    service = Service()
    facts = {"used_bytes": 5, "pool_bytes": 9, "index_load": 1 / 3, "cells": [(64, 1, 2, 1023), (128, 1, 0, 511)]}
    service.server.store.memory = lambda: facts  # type: ignore[method-assign, assignment, return-value]
    assert info(service, "pool") == {
        "pool_used_bytes": "5",
        "pool_bytes": "9",
        "pool_index_load": "0.333333",
        "pool_cells_64": "pages=1,used=2,total=1023",
        "pool_cells_128": "pages=1,used=0,total=511",
    }


def test_info_sections() -> None:
    """One section, several, all of them, and none for an unknown word."""
    service = Service()
    assert set(info(service, "cluster")) == {"cluster_enabled"}
    assert set(info(service, "CLUSTER", "replication", "cluster")) >= {"cluster_enabled", "role"}
    assert info(service, "nonsense") == {}
    assert not any(name.startswith("cmdstat_") for name in info(service))
    assert any(name.startswith("cmdstat_") for name in info(service, "all"))
    assert service.do("INFO", "keyspace") == Verbatim(b"# Keyspace\r\n")


def test_calls_of_both_lanes_are_counted_and_reset() -> None:
    """The fast lane's counts come from the sessions; CONFIG RESETSTAT takes both back to nothing."""
    service = Service()
    service.server.counts = {"calls:get": 5, "connections_received": 2}
    service.do("GET", "a")
    service.do("GET")
    service.do("INCRBY", "a", "x")
    service.do("NONSENSE")
    found = info(service, "stats", "commandstats", "errorstats")
    assert found["total_commands_processed"] == "7"
    assert found["total_connections_received"] == "2"
    assert found["cmdstat_get"].startswith("calls=6,")
    assert found["cmdstat_get"].endswith("rejected_calls=1,failed_calls=0")
    assert found["cmdstat_incrby"].endswith("rejected_calls=0,failed_calls=1")
    assert found["errorstat_ERR"] == "count=3"
    assert service.do("CONFIG", "RESETSTAT") == OK
    service.server.counts["calls:get"] += 1
    found = info(service, "stats", "commandstats", "errorstats")
    assert found["total_connections_received"] == "0"
    assert found["cmdstat_get"].startswith("calls=1,")
    assert "errorstat_ERR" not in found


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0B"), (1023, "1023B"), (1024, "1.00K"), (1536, "1.50K"), (1024**2, "1.00M"), (5 * 1024**3, "5.00G"), (3 * 1024**5, "3.00P")],
)
def test_sizes_for_people(size_bytes: int, text: str) -> None:
    """As Redis writes them."""
    assert human_size(size_bytes) == text


def test_client_list_shows_every_connection() -> None:
    """One line each, with the fields that redis-py and redis-cli read."""
    service = Service()
    other = service.connect(address="/run/kvcd.sock:0", name=b"other", db=3, created_at_ms=990_000, last_interaction_ms=999_000)
    reply = service.do("CLIENT", "LIST")
    assert isinstance(reply, Verbatim)
    mine, theirs = map(fields, reply.text.splitlines())
    assert mine["cmd"] == "client|list"
    assert mine["qbuf"] == "26"  # the command itself
    assert int(mine["tot-mem"]) > 0
    assert mine["flags"] == "N"
    assert theirs | {"flags": "U", "name": "other", "db": "3", "age": "10", "idle": "1", "id": str(other.id)} == theirs
    only = service.do("CLIENT", "LIST", "ID", str(other.id), "999")
    assert isinstance(only, Verbatim)
    assert [fields(line)["id"] for line in only.text.splitlines()] == [str(other.id)]


def test_client_info_and_setinfo() -> None:
    """Names of client libraries, which redis-py sends when it connects."""
    service = Service()
    assert service.do("CLIENT", "SETINFO", "LIB-NAME", "redis-py") == OK
    assert service.do("client", "setinfo", "lib-ver", "5.0") == OK
    assert service.do("CLIENT", "SETINFO", "LIB-VER", "a b") == Error("ERR lib-ver cannot contain spaces, newlines or special characters.")
    assert service.do("CLIENT", "SETINFO", "LIB", "x") == Error("ERR Unrecognized option 'LIB'")
    reply = service.do("CLIENT", "INFO")
    assert isinstance(reply, Verbatim)
    found = fields(reply.text)
    assert (found["lib-name"], found["lib-ver"], found["resp"], found["user"]) == ("redis-py", "5.0", "2", "default")


def test_client_kill_closes_what_its_filters_name() -> None:
    """Others at once; the asking connection only with SKIPME no, and after its reply."""
    service = Service()
    first = service.connect(address="10.0.0.1:1")
    second = service.connect(address="10.0.0.2:2", local_address="10.0.0.9:6379")
    assert service.do("CLIENT", "KILL", "10.0.0.1:1") == OK
    assert (first.killed, second.killed) == (True, False)
    assert service.do("CLIENT", "KILL", "LADDR", "10.0.0.9:6379", "ID", str(first.id)) == 0
    assert service.do("CLIENT", "KILL", "LADDR", "10.0.0.9:6379", "USER", "default") == 1
    assert second.killed
    assert service.do("CLIENT", "KILL", "ID", str(service.client.id)) == 0
    assert not closes(service)
    assert service.do("CLIENT", "KILL", "ID", str(service.client.id), "SKIPME", "no") == 1
    assert closes(service)
    assert not service.client.killed


@pytest.mark.parametrize(("trouble", "words"), [(ConnectionError, "does not answer"), (BlockingIOError, "try again")])
def test_a_store_that_cannot_read_is_an_error_reply(trouble: type[OSError], words: str) -> None:
    """The connection lives on, and the failure is counted."""
    service = Service()

    async def read(*args: object, **options: object) -> None:
        raise trouble

    service.server.store.read = read  # type: ignore[method-assign]
    reply = service.do("GET", "k")
    assert isinstance(reply, Error)
    assert words in reply.text
    assert service.server.statistics.of("get").failed == 1
    assert service.do("PING") == Simple("PONG")


def test_quit_closes_after_its_reply() -> None:
    """The session sends OK first."""
    service = Service()
    assert service.do("QUIT") == OK
    assert closes(service)


def test_reset_forgets_the_login_and_the_connections_state() -> None:
    """Everything that HELLO, SELECT and SETNAME changed."""
    service = Service()
    service.server.config.set_many({"requirepass": "pw"})
    service.client.authenticated = False
    assert service.do("SELECT", 1) == Error("NOAUTH Authentication required.")
    service.do("HELLO", 3, "AUTH", "default", "pw", "SETNAME", "me")
    service.do("SELECT", 1)
    assert (service.client.resp, service.client.db, service.client.name, service.client.authenticated) == (3, 1, b"me", True)
    assert service.do("RESET") == Simple("RESET")
    assert (service.client.resp, service.client.db, service.client.name, service.client.authenticated) == (2, 0, b"", False)


def test_config_get_and_set() -> None:
    """Over the real configuration; a plain name comes back as it was asked."""
    service = Service()
    assert service.do("CONFIG", "SET", "maxmemory", "192mb") == OK
    assert service.do("CONFIG", "GET", "MaxMemory") == {b"MaxMemory": b"201326592"}
    found = service.do("CONFIG", "GET", "maxm*y", "maxmemory")
    assert isinstance(found, dict)
    assert found[b"maxmemory"] == b"201326592"
    refused = service.do("CONFIG", "SET", "maxmemory", "1mb", "nonsense", "1")
    assert isinstance(refused, Error)
    assert service.do("CONFIG", "GET", "maxmemory") == {b"maxmemory": b"201326592"}


@pytest.mark.parametrize("name", ["CLIENT", "COMMAND", "CONFIG"])
def test_help_names_every_subcommand(name: str) -> None:
    """From the table."""
    reply = Service().do(name, "HELP")
    assert isinstance(reply, list)
    text = "\n".join(line.text for line in reply if isinstance(line, Simple))
    assert "HELP" in text
    assert len(reply) >= 5


def test_command_tells_the_table() -> None:
    """Counts agree, docs have summaries, keys of a line are found, filters filter."""
    service = Service()
    every = service.do("COMMAND")
    listed = service.do("COMMAND", "LIST")
    docs = service.do("COMMAND", "DOCS")
    assert isinstance(every, list)
    assert isinstance(listed, list)
    assert isinstance(docs, dict)
    assert len(every) == len(listed) == len(docs) == service.do("COMMAND", "COUNT")
    assert all(entry[b"summary"] for entry in docs.values())  # type: ignore[index]
    assert service.do("COMMAND", "GETKEYS", "PREFIX.MATCH", "a", "b") == [b"a", b"b"]
    assert service.do("COMMAND", "LIST", "FILTERBY", "PATTERN", "CONFIG|G*") == [b"config|get"]
    assert b"client|kill" in service.do("COMMAND", "LIST", "FILTERBY", "ACLCAT", "ADMIN")  # type: ignore[operator]
    assert service.do("COMMAND", "INFO", "nonsense") == [None]
    for resp in (2, 3):
        assert encode(every, resp)
        assert encode(docs, resp)


def test_scan_finds_every_key_that_stays() -> None:
    """While others come and go between its calls."""
    service = Service()
    stay = {b"stay:%d" % number for number in range(100)}
    for key in stay:
        service.do("SET", key, "v")
    found: set[bytes] = set()
    cursor = b"0"
    for step in range(1000):
        service.do("SET", f"come:{step}", "v")
        service.do("DEL", f"come:{step - 3}")
        reply = service.do("SCAN", cursor, "COUNT", 7)
        assert isinstance(reply, list)
        cursor = reply[0]  # type: ignore[assignment]
        found.update(reply[1])  # type: ignore[arg-type]
        if cursor == b"0":
            break
    assert cursor == b"0"
    assert stay <= found


def test_scan_filters() -> None:
    """By pattern and by type."""
    service = Service()
    service.do("MSET", "a1", "v", "a2", "v", "b1", "v")
    assert service.do("SCAN", 0, "MATCH", "a*", "TYPE", "STRING") == [b"0", [b"a1", b"a2"]]
    assert service.do("SCAN", 0, "TYPE", "list") == [b"0", []]


def test_an_unknown_command_is_counted_and_named() -> None:
    """Bytes of the arguments survive to the wire."""
    reply = Service().do(b"FO\xff", b"\x00x", b"a\r\nb")
    assert encode(reply, 2) == b"-ERR unknown command 'FO\xff', with args beginning with: '' 'a  b' \r\n"


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], (None, False, False)),
        (["NOSAVE"], (False, False, False)),
        (["save", "now", "force"], (True, True, True)),
        (["NOW", "NOW", "NOSAVE"], (False, True, False)),
    ],
)
def test_shutdown_asks_for_the_end(words: list[str], asked: tuple[bool | None, bool, bool]) -> None:
    """There is no reply: the connection closes; a service that cannot stop says so."""
    service = Service()
    assert service.do("SHUTDOWN", *words) is NO_REPLY
    assert service.server.stops == [asked]
    assert closes(service)
    service = Service()
    service.server.may_stop = False
    assert service.do("SHUTDOWN", *words) == Error("ERR Errors trying to SHUTDOWN. Check logs.")
    assert not closes(service)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["ABORT"], "ERR No shutdown in progress."),
        (["abort", "ABORT"], "ERR No shutdown in progress."),
        (["ABORT", "NOW"], "ERR syntax error"),
        (["SAVE", "NOSAVE"], "ERR syntax error"),
        (["LATER"], "ERR syntax error"),
    ],
)
def test_shutdown_refuses_what_redis_refuses(words: list[str], text: str) -> None:
    """In Redis's words, and nothing stops."""
    service = Service()
    assert service.do("SHUTDOWN", *words) == Error(text)
    assert service.server.stops == []
