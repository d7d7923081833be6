"""CLIENT TRACKING and its kin: what a client that caches keys wants to be told."""

from __future__ import annotations

from kvcd.client_modes import Tracking
from kvcd.commands.arguments import SYNTAX_ERROR, CommandError, parse_integer, shown
from kvcd.commands.registry import handles
from kvcd.context import ClientState, ServerState
from protocol.encoder import encode
from protocol.replies import OK, Encoded, Reply

_OTHER_MODE = "before disabling tracking for this client, and then re-enabling it with a different mode."


def tracking_of(client: ClientState) -> Tracking | None:
    """Return how the client tracks, None when it does not."""
    return client.modes.tracking if client.modes is not None else None


async def _parse_wish(server: ServerState, args: list[bytes]) -> Tracking:
    wish = Tracking()
    position = 3
    while position < len(args):
        word = args[position].lower()
        following = args[position + 1] if position + 1 < len(args) else None
        if word == b"redirect" and following is not None:
            position += 1
            if wish.redirect:
                raise CommandError("ERR A client can only redirect to a single other client")
            wish.redirect = parse_integer(following)
            if not await server.modes.is_known(wish.redirect):
                raise CommandError("ERR The client ID you want redirect to does not exist")
        elif word == b"bcast":
            wish.is_broadcast = True
        elif word == b"optin":
            wish.opts_in = True
        elif word == b"optout":
            wish.opts_out = True
        elif word == b"noloop":
            wish.no_loop = True
        elif word == b"prefix" and following is not None:
            position += 1
            wish.prefixes.append(following)
        else:
            raise CommandError(SYNTAX_ERROR)
        position += 1
    return wish


def _check(wish: Tracking, current: Tracking | None) -> None:
    """Raise CommandError where the options do not go together, or not with how the client tracks already."""
    if not wish.is_broadcast and wish.prefixes:
        raise CommandError("ERR PREFIX option requires BCAST mode to be enabled")
    if current is not None and current.is_broadcast != wish.is_broadcast:
        raise CommandError(f"ERR You can't switch BCAST mode on/off {_OTHER_MODE}")
    if wish.is_broadcast and (wish.opts_in or wish.opts_out):
        raise CommandError("ERR OPTIN and OPTOUT are not compatible with BCAST")
    if wish.opts_in and wish.opts_out:
        raise CommandError("ERR You can't specify both OPTIN mode and OPTOUT mode")
    if current is not None and ((wish.opts_in and current.opts_out) or (wish.opts_out and current.opts_in)):
        raise CommandError(f"ERR You can't switch OPTIN/OPTOUT mode {_OTHER_MODE}")
    if wish.is_broadcast:
        _check_prefixes(wish.prefixes, current.prefixes if current is not None else [])


def _check_prefixes(wanted: list[bytes], current: list[bytes]) -> None:
    for number, prefix in enumerate(wanted):
        for kind, others in (("an existing prefix", current), ("another provided prefix", wanted[number + 1 :])):
            for other in others:
                if prefix.startswith(other) or other.startswith(prefix):
                    raise CommandError(
                        f"ERR Prefix '{shown(prefix)}' overlaps with {kind} '{shown(other)}'. "
                        "Prefixes for a single client must not overlap."
                    )


@handles("client|tracking")
async def handle_tracking(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CLIENT TRACKING ON|OFF [REDIRECT id] [PREFIX prefix ...] [BCAST] [OPTIN] [OPTOUT] [NOLOOP]."""
    wish = await _parse_wish(server, args)
    if args[2].lower() == b"on":
        _check(wish, tracking_of(client))
        server.modes.tracking.begin(client, wish)
    elif args[2].lower() == b"off":
        server.modes.tracking.end(client)
    else:
        raise CommandError(SYNTAX_ERROR)
    await server.modes.tell_wishes()
    return OK


@handles("client|caching")
async def handle_caching(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CLIENT CACHING YES|NO: of the command that follows."""
    tracking = tracking_of(client)
    if tracking is None:
        raise CommandError(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled"
        )
    word = args[2].lower()
    if word == b"yes":
        if not tracking.opts_in:
            raise CommandError("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.")
    elif word == b"no":
        if not tracking.opts_out:
            raise CommandError("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.")
    else:
        raise CommandError(SYNTAX_ERROR)
    tracking.is_caching = True
    return OK


@handles("client|getredir")
async def handle_getredir(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CLIENT GETREDIR: 0 when this client is told itself, -1 when nobody is."""
    tracking = tracking_of(client)
    return -1 if tracking is None else tracking.redirect


@handles("client|trackinginfo")
async def handle_trackinginfo(client: ClientState, server: ServerState, args: list[bytes]) -> Reply:
    """CLIENT TRACKINGINFO."""
    tracking = tracking_of(client)
    if tracking is None:
        return _info(client, flags=[b"off"], redirect=-1, prefixes=[])
    flags = [b"on"]
    if tracking.is_broadcast:
        flags.append(b"bcast")
    if tracking.opts_in:
        flags += [b"optin", b"caching-yes"] if tracking.is_caching else [b"optin"]
    if tracking.opts_out:
        flags += [b"optout", b"caching-no"] if tracking.is_caching else [b"optout"]
    if tracking.no_loop:
        flags.append(b"noloop")
    if tracking.is_broken:
        flags.append(b"broken_redirect")
    return _info(client, flags=flags, redirect=tracking.redirect, prefixes=sorted(tracking.prefixes))


def _info(client: ClientState, *, flags: list[bytes], redirect: int, prefixes: list[bytes]) -> Reply:
    """Return the map; its flags are a set with an order, which no value of Python has."""
    is_new = client.resp > 2
    parts: list[bytes] = [b"%3\r\n" if is_new else b"*6\r\n", encode(b"flags", client.resp)]
    parts.append((b"~" if is_new else b"*") + b"%d\r\n" % len(flags))
    parts += [encode(word, client.resp) for word in (*flags, b"redirect", redirect, b"prefixes", prefixes)]
    return Encoded(b"".join(parts))
