"""Paths of files made the same way come out as one pattern, and others do not."""

from __future__ import annotations

import pytest

from culpa.diagnose import pathpattern


@pytest.mark.parametrize(
    ("paths", "pattern"),
    [
        ([f"/tmp/9046db9e-fe25-11e8-b13f-0242ac110002/{n}.txt" for n in range(1000)], "/tmp/<uuid>/*.txt"),
        (["/tmp/9046db9e-fe25-11e8-b13f-0242ac110002/7.txt"], "/tmp/<uuid>/7.txt"),
        ([f"/srv/cache/{n:016x}a/part-{n}" for n in (7, 10, 4095)], "/srv/cache/<hex>/part-*"),
        ([f"/work/build/tmp.aB3xY{n}Kq01/o{n}.tmp" for n in range(4)], "/work/build/tmp.*/o*.tmp"),
        (["/var/tmp/tmpq8_x31zz", "/var/tmp/tmpp0aa_17s", "/var/tmp/tmp2233xxyy"], "/var/tmp/tmp*"),
        ([f"/tmp/tmp.Xa{n}bCdEf9" for n in range(3)], "/tmp/tmp.Xa*bCdEf9"),
        ([f"/data/out/{n}/x" for n in (1, 2)], "/data/out/*/x"),
        ([f"/data/{name}/x" for name in "abcde"], "/data/*/x"),
        (["/data/run-1/a.csv", "/data/run-2/b.csv"], "/data/run-*/*.csv"),
    ],
)
def test_files_made_the_same_way_share_a_pattern(paths: list[str], pattern: str) -> None:
    """Uuids and hex numbers are named, what else varies is starred, what is shared stays."""
    assert {pattern} == set(pathpattern.patterns(paths).values())


def test_unlike_directories_stay_apart() -> None:
    """Two directories that have nothing in common, and a directory that was there before with a number in its name."""
    paths = ["/srv/uploads/a.tmp", "/srv/exports/b.tmp", "/srv/app-20311999/spool/x1.q", "/srv/app-20311999/spool/x2.q"]
    found = set(pathpattern.patterns(paths).values())
    assert {"/srv/uploads/a.tmp", "/srv/exports/b.tmp", "/srv/app-20311999/spool/x*.q"} == found


def test_kinds_of_files_in_one_directory_stay_apart() -> None:
    """By their extension."""
    paths = [f"/tmp/d/{n}.{kind}" for n in range(3) for kind in ("idx", "dat")]
    assert {"/tmp/d/*.idx", "/tmp/d/*.dat"} == set(pathpattern.patterns(paths).values())


@pytest.mark.parametrize(
    ("rotated", "path"),
    [
        ("/tmp/logtest.txt.1", "/tmp/logtest.txt"),
        ("/var/log/app.log.10.gz", "/var/log/app.log"),
        ("/var/log/app-20260131.log", "/var/log/app.log"),
        ("/var/log/app.2026-01-31.log", "/var/log/app.log"),
        ("/var/log/app.log-20260131T0410", "/var/log/app.log"),
        ("/var/log/app.log", "/var/log/app.log"),
        ("/data/7", "/data/7"),
        ("/data/.1", "/data/.1"),
    ],
)
def test_a_rotated_part_has_the_name_of_its_log(rotated: str, path: str) -> None:
    """Counts and dates behind the name or before its extension."""
    assert path == pathpattern.without_rotation(rotated)


def test_hostile_names_do_not_take_long() -> None:
    """Names of the kernel's full length that nearly match."""
    names = ["/" + "-".join(["a1"] * 1300), "/x" + "0" * 4000 + "-", "/" + ".1" * 2000 + "x", "/tmp" + "A" * 4000 + "."]
    for name in names:
        assert pathpattern.patterns([name])
        assert pathpattern.without_rotation(name)
        pathpattern.is_log(name)
        pathpattern.is_temporary(name)


@pytest.mark.parametrize(
    ("path", "log"),
    [
        ("/opt/x/server.log", True),
        ("/var/log/messages", True),
        ("/opt/app/logs/today", True),
        ("/opt/x/access_log", True),
        ("/opt/x/catalog.db", False),
        ("/opt/x/blog/post.html", False),
        ("/data/dump.bin", False),
    ],
)
def test_a_log_has_the_name_of_one(path: str, log: bool) -> None:
    """A word of its own in the file's name, or a directory for logs."""
    assert log == pathpattern.is_log(path)
