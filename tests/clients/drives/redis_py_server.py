"""What the drive of redis-py asks about the server and its connections: CLIENT, CONFIG, INFO, ACL, logs, tables of commands."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from transcript import eventually, in_order, keys_of, kind_of

if TYPE_CHECKING:
    from redis_py import Drive


def connections(drive: Drive) -> None:
    """Names, numbers, lists of clients, and how connections end."""
    client, ask, ask_for, refused = drive.client, drive.transcript.ask, drive.transcript.ask_for, drive.transcript.refused
    ask(client.ping)
    ask(client.echo, "some words")
    with drive.another(client_name="one", db=3, single_connection_client=True) as other:
        ask(other.client_getname)
        number = ask_for(kind_of, other.client_id)
        entries = client.client_list()
        # 7.2 has fields that 7.0 lacks.
        assert set(entries[0]) >= {"id", "addr", "laddr", "fd", "age", "idle", "qbuf", "tot-mem", "redir"}, entries[0]
        own = next(entry for entry in entries if entry["id"] == str(number))
        drive.transcript.note("own entry", [own.get(name) for name in ("name", "db", "sub", "multi", "user", "flags")])
        ask(lambda: other.client_info()["id"] == number)
        ask(lambda: [entry["name"] for entry in client.client_list(client_id=[str(number)])])
        ask_for(len, client.client_list, _type="pubsub")
        ask(other.client_setname, "two")
        ask(other.client_no_evict, "ON")
        ask(other.client_getredir)
        ask(other.client_trackinginfo)
        ask(other.client_tracking_on, prefix=["a", "b"], bcast=True, noloop=True)
        ask(other.client_trackinginfo)
        refused(other.client_tracking_on, optin=True, optout=True)
        ask(other.client_tracking_off)
        ask(lambda: client.client_unblock(number))
        ask(lambda: client.client_unblock(number, error=True))
        ask(lambda: client.client_kill_filter(_id=str(number), skipme=True))
        refused(other.ping)
        ask(other.ping)  # it connects again
        drive.transcript.note("another number", other.client_id() != number)
        address = next(entry["addr"] for entry in client.client_list() if entry["id"] == str(other.client_id()))
        ask(lambda: client.client_kill(address))
    refused(client.client_kill, "127.0.0.1:1")
    ask(client.client_kill_filter, _type="pubsub")
    ask(client.client_pause, 1)
    ask(client.client_pause, 1, all=False)
    ask(client.client_unpause)
    ask(lambda: drive.make.from_url(f"redis://127.0.0.1:{drive.port}/5?protocol={drive.protocol}").client_info()["db"])
    refused(drive.another(username="nobody", password="x").ping)
    refused(client.execute_command, "NONSENSE", "a", "b c\r\n")
    refused(client.execute_command, "GET")
    refused(client.execute_command, "CLIENT", "NONSENSE")
    refused(client.execute_command, "HELLO", 4)
    refused(client.execute_command, "SELECT", 99)


def settings(drive: Drive) -> None:
    """CONFIG and INFO."""
    client, ask, ask_for, refused = drive.client, drive.transcript.ask, drive.transcript.ask_for, drive.transcript.refused
    ask(client.config_get, "maxmemory")
    ask_for(in_order, client.config_get, "maxclients", "timeout", "hz*")
    ask(client.config_set, "slowlog-max-len", 200, "slowlog-log-slower-than", 20_000)
    ask_for(in_order, client.config_get, "slowlog-*")
    refused(client.config_set, "no-such-directive", 1)
    refused(client.config_set, "maxmemory", "many")
    ask(client.config_set, "slowlog-max-len", 128, "slowlog-log-slower-than", 10_000)
    ask(client.config_resetstat)
    info = client.info()
    for name in ("redis_mode", "role", "loading", "connected_slaves", "cluster_enabled", "maxmemory", "maxmemory_policy", "aof_enabled"):
        drive.transcript.note(name, info[name])
    for section in ("server", "clients", "memory", "persistence", "stats", "replication", "cpu", "modules", "cluster", "keyspace"):
        ask_for(kind_of, client.info, section)
    ask(client.set, "k", "v")
    client.select(0)
    ask_for(lambda found: sorted(found["db0"]), client.info, "keyspace")
    ask_for(lambda found: sorted(found["cmdstat_set"]), client.info, "commandstats")
    assert "cmdstat_set" in client.info("all")
    with contextlib.suppress(drive.library.exceptions.ResponseError):
        client.execute_command("NONSENSE")
    ask_for(lambda found: found["errorstat_ERR"], client.info, "errorstats")
    ask_for(lambda found: sorted(found["latency_percentiles_usec_set"]), client.info, "latencystats")
    ask_for(lambda found: len(found), client.time)
    ask_for(kind_of, client.lastsave)
    ask(client.role)
    ask(client.wait, 0, 10)
    refused(client.execute_command, "READONLY")
    ask(client.module_list)
    ask_for(lambda text: b"Redis ver" in text, client.lolwut)
    ask(client.slaveof)


def users(drive: Drive) -> None:
    """ACL: rules made, shown, tried and removed, and what a user may not do."""
    client, ask, ask_for, refused = drive.client, drive.transcript.ask, drive.transcript.ask_for, drive.transcript.refused
    client.acl_log_reset()
    ask(client.acl_setuser, "reader", enabled=True, passwords=["+secret"], categories=["+@read", "-@dangerous"],
        commands=["+ping", "+hello", "+auth", "+client|id", "-mget"], keys=["r:*", "%R~q:*"], channels=["c:*"],
        selectors=[("+set", "%W~w*")])
    ask_for(lambda rules: rules | {"commands": sorted(rules["commands"])}, client.acl_getuser, "reader")  # a hash's order in Redis 7.0
    ask(client.acl_getuser, "none")
    ask_for(lambda lines: [sorted(line.split()) for line in lines], client.acl_list)
    ask(client.acl_users)
    ask(client.acl_whoami)
    ask_for(sorted, client.acl_cat)
    ask(client.acl_dryrun, "reader", "get", "r:1")
    ask(client.acl_dryrun, "reader", "set", "r:1", "v")
    ask_for(len, client.acl_genpass)
    ask_for(len, client.acl_genpass, 555)
    with drive.another(username="reader", password="secret", single_connection_client=True) as reader:
        client.set("r:1", "readable")
        ask(reader.get, "r:1")
        refused(reader.get, "z")
        refused(reader.mget, "r:1")
        ask(reader.set, "w1", "through the selector")
        refused(reader.set, "r:1", "v")
        refused(reader.flushall)
        refused(reader.config_get, "*")
    refused(drive.another(username="reader", password="wrong").ping)
    seen = [(entry["reason"], entry["context"], entry["object"], entry["username"], entry["count"]) for entry in client.acl_log()]
    ask(lambda: [entry for entry in seen if "setinfo" not in entry[2]])  # the library sends that one, which 7.0 does not know
    ask(client.acl_log, 0)
    ask(client.acl_log_reset)
    refused(client.acl_setuser, "bad", commands=["+nonsense"])
    refused(client.acl_save)
    refused(client.acl_load)
    ask(client.acl_deluser, "reader", "none")
    ask_for(kind_of, client.acl_help)


def logs(drive: Drive) -> None:
    """The slow log, latency, memory."""
    client, ask, ask_for, refused = drive.client, drive.transcript.ask, drive.transcript.ask_for, drive.transcript.refused
    client.config_set("slowlog-log-slower-than", 0)
    client.slowlog_reset()
    client.execute_command("SET", "slow", "x" * 200)
    client.config_set("slowlog-log-slower-than", 10_000)
    entries = client.slowlog_get(10)
    ask(lambda: [entry["command"] for entry in entries if b"slow" in entry["command"][:10]])
    ask(lambda: sorted(entries[0]))
    ask_for(kind_of, client.slowlog_len)
    ask(client.slowlog_reset)
    ask(client.slowlog_len)
    ask(client.latency_latest)
    ask(client.latency_history, "command")
    ask(client.latency_reset)
    ask(client.memory_usage, "none")
    client.set("k", "v" * 1000)
    ask_for(kind_of, client.memory_usage, "k", samples=5)
    ask_for(lambda found: set(keys_of(found)) >= {"peak.allocated", "total.allocated", "keys.count", "dataset.bytes"}, client.memory_stats)
    ask(client.memory_purge)
    ask(client.config_set, "maxmemory-policy", "allkeys-lfu")
    ask_for(kind_of, client.object, "freq", "k")
    ask(client.config_set, "maxmemory-policy", "noeviction")
    refused(client.object, "freq", "k")


def tables(drive: Drive) -> None:
    """What the server says of its commands."""
    client, ask, ask_for, refused = drive.client, drive.transcript.ask, drive.transcript.ask_for, drive.transcript.refused
    found: dict[str, Any] = client.command()
    for name in ("bitfield", "get", "mget", "publish", "scan", "set", "sort", "watch"):
        fields = {field: value for field, value in found[name].items() if field not in ("subcommands", "tips", "key_specifications")}
        drive.transcript.note(name, fields)
    ask_for(kind_of, client.command_count)
    ask(client.command_getkeys, "MSET", "a", 1, "b", 2)
    ask(client.command_getkeys, "SORT", "a", "STORE", "b")
    refused(client.command_getkeys, "PING")
    ask(client.command_getkeysandflags, "COPY", "a", "b")
    ask_for(lambda names: sorted(names), client.command_list, pattern="*bit*")
    ask_for(lambda names: b"get" in names, client.command_list, category="fast")
    for name in ("get", "set", "expire", "scan", "client|tracking", "bitfield", "lcs"):
        ask(client.execute_command, "COMMAND", "INFO", name)
    drive.transcript.note("connected", eventually(client.ping))


SERVER_PARTS = [connections, settings, users, logs, tables]
