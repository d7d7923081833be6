"""What CLIENT switches on and off for one connection, or holds back for all; and the commands that wait."""

from __future__ import annotations

import asyncio

from kvcd.client_modes import modes_of, set_reason
from kvcd.commands.arguments import LARGEST_INTEGER, SYNTAX_ERROR, CommandError, parse_integer, wrong_subcommand
from kvcd.commands.registry import answers, handles
from kvcd.context import ClientState, ServerState, SlowReason
from kvcd.gate import Pause
from protocol.replies import NO_REPLY, OK, Error, Reply

_UNBLOCK = "unblock client"
_UNBLOCKED = Error("UNBLOCKED client unblocked via CLIENT UNBLOCK")
_LONGEST_DELAY_S = 86400  # of one timer; a longer wait sets another


def parse_timeout_ms(argument: bytes) -> int:
    """Return a time span in milliseconds; raises CommandError."""
    amount = parse_integer(argument, "ERR timeout is not an integer or out of range")
    if amount < 0:
        raise CommandError("ERR timeout is negative")
    return amount


def _parse_switch(argument: bytes) -> bool:
    word = argument.lower()
    if word not in (b"on", b"off"):
        raise CommandError(SYNTAX_ERROR)
    return word == b"on"


@handles("client|reply")
async def handle_reply(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CLIENT REPLY ON|OFF|SKIP: only ON is answered."""
    word = args[2].lower()
    if word == b"on":
        client.replies_off = client.skips_next = client.skipping = False  # heard, also where a SKIP came before
        return OK
    if word == b"off":
        client.replies_off = True
    elif word == b"skip":
        client.skips_next = not client.replies_off
    else:
        raise CommandError(SYNTAX_ERROR)
    set_reason(client, SlowReason.REPLIES_OFF, True)
    return NO_REPLY


@handles("client|no-evict")
async def handle_no_evict(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CLIENT NO-EVICT ON|OFF."""
    modes_of(client).never_evicted = _parse_switch(args[2])
    return OK


@handles("client|no-touch")
async def handle_no_touch(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CLIENT NO-TOUCH ON|OFF."""
    modes_of(client).touches_nothing = _parse_switch(args[2])
    set_reason(client, SlowReason.NO_TOUCH, modes_of(client).touches_nothing)
    return OK


@handles("client|pause")
async def handle_pause(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CLIENT PAUSE timeout [WRITE | ALL]."""
    if len(args) > 4:
        raise CommandError(wrong_subcommand(args))
    pause = Pause.ALL
    if len(args) == 4:
        if args[3].lower() not in (b"write", b"all"):
            raise CommandError("ERR CLIENT PAUSE mode must be WRITE or ALL")
        pause = Pause.WRITE if args[3].lower() == b"write" else Pause.ALL
    until_ms = parse_timeout_ms(args[2]) + server.now_ms()
    if until_ms > LARGEST_INTEGER:
        return OK  # redis-server counts on past the end of 64 bits, and that end has passed
    await server.modes.pause(pause, until_ms)
    return OK


@handles("client|unpause")
async def handle_unpause(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CLIENT UNPAUSE."""
    await server.modes.pause(Pause.NONE, 0)
    return OK


@handles("client|unblock")
async def handle_unblock(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CLIENT UNBLOCK client-id [TIMEOUT | ERROR]: whether it was blocked."""
    reason = "timeout"
    if len(args) > 3:
        if len(args) > 4:
            raise CommandError(wrong_subcommand(args))
        if args[3].lower() not in (b"timeout", b"error"):
            raise CommandError("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
        reason = args[3].lower().decode()
    number = parse_integer(args[2])
    if unblock(server, [number, reason]):
        return 1
    if number in server.clients:
        return 0
    return int(any(answer.payload for answer in await server.service.channel.ask_all(_UNBLOCK, [number, reason])))


@answers(_UNBLOCK)
def unblock(server: ServerState, question: list[object]) -> bool:
    """End the wait of a client of this worker; whether it did wait."""
    number, reason = question
    client = server.clients.get(number) if isinstance(number, int) else None
    wait = client.modes.wait if client is not None and client.modes is not None else None
    if wait is None or wait.done():
        return False
    wait.set_result(str(reason))
    return True


async def _wait_in_vain(client: ClientState, timeout_ms: int) -> str:
    """Wait until the time has passed (0: for ever) or somebody ends it; returns which."""
    loop = asyncio.get_running_loop()
    modes = modes_of(client)
    wait = modes.wait = loop.create_future()
    ends_at_s = loop.time() + timeout_ms / 1000

    def look() -> None:
        if not wait.done():
            left_s = ends_at_s - loop.time()
            if left_s <= 0:
                wait.set_result("timeout")
            else:
                timers.append(loop.call_later(min(left_s, _LONGEST_DELAY_S), look))
                del timers[:-1]

    timers: list[asyncio.TimerHandle] = []
    if timeout_ms:
        look()
    client.is_blocked = True
    try:
        return str(await wait)
    finally:
        client.is_blocked = False
        modes.wait = None
        for timer in timers:
            timer.cancel()


async def _wait_for_nobody(client: ClientState, *, is_enough: bool, timeout_ms: int, reply: Reply) -> Reply:
    if is_enough or (client.modes is not None and client.modes.transaction is not None):
        return reply
    return _UNBLOCKED if await _wait_in_vain(client, timeout_ms) == "error" else reply


@handles("wait")
async def handle_wait(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """WAIT numreplicas timeout: there are no replicas, so it waits for its time."""
    replicas = parse_integer(args[1])
    return await _wait_for_nobody(client, is_enough=replicas <= 0, timeout_ms=parse_timeout_ms(args[2]), reply=0)


@handles("waitaof")
async def handle_waitaof(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """WAITAOF numlocal numreplicas timeout: there is no append-only file."""
    for argument, largest in ((args[1], 1), (args[2], LARGEST_INTEGER)):
        if not 0 <= parse_integer(argument) <= largest:
            raise CommandError(
                f"ERR value is out of range, must be {'positive' if largest > 1 else f'between 0 and {largest}'}"
            )
    timeout_ms = parse_timeout_ms(args[3])
    if int(args[1]):
        raise CommandError("ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.")
    return await _wait_for_nobody(client, is_enough=int(args[2]) == 0, timeout_ms=timeout_ms, reply=[0, 0])


@handles("monitor")
async def handle_monitor(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """MONITOR."""
    modes = modes_of(client)
    if modes.transaction is not None:
        raise CommandError("ERR MONITOR isn't allowed for DENY BLOCKING client")
    if modes.is_monitor:
        return NO_REPLY  # as redis-server has it
    modes.is_monitor = True
    server.modes.monitors.clients[client] = None
    await server.modes.tell_wishes()
    return OK
