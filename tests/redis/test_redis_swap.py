"""A real server whose keys the kernel moved to swap, and the same server with all of them in memory."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import redis
from servers import answer, cause, examined, needs_redis
from test_states import keeps_asking

from culpa.labs import mem_swap, memorygroup, redis_server, swaparea, throttle
from culpa.labs.site import opened

pytestmark = [pytest.mark.redis, pytest.mark.root, pytest.mark.trace, needs_redis]

CHECK = "redis.mem.swap"
READS_PER_SECOND = 150
"""A key is two or three pages: together they are what a client notices."""
KEYS, VALUE_BYTES, LEFT_MIB = 350_000, 400, 32
WINDOW_NS = 4_000_000_000


def test_keys_in_swap_hold_up_the_main_thread_and_keys_in_memory_do_not() -> None:
    """Clear, then fired with its process and the swap device, then clear once everything is read back."""
    with opened(lambda _: None) as here:
        rate = throttle.Rate(per_second=READS_PER_SECOND, unit="reads")
        area = here.stack.enter_context(swaparea.slow_swap(here, rate, mem_swap.AREA_BYTES))
        beside = area.limit.group
        group = here.stack.enter_context(memorygroup.memory_group(book=here.ledger, name=here.name, beside=beside))
        server = redis_server.start(here, here.directory)
        group.admit(server.pid)
        server.client.execute_command("DEBUG", "POPULATE", KEYS, "key", VALUE_BYTES)
        with redis.Redis(port=server.port) as client, ExitStack() as stack:
            keeps_asking(stack, client.randomkey, pause=0.05)
            sound = examined(server.client, trace=True, for_ns=WINDOW_NS)
            group.allow(LEFT_MIB << 20)
            group.lift()
            swapped = examined(server.client, trace=True, for_ns=WINDOW_NS)
            area.empty()
            repaired = examined(server.client, trace=True, for_ns=WINDOW_NS)
    assert ["clear", "fired", "clear"] == [answer(one, CHECK) for one in (sound, swapped, repaired)]
    found = cause(swapped, CHECK)
    assert found.who is not None
    assert found.on is not None
    assert (server.pid, area.device_name) == (found.who.pid, found.on.device)
    assert found.level in ("warning", "critical")
