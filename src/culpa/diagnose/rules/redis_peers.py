"""What clients and replicas do to a Redis: connections that come and go, copies again and again, replicas behind."""

from __future__ import annotations

import re
from collections.abc import Iterator

import polars as pl

from culpa.capture import schema
from culpa.diagnose.redisholds import number_of
from culpa.diagnose.redisview import RedisView
from culpa.diagnose.rule import Rule
from culpa.diagnose.ruled_out import Counters
from culpa.diagnose.rules.redis_children import children_facts
from culpa.diagnose.rules.redis_fixes import set_config
from culpa.diagnose.rules.redis_said import Said, fact, state, words
from culpa.diagnose.verdict import Evidence, Fix
from culpa.syscalls import ACCEPT, Numbers
from culpa.units import format_bytes, format_share

CHURN_PER_SECOND = 50
"""Fewer cost the main thread less than a hundredth of its time: about 0.1 ms for each, with its end."""
FEW_COMMANDS = 10
"""For each connection: with more it was worth having."""
FAR_BEHIND = 20_000_000
"""Bytes (cachecloud)."""
SILENT_S = 30
"""A replica says once a second how far it is (redis-doctor's limit)."""
MIN_FULL = 2
BUFFERS_PART, BUFFERS_LEAST = 0.3, 10_000_000
"""Of maxmemory (BetterDB's monitor), and bytes (MEMORY DOCTOR)."""
LONGEST_BACKLOG = 256 << 20
"""Bytes; more memory is not proposed unasked."""
BACKLOG_S = 60
"""A replica that is restarted, or whose link breaks, is back in a minute as a rule."""
_REPLICA = re.compile(r"(?:slave|replica)\d+")


@state(
    "redis.clients.churn",
    "Clients connect to Redis anew for every few commands",
    "each connection costs Redis' main thread more than a command does, and the client another round trip or more",
)
def churn(view: RedisView) -> Said | None:
    """Dozens of connections a second that are closed again after a few commands each."""
    received, ran = view.need_delta("total_connections_received"), view.need_delta("total_commands_processed")
    kept = max(0.0, view.delta("connected_clients") or 0.0)
    ended = received - kept
    if view.seconds <= 0 or ended / view.seconds < CHURN_PER_SECOND or ran / ended > FEW_COMMANDS:
        return None
    facts = [
        fact("connections a second that were not kept", round(ended / view.seconds),
             "INFO stats: total_connections_received", limit=CHURN_PER_SECOND),
        fact("commands for each", round(ran / ended, 1), "INFO stats: total_commands_processed", limit=FEW_COMMANDS),
    ]  # fmt: skip
    facts += _accepted(view)
    change = "keep connections: a pool in the client, one for each process and not one for each request"
    return Said(
        evidence=tuple(facts), fixes=(words("redis-pool", change, "each connection that is kept costs memory"),)
    )


def _accepted(view: RedisView) -> Iterator[Evidence]:
    """What the kernel knows of it: calls of the main thread where they are recorded, else the host's own count."""
    capture = view.picture.capture
    if view.picture.graph is not None and view.pid is not None:
        numbers = Numbers(capture.manifest.host.machine)
        calls = capture.frame(schema.SYSCALLS).filter(
            pl.col("nr").is_in(sorted(numbers.of(ACCEPT))), pl.col("pid") == view.pid, pl.col("ret") >= 0
        )
        yield fact("connections that it was seen to accept", float(len(calls)), "syscalls")
    elif view.pid is not None:
        opened = Counters(capture.frame(schema.COUNTERS)).delta("/proc/net/snmp", "", "PassiveOpens")
        if opened:
            yield fact("connections accepted on its host in the window", opened, "/proc/net/snmp: PassiveOpens")


@state(
    "redis.mem.client-buffers",
    "Much of Redis' memory is what it keeps for its clients",
    "it counts as used: keys are evicted for it, or writes refused",
)
def client_buffers(view: RedisView) -> Said | None:
    """Questions and answers that are under way to clients take much of the memory that it may use."""
    held, limit = view.need("mem_clients_normal"), view.need("maxmemory")
    of = limit or view.need("used_memory")
    if held < BUFFERS_LEAST or held < BUFFERS_PART * of:
        return None
    told = "of maxmemory" if limit else "of the memory used"
    facts = [
        fact("kept for clients", format_bytes(int(held)), "INFO memory: mem_clients_normal",
             limit=format_bytes(BUFFERS_LEAST)),
        fact(told, format_share(held / of), "INFO memory", limit=format_share(BUFFERS_PART)),
    ]  # fmt: skip
    unread = sum(number_of(one.get("omem")) or 0.0 for one in view.numbered("CLIENT LIST").values())
    if unread:
        facts.append(fact("of it answers that clients have not read", format_bytes(int(unread)), "CLIENT LIST: omem"))
    if evicted := view.delta("evicted_keys"):
        facts.append(fact("keys evicted in the window", evicted, "INFO stats: evicted_keys"))
    risk = "clients that hold much are disconnected"
    fixes: tuple[Fix, ...] = (words("redis-output-limit", "mend the client, or client-output-buffer-limit", risk),)
    if view.setting("maxmemory-clients") == "0":
        fixes = (set_config(view, "redis-maxmemory-clients", "maxmemory-clients", "5%", risk=risk), *fixes)
    return Said(evidence=tuple(facts), setting="maxmemory-clients", fixes=fixes)


@state(
    "redis.repl.full-resync",
    "Replicas take a full copy of this Redis again and again",
    "each copy is a fork, a file of all keys that is sent over the network, and a replica that serves nobody meanwhile",
)
def full_resync(view: RedisView) -> Said | None:
    """Two full copies or more in the window, beyond those of replicas that are new."""
    full, failed = view.need_delta("sync_full"), view.delta("sync_partial_err") or 0.0
    new = max(0.0, view.delta("connected_slaves") or 0.0)
    if full - new < MIN_FULL:
        return None
    facts = [fact("full copies begun in the window", full, "INFO stats: sync_full")]
    if failed:
        told = "replicas that asked to go on where they had stopped, and could not"
        facts.append(fact(told, failed, "INFO stats: sync_partial_err"))
    backlog, written = view.number("repl_backlog_size"), view.delta("master_repl_offset")
    per_second = written / view.seconds if written and view.seconds > 0 else 0.0
    if backlog:
        facts.append(fact("repl-backlog-size", format_bytes(int(backlog)), "INFO replication: repl_backlog_size"))
    if backlog and per_second:
        facts.append(fact("so long it lasts at the pace of the window", round(backlog / per_second, 1),
                          "INFO replication: master_repl_offset", unit="s", limit=BACKLOG_S))  # fmt: skip
    facts += children_facts(view)
    return Said(evidence=tuple(facts), setting="repl-backlog-size", fixes=_longer(view, failed, backlog, per_second))


def _longer(view: RedisView, failed: float, backlog: float | None, per_second: float) -> tuple[Fix, ...]:
    """A longer backlog where it was too short; else what ends such a link."""
    wanted = 1 << max(20, int(per_second * BACKLOG_S).bit_length())
    if failed and backlog and backlog < wanted <= LONGEST_BACKLOG:
        risk = f"takes {format_bytes(wanted)} of memory"
        return (set_config(view, "redis-repl-backlog", "repl-backlog-size", str(wanted), risk=risk),)
    change = "see its log and the replica's for why the link ends (output buffer limit, timeout, who sends SYNC)"
    return (words("redis-repl-link", change, "none"),)


@state(
    "redis.repl.lag",
    "A replica is far behind this Redis",
    "it answers with old data, and what it has not got is lost if it takes over",
)
def lag(view: RedisView) -> Said | None:
    """A replica that is tens of megabytes behind at both ends of the window, or has not said for half a minute how far
    it is while there was something to be sent.
    """
    view.need("connected_slaves")
    offset, sent = view.need("master_repl_offset"), view.delta("master_repl_offset") or 0.0
    facts = []
    for name, (grown,) in sorted(view.counted("", "offset").items()):
        if _REPLICA.fullmatch(name) is None:
            continue
        parts = view.parts(name)
        is_new = 0 < grown == parts.get("offset")
        if is_new or "state=online" not in (view.text(name) or ""):
            continue  # it takes its first copy, or has just got it
        behind = offset - parts.get("offset", offset)
        before = behind - (sent - grown)
        silent = parts.get("lag", 0.0)
        if min(behind, before) >= FAR_BEHIND or (silent >= SILENT_S and behind > 0):
            facts.append(fact(f"{name} is behind by", format_bytes(int(behind)), f"INFO replication: {name}",
                              limit=format_bytes(FAR_BEHIND)))  # fmt: skip
            facts.append(fact("it said last how far it is, before", silent, f"INFO replication: {name}", unit="s",
                              limit=SILENT_S))  # fmt: skip
    if not facts:
        return None
    replicas = [one for one in view.numbered("CLIENT LIST").values() if "S" in one.get("flags", "")]
    if unread := sum(number_of(one.get("omem")) or 0.0 for one in replicas):
        facts.append(fact("kept for replicas that do not read", format_bytes(int(unread)), "CLIENT LIST: omem"))
    change = "see what holds up the replica (culpa redis on it: a long command, its disk), and the network between them"
    return Said(evidence=tuple(facts), fixes=(words("redis-repl-behind", change, "none"),))


PEERS: tuple[Rule, ...] = (churn, client_buffers, full_resync, lag)
