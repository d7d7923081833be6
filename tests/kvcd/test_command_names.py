"""Command names: what a renamed command does is what it did under its own name."""

from __future__ import annotations

from kvcd.command_names import CommandNames
from protocol.replies import Encoded, Error
from tests.kvcd.service import PlainServer, Service


def renamed(*lines: tuple[str, str]) -> Service:
    """Return a service with these lines of rename-command."""
    return Service(server=PlainServer(names=CommandNames(lines)))


def test_what_a_command_does_by_its_name_it_does_under_another() -> None:
    """Channels know their kinds of subscription by the name, and SORT whether it may store."""
    service = renamed(("psubscribe", "listen"), ("publish", "say"), ("spublish", "publish"), ("sort", "order"))
    subscribed = service.do("LISTEN", "n*")
    assert isinstance(subscribed, Encoded)
    assert subscribed.data == b"*3\r\n$10\r\npsubscribe\r\n$2\r\nn*\r\n:1\r\n"
    other = service.connect()
    service.client, listener = other, service.client
    assert service.do("PUBLISH", "news", "x") == 0
    assert service.do("SAY", "news", "x") == 1
    assert listener.pushed == [b"*4\r\n$8\r\npmessage\r\n$2\r\nn*\r\n$4\r\nnews\r\n$1\r\nx\r\n"]
    assert service.do("ORDER", "none", "STORE", "x") == 0
    assert service.do("COMMAND", "GETKEYS", "ORDER", "a", "STORE", "b") == [b"a", b"b"]
    assert service.do("COMMAND", "GETKEYS", "SORT", "a", "STORE", "b") == Error("ERR Invalid command specified")


def test_commands_without_a_name_are_not_told_of() -> None:
    """COMMAND and its subcommands: what is renamed stays in them as what it was, what is removed does not."""
    plain, service = Service(), renamed(("flushall", ""), ("get", "fetch"), ("set", "x"), ("strlen", "set"), ("x", ""))
    everything = plain.do("COMMAND", "LIST")
    assert isinstance(everything, list)
    left = [name for name in everything if name not in (b"flushall", b"set")]
    assert service.do("COMMAND", "LIST") == left
    assert service.do("COMMAND", "COUNT") == len(left) == len(everything) - 2
    for words in (("COMMAND",), ("COMMAND", "INFO")):
        entries = service.do(*words)
        assert isinstance(entries, list)
        assert [entry[0] for entry in entries] == left
    docs = service.do("COMMAND", "DOCS")
    assert isinstance(docs, dict)
    assert list(docs) == left
    assert service.do("COMMAND", "LIST", "FILTERBY", "PATTERN", "flush*") == [b"flushdb"]
    assert service.do("COMMAND", "DOCS", "get", "flushall", "nonsense") == {}


def test_keys_of_a_chain_are_told() -> None:
    """PREFIX.SET's, behind its options."""
    assert Service().do("COMMAND", "GETKEYS", "PREFIX.SET", "NX", "PARENT", "p", "a", "1", "b", "2") == [b"p", b"a", b"b"]
