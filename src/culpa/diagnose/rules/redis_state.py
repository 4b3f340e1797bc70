"""What a Redis server says of its own state and settings: risks, and what would hide or worsen a stall."""

from __future__ import annotations

from culpa.diagnose.redisholds import number_of
from culpa.diagnose.redisview import RedisView
from culpa.diagnose.rule import Rule
from culpa.diagnose.rules.redis_fixes import set_config
from culpa.diagnose.rules.redis_said import Said, fact, state, words
from culpa.units import format_bytes

NEARLY_FULL = 0.9
"""Of a limit: the usual alert level of exporters and consoles."""
SMALL_INSTANCE = 5_000_000
MIN_WASTE = 10_000_000
FRAGMENTED = 1.4
"""MEMORY DOCTOR's own limits (object.c): below 5 MB it does not judge, below 10 MB of waste it does not warn."""
PEAK = 1.5
MANY_SCRIPTS = 1000
SHORT_INTERVAL = 300
"""Save points nearer than five minutes: each is a fork and a copy of what is written meanwhile."""


@state(
    "redis.monitor.off",
    "Redis' latency monitor is off",
    "it does not; but when something does, the server keeps no record of it",
)
def monitor_off(view: RedisView) -> Said | None:
    """Its latency monitor records nothing (latency-monitor-threshold 0, the default)."""
    if view.need_setting("latency-monitor-threshold") != "0":
        return None
    name = "latency-monitor-threshold"
    return Said(
        evidence=(fact(name, "0", "CONFIG GET"),), setting=f"{name} 0",
        fixes=(set_config(view, "redis-monitor-on", name, "5", risk="none that can be measured"),),
    )  # fmt: skip


@state(
    "redis.monitor.blind",
    "Redis' latency monitor cannot see mass expiry",
    "it does not; but a stall of 25 ms leaves no trace in a monitor that begins at 100",
)
def monitor_blind(view: RedisView) -> Said | None:
    """Its latency monitor's threshold lies above what expiry can cost, so mass expiry never shows in it."""
    name = "latency-monitor-threshold"
    threshold, hz = view.need(name, "CONFIG GET"), view.need("hz", "CONFIG GET")
    longest_ms = 250 / max(1.0, hz)
    if threshold == 0 or threshold <= longest_ms:
        return None
    return Said(
        evidence=(
            fact(name, threshold, "CONFIG GET", unit="ms", limit=longest_ms),
            fact("the longest an expire cycle may take at this hz", longest_ms, "CONFIG GET hz", unit="ms"),
        ),
        setting=f"{name} {threshold:.0f}",
        fixes=(set_config(view, "redis-monitor-on", name, "5", risk="none that can be measured"),),
    )


@state(
    "redis.command.invisible",
    "Redis' slow log cannot show slow commands",
    "it does not; but slow commands leave no trace",
)
def slow_log_blind(view: RedisView) -> Said | None:
    """Its slow log records nothing, or not what the latency monitor would call slow."""
    slower, length = view.need("slowlog-log-slower-than", "CONFIG GET"), view.number("slowlog-max-len", "CONFIG GET")
    threshold = view.number("latency-monitor-threshold", "CONFIG GET")
    off = slower < 0 or length == 0
    late = bool(threshold) and slower / 1000 > (threshold or 0)
    if not (off or late):
        return None
    facts = [fact("slowlog-log-slower-than", slower, "CONFIG GET", unit="us")]
    if length == 0:
        facts.append(fact("slowlog-max-len", length, "CONFIG GET"))
    name = "slowlog-log-slower-than"
    return Said(
        evidence=tuple(facts), setting=f"{name} {slower:.0f}",
        fixes=(set_config(view, "redis-slowlog-on", name, "10000", risk="none that can be measured"),),
    )  # fmt: skip


@state(
    "redis.mem.no-limit",
    "Redis may take all memory of its host",
    "a host without memory swaps or kills",
)
def no_limit(view: RedisView) -> Said | None:
    """It may take all memory of its host: maxmemory is 0."""
    if view.need("maxmemory") != 0:
        return None
    change = "set maxmemory to what the host can spare, less what a save copies"
    return Said(
        evidence=(fact("maxmemory", "0", "INFO memory"),), setting="maxmemory 0",
        fixes=(words("redis-maxmemory", change, "beyond it keys are evicted or writes refused"),),
    )  # fmt: skip


@state(
    "redis.evict.refuse",
    "Redis is full and may not evict: writes are refused",
    "writes fail",
)
def refuses(view: RedisView) -> Said | None:
    """It refuses writes, or is about to: its memory is full and nothing may be evicted."""
    limit, used = view.need("maxmemory"), view.need("used_memory")
    refused = _errors(view, "OOM")
    policy = view.text("maxmemory_policy") or view.setting("maxmemory-policy")
    full = bool(limit) and used >= NEARLY_FULL * limit and policy == "noeviction"
    if not full and not refused:
        return None
    facts = [fact("used memory", format_bytes(int(used)), "INFO memory", limit=format_bytes(int(limit)))]
    if refused:
        facts.append(fact("writes refused with OOM in the window", refused, "INFO errorstats"))
    return Said(
        evidence=tuple(facts), setting=f"maxmemory-policy {policy}", risk=True,
        fixes=(words("redis-maxmemory", "raise maxmemory, or let keys be evicted", "memory, or data"),),
    )  # fmt: skip


def _errors(view: RedisView, prefix: str) -> float:
    """How often replies with that error were sent in the window."""
    return view.grown(f"errorstat_{prefix}", "count")


@state(
    "redis.mem.fragmentation",
    "Much of Redis' memory is fragmented",
    "memory that is held and not used is missing elsewhere",
)
def fragmented(view: RedisView) -> Said | None:
    """Much of its memory is held by the allocator and not used."""
    allocated, ratio = view.number("allocator_allocated"), view.number("allocator_frag_ratio")
    if allocated is None or ratio is None:
        allocated, ratio = view.need("used_memory"), view.need("mem_fragmentation_ratio")
        waste = view.need("used_memory_rss") - allocated
    else:
        waste = view.number("allocator_frag_bytes") or 0.0
    if allocated < SMALL_INSTANCE or ratio < FRAGMENTED or waste < MIN_WASTE:
        return None
    restart = "restart it, or fail over, in a quiet hour"
    fix = words("redis-restart", restart, "a restart")
    if view.setting("activedefrag") == "no" and (view.text("mem_allocator") or "").startswith("jemalloc"):
        # Only the attempt tells whether it is the jemalloc that Redis brings; distributions link their own.
        change = f"CONFIG SET activedefrag yes where this build takes it, else {restart}"
        fix = words("redis-defrag", change, "costs CPU")
    return Said(
        evidence=(
            fact("fragmentation", round(ratio, 2), "INFO memory", limit=FRAGMENTED),
            fact("held but not used", format_bytes(int(waste)), "INFO memory", limit=format_bytes(MIN_WASTE)),
        ),
        fixes=(fix,),
    )


@state(
    "redis.mem.past-peak",
    "Redis once held much more than it does now",
    "the allocator may keep what it once got",
)
def past_peak(view: RedisView) -> Said | None:
    """It once held much more than now; the allocator may still hold that memory."""
    peak, used = view.need("used_memory_peak"), view.need("used_memory")
    rss = view.number("used_memory_rss") or 0.0
    if used < SMALL_INSTANCE or peak / max(1.0, used) < PEAK or rss < PEAK * used:
        return None
    return Said(
        evidence=(
            fact("most it ever held", format_bytes(int(peak)), "INFO memory: used_memory_peak"),
            fact("holds now", format_bytes(int(used)), "INFO memory: used_memory"),
            fact("memory of the process", format_bytes(int(rss)), "INFO memory: used_memory_rss"),
        ),
        fixes=(words("redis-restart", "nothing while the host has memory; MEMORY PURGE, or a restart", "a restart"),),
        confidence=0.8,
    )


@state(
    "redis.script.cache",
    "Redis keeps very many scripts",
    "each takes memory, and loading one takes time",
)
def scripts(view: RedisView) -> Said | None:
    """It keeps very many scripts: EVAL with values written into the text makes a new one each time."""
    count = view.need("number_of_cached_scripts")
    if count <= MANY_SCRIPTS:
        return None
    change = "pass values as KEYS and ARGV and use EVALSHA; SCRIPT FLUSH ASYNC once"
    return Said(
        evidence=(fact("scripts kept", count, "INFO memory: number_of_cached_scripts", limit=MANY_SCRIPTS),),
        fixes=(words("redis-script-arguments", change, "scripts must be sent again"),),
    )


@state(
    "redis.aof.fsync-late",
    "The background fsync of Redis' append-only file is late",
    "it need not: only when the main thread writes to a file that is being synced may it have to wait",
)
def fsync_late(view: RedisView) -> Said | None:
    """Its background fsync of the append-only file is late; alone that delays nobody."""
    late = view.need_delta("aof_delayed_fsync")
    if not late:
        return None
    pending = view.number("aof_pending_bio_fsync")
    facts = [fact("writes postponed or made during an fsync, in the window", late, "INFO: aof_delayed_fsync")]
    if pending is not None:
        facts.append(fact("fsyncs waiting", pending, "INFO persistence: aof_pending_bio_fsync"))
    change = "find who loads that disk (culpa why); a disk of its own for the append-only file"
    return Said(evidence=tuple(facts), fixes=(words("redis-aof-disk", change, "none"),), setting="appendfsync everysec")


@state(
    "redis.aof.failing",
    "Writing Redis' append-only file fails",
    "writes are refused (MISCONF), and what was written is lost at a restart",
)
def aof_failing(view: RedisView) -> Said | None:
    """Writing or rewriting its append-only file fails."""
    write, rewrite = view.text("aof_last_write_status"), view.text("aof_last_bgrewrite_status")
    if view.need("aof_enabled") == 0 or (write in (None, "ok") and rewrite in (None, "ok")):
        return None
    told = (("aof_last_write_status", write), ("aof_last_bgrewrite_status", rewrite))
    facts = [fact(name, value, "INFO persistence") for name, value in told if value is not None]
    change = "look at the log; make room on the disk, mend permissions, then BGREWRITEAOF"
    return Said(evidence=tuple(facts), risk=True, fixes=(words("redis-aof-repair", change, "none"),))


@state(
    "redis.rdb.failing",
    "Redis' last save failed",
    "with stop-writes-on-bgsave-error writes are refused (MISCONF)",
)
def rdb_failing(view: RedisView) -> Said | None:
    """Its last save failed; with stop-writes-on-bgsave-error it then refuses writes (MISCONF)."""
    status = view.text("rdb_last_bgsave_status")
    if view.need("rdb_changes_since_last_save") < 0 or status in (None, "ok"):
        return None
    refused = _errors(view, "MISCONF")
    facts = [fact("rdb_last_bgsave_status", status, "INFO persistence")]
    if refused:
        facts.append(fact("writes refused with MISCONF in the window", refused, "INFO errorstats"))
    change = "look at the log; make room on the disk or in memory, then BGSAVE"
    return Said(evidence=tuple(facts), risk=True, fixes=(words("redis-rdb-repair", change, "none"),))


@state(
    "redis.rdb.too-often",
    "Redis saves every few minutes",
    "each save forks, and copies every page that is written meanwhile",
)
def rdb_too_often(view: RedisView) -> Said | None:
    """It saves every few minutes: each save forks, and copies what is written meanwhile."""
    points = view.need_setting("save").split()
    intervals = [int(word) for word in points[::2] if word.isdecimal()]
    short = [seconds for seconds in intervals if seconds < SHORT_INTERVAL]
    forks, fork_us = view.delta("total_forks"), view.number("latest_fork_usec")
    copied = view.number("rdb_last_cow_size")
    if not short or not forks or (fork_us or 0) < 1000:
        return None
    facts = [
        fact("shortest save point", min(short), "CONFIG GET save", unit="s", limit=SHORT_INTERVAL),
        fact("forks in the window", forks, "INFO stats: total_forks"),
        fact("latest fork", (fork_us or 0) / 1000, "INFO stats: latest_fork_usec", unit="ms"),
    ]
    if copied is not None:
        facts.append(fact("copied during the last save", format_bytes(int(copied)), "INFO: rdb_last_cow_size"))
    return Said(
        evidence=tuple(facts), setting=f"save {' '.join(points)}",
        fixes=(set_config(view, "redis-save-rarely", "save", "3600 1", risk="more is lost after a crash"),),
    )  # fmt: skip


@state(
    "redis.clients.limit",
    "Redis is running out of connections",
    "new connections are refused",
)
def clients_limit(view: RedisView) -> Said | None:
    """Nearly all connections it allows are taken, or it refuses some."""
    limit, connected = (
        view.number("maxclients") or view.need("maxclients", "CONFIG GET"),
        view.need("connected_clients"),
    )
    refused = view.delta("rejected_connections")
    if connected < NEARLY_FULL * limit and not refused:
        return None
    facts = [fact("clients connected", connected, "INFO clients", limit=limit)]
    if refused:
        facts.append(fact("connections refused in the window", refused, "INFO stats: rejected_connections"))
    change = "share connections in the application (a pool), close idle ones (timeout), raise maxclients"
    return Said(
        evidence=tuple(facts), setting="maxclients", risk=bool(refused),
        fixes=(words("redis-clients", change, "each connection costs memory and a file descriptor"),),
    )  # fmt: skip


@state(
    "redis.clients.tool",
    "Somebody watches every command of this Redis (MONITOR)",
    "every command is formatted and sent once more for each such client",
)
def tool(view: RedisView) -> Said | None:
    """Somebody watches all its commands (MONITOR): every command is sent to that client as well."""
    watching = [one for one in view.numbered("CLIENT LIST").values() if "O" in one.get("flags", "")]
    view.need("clients", "CLIENT LIST")
    if not watching:
        return None
    return Said(
        evidence=(fact("clients in MONITOR", float(len(watching)), "CLIENT LIST"),),
        fixes=(words("redis-monitor-end", "end that client (CLIENT KILL ID ...)", "who runs it loses its view"),),
    )


@state(
    "redis.repl.down",
    "The link of this replica to its primary is down",
    "it answers with old data or not at all, and a full copy may follow",
)
def link_down(view: RedisView) -> Said | None:
    """It is a replica whose link to its primary is down."""
    if view.text("role") not in ("slave", "replica") or view.text("master_link_status") != "down":
        return None
    facts = [fact("master_link_status", "down", "INFO replication")]
    if (since := view.number("master_link_down_since_seconds")) is not None and since >= 0:
        facts.append(fact("down for", since, "INFO replication", unit="s"))
    return Said(
        evidence=tuple(facts), risk=True,
        fixes=(words("redis-repl-link", "check the primary, the network and masterauth", "none"),),
    )  # fmt: skip


@state(
    "redis.cluster.state",
    "The cluster does not serve all its slots",
    "keys of these slots cannot be read or written",
)
def cluster_down(view: RedisView) -> Said | None:
    """The cluster does not serve all its slots."""
    if view.number("cluster_enabled") != 1:
        return None
    state = view.text("cluster_state", "CLUSTER INFO")
    failed = (view.number("cluster_slots_fail", "CLUSTER INFO") or 0) + (
        view.number("cluster_slots_pfail", "CLUSTER INFO") or 0
    )
    if state == "ok" and not failed:
        return None
    return Said(
        evidence=(
            fact("cluster_state", state or "not said", "CLUSTER INFO", limit="ok"),
            fact("slots that fail", failed, "CLUSTER INFO"),
        ),
        risk=True,
        fixes=(words("redis-cluster-repair", "bring back or replace the nodes that own these slots", "none"),),
    )


@state(
    "redis.rdb.none",
    "A restart loses all keys of this Redis",
    "it does not",
)
def no_persistence(view: RedisView) -> Said | None:
    """It holds keys that a restart loses: neither save points nor an append-only file."""
    saves = view.need_setting("save")
    if saves.strip() or view.need("aof_enabled") != 0 or not (view.number("keys", "DBSIZE") or 0):
        return None
    return Said(
        evidence=(fact("save", "none", "CONFIG GET"), fact("appendonly", "no", "CONFIG GET")), setting="save",
        fixes=(words("redis-persist", "nothing for a cache; else appendonly yes", "forks and disk writes"),),
    )  # fmt: skip


@state(
    "redis.lazyfree.backlog",
    "Redis frees memory in the background more slowly than it is given up",
    "memory that is not free yet counts as used: keys are evicted, or writes refused, for nothing",
)
def lazyfree_backlog(view: RedisView) -> Said | None:
    """Objects to be freed in the background wait, and no fewer of them as time goes by."""
    view.need("lazyfree_pending_objects")
    waiting = view.values("lazyfree_pending_objects")
    if len(waiting) < 3 or min(waiting) == 0 or waiting[-1] < waiting[0]:
        return None
    change = "smaller keys; wait, before maxmemory is lowered"
    return Said(
        evidence=(
            fact("objects waiting at the start", waiting[0], "INFO memory: lazyfree_pending_objects"),
            fact("objects waiting at the end", waiting[-1], "INFO memory: lazyfree_pending_objects"),
        ),
        fixes=(words("redis-lazyfree-wait", change, "none"),),
    )


@state(
    "redis.clients.slow-reader",
    "Some clients do not read what Redis sends them",
    "what they do not read is kept in Redis' memory",
)
def slow_reader(view: RedisView) -> Said | None:
    """Unread output of a client takes megabytes."""
    view.need("clients", "CLIENT LIST")
    unread = [(number_of(one.get("omem")) or 0.0, one) for one in view.numbered("CLIENT LIST").values()]
    large = sorted((entry for entry in unread if entry[0] >= MIN_WASTE), key=lambda entry: -entry[0])
    if not large:
        return None
    facts = [
        fact(
            f"unread by client {one.get('name') or one.get('cmd', '')}".rstrip(), format_bytes(int(size)), "CLIENT LIST"
        )
        for size, one in large[:3]
    ]
    change = "mend the client, or bound it: client-output-buffer-limit, maxmemory-clients"
    return Said(evidence=tuple(facts), fixes=(words("redis-output-limit", change, "that client is disconnected"),))


STATES: tuple[Rule, ...] = (
    monitor_off,
    monitor_blind,
    slow_log_blind,
    no_limit,
    refuses,
    fragmented,
    past_peak,
    scripts,
    fsync_late,
    aof_failing,
    rdb_failing,
    rdb_too_often,
    no_persistence,
    clients_limit,
    tool,
    link_down,
    cluster_down,
    lazyfree_backlog,
    slow_reader,
)
"""In the order in which a person would want to know them."""
