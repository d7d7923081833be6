"""Command line: `kvcd` and its commands, and the same program called redis-server."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import kvcd

EXIT_USAGE = 2


def main() -> int:
    """Run the program as it was called; return its exit status.

    `serve` and `ping` start without the command line library: a health check runs every few seconds, and a server should
    not carry a terminal library's memory. `memory` starts without the other commands.
    """
    try:
        return _run(sys.argv[1:])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("kvcd", "protocol", "storage"):
            raise
        # There is no slower stand-in for the compiled modules.
        sys.stderr.write(f"kvcd: the module {error.name} is missing: is kvcd built? `make build` compiles what must be compiled.\n")
        return 1


def _run(arguments: list[str]) -> int:
    if Path(sys.argv[0]).name == "redis-server" or _is_redis_servers(arguments[:1]):
        return redis_server(arguments)
    if arguments[:1] == ["serve"]:
        return serve(arguments[1:])
    if arguments[:1] == ["ping"]:
        from kvcd.ping import main as ping

        return ping(arguments[1:])
    if arguments[:1] == ["memory"]:
        from kvcd.memory import main as lend

        return lend(arguments[1:])
    from kvcd.cli_app import app

    app(prog_name="kvcd")
    return 0


def _is_redis_servers(first: list[str]) -> bool:
    """Whether a command line is one of redis-server's: a configuration file, standard input or a directive where a command would be."""
    if not first or first[0] == "--help":
        return False
    word = first[0]
    return word.startswith("--") or word in ("-", "-v") or os.sep in word or word.endswith(".conf")


def serve(arguments: list[str], program: str = "kvcd serve", *, log_format: str = "") -> int:
    """Serve until a signal says stop; ``arguments`` are redis-server's. Return the exit status.

    ``log_format`` is that of the log unless somebody chooses one.
    """
    if any(argument in ("--help", "-h") for argument in arguments[:1]):
        from kvcd.cli_help import print_serve_help

        print_serve_help()
        return 0
    from kvcd.config import Config, ConfigError

    try:
        chosen = {"KVCD_DEFAULT_LOG_FORMAT": log_format} if log_format else {}
        config = Config.load(arguments, environment=chosen | os.environ)
    except ConfigError as error:
        sys.stderr.write(f"{program}: {error}\n{program} --help lists what there is.\n")
        return EXIT_USAGE
    if config.flag("daemonize"):
        from kvcd.daemon import go_to_background

        go_to_background()

    from kvcd import logs
    from kvcd.daemon import announced

    try:
        logs.configure(config)
        log = logs.get_logger("serve")
        log.notice("kvcd is starting", version=kvcd.__version__, pid=os.getpid(), file=config.file or None)
        if config.string("log-format") == "plain":
            # What harnesses wait for: redis-server says it beside its picture.
            log.notice(f"Running in standalone mode, Port: {config.number('port')}, PID: {os.getpid()}")
        for reason, names in config.ignored().items():
            log.warning("directives taken, but without effect", directives=names, reason=reason)
        config.on_ignored_change(lambda name, reason: log.warning("directives taken, but without effect", directives=[name], reason=reason))
        if not config.is_explicit("maxmemory-policy"):
            policy = config["maxmemory-policy"]
            log.notice("a full pool evicts; redis-server would refuse writes (maxmemory-policy noeviction)", policy=policy)
        with announced(config):
            if config.workers > 1:
                from kvcd.supervisor import run
            else:
                from kvcd.alone import run

            return run(config)
    except ConfigError as error:
        if config.string("log-format") == "plain":
            logs.get_logger("serve").warning(f"{error}, aborting")  # harnesses read standard output alone
        sys.stderr.write(f"{program}: {error}\n")
        return EXIT_USAGE


def redis_server(arguments: list[str]) -> int:
    """Take a redis-server command line, as stacks have them. Return the exit status."""
    first = arguments[0] if arguments else ""
    if first in ("-v", "--version"):
        from kvcd import REDIS_VERSION

        print(f"Redis server v={REDIS_VERSION} sha=00000000:0 malloc=kvcd-{kvcd.__version__} bits=64 build=kvcd-{kvcd.__version__}")
        return 0
    if first in ("--test-memory", "--check-system") or "--sentinel" in arguments:
        wrong = "--sentinel" if "--sentinel" in arguments else first
        sys.stderr.write(f"redis-server: {wrong}: this is kvcd {kvcd.__version__}, which has no such mode\n")
        return EXIT_USAGE
    return serve(arguments, program="redis-server", log_format="plain")
