"""Mount tables of other processes: what lies where, and what an overlay is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from culpa.collect.trace.mounts import HostPaths, Mount, parse_mountinfo

HEAD = "49 27 0:39 / /merged rw,relatime - overlay overlay rw,"
DEV = 39


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ("lowerdir=/l,upperdir=/u,workdir=/w", ("/u", "/l")),
        ("lowerdir=/one:/two\\134:part,upperdir=/u\\040p", ("/u p", "/one", "/two:part")),
        ("lowerdir=/a\\054b,workdir=/w", ("/a,b",)),
        ("lowerdir+=/one,lowerdir+=/two,datadir+=/data,upperdir=/u", ("/u", "/one", "/two", "/data")),
        ("lowerdir=/one::/data", ("/one", "/data")),
        ("lowerdir=relative:/one,upperdir=u", ("/one",)),
        ("", ()),
    ],
)
def test_the_layers_of_an_overlay(options: str, layers: tuple[str, ...]) -> None:
    """The upper one first; escapes of the kernel and of the options are undone."""
    assert (Mount(dev=DEV, root="/", point="/merged", layers=layers),) == parse_mountinfo(HEAD + options + "\n")


def test_another_file_system_has_no_layers() -> None:
    """Whatever its options say; and a line without them is a mount all the same."""
    ext4, bare = parse_mountinfo(
        "27 1 8:1 / / rw - ext4 /dev/sda1 rw,upperdir=/u\n28 1 8:1 / /x rw master:1 - overlay\n"
    )
    assert ((), ()) == (ext4.layers, bare.layers)


def test_a_path_in_the_layers(tmp_path: Path) -> None:
    """Of a process whose root is a folder of an overlay: below the mount, and below the folder it shows."""
    for name, line in (
        ("self", "1 1 8:1 / / rw - ext4 /dev/sda1 rw\n"),
        ("7", "2 1 0:39 /inner / rw - overlay overlay rw,lowerdir=/l,upperdir=/u\n"),
    ):
        (tmp_path / name / "ns").mkdir(parents=True)
        (tmp_path / name / "ns" / "mnt").touch()
        (tmp_path / name / "mountinfo").write_text(line)
    paths = HostPaths(tmp_path)
    assert ("/u/inner/srv/log", "/l/inner/srv/log") == paths.layered(7, DEV, "/srv/log")
    assert () == paths.layered(8, DEV, "/srv/log")
    assert "/u/inner" == paths.place("/u/inner", 8 << 20 | 1)
    assert (True, False) == (paths.knows(7), paths.knows(8))
