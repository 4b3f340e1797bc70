"""Fixes that are settings of a Redis server."""

from __future__ import annotations

from culpa.diagnose.redisview import RedisView
from culpa.diagnose.verdict import Fix


def set_config(view: RedisView, id: str, name: str, value: str, *, risk: str) -> Fix:  # the field's own word
    """`CONFIG SET name value` on that server; where it does not even let its settings be read, in words."""
    if view.setting(name) is None:
        change = f"set {name} to {value} (the server does not let CONFIG be used: in the provider's console)"
        return Fix(id=id, change=change, reversible=True, risk=risk)
    return Fix(id=id, argv=("redis-cli", *where(view.server), "CONFIG", "SET", name, value), reversible=True, risk=risk)


def where(server: str) -> tuple[str, ...]:
    """redis-cli's arguments for an address as it is shown, `host:port` or `unix:PATH`."""
    if server.startswith("unix:"):
        return ("-s", server.removeprefix("unix:"))
    host, _, port = server.rpartition(":")
    return ("-h", host, "-p", port) if host and port.isdigit() else ()
