"""Hand-made verdicts for the reporters: slow with two heads, healthy, one that saw too little, a hostile one."""

from __future__ import annotations

from culpa.capture.manifest import BlindSpot
from culpa.diagnose.verdict import (
    Asker,
    Cause,
    CommandRow,
    Commands,
    CostView,
    Culpa,
    Evidence,
    Fix,
    HostView,
    Node,
    Observed,
    On,
    Predicted,
    Root,
    RuledOut,
    TargetView,
    Verdict,
    Who,
    WindowView,
)

CONTROLS = "\x1b[31mred\x07\u202e[bold]x[/bold]\n:smile:"
AOF = "/var/lib/store/appendonlydir/appendonly.aof.1.incr.aof"
STORE = Who(pid=4711, tid=4711, starttime=99, comm="redis-server", cmdline="redis-server *:7001")
SHOP = Who(pid=4720, tid=4723, starttime=120, comm="shop", cmdline="/usr/bin/shop serve")


def fact(text: str, value: float | str | None, unit: str, source: str, threshold: float | None = None) -> Evidence:
    return Evidence(fact=text, value=value, unit=unit, threshold=threshold, source=source)


def node(label: str, kind: str, seconds: float, children: tuple[Node, ...] = (), **parts: object) -> Node:
    fields = {"who": None, "on": None, "count": 1} | parts
    return Node(label=label, kind=kind, seconds=seconds, share=seconds / 10.67, children=children, **fields)


def fsync_always() -> Cause:
    journal = Cause(
        id="fs.journal-wait", title="Waits for the journal of the file system", kind="slowness", level="critical",
        share=0.70, saves_seconds=7.46, predicted=None, confidence=0.9, who=STORE, on=On(device="loop5"),
        evidence=(fact("woken by jbd2", 7.46, "s", "offcpu"),), docs="docs/reference/rules.md#fs.journal-wait",
    )  # fmt: skip
    return Cause(
        id="redis.aof.fsync-always", title="Every Redis write waits for the disk", kind="slowness", level="critical",
        share=0.86, saves_seconds=9.17, predicted=Predicted(p50=1.03, low=0.55, high=1.5), confidence=0.97, who=STORE,
        on=On(path=AOF, syscall="fdatasync", setting="appendfsync always"),
        evidence=(
            fact("fdatasync calls in the main thread", 1723, "", "syscalls, tid 4711"),
            fact("time in them", 9.17, "s", "syscalls, tid 4711"),
            fact("mean of one", 5.32, "ms", "syscalls, tid 4711"),
            fact("of it waiting for the journal", 7.46, "s", "offcpu, woken by jbd2/loop5-8"),
            fact("of it waiting for the device", 1.42, "s", "blocks, loop5"),
            fact("appendfsync", "always", "", "redis 127.0.0.1:7001, CONFIG GET appendfsync"),
        ),
        because=(journal,),
        fixes=(
            Fix(
                id="redis-appendfsync-everysec",
                argv=("redis-cli", "-p", "7001", "config", "set", "appendfsync", "everysec"),
                reversible=True, risk="a crash of the host loses up to one second of writes",
            ),
        ),
        docs="docs/reference/rules.md#redis.aof.fsync-always",
    )  # fmt: skip


def write_in_read() -> Cause:
    return Cause(
        id="app.redis.write-in-read-path", title="A read request writes to Redis", kind="slowness", level="critical",
        share=0.84, saves_seconds=9.0, predicted=None, confidence=0.9, who=SHOP,
        on=On(code="/srv/shop/app.py:53 get_cache"),
        evidence=(
            fact("SADD within one GET request", 1677, "", "messages, pid 4720"),
            fact("waiting for their replies", 9.0, "s", "messages, pid 4720"),
        ),
        fixes=(Fix(id="move-write", change="move the SADD out of the request", reversible=True, risk=""),),
        docs="docs/reference/rules.md#app.redis.write-in-read-path",
    )  # fmt: skip


def ruled_out() -> tuple[RuledOut, ...]:
    return (
        RuledOut(resource="CPU", verdict="not the cause", evidence=(fact("running", 0.04, "share", "offcpu", 0.1),)),
        RuledOut(
            resource="run queue", verdict="not it", evidence=(fact("runnable, not running", 0.021, "s", "offcpu"),)
        ),
        RuledOut(resource="memory", verdict="not it", evidence=(fact("time in reclaim", 0.0, "s", "offcpu"),)),
        RuledOut(resource="swap", verdict="not it", evidence=(fact("pages swapped in", 0, "", "/proc/vmstat"),)),
        RuledOut(resource="disk vda", verdict="not it", evidence=(fact("busy", 0.02, "share", "/proc/diskstats"),)),
        RuledOut(resource="network", verdict="no remote waits", evidence=()),
    )


def verdict(**changes: object) -> Verdict:
    """The slow verdict of redis-slow, with parts replaced."""
    fdatasync = node("fdatasync", "fsync", 9.17, who=STORE, on=On(path=AOF), count=1723)
    answer = node("answers of redis-server", "peer", 9.23, (fdatasync, node("running", "running", 0.06)), who=STORE)
    fields: dict[str, object] = {
        "culpa": Culpa(version="0.1.0"),
        "host": HostView(kernel="6.1.0-18-amd64", machine="x86_64", cpus=2, memory_bytes=8 << 30),
        "headline": "GET http://127.0.0.1:7000/get_cache takes 10.7 s, 86 % of it redis-server (pid 4711) waiting for "
        "the disk after every write (appendfsync always)",
        "state": "slow",
        "target": TargetView(kind="url", name="http://127.0.0.1:7000/get_cache", pids=(4720,)),
        "window": WindowView(start="2026-01-02T03:04:05Z", seconds=10.9, ended_by="request"),
        "root": Root(basis="requests", seconds=10.67, threads=1, idle_seconds=0.2),
        "observed": Observed(
            completed=1, in_flight=0, in_flight_age=None, p50=10.67, p99=None, max=10.67, per_second=0.09
        ),
        "blame": node("GET /get_cache", "request", 10.67, (answer, node("running", "running", 0.9, who=SHOP))),
        "causes": (fsync_always(), write_in_read()),
        "ruled_out": ruled_out(),
        "blind_spots": (
            BlindSpot(what="lines of code of 4711", why="it is not Python", way_out="none is needed for this verdict"),
        ),
        "cost": CostView(
            events=153_557, lost_events=0, probe_cpu_seconds=0.04, culpa_cpu_seconds=1.1, peak_rss_bytes=190 << 20
        ),
    }
    return Verdict(**(fields | changes))


def healthy() -> Verdict:
    return healthy_with()


def healthy_with(**changes: object) -> Verdict:
    return verdict(
        headline="nothing is slow: 1,204 requests took 1.20 ms in the median, none waited for anything for long",
        state="not-slow", causes=(), blind_spots=(),
        observed=Observed(
            completed=1204, in_flight=0, in_flight_age=None, p50=0.0012, p99=0.004, max=0.01, per_second=99.5
        ), **changes,
    )  # fmt: skip


def unknown() -> Verdict:
    return verdict(
        headline="too little was seen to judge: no request in 15.0 s", state="unknown", causes=(), ruled_out=(),
        observed=None, blame=node("nothing seen", "unexplained", 0.0),
        blind_spots=(
            BlindSpot(what="system calls and waits", why="not root", way_out="run with sudo, or give CAP_BPF"),
        ),
    )  # fmt: skip


def command(verb: str, pattern: str | None, seconds: float, requests: int, **parts: object) -> CommandRow:
    fields: dict[str, object] = {
        "calls": requests, "share": seconds / 10, "p50": seconds / requests, "p99": 3 * seconds / requests,
        "max": 4 * seconds / requests,
        "waited": (0.0, 0.0), "behind": None, "behind_seconds": None, "reply_bytes": 100 * requests,
        "askers": (Asker(name="10.0.0.7:* (name=report)", requests=requests, seconds=seconds),),
    }  # fmt: skip
    return CommandRow(verb=verb, pattern=pattern, requests=requests, seconds=seconds, **(fields | parts))


def busy() -> Verdict:
    """A check-up of a server that one command keeps busy, and one whose counters alone are known."""
    seen = Commands(
        server="127.0.0.1:7001", basis="sockets", seconds=10.0, other_rows=2, other_requests=9, other_seconds=0.001,
        own_seconds=0.01, notes=("culpa cannot tell everything",),
        rows=(
            command("HGETALL", "user:*", 6.1, 2300),
            command("GET", "page:*", 0.4, 900, waited=(0.3, 0.9), behind="HGETALL user:*", behind_seconds=0.8),
            command("SET", "page:*", 0.2, 40, calls=None),
            command("PING", None, 0.001, 4),
        ),
    )  # fmt: skip
    counted = Commands(
        server="127.0.0.1:7002", basis="commandstats", seconds=10.2, other_rows=0, other_requests=0, other_seconds=0.0,
        own_seconds=None,
        rows=(command("SORT", None, 2.0, 50, p50=None, p99=None, waited=None, reply_bytes=None, askers=()),),
    )  # fmt: skip
    target = TargetView(kind="redis", name="redis://127.0.0.1:7001/0", pids=(4711,))
    return healthy_with(target=target, commands=(seen, counted))


def hostile() -> Verdict:
    """Names that try to command the terminal or the markup, and a path of 4000 letters."""
    who = Who(pid=1, tid=2, comm=CONTROLS, cmdline=CONTROLS, unit=CONTROLS, container=CONTROLS)
    evil = On(path="/" + "a" * 4000, peer=CONTROLS, device=CONTROLS, lock=CONTROLS, code=CONTROLS, syscall=CONTROLS)
    evidence = Evidence(fact=CONTROLS, value=CONTROLS, unit=CONTROLS, threshold=CONTROLS, source=CONTROLS)
    fix = Fix(id=CONTROLS, argv=("rm", CONTROLS), reversible=False, risk=CONTROLS)
    cause = Cause(
        id="cpu.busy", title=CONTROLS, kind="slowness", level="note", share=1.0, saves_seconds=0.0, predicted=None,
        confidence=0.1, who=who, on=evil, evidence=(evidence,) * 30, fixes=(fix,) * 9, docs=CONTROLS,
    )  # fmt: skip
    return verdict(
        headline=CONTROLS,
        causes=(cause,) * 12,
        ruled_out=(RuledOut(resource=CONTROLS, verdict=CONTROLS, evidence=(evidence,) * 3),) * 30,
        blind_spots=(BlindSpot(what=CONTROLS, why="\u6f22" * 300, way_out=CONTROLS),) * 50,
        target=TargetView(kind="redis", name=CONTROLS, pids=()),
        commands=(
            Commands(
                server=CONTROLS,
                basis="sockets",
                seconds=1.0,
                other_rows=3,
                other_requests=9,
                other_seconds=0.1,
                own_seconds=0.0,
                notes=(CONTROLS,),
                rows=(
                    command(
                        CONTROLS,
                        "k" * 4000 + CONTROLS,
                        5.0,
                        7,
                        waited=(9.0, 9.0),
                        behind=CONTROLS,
                        askers=(Asker(name=CONTROLS, requests=3, seconds=1.0),) * 3,
                    ),
                )
                * 20,
            ),
        )
        * 4,
        blame=node(CONTROLS, "running", 10.67, (node(CONTROLS, "io", 5.0, who=who, on=evil),) * 300),
    )
