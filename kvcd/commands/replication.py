"""Commands about replication: this server is always a master without replicas."""

from __future__ import annotations

from kvcd.commands.arguments import SYNTAX_ERROR, CommandError, parse_integer
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState
from protocol.replies import OK, Reply

NO_REPLICATION = "ERR kvcd does not replicate: what one pool holds can be served by several processes, and saved as a snapshot"
_LARGEST_PORT = 65535


@handles("role")
async def handle_role(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """ROLE."""
    return [b"master", 0, []]


@handles("replicaof", "slaveof")
async def handle_replicaof(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """REPLICAOF NO ONE, which is so already; REPLICAOF host port is refused."""
    if args[1].lower() == b"no" and args[2].lower() == b"one":
        return OK
    if not 0 <= parse_integer(args[2], "ERR Invalid master port") <= _LARGEST_PORT:
        raise CommandError("ERR Invalid master port")
    raise CommandError(NO_REPLICATION)


@handles("failover")
async def handle_failover(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """FAILOVER [TO host port [FORCE]] [ABORT] [TIMEOUT milliseconds]: there is nobody to take over."""
    if len(args) == 2 and args[1].lower() == b"abort":
        raise CommandError("ERR No failover in progress.")
    seen: set[bytes] = set()
    position = 1
    while position < len(args):
        word, left = args[position].lower(), len(args) - position - 1
        if word == b"timeout" and left >= 1 and word not in seen:
            if parse_integer(args[position + 1]) <= 0:
                raise CommandError("ERR FAILOVER timeout must be greater than 0")
            position += 1
        elif word == b"to" and left >= 2 and word not in seen:
            parse_integer(args[position + 2])
            position += 2
        elif word != b"force" or word in seen:
            raise CommandError(SYNTAX_ERROR)
        seen.add(word)
        position += 1
    raise CommandError("ERR FAILOVER requires connected replicas.")


@handles("sync", "psync")
async def handle_sync(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """SYNC, PSYNC replicationid offset: refused."""
    raise CommandError(NO_REPLICATION)


@handles("replconf")
async def handle_replconf(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """REPLCONF [option value ...]: taken, as Redis takes it, from whoever might become a replica."""
    if len(args) % 2 == 0:
        raise CommandError(SYNTAX_ERROR)
    for word, value in zip(args[1::2], args[2::2], strict=True):
        option = word.lower()
        if option in (b"listening-port", b"rdb-only"):
            parse_integer(value)
        elif option not in (b"ip-address", b"capa", b"ack", b"fack", b"getack", b"rdb-filter-only"):
            raise CommandError(f"ERR Unrecognized REPLCONF option: {word.decode('utf-8', 'surrogateescape')}")
    return OK


@handles("migrate")
async def handle_migrate(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """MIGRATE host port key | "" destination-db timeout ...: refused."""
    raise CommandError("ERR kvcd does not connect to other servers: use DUMP here and RESTORE there")


@handles("bgrewriteaof")
async def handle_bgrewriteaof(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """BGREWRITEAOF: refused, there is no append-only file."""
    raise CommandError("ERR kvcd writes no append-only file: use BGSAVE")
