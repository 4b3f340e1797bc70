"""Disk requests that a control group's limit holds back before they reach the device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from culpa.capture.schema import BLOCKS, COUNTERS
from culpa.diagnose import predict
from culpa.diagnose.devicewaits import DeviceWait
from culpa.diagnose.finding import Finding, Nearness
from culpa.diagnose.picture import Picture
from culpa.diagnose.rule import Lab, rule
from culpa.diagnose.rules.evidence import seconds
from culpa.diagnose.rules.iolimits import IoLimit, limits_on
from culpa.diagnose.verdict import Evidence, Fix, On


@rule(
    id="disk.cgroup-throttle",
    title="A limit of its control group holds its disk requests back",
    needs=(BLOCKS, COUNTERS),
    fixes=("io-limit-raise",),
    fires=(Lab("io-limit"),),
    silent=(
        Lab("io-limit-healthy"),
        Lab("page-faults"),
        Lab("disk-slow"),
        Lab("disk-saturated"),
        Lab("fsync-loop"),
        Lab("redis-slow-healthy"),
    ),
)
def cgroup_throttle(picture: Picture) -> Iterator[Finding]:
    """What it detects: the request waits for a block device that has nothing to do for more than half of that time,
    while a limit on that device is in force for the target's control group or one above it.

    Why it slows you: the kernel holds requests above the limit back before it hands them to the device, in slices of
    about 100 ms; whoever made them waits as if the device were slow.

    How sure: the device's requests are seen one by one, from when they were made to when they were finished; a request
    that is held back is not made yet. The limit alone proves nothing. A limit on a device below a stacked one (loop,
    dm, md) makes the upper one slow, which is `disk.slow-device`.

    What to do: raise the limit, or read and write less often and in larger pieces.
    """
    for wait in picture.device_waits:
        limits = limits_on(picture, wait.device)
        if limits and wait.finds_it_idle:
            yield _finding(picture, wait, limits)


def _finding(picture: Picture, wait: DeviceWait, limits: tuple[IoLimit, ...]) -> Finding:
    evidence = [
        Evidence(
            fact=f"waited for {wait.device}", value=seconds(wait.waited.ns), unit="s", threshold=None, source="blocks",
        ),
        Evidence(
            fact=f"of it, {wait.device} had nothing to do", value=seconds(wait.waited.idle_ns), unit="s",
            threshold=None, source="blocks",
        ),
    ]  # fmt: skip
    evidence += [
        Evidence(
            fact=f"limit in force on {wait.device}",
            value=limit.value,
            unit=limit.unit,
            threshold=None,
            source=limit.file,
        )
        for limit in limits
    ]
    files = ", ".join(sorted({limit.file for limit in limits}))
    groups = {str(PurePosixPath(limit.file).parent) for limit in limits}
    return Finding(
        moments=wait.moments, nearness=Nearness.LIMIT, pid=None, tid=None,
        on=On(device=wait.device, path=groups.pop() if len(groups) == 1 else None), evidence=tuple(evidence),
        confidence=0.9, predicted=predict.at_a_sound_device(picture, wait.moments, wait.count),
        fixes=(
            Fix(
                id="io-limit-raise", change=f"raise or remove the limit on {wait.device} in {files}", reversible=True,
                risk="others who use the device get less of it",
            ),
        ),
    )  # fmt: skip
