"""Names of containers, as the engines keep them in files: control groups know ids alone.

Docker: containers/ID/config.v2.json; Podman: overlay-containers/containers.json.
The kubelet: links named POD_NAMESPACE_NAME-ID.log.
Nobody is asked, so an engine that keeps its files elsewhere leaves its containers nameless.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from culpa.collect.procfs import read_text

DOCKER: Final = "var/lib/docker/containers"
PODMAN: Final = "var/lib/containers/storage/overlay-containers/containers.json"
KUBELET: Final = "var/log/containers"
MAX_CONTAINERS: Final = 2000
_LOG: Final = re.compile(r"([^_]+)_[^_]+_(.+)-([0-9a-f]{64})\.log")


def ids_by_name(root: Path = Path("/")) -> Mapping[str, frozenset[str]]:
    """Ids of the containers of each name; a pod's name stands for all of its containers."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, one in (*_docker(root), *_podman(root), *_kubelet(root)):
        found[name].add(one)
    return {name: frozenset(ids) for name, ids in found.items()}


def _docker(root: Path) -> Iterator[tuple[str, str]]:
    for folder in _entries(root / DOCKER):
        settings = _json(folder / "config.v2.json")
        if isinstance(settings, dict) and isinstance(settings.get("Name"), str):
            yield settings["Name"].removeprefix("/"), folder.name


def _podman(root: Path) -> Iterator[tuple[str, str]]:
    containers = _json(root / PODMAN)
    for one in containers[:MAX_CONTAINERS] if isinstance(containers, list) else ():
        if isinstance(one, dict) and isinstance(one.get("id"), str) and isinstance(one.get("names"), list):
            yield from ((name, one["id"]) for name in one["names"] if isinstance(name, str))


def _kubelet(root: Path) -> Iterator[tuple[str, str]]:
    for entry in _entries(root / KUBELET):
        match = _LOG.fullmatch(entry.name)
        if match is not None:
            yield match[1], match[3]
            yield match[2], match[3]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())[:MAX_CONTAINERS]
    except OSError:
        return []


def _json(path: Path) -> object:
    try:
        found: object = json.loads(read_text(path) or "null")
    except ValueError:
        return None
    return found
