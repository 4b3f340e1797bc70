"""Who is acquitted, and who is not although the host's own counters speak for it."""

from __future__ import annotations

import pytest
from scene import APP, MS, Scene

from culpa.capture import schema
from culpa.diagnose.judge import judge


@pytest.mark.parametrize(("again", "acquitted"), [(0.0, True), (7.0, False)])
def test_the_network_is_acquitted_where_nothing_was_sent_again_in_any_namespace(again: float, acquitted: bool) -> None:
    """The service has a network of its own; in the host's nothing happens."""
    scene = Scene()
    begun = scene.now
    scene.now += 2 * MS
    scene.request_arrives()
    scene.remote(100 * MS)
    scene.answer()
    for source, of, grown in (("/proc/net/snmp", None, 0.0), (f"/proc/{APP}/net/snmp", "net:[4026532001]", again)):
        for ts_ns, value in ((begun, 10.0), (scene.now, 10.0 + grown)):
            scene.add(schema.COUNTERS, ts_ns=ts_ns, source=source, object=of, field="RetransSegs", value=value)
    assert acquitted == ("network" in [one.resource for one in judge(scene.capture()).ruled_out])
