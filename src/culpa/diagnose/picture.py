"""Everything a rule may look at: one capture, drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import polars as pl

from culpa.capture import schema
from culpa.capture.bundle import Capture
from culpa.diagnose import blame as blame_of
from culpa.diagnose import (
    devicewaits,
    filecalls,
    freeing,
    rereads,
    sampled,
    slowcommands,
    smallcalls,
    summed,
    wholecalls,
)
from culpa.diagnose import root as root_of
from culpa.diagnose.blame import Blame
from culpa.diagnose.devicewaits import DeviceWait
from culpa.diagnose.filecalls import FileCalls
from culpa.diagnose.freeing import Freeing
from culpa.diagnose.moments import Moments
from culpa.diagnose.redisserved import Served
from culpa.diagnose.redisview import RedisView, servers
from culpa.diagnose.rereads import Rereading
from culpa.diagnose.root import Root
from culpa.diagnose.smallcalls import Habit, Operation
from culpa.model import timeline, waitgraph
from culpa.model.axis import Int64s
from culpa.model.kinds import Kind
from culpa.model.objects import Objects
from culpa.model.requests import Requests
from culpa.model.waitgraph import WaitGraph
from culpa.syscalls import Numbers


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A capture with its names, requests, wait graph, root and blame tree. `graph` is None where waits were not seen
    one by one: `seen` says how they were.
    """

    capture: Capture
    objects: Objects
    requests: Requests
    graph: WaitGraph | None
    root: Root
    blame: Blame
    seen: Literal["events", "samples", "sums"] = "events"
    asked: pl.DataFrame | None = None
    """culpa's own requests of the whole window, as in `Root.requests`, where events ended before it did; their length
    is known all the same.
    """
    asked_until_ns: int = 0
    """The end of that window."""
    served: Mapping[int, Served] = field(default_factory=dict)
    """What the main threads of Redis servers did, by process, where their messages were recorded."""
    small_calls: frozenset[tuple[str, str]] = frozenset()
    """Where calls are only summed up: files and operations of which the recorded calls moved a few bytes each."""
    explained: Moments | None = None
    """Where other causes lie, for the rule about what is left."""

    @property
    def sampled(self) -> bool:
        """Waits were seen in samples of /proc or in sums of the kernel's, not in events: the weaker evidence."""
        return self.seen != "events"

    @cached_property
    def redis_pids(self) -> frozenset[int]:
        """Processes that answer RESP on their sockets, or that said so over the protocol."""
        spoke = self.requests.exchanges.filter((pl.col("role") == "server") & (pl.col("protocol") == "resp"))
        asked = self.capture.frame(schema.REDIS)["pid"].drop_nulls()
        return frozenset(spoke["pid"].to_list()) | frozenset(asked.to_list())

    @cached_property
    def redis_servers(self) -> list[RedisView]:
        """The Redis servers that were asked."""
        return servers(self)

    def redis_setting(self, pid: int, name: str) -> str | None:
        """A Redis server's setting as it said it last; None if it was not asked or did not say."""
        rows = self.capture.frame(schema.REDIS).filter(
            (pl.col("pid") == pid) & (pl.col("source") == "CONFIG GET") & (pl.col("field") == name)
        )
        return None if rows.is_empty() else str(rows.sort("ts_ns")["value"][-1])

    def call_name(self, nr: int) -> str:
        """A system call's name."""
        return Numbers(self.capture.manifest.host.machine).name(nr)

    def redis_address(self, pid: int) -> str | None:
        """Where the server was asked, `host:port`."""
        rows = self.capture.frame(schema.REDIS).filter(pl.col("pid") == pid)["server"].drop_nulls()
        return None if rows.is_empty() else str(rows[0])

    @property
    def is_checkup(self) -> bool:
        """Whether one Redis server was examined for its own sake: its PINGs are the root."""
        return self.capture.manifest.target.kind == "redis" and len(self.capture.frame(schema.REQUESTS)) > 0

    @property
    def has_price(self) -> bool:
        """Whether "a request" means one thing: requests of a URL or runs of a command, not all that a process
        serves.
        """
        return self.root.basis == "requests" and self.capture.manifest.target.kind in ("url", "command")

    @property
    def timed(self) -> pl.DataFrame:
        """The requests whose length is known, in the columns of `Root.requests`."""
        return self.root.requests if self.asked is None else self.asked

    @cached_property
    def typical_ns(self) -> float | None:
        """Median length of the root's finished requests; None without any."""
        done = self.timed.filter(pl.col("done"))
        return None if done.is_empty() else float(np.median((done["end_ns"] - done["start_ns"]).to_numpy()))

    @property
    def is_slow(self) -> bool:
        """What was asked about is slow by itself: a command, or a URL that takes longer than `--slower-than`."""
        target, requests = self.capture.manifest.target, self.timed
        if target.kind != "url" or requests.is_empty():
            return target.kind == "command"
        lengths = (requests["end_ns"] - requests["start_ns"]).to_numpy()
        return float(np.median(lengths)) > target.slower_than_ns

    @property
    def request_count(self) -> int:
        """Requests of the root that were answered, at least 1 where there is a root."""
        return max(1, int(self.root.requests["done"].sum() or 0))

    def moments(self, *nodes: int) -> Moments:
        """Where in the root's time these nodes of the blame tree lie."""
        return Moments.of(self.blame.inside(*nodes))

    def nodes(self, *kinds: Kind) -> list[int]:
        """Nodes of these kinds, largest first."""
        found = [n for n in range(len(self.blame.nodes)) if self.blame.nodes[n].kind in kinds]
        return sorted(found, key=lambda n: (-self.blame.nodes[n].ns, n))

    def share(self, ns: int) -> float:
        """A time as a share of the root."""
        return ns / self.root.ns if self.root.ns else 0.0

    @cached_property
    def file_calls(self) -> FileCalls | None:
        """What the processes on the root's chain did to files; None where waits were only sampled."""
        return filecalls.on_chain(self)

    @cached_property
    def habits(self) -> Mapping[Operation, list[Habit]]:
        """Small reads, and small writes, that cost the root much."""
        return {operation: smallcalls.found(self, operation) for operation in smallcalls.OPERATIONS}

    @cached_property
    def rereadings(self) -> list[Rereading]:
        """Files whose reading again costs the root much."""
        return rereads.found(self)

    @cached_property
    def freeings(self) -> list[Freeing]:
        """Calls that give back the space of large files, where these cost the root much."""
        return freeing.found(self)

    @cached_property
    def own_exchanges(self) -> pl.DataFrame:
        """What the root's threads asked of others within the root: exchanges with `item`, `wait_ns` and the shape
        asked.
        """
        return _own_exchanges(self)

    @cached_property
    def own_calls(self) -> tuple[Int64s, Int64s, Int64s]:
        """The system calls of the root's threads within the root, as from `wholecalls.of_root`."""
        return wholecalls.of_root(self)

    @cached_property
    def on_cpu_or_ready(self) -> Moments:
        """Where the root's time is the target's own computing, or its waiting for a CPU."""
        nodes, own = self.nodes(Kind.RUNNING, Kind.RUNNABLE), self.capture.manifest.target.pids
        return self.moments(*(node for node in nodes if self.blame.nodes[node].who in own))

    @cached_property
    def device_waits(self) -> tuple[DeviceWait, ...]:
        """Waits for devices that matter to the root and are longer than sound devices make anybody wait."""
        return tuple(devicewaits.found(self))

    @cached_property
    def slow_commands(self) -> pl.DataFrame:
        """The target's own commands that kept a Redis server's thread long, as from `slowcommands.found`."""
        return slowcommands.found(self)


def draw(capture: Capture, found: Requests) -> Picture:
    """Draw the picture of a capture: events if there are any, else samples.

    Args:
        capture: its messages may be used up.
        found: the requests in it.
    """
    if capture.manifest.evidence.waits == "events":
        graph = waitgraph.build(capture, timeline.build(capture), found)
        root = root_of.find(capture, graph, found)
        tree = blame_of.share_out(graph, root.interval, root_of.seed(root), queued=root.queued)
        return Picture(capture=capture, objects=Objects(capture), requests=found, graph=graph, root=root, blame=tree)
    root, tree = sampled.share_out(capture)
    return Picture(
        capture=capture, objects=Objects(capture), requests=found, graph=None, root=root, blame=tree, seen="samples"
    )


def draw_sums(capture: Capture, found: Requests) -> Picture:
    """Draw the picture of what was only summed up.

    Args:
        capture: as from `summed.part`.
        found: the requests in the part that has events.
    """
    root, tree = summed.share_out(capture, sampled.own_requests(capture))
    return Picture(
        capture=capture, objects=Objects(capture), requests=found, graph=None, root=root, blame=tree, seen="sums"
    )


def _own_exchanges(picture: Picture) -> pl.DataFrame:
    """Client exchanges whose question was sent by a root thread inside one of the root's intervals."""
    rows = picture.requests.exchanges.with_row_index("row").filter(
        (pl.col("role") == "client") & pl.col("ask_end_ns").is_not_null() & pl.col("ask_start_ns").is_not_null()
    )
    rows = rows.with_columns(pl.col("role", "protocol", "verb", "detail").cast(pl.String))
    if picture.graph is None or rows.is_empty():
        return rows.clear().with_columns(
            item=pl.lit(0, pl.Int64), wait_ns=pl.lit(0, pl.Int64), stop_ns=pl.lit(0, pl.Int64)
        )
    items, inside = picture.root.items_at(picture.graph.axis, rows["tid"].to_numpy(), rows["ask_end_ns"].to_numpy())
    return (
        rows.with_columns(
            item=pl.Series(items, dtype=pl.Int64),
            stop_ns=pl.coalesce("answer_end_ns", pl.lit(picture.graph.axis.end_ns)),
        )
        .with_columns(wait_ns=pl.col("stop_ns") - pl.col("ask_start_ns"))
        .filter(pl.Series(inside))
    )
