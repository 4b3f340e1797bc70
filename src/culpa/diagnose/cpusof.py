"""Which CPUs a process may run on, and which lie nearest to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from culpa.diagnose.redisview import RedisView


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpus:
    """Some CPUs, and whether they are the logical CPUs of one core."""

    numbers: tuple[int, ...]
    share_a_core: bool

    @property
    def listed(self) -> str:
        """As taskset takes them."""
        return ",".join(str(number) for number in self.numbers)


def allowed(view: RedisView) -> list[int]:
    """The CPUs of the server's main thread; empty where they are many, or not known."""
    return view.host_numbers("cpu", str(view.pid))


def better(view: RedisView) -> Cpus | None:
    """For a server that is bound to one CPU: all of its core; if that has but one, the next one of the same socket.

    None where it is bound to none or to several, or the host does not tell which belong together.
    """
    own = allowed(view)
    if len(own) != 1:
        return None
    core, socket = (view.host_numbers(field, f"cpu{own[0]}") for field in ("same_core", "same_socket"))
    if len(core) > 1:
        return Cpus(numbers=tuple(core), share_a_core=True)
    others = [cpu for cpu in socket if cpu != own[0]]
    if not others:
        return None
    nearest = min(others, key=lambda cpu: (abs(cpu - own[0]), cpu))
    return Cpus(numbers=tuple(sorted((own[0], nearest))), share_a_core=False)
