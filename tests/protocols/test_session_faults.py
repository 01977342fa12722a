"""Any plan of faults: safety while they last, and both sides talking again within seconds of their end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from session_world import World

from holloway.protocols.session import Session
from holloway.protocols.suites import AES_GCM, SUITES, WIREGUARD, Suite
from holloway.protocols.timers import Timers

GRID_S = (0.0, 0.02, 0.11, 0.5, 2.0, 5.1, 16.0, 70.0, 185.0)
TALK_AGAIN_S = 10.0


def cut(*names: str) -> Callable[[World], None]:
    return lambda world: world.network.cut.update(names)


def mend(world: World) -> None:
    world.network.cut = set()
    world.network.loss = world.network.duplicate = world.network.jitter_s = world.network.corrupt = 0.0


def worsen(**changes: float) -> Callable[[World], None]:
    return lambda world: world.network.__dict__.update(changes)


def replay(world: World) -> None:
    """Everything ever sent (of late), once more, from where it came, from elsewhere, and back to its sender."""
    for datagram, source, destination in world.captured[-30:]:
        world.arrive(datagram, source, destination)
        world.arrive(datagram, ("203.0.113.66", 6), destination)
        world.arrive(datagram, destination, source)


def turn(name: str, intent: Callable[[Session, float], None]) -> Callable[[World], None]:
    return lambda world: world.do(world.nodes[name], lambda session: intent(session, world.now))


def set_clock(name: str, offset_ns: int) -> Callable[[World], None]:
    return lambda world: setattr(world.nodes[name], "clock_offset_ns", offset_ns)


KINDS: dict[str, Callable[[World], None]] = {
    "cut a": cut("a"),
    "cut b": cut("b"),
    "cut both": cut("a", "b"),
    "mend": mend,
    "loss": worsen(loss=0.4),
    "duplicate": worsen(duplicate=0.6),
    "reorder": worsen(jitter_s=0.7),
    "corrupt": worsen(corrupt=0.3),
    "replay": replay,
    "restart a": lambda world: world.restart(world.a),
    "restart b": lambda world: world.restart(world.b),
    "roam a": lambda world: world.roam(world.a),
    "roam b": lambda world: world.roam(world.b),
    "clock of a back": set_clock("a", -(10**18)),
    "clock of b ahead": set_clock("b", 10**17),
    "a sends": lambda world: [world.send(world.a, 3), None][1],
    "b sends": lambda world: [world.send(world.b, 3), None][1],
    "a connects": turn("a", Session.connect),
    "b rekeys": turn("b", Session.rekey),
    "both rekey": lambda world: [turn(name, Session.rekey)(world) for name in "ab"][2:] and None,
}
PLANS = st.lists(st.tuples(st.sampled_from(GRID_S), st.sampled_from(sorted(KINDS))), max_size=25)


def heal(world: World) -> None:
    """The end of all faults: the network mended, and each side knows where the other is, as a registry would say."""
    mend(world)
    for node in (world.a, world.b):
        node.endpoint = world.peer(node).address
        world.do(node, lambda session, at=node.endpoint: session.set_endpoint(at))  # type: ignore[misc]


def play(world: World, plan: list[tuple[float, str]]) -> None:
    for wait_s, kind in plan:
        world.run(wait_s)
        KINDS[kind](world)
    heal(world)
    assert world.seconds_to_talk(TALK_AGAIN_S) <= TALK_AGAIN_S
    world.run(0.5)
    assert world.is_through(), "what was agreed on does not last"
    world.run_until_quiet()
    for node in (world.a, world.b):
        assert node.session.staged == 0
        assert repr(node.demux).endswith("0 indices, 0 tokens>")


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(plan=PLANS, seed=st.integers(0, 3))
@example(plan=[(0.0, "both rekey"), (0.11, "restart b"), (5.1, "restart b"), (0.5, "b rekeys")], seed=0)
@example(plan=[(0.0, "a sends"), (2.0, "cut a"), (2.0, "b rekeys"), (185.0, "a sends")], seed=0)
def test_aes_gcm_survives_every_plan(plan: list[tuple[float, str]], seed: int) -> None:
    play(World(AES_GCM, seed=seed), plan)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(plan=PLANS.map(lambda plan: [step for step in plan if not step[1].startswith("clock")]), seed=st.integers(0, 3))
def test_wireguard_survives_every_plan(plan: list[tuple[float, str]], seed: int) -> None:
    """Without clocks that jump over a restart: that costs WireGuard the fifteen seconds of silence, having no reset."""
    play(World(WIREGUARD, seed=seed), plan)


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(plan=PLANS, seed=st.integers(0, 3))
def test_quick_timers_survive_every_plan(plan: list[tuple[float, str]], seed: int) -> None:
    quick = Timers(
        rekey_after_s=3.0, reject_after_s=6.0, rekey_attempt_s=9.0, rekey_timeout_s=0.5, keepalive_timeout_s=1.0
    )
    play(World(WIREGUARD, seed=seed, timers=quick, keepalive_s=0.0), [(wait_s / 10, kind) for wait_s, kind in plan])


@pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_fault_alone_is_survived(suite: Suite, kind: str) -> None:
    world = World(suite)
    world.establish()
    play(world, [(10.0, kind), (0.0, "a sends"), (0.0, "b sends"), (3.0, kind)])


def test_the_same_seed_tells_the_same_story() -> None:
    plan = [(0.11, kind) for kind in sorted(KINDS)] * 2
    stories = []
    for _ in range(2):
        world = World(seed=5)
        play(world, plan)
        stories.append((world.lines(), [datagram for datagram, _, _ in world.captured]))
    assert stories[0] == stories[1]
