"""Programs in containers of the lab's own: network, pid and mount namespaces each, and an overlay as their root.

The overlay shows this host's root file system; what a program writes goes to a folder of the lab's disk. It is mounted
within the container's own mount namespace and so ends with the program, as the pid and network namespaces do. What a
killed lab leaves is the programs, and interfaces with the prefix: a bridge, and one end of a pair for each container.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from culpa.errors import LabError
from culpa.labs import interfaces, ledger, loopdev
from culpa.labs.places import PREFIX
from culpa.labs.site import Program, Site
from culpa.labs.waiting import wait_until

HERE = "198.18.0.1"
PREFIX_LENGTH = 29
"""198.18.0.0/15 is set aside for tests within one host or laboratory (RFC 2544)."""
INSIDE = "inside"
_ENTER: Final = """
set -e
root=$1 layers=$2 shared=$3
shift 3
mount -t overlay -o "$layers" overlay "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
IFS=:
for folder in $shared; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
done
unset IFS
cd "$root"
pivot_root . .
umount -l .
cd /
exec "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A program in its container, reached at `address`. `pid` is the host's number of it; `upper` is where what it
    writes lies on the host."""

    program: Program
    pid: int
    address: str
    upper: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """The network of one site's containers; this host is in it at `HERE`."""

    site: Site
    name: str

    def start(self, argv: list[str], *, name: str, number: int, on: Path) -> Container:
        """Start a program in a container; it ends with the site.

        Args:
            argv: program and arguments, as the container sees them; `{address}` in one becomes its address.
            name: of the program's log and of its folder.
            number: from 2 on, one for each container.
            on: a folder on a file system other than the root's, for what it writes.

        Raises:
            LabError: a tool is missing, or this host does not allow it.
        """
        address = f"{HERE.rpartition('.')[0]}.{number}"
        root, upper, work = (folder / name for folder in (self.site.directory / "roots", on / "upper", on / "work"))
        for folder in (root, upper, work):
            folder.mkdir(parents=True, exist_ok=True)
        layers = f"lowerdir=/,upperdir={upper},workdir={work}"
        words = [word.replace("{address}", address) for word in argv]
        enter = ["sh", "-c", _ENTER, "sh", str(root), layers, ":".join(self._shared()), *words]
        unshare = loopdev.tool("unshare") or "unshare"
        program = self.site.start([unshare, "--net", "--pid", "--mount", "--fork", "--kill-child", *enter], name=name)
        pid = _only_child(program)
        self.site.stack.callback(_kill, pid)
        self.site.stack.enter_context(self._linked(pid, address, number))
        return Container(program=program, pid=pid, address=address, upper=upper)

    def _shared(self) -> list[str]:
        """Folders that the program needs and that an overlay of the root alone does not show."""
        wanted = [self.site.directory, Path(sys.prefix), Path(sys.base_prefix)]
        root = Path("/").stat().st_dev
        return list(dict.fromkeys(str(folder) for folder in wanted if folder.stat().st_dev != root))

    @contextmanager
    def _linked(self, pid: int, address: str, number: int) -> Iterator[None]:
        outside = f"{PREFIX}{self.site.name[-4:]}{number}"  # 15 characters, the most there can be
        self.site.ledger.note(ledger.Interface(name=outside))
        try:
            with self.site.endings.deferred():
                loopdev.run_tool(
                    "ip", "link", "add", outside, "type", "veth", "peer", "name", INSIDE, "netns", str(pid)
                )
            loopdev.run_tool("ip", "link", "set", outside, "master", self.name, "up")
            inside = ("nsenter", "--target", str(pid), "--net", "ip")
            loopdev.run_tool(*inside, "address", "add", f"{address}/{PREFIX_LENGTH}", "dev", INSIDE)
            for interface in ("lo", INSIDE):
                loopdev.run_tool(*inside, "link", "set", interface, "up")
            yield
        finally:
            interfaces.remove(outside)


@contextmanager
def bridged(site: Site) -> Iterator[Bridge]:
    """A network for containers, gone again afterwards.

    Raises:
        LabError: this host does not allow it.
    """
    name = f"{PREFIX}{site.name[-4:]}b"
    site.ledger.note(ledger.Interface(name=name))
    try:
        with site.endings.deferred():
            loopdev.run_tool("ip", "link", "add", name, "type", "bridge")
        loopdev.run_tool("ip", "address", "add", f"{HERE}/{PREFIX_LENGTH}", "dev", name)
        loopdev.run_tool("ip", "link", "set", name, "up")
        yield Bridge(site=site, name=name)
    finally:
        interfaces.remove(name)


def _only_child(program: Program) -> int:
    """The process that `unshare` forks, once it is in its network namespace; the pid stays when it becomes another
    program.
    """
    listed = Path(f"/proc/{program.pid}/task/{program.pid}/children")

    def forked() -> bool:
        program.require_running()
        return bool(listed.read_text().split())

    wait_until(forked, what="the container")
    children = listed.read_text().split()
    if not children:
        program.require_running()
        raise LabError(f"the container of {program.log.stem} ended at once: {program.last_words()}")
    return int(children[0])


def _kill(pid: int) -> None:
    """End the first process of a pid namespace, and all in it with it; it would not hear anything milder."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
