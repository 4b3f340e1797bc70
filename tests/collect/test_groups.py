"""Units, containers and control groups become processes, on real groups of the names that systemd and engines give."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from living import line_of, running, wait_until

from culpa.capture import schema
from culpa.capture.bundle import open_capture
from culpa.collect.cgroups import Hierarchies
from culpa.collect.containers import ids_by_name
from culpa.collect.groups import find_group
from culpa.collect.resolve import processes_of
from culpa.errors import CulpaError, UsageError
from culpa.target import GroupTarget, parse_target

WAIT = "import sys; print('up'); sys.stdin.read()"
ID = f"{os.getpid():08x}" + "5eed" * 14
OTHER = f"{os.getpid():08x}" + "beef" * 14
NAME = f"culpa-test-{os.getpid()}"


def mounts() -> list[Path]:
    """Where groups can be made here: version 2 and, where it is mounted too, version 1."""
    known = Hierarchies.read().mounts
    return [Path(known[name].point) for name in ("", "name=systemd", "blkio") if name in known]


@contextlib.contextmanager
def group(path: str, at: Path) -> Iterator[Path]:
    """A control group and the ones above it that are missing; their processes are moved out at the end."""
    made = []
    folder = at
    for part in path.strip("/").split("/"):
        folder = folder / part
        if not folder.exists():
            folder.mkdir()
            made.append(folder)
    try:
        yield folder
    finally:
        for one in reversed(made):
            for pid in (one / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    (at / "cgroup.procs").write_text(pid)
            wait_until(lambda one=one: removed(one))


def removed(folder: Path) -> bool:
    """A group whose last process is just ending is busy for a moment."""
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


@contextlib.contextmanager
def inside(folder: Path, code: str = WAIT) -> Iterator[subprocess.Popen[str]]:
    """A process in a group."""
    with running(code) as child:
        line_of(child)
        (folder / "cgroup.procs").write_text(str(child.pid))
        yield child


def found(text: str) -> tuple[int, ...]:
    return processes_of(parse_target(text))


@pytest.fixture(params=["", "name=systemd", "blkio"], ids=["v2", "v1 systemd", "v1 blkio"])
def mount(request: pytest.FixtureRequest) -> Path:
    known = Hierarchies.read().mounts
    if request.param not in known:
        pytest.skip(f"this host has mounted no hierarchy {request.param or 'of version 2'}")
    return Path(known[request.param].point)


@pytest.mark.root
def test_unit_with_its_children(mount: Path) -> None:
    """With and without suffix; what lies below belongs to it, what lies beside it does not."""
    with (
        group(f"system.slice/{NAME}.service", mount) as unit,
        group(f"system.slice/{NAME}.service/worker", mount) as below,
        group(f"system.slice/{NAME}2.service", mount) as beside,
        inside(unit) as one,
        inside(below) as two,
        inside(beside) as three,
    ):
        assert tuple(sorted((one.pid, two.pid))) == found(f"unit:{NAME}.service") == found(f"unit:{NAME}")
        assert (three.pid,) == found(f"unit:{NAME}2")
        assert {one.pid, two.pid, three.pid} <= set(found("unit:system.slice"))


@pytest.mark.root
@pytest.mark.parametrize(
    "layout",
    [
        "docker/{}", "system.slice/docker-{}.scope", "machine.slice/libpod-{}.scope/container",
        "kubepods.slice/kubepods-pod1.slice/cri-containerd-{}.scope", "default/{}",
    ],
    ids=["docker v1", "docker systemd", "podman", "kubernetes", "containerd"],
)  # fmt: skip
def test_container_by_id(layout: str) -> None:
    """In full and shortened, wherever the engine put it."""
    (mount, *_) = mounts()
    with group(layout.format(ID), mount) as folder, inside(folder) as child:
        assert (child.pid,) == found(f"container:{ID}") == found(f"container:{ID[:12]}")


@pytest.mark.root
def test_container_by_name(tmp_path: Path) -> None:
    """LXC has names in its paths; Docker, Podman and the kubelet in files; the monitor is not in the container."""
    (mount, *_) = mounts()
    with group(f"lxc.payload.{NAME}", mount) as folder, inside(folder) as child:
        assert (child.pid,) == found(f"container:{NAME}")
    engines(tmp_path)
    with (
        group(f"machine.slice/libpod-{ID}.scope", mount) as folder,
        group(f"machine.slice/libpod-conmon-{ID}.scope", mount) as monitor,
        inside(folder) as child,
        inside(monitor),
    ):
        for name in ("by-docker", "by-podman", "a-pod", "in-pod"):
            target = GroupTarget(kind="container", name=name, display=name)
            assert frozenset({child.pid}) == find_group(target, root=tmp_path).members()


def engines(root: Path) -> None:
    """Files as the three engines write them."""
    docker = root / "var/lib/docker/containers" / ID
    docker.mkdir(parents=True)
    (docker / "config.v2.json").write_text(json.dumps({"ID": ID, "Name": "/by-docker", "State": {}}))
    (docker.parent / "broken").mkdir()
    (docker.parent / "broken" / "config.v2.json").write_text("{")
    podman = root / "var/lib/containers/storage/overlay-containers"
    podman.mkdir(parents=True)
    (podman / "containers.json").write_text(json.dumps([{"id": ID, "names": ["by-podman"]}, {"id": 3}, "x"]))
    logs = root / "var/log/containers"
    logs.mkdir(parents=True)
    (logs / f"a-pod_default_in-pod-{ID}.log").symlink_to("/nowhere")


def test_no_engine_no_names(tmp_path: Path) -> None:
    """Nothing is invented."""
    assert {} == ids_by_name(tmp_path)


@pytest.mark.root
def test_several_containers_of_one_beginning_are_listed() -> None:
    """Exit code 2 and a way to name each."""
    (mount, *_) = mounts()
    with group(f"docker/{ID}", mount), group(f"docker/{OTHER}", mount), pytest.raises(UsageError) as caught:
        found(f"container:{ID[:8]}")
    assert all(f"cgroup:/docker/{one}" in str(caught.value) for one in (ID, OTHER))


@pytest.mark.root
def test_cgroup_by_path(mount: Path) -> None:
    """As /proc/PID/cgroup has it, and by the directory; a group of a similar name is another one."""
    with (
        group(f"{NAME}/a b", mount) as folder,
        group(f"{NAME}/a bc", mount) as other,
        inside(folder) as child,
        inside(other),
    ):
        assert (child.pid,) == found(f"cgroup:/{NAME}/a b") == found(f"cgroup:{NAME}/a b/") == found(f"cgroup:{folder}")
        assert 2 == len(found(f"cgroup:/{NAME}"))


@pytest.mark.root
def test_empty_missing_and_whole() -> None:
    """Three sentences with three ways out."""
    (mount, *_) = mounts()
    with group(f"system.slice/{NAME}.service", mount):
        with pytest.raises(CulpaError, match="holds no process now") as empty:
            found(f"unit:{NAME}")
        with pytest.raises(CulpaError, match="there is no unit") as missing:
            found(f"unit:{NAME[:-1]}x")
        with pytest.raises(CulpaError, match="there is no control group"):
            found("cgroup:/no/such/group/anywhere")
        with pytest.raises(CulpaError, match="there is no container"):
            found("container:no-such-container")
    assert f"{NAME}.service" in missing.value.way_out
    assert 1 == empty.value.exit_code == missing.value.exit_code
    with pytest.raises(UsageError, match="whole host"):
        found("cgroup:/")


@pytest.mark.root
@pytest.mark.parametrize("no_trace", [(), ("--no-trace",)], ids=["traced", "sampled"])
def test_those_that_join_later_are_followed(tmp_path: Path, no_trace: tuple[str, ...]) -> None:
    """A process that comes into the unit while it is watched becomes a target."""
    (mount, *_) = mounts()
    file = tmp_path / "unit.culpa"
    command = (sys.executable, "-m", "culpa", "record", f"unit:{NAME}", "--for", "5", "-o", str(file), *no_trace)
    with (
        group(f"system.slice/{NAME}.service", mount) as unit,
        inside(unit),
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as culpa,
        running(WAIT) as late,
    ):
        assert culpa.stderr is not None
        assert f"watches unit:{NAME}" in culpa.stderr.readline()
        line_of(late)
        (unit / "cgroup.procs").write_text(str(late.pid))
        said = culpa.stderr.read()
        assert 0 == culpa.wait(30), said
    capture = open_capture(file)
    assert late.pid in capture.manifest.target.pids
    roles = dict(capture.frame(schema.PROCESSES).select("pid", "role").iter_rows())
    assert "target" == roles[late.pid]
