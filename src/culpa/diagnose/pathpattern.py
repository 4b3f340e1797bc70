"""Paths of files that were made the same way, in one pattern: `/tmp/<uuid>/*.txt`.

What tells one file from the next (a uuid, a number, a random suffix) is named or starred, what they share stays.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

_WHOLE = (
    (re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"), "<uuid>"),
    (re.compile(r"(?=.*\d)(?=.*[a-fA-F])[0-9a-fA-F]{8,}"), "<hex>"),
)
_EXTENSION = re.compile(r"\.([a-z][a-z0-9]{0,6}|[A-Z]{1,4})$")
_RANDOM = re.compile(r"((?:.*[-_.])|tmp)(?=[A-Za-z0-9_]*[A-Z0-9])[A-Za-z0-9_]{6,}")
"""A name with a random suffix, as mktemp(1), mkdtemp(3) and the run-time libraries of many languages make it."""
_RUN_ON = re.compile(r"([a-z]{2,})(?=(?:[^A-Z]*[A-Z]){2})(?=.*\d)[A-Za-z0-9]{6,}")
"""The same without anything between: only a suffix of both cases and digits is random enough to tell."""
_ROTATED = re.compile(r"([-._](\d{1,4}|\d{8}([-T_]?\d{2,6})?|\d{4}-\d\d-\d\d([-T_.]?[\d:-]+)?))+(\.(gz|xz|bz2|zst))?$")
"""What log rotation puts behind a name, or before its extension: a count or a date."""
NAME_MAX = 255
"""Bytes of one name (include/uapi/linux/limits.h); longer ones come from a capture that somebody made up."""
MAX_SIBLINGS = 3
"""Directories next to each other that are named one by one, if their names have nothing in common."""
_LOG = re.compile(r"\.log$|(^|/)logs?/|^/var/log/|(^|[-_.])(log|audit|trace|access|error)s?([-_.]|$)", re.IGNORECASE)
_TEMPORARY = re.compile(r"(^|/)(tmp|temp|\.tmp|\.cache|cache|scratch|spool)(/|$)", re.IGNORECASE)


def patterns(paths: Iterable[str]) -> Mapping[str, str]:
    """Each path to the pattern it shares with those made the same way."""
    folders: dict[str, list[str]] = defaultdict(list)
    distinct = sorted(set(paths))
    for path in distinct:
        folders[_folder(path)].append(path)
    merged = _merge_siblings(list(folders))
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for folder, members in folders.items():
        for path in members:
            groups[merged[folder], _split(path)[1]].append(path)
    found = {}
    for (folder, _), members in groups.items():
        name = common_name([posixpath.basename(path) for path in members])
        found.update(dict.fromkeys(members, posixpath.join(folder, name)))
    return found


def common_name(names: Sequence[str]) -> str:
    """What names share at both ends, with a star for what they do not: `*.txt`; one name alone is generalised."""
    distinct = sorted(set(names))
    if len(distinct) == 1:
        stem, extension = _split(distinct[0])
        return _segment(stem) + extension
    head = _shared(distinct)
    tail = _shared([name[len(head) :][::-1] for name in distinct])[::-1]
    # Digits at the edge of what varies belong to it: 10.txt and 11.txt share no 1.
    return f"{head.rstrip('0123456789')}*{tail.lstrip('0123456789')}"


def _shared(names: Sequence[str]) -> str:
    """What all names begin with."""
    low, high = min(names), max(names)
    return next((low[:at] for at, pair in enumerate(zip(low, high, strict=False)) if pair[0] != pair[1]), low)


def _split(name: str) -> tuple[str, str]:
    """A name and its extension; a random suffix after a dot is none."""
    found = _EXTENSION.search(name)
    return (name[: found.start()], found[0]) if found and found.start() else (name, "")


def without_rotation(path: str) -> str:
    """The path that a rotated part of a log had while it was written to."""
    folder, name = posixpath.split(path)
    if len(name) > NAME_MAX:
        return path
    bare = _ROTATED.sub("", name)
    stem, extension = _split(bare)
    return posixpath.join(folder, (_ROTATED.sub("", stem) + extension) or name)


def is_log(path: str) -> bool:
    """Whether a path looks like that of a log."""
    return _LOG.search(path) is not None


def is_temporary(pattern: str) -> bool:
    """Whether a directory pattern is of the kind that programs make for a while: random, or in a place for such."""
    folder = posixpath.dirname(pattern)
    return "<" in folder or "*" in folder or _TEMPORARY.search(folder) is not None


def _folder(path: str) -> str:
    """The directory of a file. A random suffix is looked for in the innermost only: those above were there before."""
    head, *segments = posixpath.dirname(path).split("/")
    names = [_segment(segment, random=number == len(segments) - 1) for number, segment in enumerate(segments)]
    return "/".join([head, *names])


def _segment(segment: str, *, random: bool = True) -> str:
    if len(segment) > NAME_MAX:
        return segment
    for pattern, name in _WHOLE:
        if pattern.fullmatch(segment):
            return name
    suffixed = (_RANDOM.fullmatch(segment) or _RUN_ON.fullmatch(segment)) if random else None
    return f"{suffixed[1]}*" if suffixed else segment


def _merge_siblings(folders: list[str]) -> dict[str, str]:
    """Folders of one parent that are many, or that a number or suffix tells apart, under one pattern."""
    by_parent: dict[str, list[str]] = defaultdict(list)
    for folder in folders:
        by_parent[posixpath.dirname(folder)].append(folder)
    merged = {}
    for parent, siblings in by_parent.items():
        name = common_name([posixpath.basename(folder) for folder in siblings])
        alike = not name.startswith("*") or all(posixpath.basename(folder).isdecimal() for folder in siblings)
        together = len(siblings) > MAX_SIBLINGS or (len(siblings) > 1 and alike)
        merged.update({folder: posixpath.join(parent, name) if together else folder for folder in siblings})
    return merged
