"""Nursery: a process that has imported kvcd and forks it on request. Importing it anew takes ten seconds in an emulated machine.

Run with a descriptor's number, an end of a socket pair. A request is one piece of JSON: ``start`` (words; with it comes the
descriptor for the child's output), or ``reap`` (a process number, whose exit status is the answer once it has ended). It ends with the
socket, and its children with it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import socket
import sys
import traceback

REQUEST_BYTES = 65536
PRELOADED = ("kvcd.cli", "kvcd.config", "kvcd.memory_node", "kvcd.memory_secret", "kvcd.remote_nodes", "kvcd.server")
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


def main() -> None:
    """Import what servers need, say so, and serve until the other end is closed."""
    for name in PRELOADED:
        __import__(name)
    gc.freeze()
    control = socket.socket(fileno=int(sys.argv[1]))
    prctl = ctypes.CDLL(None).prctl
    control.sendall(b"{}\n")
    while True:
        data, descriptors, _flags, _address = socket.recv_fds(control, REQUEST_BYTES, 1)
        if not data:
            return
        request = json.loads(data)
        if "start" in request:
            [output] = descriptors
            child = os.fork()
            if child == 0:
                prctl(_DIE_WITH_PARENT, signal.SIGKILL)
                control.close()
                _become(request["start"], output, request["folder"])
            os.close(output)
            answer = child
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["reap"], 0)[1])
        control.sendall(b"%d\n" % answer)


def _become(words: list[str], output: int, folder: str) -> None:
    """Run a front end or a memory node in this child; never returns."""
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.closerange(3, 256)
        os.chdir(folder)
        if words[0] == "serve":
            from kvcd.cli import serve

            status = serve(words[1:])
        else:
            status = lend(*words[1:])
    except BaseException:  # noqa: BLE001  whatever it is, the child must not go on as the nursery
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def lend(listen: str, size: str, secret_file: str, file: str) -> int:
    """Be a memory node as `kvcd memory` is one, without the seconds that its command line library takes; the exit status."""
    from kvcd import logs
    from kvcd.config import Config
    from kvcd.memory_node import NodeError, read_options, run
    from kvcd.memory_secret import read_secret
    from storage.pool import PoolError

    config = Config.load()
    logs.configure(config)
    log = logs.get_logger("memory")
    try:
        options = read_options(listen, size, None, None, False, file or None)
        return run(config, options, read_secret(secret_file, warn=log.warning), log)
    except (NodeError, PoolError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    main()
