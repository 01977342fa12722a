"""The table of states: every arrow can be walked, and no move is made that it does not have."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from session_world import LATENCY_S, World

from holloway.protocols.session import Session
from holloway.protocols.states import TRANSITIONS, State


def idle(world: World) -> None:
    pass


def initiating(world: World) -> None:
    world.network.cut = {"b"}
    world.do(world.a, lambda session: session.connect(world.now))


def confirming(world: World) -> None:
    """`a` has answered, and what follows does not reach it."""
    world.do(world.b, lambda session: session.connect(world.now))
    world.run(LATENCY_S * 1.5)
    world.network.cut = {"a", "b"}
    world.do(world.b, Session.close)


def established(world: World) -> None:
    world.establish()


def rekeying(world: World) -> None:
    world.establish()
    world.network.cut = {"b"}
    world.run(10.0)
    world.do(world.a, lambda session: session.rekey(world.now))


def close(world: World) -> None:
    world.do(world.a, Session.close)


def connect(world: World) -> None:
    world.do(world.a, lambda session: session.connect(world.now))
    world.run(6.0)


def called(world: World) -> None:
    world.do(world.b, lambda session: session.connect(world.now))
    world.run(LATENCY_S * 1.5)


def give_up(world: World) -> None:
    world.run(100.0)


def give_up_having_answered(world: World) -> None:
    world.network.cut = {"b"}
    world.run(60.0)
    world.do(world.b, lambda session: session.connect(world.now))  # reaches a; the response does not come back
    world.run(1.0)
    world.do(world.b, Session.close)
    world.run(50.0)


def respond(world: World) -> None:
    world.network.cut = set()
    world.run(7.0)


def confirm(world: World) -> None:
    world.do(world.b, lambda session: session.connect(world.now))
    world.run(1.0)


def confirm_late(world: World) -> None:
    """As `confirming`, but the keepalive gets through."""
    world.do(world.b, lambda session: session.connect(world.now))
    world.run(LATENCY_S * 1.5)
    assert world.a.session.state is State.CONFIRMING
    world.run(1.0)


def expire(world: World) -> None:
    world.run(200.0)


def expire_while_answered(world: World) -> None:
    """The peer begins a handshake just before the key ends, and its confirmation is lost."""
    world.run(178.0)
    world.do(world.b, lambda session: session.rekey(world.now))
    world.run(LATENCY_S * 1.5)
    world.network.cut = {"a", "b"}
    world.do(world.b, Session.close)
    world.run(5.0)


def rekey(world: World) -> None:
    world.run(10.0)
    world.do(world.a, lambda session: session.rekey(world.now))


def expire_while_rekeying(world: World) -> None:
    world.run(167.0)
    world.send(world.a)
    world.run(5.0)


WALKS: dict[tuple[State, State], tuple[Callable[[World], None], Callable[[World], None]]] = {
    (State.IDLE, State.INITIATING): (idle, initiating),
    (State.IDLE, State.CONFIRMING): (idle, called),
    (State.IDLE, State.CLOSED): (idle, close),
    (State.INITIATING, State.IDLE): (initiating, give_up),
    (State.INITIATING, State.CONFIRMING): (initiating, give_up_having_answered),
    (State.INITIATING, State.ESTABLISHED): (initiating, respond),
    (State.INITIATING, State.CLOSED): (initiating, close),
    (State.CONFIRMING, State.IDLE): (confirming, expire),
    (State.CONFIRMING, State.INITIATING): (confirming, connect),
    (State.CONFIRMING, State.ESTABLISHED): (idle, confirm_late),
    (State.CONFIRMING, State.CLOSED): (confirming, close),
    (State.ESTABLISHED, State.IDLE): (established, expire),
    (State.ESTABLISHED, State.CONFIRMING): (established, expire_while_answered),
    (State.ESTABLISHED, State.REKEYING): (established, rekey),
    (State.ESTABLISHED, State.CLOSED): (established, close),
    (State.REKEYING, State.ESTABLISHED): (rekeying, respond),
    (State.REKEYING, State.INITIATING): (rekeying, expire_while_rekeying),
    (State.REKEYING, State.CLOSED): (rekeying, close),
}


def test_the_walks_are_the_table() -> None:
    assert set(WALKS) == {(before, after) for before, arrows in TRANSITIONS.items() for after in arrows}
    assert set(TRANSITIONS) == set(State)


@pytest.mark.parametrize("arrow", WALKS, ids=lambda arrow: f"{arrow[0].name} to {arrow[1].name}")
def test_every_arrow_can_be_walked(arrow: tuple[State, State]) -> None:
    arrange, walk = WALKS[arrow]
    world = World(is_a_smaller=True)
    arrange(world)
    if arrange is not idle:
        assert world.a.session.state is arrow[0]
    before = world.a.session.transitions[arrow]
    walk(world)
    assert world.a.session.transitions[arrow] == before + 1


def test_an_initiation_under_way_ends_when_the_peers_is_confirmed() -> None:
    world = World()
    initiating(world)
    world.network.cut = set()
    confirm(world)
    keys = world.a.session._ring.current
    assert keys is not None
    assert not keys.is_initiator
    assert world.a.session.transitions == {
        (State.IDLE, State.INITIATING): 1,
        (State.INITIATING, State.ESTABLISHED): 1,
    }
    assert len(world.a.session._ring.by_index) == len(world.a.demux._indices) == 1


def test_a_move_outside_the_table_is_a_bug_and_raises() -> None:
    world = World()
    with pytest.raises(AssertionError, match="no way from IDLE to REKEYING"):
        world.a.session._standing.move(State.REKEYING)
    assert world.a.session.state is State.IDLE


def test_every_state_says_what_it_means() -> None:
    assert len({state.value for state in State}) == len(State)
    assert all(why for arrows in TRANSITIONS.values() for why in arrows.values())
