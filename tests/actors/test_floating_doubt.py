"""Who waits for a floating address and its holder's silence: what it says of it, and when."""

from __future__ import annotations

from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any

import trio
from trio.testing import MockClock

from holloway.actors.floating_doubt import Doubt

ANSWER_S = 0.05
FENCE = 7


class Network:
    """Stands in for `Reach`: a network that is down at first, with a holder that nobody hears ever."""

    def __init__(self) -> None:
        self.is_up, self.asked_total = False, 0

    async def answers(self, peer: object) -> bool:
        await trio.sleep(ANSWER_S)
        return False

    async def is_in_touch(self, is_left_out: object, patience_s: float) -> bool:
        self.asked_total += 1
        await trio.sleep(ANSWER_S)
        return self.is_up


async def test_after_an_outage_of_all_a_node_says_that_others_hear_it_and_not_the_holder(
    autojump_clock: MockClock,
) -> None:
    network, told = Network(), list[tuple[int | None, bool]]()
    table: Any = SimpleNamespace(holder=lambda _: SimpleNamespace(fence=FENCE))
    router: Any = SimpleNamespace(routes=SimpleNamespace(lookup=lambda _: "holder"))
    reach: Any = network
    doubt = Doubt(IPv4Address("10.99.2.1"), reach, table, router, 0.3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(doubt.run, lambda: True, lambda fence, is_in_touch: told.append((fence, is_in_touch)))
        await trio.sleep(3)
        assert told == [(FENCE, False)]
        network.is_up = True
        await trio.sleep(1.5)
        assert told == [(FENCE, False), (FENCE, True)]
        asked = network.asked_total
        assert 3 <= asked <= 5
        await trio.sleep(60)
        assert (len(told), network.asked_total) == (2, asked)
        nursery.cancel_scope.cancel()
