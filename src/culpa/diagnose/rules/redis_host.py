"""What the host does to a Redis: one CPU for all its threads, huge pages under a fork, limits it was not told of."""

from __future__ import annotations

from collections.abc import Iterator

from culpa.diagnose import cpusof
from culpa.diagnose.finding import Finding, Nearness, Unseen
from culpa.diagnose.redisview import RedisView, each_server
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.redis_said import NOTHING, Said, state
from culpa.diagnose.verdict import Evidence, Fix, On
from culpa.model.kinds import Kind
from culpa.units import NS_PER_SECOND, format_bytes, format_share

KILOBYTE = 1024
HUGE_LEAST = 100 << 20
"""Less in huge pages copies in a moment whatever is written."""
SATURATED = 0.9
MOSTLY = 0.5
"""Of the main thread's time: a command with more takes longer than all the others together."""
LATE_NS = 5_000_000
"""A host that lets a busy program wait so long makes every server late."""


@rule(
    id="redis.cpu.pinned",
    title="All threads of this Redis, and its children, share one CPU",
    needs=(),
    fixes=("redis-both-siblings",),
    fires=(Lab("redis-pinned"),),
    silent=(Lab("redis-pinned-healthy"),),
)
@each_server
def pinned(view: RedisView) -> Iterator[Finding]:
    """What it detects: every thread of the server may run on one logical CPU only.

    Why it slows you: the background threads, and above all the child that saves or rewrites, inherit that: whenever one
    of them runs the main thread does not.

    How sure: the affinity is read from every thread; where the host is traced, the time in which the main thread was
    ready and did not run is measured, else this is a note.

    What to do: give it both logical CPUs of its core (taskset -acp; the fix names them), or since 6.0 set
    server_cpulist, bio_cpulist and bgsave_cpulist.
    """
    allowed = view.threads_allowed()
    if not allowed:
        raise Unseen("its threads' CPUs are not visible from here")
    if max(allowed) > 1 or view.picture.capture.manifest.host.cpus < 2:
        return
    nodes = view.nodes(Kind.RUNNABLE)
    moments = view.picture.moments(*nodes) if nodes else NOTHING
    evidence = [
        Evidence(fact=f"threads that may run on one CPU only, of {len(allowed)}", value=len(allowed), unit="",
                 threshold=None, source=f"/proc/{view.pid}/task/*/status"),
        Evidence(fact="main thread ready to run, without that CPU", value=moments.ns / NS_PER_SECOND, unit="s",
                 threshold=None, source="offcpu"),
    ]  # fmt: skip
    yield Finding(
        moments=moments, nearness=Nearness.SETTING, pid=view.pid, tid=view.pid,
        on=On(peer=view.server, setting="CPU affinity"), evidence=(*evidence, *view.stall_facts(moments)),
        confidence=0.9,
        fixes=(_both_siblings(view),),
    )  # fmt: skip


def _both_siblings(view: RedisView) -> Fix:
    """The CPUs to use by name, where they are known; its background threads may have others of their own since 6.0."""
    cpus = cpusof.better(view)
    risk = "none" if cpus is None or cpus.share_a_core else "two cores share less of their caches than one core does"
    if cpus is None:
        change = f"let it run on both logical CPUs of a core, or on all: taskset -acp CPUS {view.pid} (see lscpu -e)"
        return Fix(id="redis-both-siblings", change=change, reversible=True, risk=risk)
    return Fix(
        id="redis-both-siblings", argv=("taskset", "-acp", cpus.listed, str(view.pid)), reversible=True, risk=risk
    )


@state(
    "redis.fork.thp",
    "Huge pages make Redis copy much when it saves",
    "while a child saves, the first write to a page copies it: of a huge page the kernel has more to do",
)
def huge_pages(view: RedisView) -> Said | None:
    """Much of its memory is in transparent huge pages, and it forks to save."""
    huge = view.host_number("AnonHugePages")
    if huge is None:
        raise Unseen("its memory map is not visible from here")
    saves = bool((view.setting("save") or "").strip()) or view.setting("appendonly") == "yes"
    if huge * KILOBYTE < HUGE_LEAST or not saves:
        return None
    facts = [
        Evidence(fact="in huge pages", value=format_bytes(int(huge * KILOBYTE)), unit="", threshold=None,
                 source=f"/proc/{view.pid}/smaps_rollup")
    ]  # fmt: skip
    if (copied := view.number("rdb_last_cow_size")) is not None:
        facts.append(
            Evidence(fact="copied during the last save", value=format_bytes(int(copied)), unit="", threshold=None,
                     source="INFO persistence")
        )  # fmt: skip
    change = (
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, then restart Redis: pages that exist stay huge"
    )
    return Said(
        evidence=tuple(facts), setting="transparent_hugepage always", confidence=0.8,
        fixes=(Fix(id="redis-no-thp", change=change, reversible=True, risk="fork gets slower without huge pages"),),
    )  # fmt: skip


@state(
    "redis.fork.overcommit",
    "The host may refuse Redis the fork for a save",
    "without overcommit the fork of a large process needs as much free memory again, and saving fails",
)
def overcommit(view: RedisView) -> Said | None:
    """The kernel does not overcommit memory, and the server forks to save."""
    chosen = view.host_setting("overcommit_memory")
    if chosen is None or view.pid is None:
        raise Unseen("the host's settings are not visible from here")
    saves = bool((view.setting("save") or "").strip()) or view.setting("appendonly") == "yes"
    if chosen == 1 or not saves:
        return None
    fact = Evidence(fact="vm.overcommit_memory", value=int(chosen), unit="", threshold=1, source="/proc/sys/vm")
    argv = ("sysctl", "-w", "vm.overcommit_memory=1")
    return Said(
        evidence=(fact,), setting="vm.overcommit_memory",
        fixes=(Fix(id="overcommit", argv=argv, reversible=True, risk="processes may be killed when memory runs out"),),
    )  # fmt: skip


@state(
    "redis.net.backlog",
    "The host keeps fewer waiting connections for Redis than it asks for",
    "in a burst of new connections some are dropped and tried again a second later",
)
def backlog(view: RedisView) -> Said | None:
    """net.core.somaxconn is below the server's tcp-backlog."""
    most = view.host_setting("somaxconn")
    if most is None or view.pid is None:
        raise Unseen("the host's settings are not visible from here")
    wanted = view.need("tcp-backlog", "CONFIG GET")
    if most >= wanted:
        return None
    fact = Evidence(fact="net.core.somaxconn", value=int(most), unit="", threshold=int(wanted), source="/proc/sys/net")
    return Said(
        evidence=(fact,), setting="net.core.somaxconn",
        fixes=(Fix(id="somaxconn", argv=("sysctl", "-w", f"net.core.somaxconn={wanted:.0f}"), reversible=True,
                   risk="none; Redis takes it up when it is restarted"),),
    )  # fmt: skip


@state(
    "redis.cpu.host-latency",
    "This host lets busy programs wait, whatever they do",
    "no server answers faster than the host lets it run",
)
def host_latency(view: RedisView) -> Said | None:
    """A program that only looks at the clock was kept from running for long."""
    longest = view.host_number("longest_ns")
    if longest is None:
        raise Unseen("it was not measured: that is for culpa redis URL --checklist")
    if longest < LATE_NS:
        return None
    fact = Evidence(fact="longest time without a CPU in one second of computing", value=longest / NS_PER_SECOND,
                    unit="s", threshold=LATE_NS / NS_PER_SECOND, source="intrinsic latency")  # fmt: skip
    change = "fewer programs on this host, or another host; in a VM see whether it is given less than it was sold"
    return Said(evidence=(fact,), fixes=(Fix(id="host-calmer", change=change, reversible=True, risk="none"),))


@state(
    "redis.cpu.io-threads",
    "Redis has more I/O threads than the host has CPUs for",
    "threads that wait for each other in a loop take CPU from the main thread",
)
def io_threads(view: RedisView) -> Said | None:
    """io-threads is not below the number of CPUs."""
    threads = view.need("io-threads", "CONFIG GET")
    if view.pid is None:
        raise Unseen("the host's CPUs are not visible from here")
    cpus = view.picture.capture.manifest.host.cpus
    if threads <= 1 or threads < cpus:
        return None
    fact = Evidence(fact="io-threads", value=int(threads), unit="", threshold=cpus, source="CONFIG GET")
    change = "io-threads below the number of CPUs (the change needs a restart)"
    return Said(
        evidence=(fact,), setting=f"io-threads {threads:.0f}",
        fixes=(Fix(id="redis-io-threads", change=change, reversible=True, risk="a restart"),),
    )  # fmt: skip


@state(
    "redis.cpu.saturated",
    "Redis' main thread is busy nearly all the time",
    "commands queue behind each other, however short each of them is",
)
def saturated(view: RedisView) -> Said | None:
    """The main thread computes for more than nine tenths of the window; named is the one command that takes most of it,
    if there is one, and otherwise the load is of many.
    """
    used = [view.delta("used_cpu_user_main_thread"), view.delta("used_cpu_sys_main_thread")]
    if used[0] is None or used[1] is None or view.seconds <= 0:
        raise Unseen("the server does not say what its main thread used (since 6.2)")
    share = (used[0] + used[1]) / view.seconds
    if share < SATURATED:
        return None
    done = view.delta("total_commands_processed")
    facts = [
        Evidence(fact="main thread's CPU", value=format_share(min(1.0, share)), unit="", threshold="90 %",
                 source="INFO cpu: used_cpu_*_main_thread")
    ]  # fmt: skip
    if done:
        facts.append(
            Evidence(fact="commands a second", value=round(done / view.seconds), unit="", threshold=None,
                     source="INFO stats")
        )  # fmt: skip
    largest = _largest_command(view)
    if largest is None:
        return Said(evidence=tuple(facts), fixes=(_SHARD,))
    label, part, source = largest
    mostly = part >= MOSTLY * share
    told = "of it in one command" if mostly else "of it in the largest of its commands"
    facts.append(
        Evidence(fact=f"{told}, {label}", value=format_share(min(1.0, part / share)), unit="",
                 threshold=format_share(MOSTLY), source=source)
    )  # fmt: skip
    return Said(evidence=tuple(facts), command=label if mostly else None, fixes=(_CHEAPER if mostly else _SHARD,))


_SHARD = Fix(
    id="redis-shard", change="split the data over several servers, read from replicas, send fewer and larger commands",
    reversible=True, risk="work",
)  # fmt: skip
_CHEAPER = Fix(
    id="redis-one-command", reversible=True, risk="work",
    change="make this one command rarer or cheaper: read in steps, keep its keys small, keep its answer in the client, "
    "ask it of a replica; another server would not help it",
)  # fmt: skip


def _largest_command(view: RedisView) -> tuple[str, float, str] | None:
    """What the main thread was busy with most, without culpa's own: its label, its part of the window, who told."""
    table = view.commands
    if table is None:
        return None
    row = table.rows[0]
    source = "messages" if table.basis == "sockets" else "INFO commandstats"
    return " ".join(part for part in (row.verb, row.pattern) if part), row.share, source


HOST_STATES = (huge_pages, overcommit, backlog, host_latency, io_threads, saturated)
