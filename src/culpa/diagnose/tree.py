"""The blame tree as the verdict shows it: like threads gathered, small parts summed, everything named in words."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from culpa.diagnose.blame import NO_ONE, ROOT, BlameNode
from culpa.diagnose.pathpattern import patterns
from culpa.diagnose.picture import Picture
from culpa.diagnose.verdict import Node, On, Who
from culpa.model.connectwaits import NOT_TAKEN
from culpa.model.kinds import Kind
from culpa.model.objects import Thing
from culpa.model.stages import SWAP_IN
from culpa.model.writeback import OLDER, QUEUE
from culpa.syscalls import CHILD
from culpa.units import NS_PER_SECOND

MIN_NODE_SHARE = 0.001
"""Of the root's time; smaller nodes are added up, and so is what comes after the largest of them."""
MAX_CHILDREN = 12


def of(picture: Picture) -> Node:
    """The tree of a picture."""
    return _node(picture, [ROOT])


def _node(picture: Picture, group: list[int]) -> Node:
    """One node for blame nodes that look alike; small children are gathered, so that the sum stays whole."""
    blamed = picture.blame.nodes
    families = _families(picture, group)
    sizes = [sum(blamed[n].ns for n in family) for family in families]
    order = sorted(range(len(families)), key=lambda i: (-sizes[i], families[i]))
    large = [i for i in order if picture.share(sizes[i]) >= MIN_NODE_SHARE][:MAX_CHILDREN]
    children = [_node(picture, families[i]) for i in large]
    small = [i for i in order if i not in large]
    if sum(sizes[i] for i in small):
        children.append(_rest(picture, [n for i in small for n in families[i]], len(small)))
    ns = sum(blamed[n].ns for n in group)
    return Node(
        label=label(picture, group), kind=blamed[group[0]].kind.name.lower(),  # type: ignore[arg-type]  # the same names
        who=_who(picture, group), on=_on(_thing(picture, group)), seconds=ns / NS_PER_SECOND, share=picture.share(ns),
        count=sum(blamed[n].count for n in group), children=tuple(children),
    )  # fmt: skip


def _families(picture: Picture, group: list[int]) -> list[list[int]]:
    """Children of like nodes, gathered where they differ only in which thread they are about, or which of many files.

    Like threads of one process are one family, but its main thread stands alone; of processes that come and go
    (children that were waited for, and what those did) all of one name are one family. Files are one family where more
    than can be shown were made the same way.
    """
    passing = len({_pid(picture, picture.blame.nodes[n].who) for n in group}) > 1
    families: dict[tuple[Kind, int, str | None, Thing | None], list[int]] = {}
    for index in (child for node in group for child in picture.blame.nodes[node].children):
        node = picture.blame.nodes[index]
        pid, name = _pid(picture, node.who), picture.objects.comm.get(node.who)
        if passing or _is_passing(picture, node, pid):
            pid = NO_ONE
        elif node.who == pid:
            name = None
        families.setdefault((node.kind, pid, name, node.on), []).append(index)
    return _of_like_files(families)


def _of_like_files(families: dict[tuple[Kind, int, str | None, Thing | None], list[int]]) -> list[list[int]]:
    """The families; those that differ only in a file, if they are many, one for each pattern of paths."""
    paths: dict[tuple[object, ...], set[str]] = defaultdict(set)
    for kind, pid, name, on in families:
        if on is not None and on.path is not None:
            paths[kind, pid, name, replace(on, path=None)].add(on.path)
    alike = {key: patterns(found) for key, found in paths.items() if len(found) > MAX_CHILDREN}
    gathered: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for (kind, pid, name, on), nodes in families.items():
        rest = None if on is None else replace(on, path=None)
        pattern = alike.get((kind, pid, name, rest), {}).get((on.path if on else None) or "")
        gathered[kind, pid, name, on if pattern is None else replace(rest or Thing(), path=pattern)] += nodes
    return list(gathered.values())


def _thing(picture: Picture, group: list[int]) -> Thing | None:
    """What like nodes are about; of several files their pattern."""
    first = picture.blame.nodes[group[0]].on
    paths = {on.path for n in group if (on := picture.blame.nodes[n].on) is not None and on.path is not None}
    if first is None or first.path is None or len(paths) < 2:
        return first
    return replace(first, path=patterns(paths)[first.path])


def _is_passing(picture: Picture, node: BlameNode, pid: int) -> bool:
    """Whether a node is about another process that was waited for in wait4, or at the other end of a pipe."""
    if node.kind is not Kind.PEER or node.on is None or node.on.syscall is None:
        return False
    return node.on.syscall in CHILD or pid not in picture.capture.manifest.target.pids


def _pid(picture: Picture, tid: int) -> int:
    return picture.objects.pid_of.get(tid, tid)


def _rest(picture: Picture, nodes: list[int], families: int) -> Node:
    ns = sum(picture.blame.nodes[n].ns for n in nodes)
    return Node(
        label=f"{families} smaller parts", kind="unexplained", who=None, on=None, seconds=ns / NS_PER_SECOND,
        share=picture.share(ns), count=sum(picture.blame.nodes[n].count for n in nodes),
    )  # fmt: skip


def _who(picture: Picture, group: list[int]) -> Who | None:
    tid = picture.blame.nodes[group[0]].who
    if tid == NO_ONE:
        return None
    pid = _pid(picture, tid)
    name = picture.objects.comm.get(tid) or picture.objects.process(pid).comm
    tids = {picture.blame.nodes[n].who for n in group}
    if len({_pid(picture, tid) for tid in tids}) > 1:
        return Who(comm=name)
    return Who(pid=pid, tid=tid if len(tids) == 1 else None, comm=name)


def _on(thing: Thing | None) -> On | None:
    on = None if thing is None else On(
        path=thing.path, peer=thing.peer, device=thing.device, syscall=thing.syscall, lock=thing.lock
    )  # fmt: skip
    return on if on != On() else None


def label(picture: Picture, group: list[int]) -> str:
    """What the nodes are, in words: no jargon without its object."""
    node = picture.blame.nodes[group[0]]
    who = "" if node.who == NO_ONE else picture.objects.thread_name(node.who)
    tids = {picture.blame.nodes[n].who for n in group}
    pids = {_pid(picture, tid) for tid in tids}
    if len(tids) > 1 and who:
        name = picture.objects.comm.get(node.who) or "thread"
        who = f"{len(pids)} processes {name}" if len(pids) > 1 else f"{len(tids)} threads of {name}[{min(pids)}]"
    thing = _thing(picture, group)
    if thing and thing.other:
        return _owned(node.kind, thing, who)
    what = (
        (thing.path or thing.peer or thing.device or thing.lock or thing.syscall or thing.stage or "") if thing else ""
    )
    stage = f" ({thing.stage})" if thing and thing.stage and what != thing.stage else ""
    words = {
        Kind.REQUEST: picture.capture.manifest.target.name or "the host",
        Kind.RUNNING: f"{who} running",
        Kind.RUNNABLE: f"{who} waiting for a CPU",
        Kind.IO: f"{who} in file I/O on {what}",
        Kind.FSYNC: f"{who} syncing {what}",
        Kind.JOURNAL: f"journal commit by {who}",
        Kind.DEVICE: f"device {what}{stage}",
        Kind.LOCK: f"waiting for lock {what}{f', held by {who}' if stage == '' else stage}",
        Kind.PEER: f"waiting for {who} {'at' if thing and thing.peer else 'in'} {what}{stage}",
        Kind.QUEUED: _queue_label(who, thing, what),
        Kind.FAULT: f"{who} in a page fault{_fault(thing)}",
        Kind.RECLAIM: f"{who} in {what}",
        Kind.STOPPED: f"{who} stopped {what}".strip(),
        Kind.REMOTE: f"{who} {thing.stage}, at {what}" if thing and stage else f"waiting for another host, {what}",
        Kind.SLEEP: f"{who} asleep in {what}",
        Kind.UNEXPLAINED: f"unexplained: {who} in {what or 'a wait'}{stage}" if who else f"unexplained: {what}",
    }
    return words.get(node.kind, f"{who} {node.kind.name.lower()} {what}{stage}".strip())


def _fault(thing: Thing | None) -> str:
    """Where the page was."""
    if thing is not None and thing.stage == SWAP_IN:
        return ", its page lay in swap"
    return f" on {thing.path}" if thing is not None and thing.path else ""


def _owned(kind: Kind, thing: Thing, owner: str) -> str:
    """Time that went to somebody's data."""
    place = f" to {thing.path}" if thing.path else ""
    whose = thing.other if thing.other == OLDER else f"{owner}{place}"
    if kind is Kind.THROTTLE:
        return f"made to pause on {thing.device} by dirty pages of {whose}"
    way = "behind" if thing.stage == QUEUE else "serving"
    return f"device {thing.device} {way} a {'write' if thing.other == OLDER else thing.other} of {whose}"


def _queue_label(who: str, thing: Thing | None, what: str) -> str:
    """Bytes that arrived and were not read: at whom, behind which request, over which connection."""
    place = f" at {who}" if who else ""
    over = f" at {what}" if what and thing is not None and thing.peer else "" if who else f" {what}"
    behind = f" behind {thing.behind}" if thing is not None and thing.behind else ""
    if thing is not None and thing.stage == NOT_TAKEN:
        return f"{NOT_TAKEN} by {who}, {what}"
    return f"queued{behind}{place}{over}"
