"""Keys replaced under continuous traffic lose no packet, whoever began and whoever replaces them."""

from __future__ import annotations

import pytest
from session_world import World

from holloway.protocols.events import HandshakeGaveUp, KeyExpired
from holloway.protocols.suites import SUITES, Suite
from holloway.protocols.timers import Timers

QUICK = Timers(
    rekey_after_s=1.0, rekey_timeout_s=0.4, reject_after_s=3.0, keepalive_timeout_s=0.5, rekey_attempt_s=10.0
)
PACKETS = 1500
SPACING_S = 0.008

both_suites = pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))


def talk(world: World, *, a_sends: bool = True, b_sends: bool = True, both_rekey: bool = False) -> None:
    """Twelve seconds of traffic, and what must have come of it."""
    there: list[int] = []
    back: list[int] = []
    for number in range(PACKETS):
        there += world.send(world.a) if a_sends else []
        back += world.send(world.b) if b_sends else []
        if both_rekey and number % 100 == 50:
            world.do(world.a, lambda session: session.rekey(world.now))
            world.do(world.b, lambda session: session.rekey(world.now))
        world.run(SPACING_S)
    world.run(1.0)
    assert not world.lost(there, world.b)
    assert not world.lost(back, world.a)
    for node in (world.a, world.b):
        assert not [event for event in node.events if isinstance(event, KeyExpired | HandshakeGaveUp)]
        assert not node.session.drops
        assert node.session.handshakes_total >= 6


@both_suites
@pytest.mark.parametrize("is_a_smaller", [True, False])
@pytest.mark.parametrize("senders", ["a", "b", "ab"])
def test_rekeys_by_age_lose_nothing(suite: Suite, is_a_smaller: bool, senders: str) -> None:
    world = World(suite, timers=QUICK, is_a_smaller=is_a_smaller)
    world.establish()
    talk(world, a_sends="a" in senders, b_sends="b" in senders)


@both_suites
@pytest.mark.parametrize("is_a_smaller", [True, False])
def test_rekeys_of_both_at_once_lose_nothing(suite: Suite, is_a_smaller: bool) -> None:
    world = World(suite, timers=QUICK, is_a_smaller=is_a_smaller)
    talk(world, both_rekey=True)
    made, used = (
        sum(node.session._ring.made_total for node in (world.a, world.b)),
        sum(node.session.handshakes_total for node in (world.a, world.b)),
    )
    assert made > used, "in no rekey both handshakes were completed"


@both_suites
@pytest.mark.parametrize("seed", range(3))
def test_rekeys_of_both_lose_nothing_on_a_network_that_reorders(suite: Suite, seed: int) -> None:
    world = World(suite, timers=QUICK, seed=seed)
    world.network.jitter_s = (
        0.05  # two retired keys are for what is late by less than two rekeys, 0.4 s here, can be apart
    )
    talk(world, both_rekey=True)
