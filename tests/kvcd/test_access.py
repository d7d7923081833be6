"""ACL on the real server against redis-server 7.0: rules, refusals, logins and the access log, in both protocols."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from protocol.access_table import BITS, CATEGORIES, REDIS_COMMANDS
from tests.differential import Command, RawConnection
from tests.kvcd.worker_servers import WorkerServer
from tests.servers import ServerProcess, Servers
from tests.wire import Wire

SEEDS = 120
LONG_SEEDS = 3000

_COMMANDS = (
    "get", "set", "mget", "del", "copy", "getex", "config", "config|get", "client", "client|id", "client|list", "acl|whoami", "select",
    "ping", "zadd", "hset", "sort", "xgroup|create", "eval", "publish", "debug", "append",
)  # fmt: skip
_RULES = (
    "on", "off", "nopass", "resetpass", ">one", ">two", "<one", "<none", "#" + "a" * 64, "!" + "a" * 64, "#short", "!short", "reset",
    "sanitize-payload", "skip-sanitize-payload", "clearselectors", "", "ON", "nonsense", "+", "-", "+@", "+@nonsense", "+nonsense",
    "allkeys", "resetkeys", "~*", "~a*", "~b", "%R~r*", "%W~w*", "%RW~rw*", "%wr~x", "%R", "%~x", "%RR~x", "%Q~x", "~a b", "~",
    "allchannels", "resetchannels", "&*", "&news.*", "&x y", "&",
    "allcommands", "nocommands", "+@all", "-@all", "+select|0", "+select|1", "-select|0", "+config|get|x", "+config|", "+get|", "+x|y",
    "(+get ~s*)", "(%R~s* +@read &c)", "( +set  ~q )", "()", "(", "(+get", ")", "(+nonsense)", "((+get))", "(~* ~x)",
)  # fmt: skip
_CALLS = (
    "ping", "get a1", "get b", "get s1", "get r1", "get w1", "set a1 v", "set w1 v", "set r1 v", "set w1 v get", "set rw1 v get",
    "mget a1 a2 b", "mset a1 1 b 2", "copy a1 b", "copy r1 w1", "getex r1 ex 5", "getdel w1", "exists w1", "exists zz", "strlen r1",
    "append w1 v", "incr rw1", "rename r1 w1", "del b", "ttl r1", "expire w1 5", "type q", "config get x", "config set maxmemory 0",
    "client id", "client list", "acl whoami", "acl list", "select 0", "select 1", "flushall", "keys *", "scan 0", "echo x", "info",
    "auth x", "hello", "get", "nonsense",
)  # fmt: skip


class Pair:
    """A connection to each server; what is said to both must be answered alike."""

    def __init__(self, ours: ServerProcess, theirs: ServerProcess) -> None:
        self.connections = [RawConnection(ours.address), RawConnection(theirs.address)]

    def say(self, line: str, *words: str) -> tuple[bytes, bytes]:
        """Send one command to both."""
        command: Command = tuple(word.encode() for word in (*line.split(), *words))
        ours, theirs = (connection.exchange([command])[0] for connection in self.connections)
        return ours, theirs

    def same(self, line: str, *words: str) -> bytes:
        """Send one command to both, which answer the same."""
        ours, theirs = self.say(line, *words)
        assert ours == theirs, (line, words)
        return ours

    def close(self) -> None:
        for connection in self.connections:
            connection.close()


@pytest.fixture
def pair(kvcd_server: ServerProcess, redis_server: ServerProcess) -> Iterator[Pair]:
    """Both servers, with the default user alone."""
    with _only_the_default_user(kvcd_server), _only_the_default_user(redis_server):
        made = Pair(kvcd_server, redis_server)
        yield made
        made.close()


@pytest.fixture
def server(kvcd_server: ServerProcess) -> Iterator[ServerProcess]:
    """The shared kvcd, with the default user alone."""
    with _only_the_default_user(kvcd_server):
        yield kvcd_server


@contextlib.contextmanager
def _only_the_default_user(server: ServerProcess) -> Iterator[None]:
    # One connection from before to after: whatever the test does to the default user, this one is logged in.
    with server.connect() as wire:
        _forget_users(wire)
        try:
            yield
        finally:
            _forget_users(wire)


def _forget_users(wire: Wire) -> None:
    names = wire.call("ACL", "USERS")
    assert isinstance(names, list)
    others = [name for name in names if name != b"default"]
    if others:
        wire.call("ACL", "DELUSER", *others)
    assert wire.call("CONFIG", "SET", "requirepass", "") == b"OK"
    assert wire.call("ACL", "SETUSER", "default", "reset", "+@all", "~*", "&*", "on", "nopass", "clearselectors") == b"OK"
    wire.call("ACL", "LOG", "RESET")
    wire.call("FLUSHALL")


def _in_any_order(reply: bytes) -> list[list[str]]:
    """A reply's words where the order of single commands, which Redis takes from a hash table, does not count; nor do lengths.

    And without the commands that Redis 7.0 lacks, which rules for categories reach here.
    """
    text = re.sub(rb"\$\d+\r\n", b"", reply).decode()
    return [sorted(word for word in part.split() if not _is_own(word)) for part in text.replace("(", ")").split(")")]


def _is_own(word: str) -> bool:
    return word[0] in "+-" and word[1:] in BITS and word[1:] not in REDIS_COMMANDS


def _rule(pick: random.Random) -> list[str]:
    if pick.random() < 0.5:
        return [pick.choice(_RULES)]
    sign = pick.choice("++-")
    return [sign + pick.choice(("@" + pick.choice(CATEGORIES), pick.choice(_COMMANDS)))]


def _compare(pair: Pair, seed: int) -> None:
    pick = random.Random(seed)
    pair.say(f"HELLO {2 + seed % 2}")
    for _ in range(pick.randint(1, 4)):
        rules = [word for _ in range(pick.randint(1, 7)) for word in _rule(pick)]
        pair.same("ACL SETUSER u", *rules)
    for line in ("ACL LIST", "ACL GETUSER u"):
        ours, theirs = pair.say(line)
        assert _in_any_order(ours) == _in_any_order(theirs), (seed, line)
    for call in _CALLS:
        pair.same("ACL DRYRUN u " + call)
    pair.same("ACL DELUSER u nobody")


def test_random_rules_mean_and_show_what_they_do_in_redis(pair: Pair) -> None:
    """Every kind of rule, right and wrong, in any order; then what the user may run."""
    for seed in range(SEEDS):
        _compare(pair, seed)


@pytest.mark.long
def test_random_rules_for_long(pair: Pair) -> None:
    """The same for some minutes."""
    for seed in range(10_000, 10_000 + LONG_SEEDS):
        _compare(pair, seed)


@pytest.mark.parametrize("resp", [2, 3])
def test_the_commands_about_users_answer_as_redis_does(pair: Pair, resp: int) -> None:
    """Forms, errors and edges of every subcommand."""
    pair.say(f"HELLO {resp}")
    for line in (
        "ACL", "ACL nonsense", "ACL HELP", "ACL HELP x", "ACL CAT", "ACL CAT nonsense", "ACL CAT read x", "ACL USERS", "ACL USERS x",
        "ACL WHOAMI", "ACL GETUSER", "ACL GETUSER nobody", "ACL GETUSER default", "ACL LIST", "ACL SETUSER", "ACL SETUSER a",
        "ACL SETUSER b on >pw ~x &c +get", "ACL LIST", "ACL GETUSER a", "ACL GETUSER b", "ACL DELUSER", "ACL DELUSER default",
        "ACL DELUSER a default", "ACL DELUSER a a nobody", "ACL USERS", "ACL GENPASS 0", "ACL GENPASS -1", "ACL GENPASS 4097",
        "ACL GENPASS x", "ACL GENPASS 1 2", "ACL LOG x", "ACL LOG 1 2", "ACL LOG 0", "ACL LOG -1", "ACL LOG RESET", "ACL LOG", "ACL SAVE",
        "ACL LOAD", "ACL SAVE x", "ACL DRYRUN", "ACL DRYRUN nobody ping", "ACL DRYRUN default", "ACL DRYRUN default nonsense",
        "ACL DRYRUN default config", "ACL DRYRUN default config nonsense", "ACL DRYRUN b config get x", "ACL DRYRUN b get y",
        "ACL DRYRUN b get x", "ACL DRYRUN b get x y", "CONFIG GET acllog-max-len", "CONFIG GET acl-pubsub-default",
        "CLIENT KILL USER nobody", "CLIENT KILL USER b",
    ):  # fmt: skip
        pair.same(line)
    pair.same("ACL SETUSER", "with space")
    pair.same("ACL SETUSER", "")
    for bits, digits in ((5, 2), (256, 64), (4096, 1024), (1, 1)):
        ours, theirs = pair.say(f"ACL GENPASS {bits}")
        assert ours.partition(b"\r\n")[0] == theirs.partition(b"\r\n")[0]
        assert len(ours.split(b"\r\n")[1]) == digits
    assert pair.connections[0].exchange([(b"ACL", b"GENPASS")]) != pair.connections[0].exchange([(b"ACL", b"GENPASS")])


@pytest.mark.parametrize("category", CATEGORIES)
def test_categories_hold_what_they_do_in_redis(pair: Pair, category: str) -> None:
    ours, theirs = (set(re.findall(rb"\n([a-z][a-z|_.-]*)\r", reply)) for reply in pair.say("ACL CAT " + category))
    assert theirs - ours == set()
    assert not {name.decode() for name in ours - theirs} & REDIS_COMMANDS


@pytest.mark.parametrize("resp", [2, 3])
def test_what_a_user_may_not_run_is_refused_in_redis_words(pair: Pair, resp: int) -> None:
    """Logged in, with every kind of refusal; and what needs no right."""
    pair.say(f"HELLO {resp}")
    commands = "+spublish +get +set +copy +mset +client|id +ping +strlen +exists +select|1"
    pair.same(f"ACL SETUSER d on nopass ~a* &x -@all {commands} (~q* +getex +del)")
    pair.same("AUTH d anything")
    for line in (
        "SPUBLISH x 1", "SPUBLISH y 1",
        "GET b", "GET a1", "SET a1 1 GET", "SET b 1", "COPY a1 b", "CONFIG GET x", "CONFIG", "CLIENT", "CLIENT LIST", "MSET a1 1 b 2",
        "MSET a1 1 a2 2", "ACL WHOAMI", "ECHO x", "ACL", "nonsense", "GET", "SELECT 0", "SELECT 1", "SELECT 0", "EXISTS a1 b", "EXISTS a1",
        "STRLEN a1", "STRLEN b", "DEL a1 q1", "DEL q1", "DEL a1", "GETEX a1", "GETEX q1", "ACL LOG", "AUTH d x", "RESET", "ACL WHOAMI",
    ):  # fmt: skip
        pair.same(line)


@pytest.mark.parametrize("resp", [2, 3])
def test_sort_reads_other_keys_for_those_alone_who_may_read_all(pair: Pair, resp: int) -> None:
    """BY and GET lead to keys that no argument names."""
    for rules in ("~a*", "%R~*", "%W~*", "~a* %R~*", "~*", "%R~a* (+sort %RW~*)", "%R~a* (+get ~*)", "~a* (~* +@all)"):
        pair.same(f"acl setuser u reset on nopass +@all {rules}")
        pair.say(f"hello {resp} auth u x")
        for line in (
            "sort a", "sort a by w_*", "sort a by nosort", "sort a get #", "sort a get o_*", "sort a by w_* get #", "sort_ro a by w_*",
            "sort_ro a get x", "sort a by nosort store a1", "sort a by", "sort a limit x 1 by w_*", "sort b by w_*", "sort a bogus by w_*",
        ):  # fmt: skip
            pair.same(line)
        pair.same("reset")


@pytest.mark.parametrize(
    "rules",
    [
        ("%RW~*", "~a"), ("~a", "%W~b", "%RW~*"), ("(%RW~* ~b +@all)",), ("(~a) +get)",), ('("~a\\x22b" +get)',), ("(~'a' +get)",),
        ("+get|a b",), ("+get|a\nb",), ('("+get|a b" ~x)',), ('("~(a" +get)',), ("~(a", "~a)"), ("&a)", "(&b))"), ("+get|)",),
    ],
    ids="|".join,
)  # fmt: skip
def test_rules_that_no_line_could_hold_are_taken(pair: Pair, rules: tuple[str, ...]) -> None:
    """Spaces, quotes and parentheses within patterns, and a `*` among others: workers tell each other the rules, not a line of them."""
    pair.same("ACL SETUSER u", *rules)
    pair.same("ACL GETUSER u")
    pair.same("ACL SETUSER u", "+@all")
    for call in ("get a1", "get b", "set a) v", "mget a b x", "publish a v"):
        pair.same("ACL DRYRUN u " + call)
    pair.same("ACL DELUSER u")


def test_a_reset_user_hears_what_the_setting_of_now_allows(pair: Pair) -> None:
    """Not what was set when the user was made; a new selector of it neither."""
    for word in ("allchannels", "resetchannels", "allchannels"):
        pair.same(f"CONFIG SET acl-pubsub-default {word}")
        pair.same("ACL SETUSER d reset on nopass ~* +@all (~x)")
        pair.same("ACL GETUSER d")
        pair.same("ACL SETUSER d (~y)")
        pair.same("ACL GETUSER d")
    pair.same("CONFIG SET acl-pubsub-default resetchannels")


@pytest.mark.parametrize("resp", [2, 3])
def test_logins_succeed_and_fail_as_in_redis(pair: Pair, resp: int) -> None:
    """AUTH and HELLO with every option, a password, a disabled default user, users without a password."""
    for line in (
        "AUTH x", "AUTH default x", "AUTH nobody x", "AUTH a b c", "AUTH", "CONFIG SET requirepass foo", "PING", "RESET", "PING",
        "nonsense", "GET", "HELLO", f"HELLO {resp}", f"HELLO {resp} SETNAME n", "CLIENT GETNAME", "AUTH bar", "AUTH default bar",
        f"HELLO {resp} AUTH default bar SETNAME n", f"HELLO {resp} AUTH default foo nonsense", "PING", "CLIENT GETNAME",
        f"HELLO {resp} SETNAME x nonsense", "CLIENT GETNAME", "HELLO 4 AUTH default foo", "HELLO x", f"HELLO {resp} AUTH a",
        f"HELLO {resp} SETNAME", "ACL GETUSER default", "CONFIG GET requirepass", "ACL SETUSER default nopass", "CONFIG GET requirepass",
        "CONFIG SET requirepass foo", "ACL SETUSER w on >one >two +@all ~*", "RESET", "AUTH w three", "AUTH w two", "ACL WHOAMI",
        "AUTH w one", "ACL SETUSER w <one off", "ACL WHOAMI", "PING", "AUTH w two", "ACL SETUSER default off", "RESET", "PING",
        "AUTH foo", "HELLO", "QUIT",
    ):  # fmt: skip
        ours, theirs = pair.say(line)
        if line.startswith("HELLO") and not theirs.startswith(b"-"):
            assert ours[:1] == theirs[:1], line
        else:
            assert ours == theirs, line


def test_the_access_log_has_redis_fields_and_those_of_later_ones(pair: Pair) -> None:
    """One entry for each kind of refusal, counted, the newest first."""
    pair.same("ACL SETUSER d on >pw -@all +get +acl|log ~a")
    pair.same("AUTH d wrong")
    pair.same("AUTH d pw")
    for line in ("GET b", "GET b", "SET a 1", "HELLO 2 AUTH nobody x", "GET c", "GET b"):
        pair.same(line)
    pair.same("ACL SETUSER d +@all")
    logs = []
    for connection in pair.connections:
        client = redis.Redis(port=connection.socket.getpeername()[1], decode_responses=True)
        logs.append(client.acl_log(20))
        client.close()
    for field in ("count", "reason", "context", "object", "username"):
        assert [entry[field] for entry in logs[0]] == [entry[field] for entry in logs[1]], field
    assert [entry["count"] for entry in logs[0]] == [1, 3, 1, 1, 1, 1]
    newest = logs[0][0]
    assert newest["client-info"]["user"] == "d"
    assert newest["timestamp-last-updated"] >= newest["timestamp-created"] > 10**12
    assert len({entry["entry-id"] for entry in logs[0]}) == len(logs[0])


def test_the_log_keeps_no_more_than_it_may(server: ServerProcess) -> None:
    with server.connect() as wire:
        wire.call("ACL", "LOG", "RESET")
        wire.call("CONFIG", "SET", "acllog-max-len", "3")
        try:
            for number in range(7):
                wire.call("AUTH", f"user{number}", "x")
            entries = wire.call("ACL", "LOG", "100")
            assert isinstance(entries, list)
            assert [entry[9] for entry in entries] == [b"user6", b"user5", b"user4"]
        finally:
            wire.call("CONFIG", "SET", "acllog-max-len", "128")
            wire.call("ACL", "LOG", "RESET")


def test_a_users_clients_end_with_it_and_follow_its_rules(server: ServerProcess) -> None:
    """Rules hold for connections that are there already; a removed user's are closed, the remover's own after its reply."""
    server.call("ACL", "SETUSER", "u", "on", "nopass", "~*", "&*", "+@all")
    with server.connect() as admin, server.connect() as wire, server.connect() as bystander:
        assert wire.call("AUTH", "u", "x") == b"OK"
        assert wire.call("SET", "k", "v") == b"OK"
        admin.call("ACL", "SETUSER", "u", "-set")
        assert b"NOPERM" in str(wire.call("SET", "k", "v")).encode()
        assert wire.call("GET", "k") == b"v"
        admin.call("ACL", "SETUSER", "u", "+set")
        assert wire.call("SET", "k", "w") == b"OK"
        assert admin.call("ACL", "DELUSER", "u") == 1
        with pytest.raises((ConnectionError, OSError)):
            wire.call("PING")
        assert bystander.call("PING") == b"PONG"
        admin.call("ACL", "SETUSER", "u", "on", "nopass", "~*", "+@all")
        assert bystander.call("AUTH", "u", "x") == b"OK"
        assert bystander.call("ACL", "DELUSER", "u") == 1
        with pytest.raises((ConnectionError, OSError)):
            bystander.call("PING")


@pytest.mark.parametrize(
    "words", [("NX", "NX", "v"), ("PARENT", "open", "PARENT", "v"), ("EX", "9", "b", "v"), ("b", "v"), ("open", "v", "b", "v")]
)
def test_no_key_of_a_chain_escapes_the_rules(server: ServerProcess, words: tuple[str, ...]) -> None:
    """PREFIX.SET's keys come after options that keys may be spelt like."""
    server.call("ACL", "SETUSER", "u", "on", "nopass", "+@all", "~open*")
    with server.connect() as wire:
        wire.call("AUTH", "u", "x")
        assert "one of the keys" in str(wire.call("PREFIX.SET", *words))
        assert wire.call("PREFIX.SET", "NX", "PARENT", "open1", "EX", "100", "open2", "v" * 70_000) == 1
        assert "one of the keys" in str(wire.call("SET", "b", "v" * 70_000))
        assert wire.call("PREFIX.GET", "open2") == [b"v" * 70_000]
    assert server.call("DBSIZE") == 1


def test_users_of_redis_py(server: ServerProcess) -> None:
    """redis-py's whole range of ACL."""
    client = redis.Redis(port=server.port, decode_responses=True)
    assert client.acl_setuser(
        "u", enabled=True, reset=True, passwords=["+pass1", "+pass2"], categories=["+@set", "+@hash"], commands=["+get", "+mget", "-hset"],
        keys=["cache:*", "objects:*"], channels=["c"], selectors=[("+set", "%W~app*")],
    )  # fmt: skip
    user = client.acl_getuser("u")
    assert set(user["commands"]) == {"+get", "+mget", "-hset"}
    assert set(user["categories"]) == {"-@all", "+@set", "+@hash"}
    assert user["keys"] == ["~cache:*", "~objects:*"]
    assert user["channels"] == ["&c"]
    assert len(user["passwords"]) == 2
    assert user["selectors"] == [["commands", "-@all +set", "keys", "%W~app*", "channels", ""]]
    assert client.acl_whoami() == "default"
    assert "get" in client.acl_cat("read")
    assert sorted(client.acl_users()) == ["default", "u"]
    with redis.Redis(port=server.port, username="u", password="pass2", decode_responses=True) as limited:
        assert limited.get("cache:1") is None
        with pytest.raises(redis.exceptions.NoPermissionError):
            limited.get("secret")
    assert client.acl_log()[0]["object"] == "secret"
    assert client.acl_log_reset()
    assert client.acl_deluser("u") == 1
    client.close()


# ------------------------------------------------------------------- several workers


def test_users_are_the_whole_services(worker_server: WorkerServer) -> None:
    """Rules, passwords, removal and the log: told to one worker, they hold for both, and for one that is started later."""
    with worker_server.connect_to(0) as first, worker_server.connect_to(1) as second:
        assert first.call("ACL", "SETUSER", "u", "on", ">pw", "~a*", "+@all") == b"OK"
        assert second.call("ACL", "LIST") == first.call("ACL", "LIST")
        with worker_server.connect_to(1) as limited, worker_server.connect_to(0) as wrong:
            assert limited.call("AUTH", "u", "pw") == b"OK"
            assert "one of the keys" in str(limited.call("GET", "b"))
            assert "WRONGPASS" in str(wrong.call("AUTH", "u", "x"))
            entries = first.call("ACL", "LOG")
            assert isinstance(entries, list)
            assert {entry[3] for entry in entries} == {b"key", b"auth"}
            assert second.call("ACL", "LOG", "RESET") == b"OK"
            assert first.call("ACL", "LOG") == []
            assert first.call("ACL", "SETUSER", "v", "on") == b"OK"
            assert first.call("ACL", "DELUSER", "v", "u") == 2
            with pytest.raises((ConnectionError, OSError)):
                limited.call("PING")
        assert second.call("ACL", "SETUSER", "w", "on", ">pw") == b"OK"
        users = first.call("ACL", "LIST")
    pid = worker_server.pid_of(1)
    os.kill(pid, signal.SIGKILL)
    worker_server.wait_for_other(1, pid)
    with worker_server.connect_to(1) as again:
        assert again.call("ACL", "LIST") == users
        again.call("ACL", "DELUSER", "w")


# ----------------------------------------------------------------------------- files


def test_a_saved_pattern_for_all_keys_lets_others_follow(servers: Servers) -> None:
    """`%RW~*` is one pattern of several; redis-server saves `~*`, and cannot load what it saved."""
    path = Path(servers.folder) / "patterns.acl"
    path.write_text("user default on nopass ~* &* +@all\n")
    with servers.kvcd(aclfile=str(path)) as server, server.connect() as wire:
        assert wire.call("ACL", "SETUSER", "u", "%RW~*", "~a", "(%RW~* %R~b +get)") == b"OK"
        users = wire.call("ACL", "LIST")
        assert wire.call("ACL", "SAVE") == b"OK"
        assert wire.call("ACL", "LOAD") == b"OK"
        assert wire.call("ACL", "LIST") == users


def test_loading_users_closes_their_clients(servers: Servers, redis_server: ServerProcess) -> None:
    """Those of users that are there again too, but not the default user's; who asked is closed behind the answer."""
    path = Path(servers.folder) / "loaded.acl"
    answers = []
    for start in (servers.kvcd, servers.redis):
        path.write_text("user default on nopass ~* &* +@all\nuser alice on >pw ~* +@all\n")
        with start(aclfile=str(path)) as server, server.connect() as wire, server.connect() as asking, server.connect() as other:
            asking.call("AUTH", "alice", "pw")
            other.call("AUTH", "alice", "pw")
            found = [
                asking.call("ACL", "LOAD"),
                asking.rest(),
                other.rest(),
                *(wire.call(*words) for words in (("ACL", "LOAD"), ("PING",))),
            ]
        answers.append(found)
    assert answers[0] == answers[1]


def test_an_access_file_is_loaded_and_saved(servers: Servers, redis_server: ServerProcess) -> None:
    """Start, SAVE, LOAD, and a file that is wrong, as redis-server has it."""
    path = Path(servers.folder) / "users.acl"
    good = "user default on nopass ~* &* +@all\n\nuser alice on >pw ~a* (+set %W~w* ) +@read\n"
    answers = []
    for start in (servers.kvcd, servers.redis):
        path.write_text(good)
        with start(aclfile=str(path)) as server, server.connect() as wire:
            found = [str(wire.call("ACL", "LIST"))]
            with server.connect() as limited:
                found.append(limited.call("AUTH", "alice", "pw"))
                wire.call("ACL", "SETUSER", "bob", "on", "nopass")
                found.append(wire.call("ACL", "SAVE"))
                found.append(path.read_text())
                for text in ("bad line\nuser x +nonsense (+get)\nuser x\nuser y +nonsense %Q\nuser\n", "user alice on >pw +@all ~x\n"):
                    path.write_text(text)
                    found.append(str(wire.call("ACL", "LOAD")))
                    found.append(str(wire.call("ACL", "LIST")))
            path.unlink()
            found.append(str(wire.call("ACL", "LOAD")))
        answers.append(found)
    assert answers[0] == answers[1]
