"""Control group paths name the systemd unit and the container, on every layout."""

from __future__ import annotations

import pytest

from culpa.collect.cgroups import Hierarchies, parse_cgroup
from culpa.collect.procfs import parse_mountinfo

ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "unit", "container"),
    [
        ("0::/system.slice/redis.service\n", "redis.service", None),
        (
            "11:hugetlb:/\n4:cpuacct,cpu:/system.slice/a.service\n1:name=systemd:/system.slice/a.service\n",
            "a.service",
            None,
        ),
        (f"0::/system.slice/docker-{ID}.scope\n", f"docker-{ID}.scope", ID),
        (f"9:memory:/docker/{ID}\n1:name=systemd:/docker/{ID}\n", None, ID),
        (f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope\n", f"cri-containerd-{ID}.scope", ID),
        (f"4:cpu:/kubepods/burstable/pod1/{ID}\n", None, ID),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/app.service\n", "app.service", None),
        ("0::/lxc.payload.web/system.slice/x.service\n", "x.service", "web"),
        ("2:memory:/process/abc\n0::/\n", None, None),
        ("0::/\n", None, None),
        ("", None, None),
        ("junk\n::\n", None, None),
    ],
)
def test_unit_and_container(text: str, unit: str | None, container: str | None) -> None:
    """What each layout says."""
    found = parse_cgroup(text.encode())
    assert (unit, container) == (found.unit, found.container)


def test_combined_controllers_of_version_1() -> None:
    """`cpuacct,cpu` is one line with two names."""
    found = parse_cgroup(b"4:cpuacct,cpu:/a\n0::/b\n")
    assert {"cpuacct": "/a", "cpu": "/a", "": "/b"} == dict(found.paths)
    assert "/b" == found.path


def test_directories_go_up_to_the_mount() -> None:
    """A limit may sit on any ancestor; a mount that begins inside (a container) is taken into account."""
    (mount,) = parse_mountinfo(b"31 23 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    hierarchies = Hierarchies(mounts={"": mount})
    found = [str(directory) for directory in hierarchies.directories("", "/a/b")]
    assert ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"] == found
    (inner,) = parse_mountinfo(b"31 23 0:29 /docker/1 /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n")
    inside = Hierarchies(mounts={"cpu": inner})
    assert ["/sys/fs/cgroup/cpu/x", "/sys/fs/cgroup/cpu"] == [str(d) for d in inside.directories("cpu", "/docker/1/x")]
    assert [] == list(hierarchies.directories("", "/../../etc"))
