"""Both sides dial at once: every order in which the datagrams may arrive, and every single loss among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from session_world import World, name_of

from holloway.protocols.addresses import Address
from holloway.protocols.session import Session
from holloway.protocols.suites import AES_GCM, SUITES, Suite

STEP_S = 0.01


class SlowWorld(World):
    """A network that holds every datagram until the test picks it."""

    def __init__(self, suite: Suite, *, is_a_smaller: bool) -> None:
        self.held: list[tuple[bytes, Address, Address]] = []
        self.is_holding = False
        super().__init__(suite, is_a_smaller=is_a_smaller)

    def transmit(self, datagram: bytes, source: Address, destination: Address) -> None:
        if name_of(datagram) in ("probe", "probe ack"):
            return  # they decide nothing here, and would multiply the orders
        if self.is_holding:
            self.held.append((datagram, source, destination))
        else:
            super().transmit(datagram, source, destination)

    def let_through(self, position: int) -> None:
        self.now += STEP_S
        self.arrive(*self.held.pop(position))

    def lose(self, position: int) -> None:
        self.now += STEP_S
        del self.held[position]

    def release(self) -> None:
        self.is_holding = False
        for datagram in self.held:
            self.transmit(*datagram)
        self.held.clear()


def both(world: SlowWorld, act: Callable[[Session, float], None]) -> None:
    for node in (world.a, world.b):
        world.do(node, lambda session: act(session, world.now))


def dial(suite: Suite, *, is_a_smaller: bool) -> SlowWorld:
    """Both call a peer that they have no key with."""
    world = SlowWorld(suite, is_a_smaller=is_a_smaller)
    world.is_holding = True
    both(world, Session.connect)
    return world


def dial_with_packets(suite: Suite, *, is_a_smaller: bool) -> SlowWorld:
    """Both call because they have something to send."""
    world = SlowWorld(suite, is_a_smaller=is_a_smaller)
    world.is_holding = True
    world.send(world.a, 1)
    world.send(world.b, 1)
    return world


def rekey(suite: Suite, *, is_a_smaller: bool, packets: int = 0) -> SlowWorld:
    """Both replace a key in use."""
    world = SlowWorld(suite, is_a_smaller=is_a_smaller)
    world.establish()
    world.run(10.0)
    world.is_holding = True
    if packets:
        world.send(world.a, packets)
    both(world, Session.rekey)
    return world


def rekey_with_packets(suite: Suite, *, is_a_smaller: bool) -> SlowWorld:
    """Both replace a key in use, with a packet in flight under it."""
    return rekey(suite, is_a_smaller=is_a_smaller, packets=1)


Situation = Callable[..., SlowWorld]


def orders(make: Situation, suite: Suite, *, is_a_smaller: bool, losses: int) -> Iterator[tuple[SlowWorld, list[int]]]:
    """Every order of arrival, with at most `losses` datagrams lost; the world after each, and what was chosen.

    A choice is a position among the held datagrams to let through, or minus one less than a position to lose. Each run
    goes to its end with first choices, and leaves behind the other choices that it came past.
    """
    pending: list[list[int]] = [[]]
    while pending:
        planned = pending.pop()
        world = make(suite, is_a_smaller=is_a_smaller)
        choices: list[int] = []
        while world.held:
            if len(choices) < len(planned):
                choice = planned[len(choices)]
            else:
                choice = 0
                others = [*range(1, len(world.held))]
                if sum(made < 0 for made in choices) < losses:
                    others += [-position - 1 for position in range(len(world.held))]
                pending += [[*choices, other] for other in others]
            choices.append(choice)
            if choice >= 0:
                world.let_through(choice)
            else:
                world.lose(-choice - 1)
        yield world, choices


def agree(world: SlowWorld) -> bool:
    """Whether both seal under keys that the other opens."""
    a, b = world.a.session._ring, world.b.session._ring
    return (
        a.current is not None
        and b.current is not None
        and a.current.remote_index in b.by_index
        and b.current.remote_index in a.by_index
    )


@pytest.mark.parametrize("is_a_smaller", [True, False])
@pytest.mark.parametrize("make", [dial, dial_with_packets, rekey_with_packets])
def test_in_every_order_of_arrival_both_can_talk_at_once_and_nothing_is_lost(
    make: Situation, is_a_smaller: bool
) -> None:
    count = completed_both = 0
    for world, choices in orders(make, AES_GCM, is_a_smaller=is_a_smaller, losses=0):
        count += 1
        completed_both += world.a.session._ring.made_total > 1 and world.b.session._ring.made_total > 1
        assert agree(world), choices
        world.release()
        assert world.is_through(), choices
        assert not world.lost([serial for serial in world.sent if serial == 0], world.b), choices
        for node in (world.a, world.b):
            assert not node.session.staged
    assert count >= 20
    assert completed_both, "in some order both handshakes complete"


@pytest.mark.parametrize("make", [dial, rekey])
def test_after_any_single_loss_both_can_talk_within_seconds(make: Situation) -> None:
    count = 0
    for world, choices in orders(make, AES_GCM, is_a_smaller=True, losses=1):
        if min(choices) >= 0:
            continue
        count += 1
        world.release()
        assert world.seconds_to_talk(6.0) <= 6.0, choices
    assert count > 20


@pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
@pytest.mark.parametrize("is_a_smaller", [True, False])
def test_when_both_complete_the_smaller_keys_handshake_is_used(suite: Suite, is_a_smaller: bool) -> None:
    world = World(suite, is_a_smaller=is_a_smaller)
    for node in (world.a, world.b):
        world.do(node, lambda session: session.connect(world.now))
    world.run(1.0)
    a, b = world.a.session._ring.current, world.b.session._ring.current
    assert a is not None
    assert b is not None
    assert a.is_initiator == is_a_smaller
    assert b.is_initiator != is_a_smaller
    assert a.local_index == b.remote_index
    assert world.a.session.handshakes_total + world.b.session.handshakes_total == 3


def test_when_each_side_ends_up_with_the_others_handshake_nothing_is_lost_and_the_next_rekey_unites_them() -> None:
    for world, _ in orders(dial, AES_GCM, is_a_smaller=True, losses=0):
        world.release()
        world.run(1.0)
        a, b = world.a.session._ring.current, world.b.session._ring.current
        if a is not None and b is not None and a.local_index != b.remote_index:
            break
    else:
        pytest.fail("no order of arrival leads there")
    assert not a.is_initiator
    assert not b.is_initiator
    there, back = [], []
    for _ in range(200):
        there += world.send(world.a)
        back += world.send(world.b)
        world.run(1.0)
    assert not world.lost(there, world.b)
    assert not world.lost(back, world.a)
    a, b = world.a.session._ring.current, world.b.session._ring.current
    assert a is not None
    assert b is not None
    assert a.local_index == b.remote_index
