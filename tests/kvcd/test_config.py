"""Configuration: sources and their order, texts and units, CONFIG SET's words beside a real redis-server."""

from __future__ import annotations

import io
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from kvcd.config import Config, ConfigError, Origin, available_memory_bytes
from kvcd.configuration_text import split_arguments
from kvcd.directive import Kind, OutputLimit, Percent
from kvcd.directives import BY_NAME, DIRECTIVES, HONOURED, OWN, nearest_name
from kvcd.directives_ignored import IGNORED


def load(*arguments: str, **environment: str) -> Config:
    return Config.load(arguments, environment=environment)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    """A redis-server of our own; its CONFIG is the reference for words, defaults and limits."""
    folder = tmp_path_factory.mktemp("redis")
    command = ["redis-server", "--port", "0", "--unixsocket", str(folder / "s"), "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "ready to accept connections" in line:
                break
        with redis.Redis(unix_socket_path=str(folder / "s"), decode_responses=True) as client:
            yield client
        process.terminate()
        process.stdout.read()


ENDINGS = ("nosave force", "default save", "FORCE nosave", "", "save nosave", "bad", "NOW", "default", "now now save", "default nosave x")


@pytest.mark.parametrize("text", ENDINGS)
def test_how_a_signal_ends_is_said_as_in_redis(real: redis.Redis, text: str) -> None:
    """Several words, shown in one order, and not two that contradict each other."""
    config, refused, said = load(), "", ""
    try:
        config.set_many({"shutdown-on-sigterm": text})
    except ConfigError as error:
        refused = str(error)
    try:
        real.execute_command("CONFIG", "SET", "shutdown-on-sigterm", "default")
        real.execute_command("CONFIG", "SET", "shutdown-on-sigterm", text)
    except redis.ResponseError as error:
        said = str(error)
    assert refused == said.replace("ERR ", "")
    assert config.text("shutdown-on-sigterm") == real.config_get("shutdown-on-sigterm")["shutdown-on-sigterm"]


# Sources and their order


def test_defaults_are_the_documented_ones() -> None:
    config = load()
    assert config["port"] == 6379
    assert config["bind"] == ("127.0.0.1", "-::1")
    assert config["protected-mode"] is True
    assert config["maxmemory"] == 0
    assert config["maxmemory-policy"] == "allkeys-prefix"
    assert config["pool"] == "shm:"
    assert config["pool-size"] == Percent(80)
    assert config["proto-max-bulk-len"] == 512 * 1024**2
    assert config.output_limit() == OutputLimit(0, 0, 0)
    assert not any(config.is_explicit(directive.name) for directive in DIRECTIVES if directive.shown)


def test_flag_beats_environment_beats_file(tmp_path: Path) -> None:
    file = tmp_path / "redis.conf"
    file.write_text("port 7001\nmaxmemory 1mb\ntimeout 1\n")
    config = load(str(file), "--port", "7003", KVCD_CONF_PORT="7002", KVCD_CONF_MAXMEMORY="2mb")
    assert (config["port"], config.origin("port")) == (7003, Origin.FLAG)
    assert (config["maxmemory"], config.origin("maxmemory")) == (2 * 1024**2, Origin.ENVIRONMENT)
    assert (config["timeout"], config.origin("timeout")) == (1, Origin.FILE)
    assert config.file == str(file)


def test_an_images_defaults_are_beaten_by_all_and_chosen_by_nobody(tmp_path: Path) -> None:
    file = tmp_path / "redis.conf"
    file.write_text("protected-mode yes\n")
    config = load(str(file), KVCD_DEFAULT_BIND="0.0.0.0 -::", KVCD_DEFAULT_PROTECTED_MODE="no")
    assert config["bind"] == ("0.0.0.0", "-::")
    assert config["protected-mode"] is True
    assert not config.is_explicit("bind")


def test_a_policy_that_is_the_default_is_still_explicit() -> None:
    assert load("--maxmemory-policy", "allkeys-lru").is_explicit("maxmemory-policy")


def test_standard_input_is_a_file() -> None:
    for arguments in (["-"], ["--timeout", "3", "-"]):
        config = Config.load(arguments, environment={}, stdin=io.StringIO("port 7005\n"))
        assert (config["port"], config.origin("port")) == (7005, Origin.FILE)


def test_file_syntax(tmp_path: Path) -> None:
    file = tmp_path / "a.conf"
    (tmp_path / "b1.conf").write_text("timeout 7\n")
    (tmp_path / "b2.conf").write_text("hz 20\n")
    file.write_text(
        f"# comment\n\n   PORT   7000\r\ninclude {tmp_path}/b*.conf\ninclude {tmp_path}/nothing*.conf\n"
        "requirepass \"a \\x41\\n\\\"b\"\nunixsocket '/tmp/it\\'s'\nsave 900 1\nsave 300 10\nunixsocketperm 700\n"
        "client-output-buffer-limit normal 1mb 512kb 10\nclient-output-buffer-limit replica 0 0 0\n"
    )
    config = load(str(file))
    assert (config["port"], config["timeout"], config["hz"]) == (7000, 7, 20)
    assert config["requirepass"] == 'a A\n"b'
    assert config["unixsocket"] == "/tmp/it's"
    assert config["save"] == ((900, 1), (300, 10))
    assert (config["unixsocketperm"], config.text("unixsocketperm")) == (0o700, "700")
    assert config.text("client-output-buffer-limit") == "normal 1048576 524288 10 slave 0 0 0 pubsub 33554432 8388608 60"


def test_flags_as_redis_server_takes_them() -> None:
    config = load("--save", "", "--port=7000", "--bind", "127.0.0.1", "-::1", "--maxmemory 192mb", "--save", "--LOGLEVEL", "verbose")
    assert (config["port"], config["bind"], config["maxmemory"]) == (7000, ("127.0.0.1", "-::1"), 192 * 1024**2)
    assert (config["save"], config["loglevel"]) == ((), "verbose")
    assert load("--save", "900", "1", "300", "10").text("save") == "900 1 300 10"
    assert load("--save", "900 1 300 10", "--save", "60 1").text("save") == "900 1 300 10 60 1"
    assert load("--bind", "127.0.0.1 ::1")["bind"] == ("127.0.0.1", "::1")
    assert load("--client-output-buffer-limit", "normal 8mb 0 0").output_limit().hard_bytes == 8 * 2**20
    assert load("--requirepass", "--secret")["requirepass"] == "--secret"


# What goes wrong is said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prt", "1"], "--prt: there is no directive 'prt'; did you mean 'port'?"),
        (["--max_memory", "1"], "--max_memory: there is no directive 'max_memory'; did you mean 'maxmemory'?"),
        (["--xyzzy", "1"], "--xyzzy: there is no directive 'xyzzy'"),
        (["--port"], "--port needs a value"),
        (["--port", "--bind", "::1"], "--port needs a value, but --bind follows"),
        (["--port", "1", "2"], "--port 1 2: wrong number of arguments"),
        (["--port", "70000"], "--port 70000: argument must be between 0 and 65535 inclusive"),
        (["--port", "+1"], "--port +1: argument couldn't be parsed into an integer"),
        (["--maxmemory", "1xb"], "--maxmemory 1xb: argument must be a memory value"),
        (["--pool-size", "101%"], "--pool-size 101%: percentage argument must be less or equal to 100"),
        (["--daemonize", "maybe"], "--daemonize maybe: argument must be 'yes' or 'no'"),
        (["--unixsocketperm", "999"], "--unixsocketperm 999: argument couldn't be parsed as an octal number"),
        (["-port", "1"], "what is '-port'? A file comes first, then --directive value ...; did you mean --port?"),
        (["--requirepass", "one", "two"], "--requirepass ...: wrong number of arguments"),
        (["nowhere.conf"], "can't open config file 'nowhere.conf': No such file or directory"),
    ],
)
def test_a_wrong_command_line_says_what_would_be_right(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(*arguments)
    assert str(raised.value) == message


def test_a_wrong_variable_says_what_would_be_right() -> None:
    with pytest.raises(ConfigError, match=r"KVCD_CONF_MAXMEMRY: .* did you mean KVCD_CONF_MAXMEMORY\?"):
        load(KVCD_CONF_MAXMEMRY="1gb")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bogus 1", "there is no directive 'bogus'"),
        ('maxmemory "1mb', "Unbalanced quotes in configuration line"),
        ('maxmemory "1"mb', "Unbalanced quotes in configuration line"),
        ("maxmemory 1 2", "maxmemory 1 2: wrong number of arguments"),
        ("include nowhere.conf", "include: can't open config file 'nowhere.conf': No such file or directory"),
    ],
)
def test_a_wrong_line_is_named_by_file_and_number(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "redis.conf"
    file.write_text(f"port 7000\n# comment\n{line}\n")
    with pytest.raises(ConfigError) as raised:
        load(str(file))
    assert str(raised.value) == f"{file}:3: {message}"


def test_a_file_that_includes_itself_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.conf"
    file.write_text(f"include {file}\n")
    with pytest.raises(ConfigError, match="nested more than"):
        load(str(file))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--min-replicas-to-write", "1"], "replicate"),
        (["--cluster-enabled", "yes"], "Cluster"),
        (["--replicaof", "127.0.0.1", "6379"], "replicate"),
        (["--slaveof", "127.0.0.1", "6379"], "replicate"),
        (["--tls-ciphersuites", "TLS_AES_128_GCM_SHA256"], "TLS 1.3"),
        (["--loadmodule", "x.so"], "modules"),
    ],
)
def test_what_a_stacks_safety_or_topology_rests_on_is_refused(arguments: list[str], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        load(*arguments)


def test_refusing_to_be_asked_is_not_refused() -> None:
    load("--cluster-enabled", "no", "--tls-port", "0", "--replicaof", "no", "one")


def test_what_only_asks_for_durability_or_events_is_taken_and_told(tmp_path: Path) -> None:
    file = tmp_path / "redis.conf"
    file.write_text("save 900 1\nappendonly yes\nappendfsync always\nauto-aof-rewrite-percentage 50\nlocale-collate C\n")
    config = load(str(file))
    told = {name: reason for reason, names in config.ignored().items() for name in names}
    assert set(told) == {"appendonly", "appendfsync", "auto-aof-rewrite-percentage", "locale-collate"}
    assert "no append-only file" in told["appendonly"]
    assert "file:PATH" in told["appendonly"]
    assert "no such feature" in told["locale-collate"]
    assert (config["appendonly"], config["locale-collate"]) == (True, "C")


def test_asking_for_nothing_is_not_told() -> None:
    assert load("--save", "", "--appendonly", "no").ignored() == {}


def test_what_means_nothing_is_told_at_run_time_too() -> None:
    config = load()
    told: list[str] = []
    config.on_ignored_change(lambda name, reason: told.append(name))
    config.set_many({"appendonly": "yes", "timeout": "5"})
    config.set_many({"appendonly": "no"})
    config.set_many({"notify-keyspace-events": "KEA", "locale-collate": "C"})
    assert told == ["appendonly", "locale-collate"]


def test_what_means_nothing_here_is_taken_and_told() -> None:
    config = load("--activedefrag", "no", "--save", "900", "1", "--lua-time-limit", "100", "--list-max-ziplist-entries", "9")
    told = [name for names in config.ignored().values() for name in names]
    assert sorted(told) == ["activedefrag", "busy-reply-threshold"]


# Texts and units


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0", 0), ("100", 100), ("100B", 100), ("1k", 1000), ("1kb", 1024), ("1M", 10**6), ("192mb", 192 * 2**20), ("2g", 2 * 10**9)],
)
def test_memory_units(text: str, size_bytes: int) -> None:
    assert load("--maxmemory", text)["maxmemory"] == size_bytes


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=5))
def test_quoted_arguments_come_back(words: list[str]) -> None:
    escaped = [word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for word in words]
    assert split_arguments(" ".join(f'"{word}"' for word in escaped)) == words


@given(st.text(max_size=30))
def test_any_line_is_split_or_refused(line: str) -> None:
    try:
        words = split_arguments(line)
    except ConfigError:
        return
    if not set(line) & set("\"'"):
        assert words == [word for word in re.split("[ \t\n\v\f\r]", line) if word]


def test_every_default_reads_back_to_itself() -> None:
    config = load()
    for directive in DIRECTIVES:
        if directive.shown and directive.name != "dir":
            text = config.text(directive.name)
            assert directive.show(directive.read(split_arguments(text) if directive.takes_many else [text])) == text


def test_every_directive_is_explained_once() -> None:
    names = [name for directive in DIRECTIVES for name in (directive.name, *directive.aliases)]
    assert len(names) == len(set(names)) == len(BY_NAME)
    assert all(directive.help and directive.group for directive in DIRECTIVES)
    assert all(directive.choices for directive in DIRECTIVES if directive.kind is Kind.CHOICE)


def test_nearest_names() -> None:
    assert nearest_name("maxmemmory-policy") == "maxmemory-policy"
    assert nearest_name("UNIX_SOCKET") == "unixsocket"
    assert nearest_name("zzzzzz") is None


# Run time


def test_set_many_makes_all_changes_or_none() -> None:
    config = load()
    with pytest.raises(ConfigError):
        config.set_many({"timeout": "5", "maxmemory": "no number"})
    assert config["timeout"] == 0
    config.set_many({"timeout": "5", "MAXMEMORY": "1mb"})
    assert (config["timeout"], config["maxmemory"], config.origin("maxmemory")) == (5, 2**20, Origin.RUN_TIME)


def test_a_change_is_told_and_may_be_refused_by_who_must_make_it() -> None:
    config = load()
    told: list[tuple[str, object]] = []
    config.on_change("timeout", lambda value: told.append(("timeout", value)))

    def refuse(value: object) -> None:
        if value == 2**20:
            raise ConfigError("too small")

    config.on_change("maxmemory", refuse)
    with pytest.raises(ConfigError, match=r"^CONFIG SET failed \(possibly related to argument 'maxmemory'\) - too small$"):
        config.set_many({"timeout": "5", "maxmemory": "1mb"})
    assert told == [("timeout", 5), ("timeout", 0)]
    assert (config["timeout"], config["maxmemory"], config.is_explicit("timeout")) == (0, 0, False)
    config.set_many({"timeout": "6", "maxmemory": "2mb"})
    assert told[-1] == ("timeout", 6)


def test_matching_takes_globs_in_any_case_and_names_a_directive_once() -> None:
    config = load("--maxmemory", "1gb")
    assert config.matching([b"MAXMEM*", "maxmemory"])[0] == ("maxmemory", str(2**30))
    assert len(config.matching(["maxmemory", "max*emory"])) == 1
    assert config.matching(["list-max-ziplist-size"]) == [("list-max-ziplist-size", "-2")]
    assert config.matching(["loadmodule", "nothing"]) == []


def answer_of(config: Config, changes: list[tuple[str, str]]) -> str:
    try:
        config.set_many(changes)
    except ConfigError as error:
        return str(error).replace("allkeys-prefix, ", "")  # the one choice that redis-server does not have
    return "OK"


@pytest.mark.parametrize(
    "changes",
    [
        [("nosuch", "1")],
        [("maxmemory", "1mb"), ("nosuch", "2")],
        [("nosuch", "1"), ("maxmemory", "x")],
        [("maxmemory", "1mb"), ("maxmemory", "2mb")],
        [("list-max-ziplist-size", "1"), ("hz", "x")],
        [("maxmemory", "xx")],
        [("maxmemory", "-1")],
        [("maxmemory", "")],
        [("maxmemory", "5x")],
        [("maxmemory", "1.5gb")],
        [("maxmemory", "99999999999999999999999")],
        [("timeout", "")],
        [("timeout", "01")],
        [("timeout", " 1")],
        [("timeout", "-1")],
        [("timeout", "99999999999999999999999")],
        [("tcp-keepalive", "2147483648")],
        [("daemonize", "yes")],
        [("databases", "4")],
        [("unixsocket", "/x")],
        [("logfile", "x")],
        [("dir", "/nowhere")],
        [("dbfilename", "x")],
        [("loglevel", "foo")],
        [("maxmemory-policy", "foo")],
        [("maxmemory-policy", "ALLKEYS-LFU")],
        [("save", "10")],
        [("save", "a b")],
        [("save", "900 1 300 10")],
        [("save", "")],
        [("client-query-buffer-limit", "10")],
        [("client-output-buffer-limit", "normal 1")],
        [("client-output-buffer-limit", "foo 1mb 1 1")],
        [("client-output-buffer-limit", "normal 1mb x 1")],
        [("client-output-buffer-limit", "normal 1mb 1mb 60 replica 0 0 0")],
        [("hz", "9999")],
        [("protected-mode", "maybe")],
        [("activedefrag", "maybe")],
        [("appendfsync", "never")],
        [("notify-keyspace-events", "gxE")],
        [("notify-keyspace-events", "EAK")],
        [("notify-keyspace-events", "g$lshzxetdn")],
        [("notify-keyspace-events", "Kmn$")],
        [("notify-keyspace-events", "xyz!")],
        [("notify-keyspace-events", "ex")],
        [("maxmemory-clients", "x")],
        [("maxmemory-clients", "101%")],
        [("maxmemory-clients", "99999999999999999999%")],
        [("latency-tracking-info-percentiles", "99 99.9 0.05 100.0 1e2 50.123456789")],
        [("latency-tracking-info-percentiles", "10.0 a 20")],
        [("latency-tracking-info-percentiles", "101")],
        [("latency-tracking-info-percentiles", "-1")],
        [("latency-tracking-info-percentiles", "nan")],
        [("latency-tracking-info-percentiles", "")],
        [("repl-backlog-size", "0")],
        [("oom-score-adj-values", "1 2")],
        [("oom-score-adj-values", "1 2 3 4")],
        [("oom-score-adj-values", "-2001 0 0")],
        [("oom-score-adj-values", "0 0 2001")],
        [("oom-score-adj-values", "a 0 0")],
        [("oom-score-adj-values", "-2000 +0 2000")],
        [("port", "65536")],
        [("port", "-1")],
        [("port", "x")],
    ],
)
def test_config_set_answers_and_acts_as_redis_does(real: redis.Redis, changes: list[tuple[str, str]]) -> None:
    names = {name for name, _ in changes} - {"nosuch", "dir"}
    before = {name: real.config_get(name)[name] for name in names}
    config = load()
    try:
        answer = str(real.execute_command("CONFIG", "SET", *(word for pair in changes for word in pair)))
    except redis.ResponseError as error:
        answer = str(error)
    after = {name: real.config_get(name)[name] for name in names}
    try:
        assert answer_of(config, changes) == answer
        if answer == "OK":
            assert {name: config.text(name) for name in names} == after
    finally:
        for name, text in before.items():
            if text != after[name]:
                real.config_set(name, text)


# Where kvcd's default is meant to differ from redis-server's.
OWN_DEFAULTS = {"maxmemory-policy", "bind", "port", "unixsocket", "dir"}


def test_names_defaults_and_mutability_are_redis_servers(real: redis.Redis) -> None:
    theirs = real.config_get("*")
    ours = dict(load().matching(["*"]))
    assert sorted(set(theirs) - set(ours)) == []
    own = {directive.name for directive in OWN}
    newer = {"cluster-announce-human-nodename", "locale-collate", "set-max-listpack-entries", "set-max-listpack-value"}
    assert set(ours) - set(theirs) == own | newer
    assert {name: ours[name] for name in theirs if name not in OWN_DEFAULTS} == {
        name: text for name, text in theirs.items() if name not in OWN_DEFAULTS
    }
    for name, text in theirs.items():
        try:
            real.config_set(name, text)
            kind = ""
        except redis.ResponseError as error:
            kind = str(error).rpartition(" - ")[2]
        directive = BY_NAME[name]
        assert directive.mutable == (kind != "can't set immutable config"), name
        assert directive.protected == (kind == "can't set protected config"), name


def test_limits_are_redis_servers(real: redis.Redis) -> None:
    config = load()
    known = set(real.config_get("*"))
    limited = (Kind.INTEGER, Kind.MEMORY, Kind.YES_NO, Kind.CHOICE)
    checked = [
        directive
        for directive in HONOURED + IGNORED
        if directive.name in known and directive.mutable and not directive.protected and directive.kind in limited
    ]
    assert len(checked) > 80
    for directive in checked:
        # One below the least, one above the most, and what is no value at all.
        for text in (str(directive.minimum - 1), str(directive.maximum + 1), "no value"):
            try:
                answer = str(real.execute_command("CONFIG", "SET", directive.name, text))
                real.config_set(directive.name, directive.default)
            except redis.ResponseError as error:
                answer = str(error)
            assert answer_of(config, [(directive.name, text)]) == answer, (directive.name, text)


# The machine


@pytest.mark.parametrize(
    ("membership", "files", "expected_bytes"),
    [
        ("0::/\n", {}, 8 * 2**30),
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/memory.max": "max", "sys/fs/cgroup/a/memory.max": "1073741824"}, 2**30),
        ("0::/a/b\n", {"sys/fs/cgroup/memory.max": "536870912"}, 2**29),  # a container that sees its own group as the root
        ("4:memory:/docker/x\n0::/x\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912"}, 2**29),
        ("4:cpu,memory:/x\n", {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "268435456"}, 2**28),
        ("4:memory:/x\n", {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712"}, 8 * 2**30),
    ],
)
def test_a_containers_limit_is_the_memory_there_is(tmp_path: Path, membership: str, files: dict[str, str], expected_bytes: int) -> None:
    for name, text in {"proc/meminfo": "MemTotal:        8388608 kB\n", "proc/self/cgroup": membership, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory_bytes(tmp_path) == expected_bytes


def test_the_pool_is_a_share_of_the_memory_or_as_given() -> None:
    assert load().pool_size_bytes == available_memory_bytes() * 80 // 100
    assert load("--pool-size", "64mb").pool_size_bytes == 64 * 2**20
