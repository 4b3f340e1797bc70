"""A service whose memory lies in swap on a slow disk, and one that is at the memory limit of its control group.

`mem-swap`: the limit was low for a while and is gone; what was pushed out is read back page by page, as it is touched.
`mem-limit`: the limit stays; for each page that comes back another one goes. The twins hold the same memory, the one
without a limit, the other below it.
"""

from __future__ import annotations

from dataclasses import dataclass

from culpa.labs import memorygroup, slowdisk, stand, swaparea, throttle
from culpa.labs.lab import Conditions, Lab, Measured, Played, Truth, TruthOn, TruthStep
from culpa.labs.site import Site, opened

SWAP, LIMIT = "mem.swap", "mem.cgroup-limit"
SEEN_FROM_BELOW = ("disk.slow-device", "disk.saturated", "disk.cgroup-throttle")
"""The same reads of the swap device, seen from there."""
READ_IOPS = 800
VAULT_MEGABYTES, BOXES = 192, 300
AREA_BYTES = 512 << 20
MEGABYTE = 1 << 20


LOOK = "boxes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vault:
    """The running service, its group, and the swap area."""

    case: stand.Stand
    group: memorygroup.MemoryGroup
    area: swaparea.SwapArea


def play(conditions: Conditions) -> Played:
    """Pushed out by a limit that is gone by now."""
    with opened(conditions.progress) as here:
        vault, squeezed = pushed_out(here, conditions)
        return _judged(vault, SWAP, may=SEEN_FROM_BELOW, drawn={"squeezed_mib": squeezed})


def pushed_out(here: Site, conditions: Conditions) -> tuple[Vault, int]:
    """A vault of which all but some megabytes lie in swap, and how many."""
    vault = _raised(here, conditions)
    squeezed = conditions.parameters.chance("mem-swap").randrange(24, 40)
    vault.group.allow(squeezed * MEGABYTE)
    vault.group.lift()
    conditions.progress(f"all but {squeezed} MiB of it were pushed out to {vault.area.device}; there is no limit now")
    return vault, squeezed


def play_healthy(conditions: Conditions) -> Played:
    """The same memory, and nothing ever pushed it out."""
    with opened(conditions.progress) as here:
        return _raised(here, conditions).case.sound(LOOK)


def play_limit(conditions: Conditions) -> Played:
    """At a limit of about half of what the service holds."""
    with opened(conditions.progress) as here:
        vault = _raised(here, conditions)
        allowed = conditions.parameters.chance("mem-limit").randrange(80, 110)
        vault.group.allow(allowed * MEGABYTE)
        conditions.progress(f"its control group may hold {allowed} MiB")
        return _judged(vault, LIMIT, may=(SWAP, *SEEN_FROM_BELOW), drawn={"allowed_mib": allowed})


def play_limit_healthy(conditions: Conditions) -> Played:
    """A limit that is never reached."""
    with opened(conditions.progress) as here:
        vault = _raised(here, conditions)
        vault.group.allow(2 * VAULT_MEGABYTES * MEGABYTE)
        return vault.case.sound(LOOK)


def _raised(here: Site, conditions: Conditions) -> Vault:
    rate = throttle.Rate(per_second=READ_IOPS, unit="reads")
    area = here.stack.enter_context(swaparea.slow_swap(here, rate, AREA_BYTES))
    group = here.stack.enter_context(
        memorygroup.memory_group(book=here.ledger, name=here.name, beside=area.limit.group)
    )
    conditions.progress(f"swap: {area.device}, {rate}")
    arguments = (str(VAULT_MEGABYTES), str(BOXES), str(conditions.parameters.seed))
    case = stand.raised(here, conditions, app="vault", on=slowdisk.ordinary_disk(here), arguments=arguments)
    group.admit(case.app.pid)
    case.ready("fill")
    return Vault(case=case, group=group, area=area)


def _judged(vault: Vault, cause: str, *, may: tuple[str, ...], drawn: dict[str, int]) -> Played:
    """Measured, judged, and measured again once all of its memory is back."""
    case, before = vault.case, vault.case.seconds(LOOK)
    truth, judged = _truth(vault, cause, may), case.judge(LOOK, show=True)
    vault.group.lift()
    vault.area.empty()
    case.conditions.progress("no limit, and everything is read back from swap")
    after = case.seconds(LOOK, requests=stand.FAST_REQUESTS)
    stage = case.stage("as found", LOOK, truth, judged, Measured(before=before, after_fix=after))
    return Played(stages=(stage,), disk="slow", drawn=drawn)


def _truth(vault: Vault, cause: str, may: tuple[str, ...]) -> Truth:
    pid, device = vault.case.app.pid, vault.area.device_name
    return Truth(
        causes=(cause,),
        may=may,
        who=(stand.who(cause, pid),),
        on=(TruthOn(cause=cause, device=device),) if cause == SWAP else (),
        path=(TruthStep(kind="fault", pid=pid), TruthStep(kind="device", device=device)),
        fix="no limit, and swap emptied",
    )


MEM_SWAP = Lab(
    name="mem-swap",
    family="hosts",
    needs=("root", "trace", "slow-disk", "swap"),
    seed="001",
    fires=(SWAP,),
    silent=(LIMIT, "cpu.busy", "disk.fsync-heavy"),
    play=play,
)
MEM_SWAP_HEALTHY = MEM_SWAP.healthy(silent=(SWAP, LIMIT), play=play_healthy)
MEM_LIMIT = Lab(
    name="mem-limit",
    family="hosts",
    needs=("root", "trace", "slow-disk", "swap"),
    fires=(LIMIT,),
    silent=("cpu.busy", "disk.fsync-heavy"),
    play=play_limit,
)
MEM_LIMIT_HEALTHY = MEM_LIMIT.healthy(silent=(SWAP, LIMIT), play=play_limit_healthy)
