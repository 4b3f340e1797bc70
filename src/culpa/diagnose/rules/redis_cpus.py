"""What keeps a Redis' main thread slow though it has a CPU of its own: a quota, far memory, a clock that is slow."""

from __future__ import annotations

from collections.abc import Iterator

from culpa.diagnose import hostplace, runqueue
from culpa.diagnose.finding import Finding, Nearness, Unseen
from culpa.diagnose.moments import Moments
from culpa.diagnose.redisview import RedisView, each_server
from culpa.diagnose.root import STALL_NS
from culpa.diagnose.rule import Lab, Rule, rule
from culpa.diagnose.rules.evidence import seconds
from culpa.diagnose.rules.redis_said import Said, fact, state, words
from culpa.diagnose.rules.runqueue import quota_facts, quota_limit, raise_quota
from culpa.diagnose.verdict import On
from culpa.model.kinds import Kind
from culpa.units import format_bytes, format_share

FAR_LEAST = 100 << 20
"""Less memory on another node is read through the caches whatever it is."""
FAR_PART = 0.5
"""Of its memory: from here on most of what it touches is far."""
CLOCK_NS = 100.0
"""What a look at the clock may cost above the coarse one: the vDSO takes about 20 ns, a system call alone more than
100.
"""


@rule(
    id="redis.cpu.quota",
    title="A CPU quota stops this Redis",
    needs=(),
    fixes=("cpu-raise-quota",),
    fires=(Lab("redis-quota"),),
    silent=(Lab("redis-quota-healthy"), Lab("redis-starved"), Lab("redis-pinned"), Lab("redis-keys")),
)
@each_server
def quota(view: RedisView) -> Iterator[Finding]:
    """What it detects: the control group of the server (a container's CPU limit) has used up its quota, and stands
    still to the end of the period while clients wait.

    Why it slows you: a period is 100 ms as a rule. Background threads, children that save, and other programs of the
    group use up the same quota; then the main thread stops as well, even if the CPUs idle. The server knows nothing of
    it: a command that is stopped halfway looks long in its slow log.

    How sure: the kernel counts how often and for how long the group was stopped (cpu.stat). Where the host is traced,
    it is also measured that the main thread could run and did not; else the stalls of PING are held against that
    time. A group that was stopped while nobody waited is no news.

    What to do: raise the quota, or take it away and give weights instead; fewer I/O threads use it up later.
    """
    if view.pid not in view.picture.capture.manifest.target.pids:
        raise Unseen("its control group is not visible from here")
    taken = runqueue.throttled(view.picture)
    if taken is None:
        return
    moments = _stopped(view, taken)
    if moments.ns < STALL_NS:
        return
    told = "main thread ready to run, stopped by the quota" if view.picture.graph else "stalls of that length, at most"
    yield Finding(
        moments=moments, nearness=Nearness.SETTING, pid=view.pid, tid=view.pid,
        on=On(peer=view.server, setting=quota_limit(taken), path=taken.group),
        evidence=(
            fact(told, seconds(moments.ns), "offcpu" if view.picture.graph else "requests", unit="s"),
            *quota_facts(taken), *view.stall_facts(moments),
        ),
        confidence=0.9 if view.picture.graph else 0.8, fixes=(raise_quota(taken),),
    )  # fmt: skip


def _stopped(view: RedisView, taken: runqueue.Throttled) -> Moments:
    """When the quota stopped the main thread: its long waits for a CPU; where waits were not seen, stalls."""
    if view.picture.graph is None:
        return view.stalls.longest(taken.ns)
    nodes = view.nodes(Kind.RUNNABLE)
    stopped, _ = runqueue.longest(view.picture.blame.inside(*nodes), taken.ns)
    return runqueue.moments_of(stopped)


@state(
    "redis.cpu.numa",
    "Most of this Redis' memory lies on another NUMA node than its CPUs",
    "each miss of the caches then goes over the link between the sockets, and takes up to twice as long",
)
def far_memory(view: RedisView) -> Said | None:
    """It may run on the CPUs of some NUMA nodes only, and most of its memory lies on others."""
    if view.pid is None:
        raise Unseen("its memory map is not visible from here")
    nodes = hostplace.nodes(view)
    if len(nodes) < 2:
        return None
    near = [node for node in nodes if node.allowed_cpus]
    far = [node for node in nodes if not node.allowed_cpus]
    held, held_far = sum(node.held_bytes for node in nodes), sum(node.held_bytes for node in far)
    if not near or held_far < FAR_LEAST or held_far < FAR_PART * held:
        return None
    most = max(far, key=lambda node: node.held_bytes)
    change = (
        f"run it where its memory is (taskset -acp CPUS {view.pid} with the CPUs of {most.name}, see lscpu), or move "
        f"the memory: migratepages {view.pid} {most.number} {near[0].number}"
    )
    source = f"/proc/{view.pid}/numa_maps"
    return Said(
        evidence=(
            fact("its memory on nodes whose CPUs it may not use", format_bytes(int(held_far)), source,
                 limit=format_bytes(FAR_LEAST)),
            fact("of all its memory", format_share(held_far / held), source, limit=format_share(FAR_PART)),
            fact("its threads may run on", ", ".join(node.name for node in near), f"/proc/{view.pid}/task/*/status"),
        ),
        setting="CPU affinity",
        fixes=(words("redis-near-memory", change, "none for the data; moving memory takes a moment"),),
    )  # fmt: skip


@state(
    "redis.cpu.clocksource",
    "Each look at the clock is a system call on this host",
    "it looks at the clock several times for each command, and each time goes into the kernel, which asks a device",
)
def slow_clock(view: RedisView) -> Said | None:
    """The kernel's clock is none that programs can read by themselves, and a look at it was measured to be slow."""
    cost, coarse = view.host_number("clock_ns"), view.host_number("coarse_clock_ns")
    clock = hostplace.clock(view)
    if view.pid is None or cost is None or coarse is None or clock is None:
        raise Unseen("the clock of its host is not visible from here")
    if clock.current in FAST_CLOCKS or cost - coarse < CLOCK_NS:
        return None
    better = next((name for name in FAST_CLOCKS if name in clock.available), None)
    path = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
    change = f"echo {better} > {path}" if better else (
        "see dmesg for why the kernel does not trust tsc here; in a VM ask for another clock (kvm-clock, tsc)"
    )  # fmt: skip
    return Said(
        evidence=(
            fact("clock of the kernel", clock.current, path),
            fact("a look at it, with the calling, takes", round(cost, 1), "clock_gettime", unit="ns"),
            fact("the same of the coarse clock, which no system call reads", round(coarse, 1), "clock_gettime",
                 unit="ns", limit=round(coarse + CLOCK_NS, 1)),
            fact("others that this kernel has", ", ".join(clock.available) or "none",
                 path.replace("current", "available")),
        ),
        setting=f"clocksource {clock.current}",
        fixes=(words("clocksource", change, "none where the kernel lists it; until the next boot"),),
    )  # fmt: skip


FAST_CLOCKS = ("tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "timebase", "tod")
"""Those that the vDSO reads (arch/*/include/asm/vdso): x86, KVM, Hyper-V, Arm, Power, s390."""

CPUS: tuple[Rule, ...] = (quota, far_memory, slow_clock)
