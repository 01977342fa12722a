"""Whole nodes in the simulator: the same promises, the same dice, and faults that only whole nodes can have."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fault_plans import drawn_faults
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holloway.actors.peer_session import PeerSession
from holloway.actors.udp_endpoint import UdpEndpoint
from holloway.protocols.session import Session
from holloway.simulations.depth import Depth
from holloway.simulations.drawing import draw_plan
from holloway.simulations.errors import ScenarioError
from holloway.simulations.faults import KINDS, Fault
from holloway.simulations.plan import Plan, from_json, to_json
from holloway.simulations.quantities import Value
from holloway.simulations.run import Outcome, Verdict, run_plan
from holloway.simulations.scenario import load_scenario, read_scenario, shipped
from holloway.simulations.trace import Trace

SECOND = 10**9
HEAD = """
version = 1
name = "whole"
purpose = "Whole nodes."
duration = "30s"
calm = "12s"
[topology]
nodes = ["a", "b", "c"]
[session]
rekey_after = "3s"
reject_after = "8s"
rekey_attempt = "4s"
rekey_timeout = "1s"
keepalive_timeout = "1s"
[[workload]]
kind = "ping"
every = "500ms"
"""
TOLD = HEAD + '[expect]\neventually = { all_pairs_reachable = "11s" }\n'
FOUND = HEAD + (
    '[registry]\nlease = "3s"\nlatency = "1ms..20ms"\n[expect]\neventually = { membership_is_equal = "11s", '
    'all_pairs_reachable = "11s" }\n'
)
CERTIFIED = FOUND.replace("[registry]", '[registry]\ntrust = "authority"')


def plan(text: str, *faults: Fault, seed: int = 0) -> Plan:
    return replace(draw_plan(read_scenario(text, "whole.toml"), seed, Depth.ACTORS), faults=faults)


def fault(kind: str, at_s: float, until_s: float | None = None, *nodes: str, **values: Value) -> Fault:
    at_ns = round(at_s * SECOND)
    until_ns = at_ns if until_s is None else round(until_s * SECOND)
    return Fault(name=f"{kind}-1.{at_ns}", kind=kind, at_ns=at_ns, until_ns=until_ns, nodes=nodes, values=values)


def traced(plan: Plan) -> tuple[Outcome, list[Any]]:
    file = io.StringIO()
    outcome = run_plan(plan, trace=Trace(file))
    return outcome, [json.loads(line) for line in file.getvalue().splitlines()]


def between(lines: list[Any], kind: str, node: str, after_s: float, before_s: float) -> list[Any]:
    return [
        line
        for line in lines
        if line["kind"] == kind and line["node"] == node and after_s * SECOND < line["t"] < before_s * SECOND
    ]


# Runs.


def test_a_quiet_run_keeps_every_promise_and_tells_what_the_actors_did() -> None:
    outcome, lines = traced(plan(FOUND))
    assert outcome.failure is None
    assert outcome.virtual_ns == 30 * SECOND
    assert outcome.reached.transitions["REKEYING>ESTABLISHED"] > 20
    ups = [line for line in lines if line["kind"] == "node" and line["what"] == "up"]
    assert sorted(line["node"] for line in ups) == ["a", "b", "c"]
    started = {line["peer"] for line in lines if line["kind"] == "actor" and line["what"] == "started 1"}
    assert {"node.dataplane.udp", "node.registry.membership", "node.dataplane.peers.a"} <= started
    assert any(line["kind"] == "log" and "session up" in line["what"] for line in lines)
    assert lines[-1]["kind"] == "steps"


def test_a_run_without_a_trace_goes_the_same_way() -> None:
    found = plan(FOUND, fault("store_down", 5, 12, silent=0.5), fault("crash", 6, 9, "b"))
    with_trace, without = traced(found)[0], run_plan(found)
    assert (with_trace.events, with_trace.reached.places) == (without.events, without.reached.places)
    assert with_trace.failure is None


def test_two_runs_in_one_process_have_one_trace_and_another_seed_has_another() -> None:
    faults = fault("crash", 6, 9, "b"), fault("port_failure", 4, None, "a"), fault("pause", 10, 14, "c")
    first, again, other = (traced(plan(TOLD, *faults, seed=seed))[0].trace_sha256 for seed in (1, 1, 2))
    assert first == again != other


IN_DTLS_SIMULATION = ("dtls-certificates", "dtls-lossy-handshakes")
"""`test_dtls_simulation` runs these."""


@pytest.mark.parametrize("name", [name for name in shipped() if name not in IN_DTLS_SIMULATION])
def test_every_shipped_scenario_holds_at_actors_or_says_why_it_cannot(name: str) -> None:
    scenario = load_scenario(name)
    if Depth.ACTORS not in scenario.depths:
        with pytest.raises(ScenarioError, match="cannot run at --depth actors"):
            draw_plan(scenario, 0, Depth.ACTORS)
        return
    outcome = run_plan(
        draw_plan(scenario, 1, Depth.ACTORS)
    )  # seed 0 runs elsewhere, with every scenario at its own depth
    assert outcome.failure is None, outcome.failure
    assert outcome.events > 500


def test_a_plan_with_a_registry_survives_json_and_a_heap_plan_may_not_have_one() -> None:
    found = plan(FOUND, fault("store_down", 5, 12, silent=0.5))
    assert from_json(to_json(found), "x") == found
    with pytest.raises(ScenarioError, match="only whole nodes have a registry, membership_is_equal"):
        from_json(to_json(replace(found, depth="heap")), "x")


# Faults of nodes.


def test_a_paused_node_takes_no_step_and_afterwards_answers_what_waited() -> None:
    outcome, lines = traced(plan(TOLD, fault("pause", 5, 8, "b")))
    assert outcome.failure is None
    assert not between(lines, "send", "b", 5, 8)
    assert between(lines, "arrive", "b", 5, 8)
    assert between(lines, "send", "b", 8, 8.001)


def test_a_killed_node_says_nothing_more_and_leaves_its_lease_to_run_out() -> None:
    outcome, lines = traced(plan(FOUND, fault("crash", 6, 15, "b")))
    assert outcome.failure is None
    assert not between(lines, "send", "b", 6, 15)
    assert not between(lines, "log", "b", 6, 15)
    assert between(lines, "node", "b", 15, 16)[0]["what"] == "up"
    assert outcome.reached.places["peer_forgot_us"] + outcome.reached.places["dial_repeated"] > 0


@pytest.mark.parametrize("bits", range(3))
def test_a_broken_port_is_replaced_and_nothing_else_notices(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    from holloway.simulations.actor_ports import LifePorts

    broken: list[str] = []
    break_one = LifePorts.break_one
    monkeypatch.setattr(
        LifePorts, "break_one", lambda ports, _: broken.append(word := break_one(ports, (bits << 64) // 3 + 1)) or word
    )
    outcome, lines = traced(plan(TOLD, fault("port_failure", 5, None, "b")))
    assert outcome.failure is None
    assert broken == [("tun", "udp", "netlink")[bits]]
    assert outcome.reached.places["actor_restarted"] >= 1
    ended = [line["what"] for line in between(lines, "actor", "b", 4, 6) if line["what"].startswith("failed")]
    assert ended
    assert all("Error" in what and "Exceptions from" not in what for what in ended)
    assert not between(lines, "actor", "a", 4, 6)
    assert between(lines, "deliver", "b", 7, 8)


# Faults of the registry.


@pytest.mark.parametrize(
    ("place", "faults"),
    [
        ("registry_unreachable", [fault("store_down", 5, 12, silent=0.0)]),
        ("registry_unreachable", [fault("store_down", 5, 12, silent=1.0)]),
        ("lease_retaken", [fault("lease_loss", 6, None, "a")]),
        ("lease_retaken", [fault("store_down", 5, 12, silent=0.5)]),
        ("store_full", [fault("disk_full", 5, 12), fault("lease_loss", 6, None, "b")]),
        ("watch_was_stale", [fault("stale_watch", 4, 14), fault("lease_loss", 6, None, "b")]),
        (
            "history_compacted",
            [fault("stale_watch", 4, 14), fault("lease_loss", 6, None, "b"), fault("store_compaction", 9)],
        ),
        ("node_gave_up", [fault("store_down", 4, 9, silent=0.0), fault("restart", 6, None, "c")]),
    ],
)
def test_a_registry_that_fails_is_reached_and_mended(place: str, faults: list[Fault]) -> None:
    outcome = run_plan(plan(FOUND, *faults))
    assert outcome.failure is None, outcome.failure
    assert outcome.reached.places[place] > 0


# Broken promises.


def test_a_crash_in_an_actor_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def offer(endpoint: UdpEndpoint, arrivals: object) -> None:
        raise RuntimeError("a bug in the sorting of datagrams")

    monkeypatch.setattr(UdpEndpoint, "_offer", offer)
    outcome = run_plan(plan(TOLD))
    assert outcome.failure is not None
    assert outcome.failure.verdict is Verdict.CRASHED
    assert "RuntimeError: a bug in the sorting of datagrams" in outcome.failure.message
    assert 0 < outcome.failure.at_ns < SECOND


def test_a_promise_broken_inside_a_node_is_not_taken_for_a_crash_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    take = PeerSession.offer_packets

    def leak(peer: PeerSession, packets: list[Any]) -> None:
        peer._udp.send(packets, ("198.18.0.2", 1099))
        take(peer, packets)

    monkeypatch.setattr(PeerSession, "offer_packets", leak)
    outcome, lines = traced(plan(TOLD))
    assert outcome.failure is not None
    assert (outcome.failure.property, outcome.failure.verdict) == ("no_plaintext_on_the_wire", Verdict.SAFETY_BROKEN)
    assert lines[-1]["kind"] == "violation"
    assert lines[-1]["t"] == outcome.failure.at_ns


def test_a_forged_datagram_that_changes_something_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    receive = Session.receive

    def gullible(session: Session, datagrams: Any, now: float) -> None:
        receive(session, datagrams, now)
        session.received.packets += len(datagrams)

    monkeypatch.setattr(Session, "receive", gullible)
    corrupt = replace(fault("corrupt", 0, 15, probability=0.3))
    outcome = run_plan(plan(TOLD, corrupt))
    assert outcome.failure is not None
    assert outcome.failure.property == "forgery_changes_nothing"


def test_a_node_that_never_comes_to_rest_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "next_timeout", lambda session: 0.0)
    monkeypatch.setattr("holloway.simulations.determinism.STEPS_PER_INSTANT", 4096)
    outcome = run_plan(plan(TOLD))
    assert outcome.failure is not None
    assert outcome.failure.property == "time_moves"


def test_an_actor_that_ends_for_no_reason_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from holloway.protocols.errors import PortError

    def offer(endpoint: UdpEndpoint, arrivals: object) -> None:
        raise PortError("the socket broke", "for no reason")

    monkeypatch.setattr(UdpEndpoint, "_offer", offer)
    outcome = run_plan(plan(TOLD))
    assert outcome.failure is not None
    assert outcome.failure.property == "no_actor_crashes"
    assert "nothing had befallen it" in outcome.failure.message


def test_a_node_that_does_not_stop_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    close = PeerSession.close

    async def run(peer: PeerSession, task_status: Any) -> None:
        import trio

        task_status.started(peer)
        try:
            await trio.sleep_forever()
        finally:
            close(peer)
            with trio.CancelScope(shield=True):
                await trio.sleep(1000)

    monkeypatch.setattr(PeerSession, "run", run)
    outcome = run_plan(plan(TOLD, fault("crash", 2, 4, "a")))
    assert outcome.failure is not None
    assert outcome.failure.property == "stopping_ends"


def test_a_bug_of_the_simulator_itself_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fall(*_: object) -> None:
        raise RuntimeError("the simulator fell over")

    monkeypatch.setattr("holloway.simulations.world.World.arrive", fall)
    outcome = run_plan(plan(TOLD))
    assert outcome.failure is not None
    assert outcome.failure.verdict is Verdict.CRASHED
    assert "the simulator fell over" in outcome.failure.message


# Plans of faults as data.

REGISTRY_FAULTS = tuple(kind for kind in sorted(KINDS) if KINDS[kind].needs_actors)


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    import logging

    import holloway.actors.peers as making

    session, log = vars(making)["Session"], logging.getLogger("holloway")
    handlers, propagate = log.handlers[:], log.propagate
    yield
    assert vars(making)["Session"] is session
    assert (log.handlers[:], log.propagate) == (handlers, propagate)


@settings(
    deadline=None,
    max_examples=10,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(drawn_faults(Depth.ACTORS), max_size=6, unique_by=lambda fault: fault.name),
    st.integers(0, 3),
    st.sampled_from([TOLD, FOUND, CERTIFIED]),
)
def test_no_plan_of_faults_breaks_a_promise_of_whole_nodes(drawn: list[Fault], seed: int, text: str) -> None:
    if text is TOLD:
        drawn = [each for each in drawn if KINDS[each.kind].scope.value != "store"]
    if text is not CERTIFIED:
        drawn = [each for each in drawn if not KINDS[each.kind].needs_authority]
    drawn = [each for each in drawn if each.kind != "release"]  # nobody claims an address here
    whole = replace(plan(text, *drawn, seed=seed), duration_ns=45 * SECOND, calm_ns=33 * SECOND)
    whole = replace(whole, eventually=dict.fromkeys(whole.eventually, 32 * SECOND))
    outcome = run_plan(whole)
    assert outcome.failure is None, outcome.failure
