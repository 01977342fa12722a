"""The sparse lane in the simulator: the queue that it passes by, the device that is read apart, and the promises about both lanes."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
import trio
import trio.testing

from holloway.protocols.packets import Packet
from holloway.protocols.record_wire import SPARSE_MARK
from holloway.simulations.depth import Depth
from holloway.simulations.drawing import draw_plan
from holloway.simulations.faults import Fault
from holloway.simulations.forgers import Forger
from holloway.simulations.lane_oracles import (
    Lanes,
    endpoints_move_forward,
    lanes_lose_nothing,
    losses_are_real,
    only_replays_are_refused,
)
from holloway.simulations.links import ActiveFaults, Link, Overheard
from holloway.simulations.network import SimulatedNetwork
from holloway.simulations.oracles import Calm
from holloway.simulations.ports import SimulatedPorts, SimulatedTun
from holloway.simulations.quantities import Value
from holloway.simulations.run import run_plan
from holloway.simulations.scenario import load_scenario

SECOND = 10**9
MS = 10**6
PACKET = b"\x45" + bytes(39)
SPARSE = 1 | SPARSE_MARK


def fault(kind: str, **values: Value) -> Fault:
    return Fault(name=f"{kind}-1", kind=kind, at_ns=0, until_ns=6 * SECOND, values=values)


def datagram(kind: int, counter: int = 7) -> bytes:
    return struct.pack("<IHHQ", 1 << 20, 0, kind, counter << 12) + bytes(100)


# The queue.


@pytest.mark.parametrize("seed", range(5))
def test_nothing_overtakes_in_a_standing_queue_and_the_sparse_lane_waits_for_nothing(seed: int) -> None:
    queue = fault("standing_queue", most=500 * MS)
    faults = ActiveFaults([queue])
    link = Link(seed, "a", "b", 5 * MS, 5 * MS)
    faults.begin(queue)
    before, waits, overtaken = 0, [], 0
    for now_ns in range(0, 6 * SECOND, 7 * MS):
        if now_ns > 5 * SECOND:
            faults.end(queue)
        fate = link.carry(datagram(1), now_ns, faults)
        assert now_ns + fate.delay_ns >= before
        assert fate.delay_ns == 5 * MS + fate.held_ns
        before = now_ns + fate.delay_ns
        waits.append(fate.held_ns)
        sparse = link.carry(datagram(SPARSE), now_ns, faults)
        assert sparse.delay_ns == 5 * MS
        assert sparse.has_overtaken == (fate.held_ns > 0)
        overtaken += sparse.has_overtaken
        assert not fate.lost
        assert not sparse.lost
    assert 450 * MS < max(waits) <= 500 * MS
    assert min(waits[:600]) < 20 * MS
    assert waits[-1] == 0
    assert overtaken > 600


def test_a_handshake_stands_in_the_queue_as_well() -> None:
    queue = fault("standing_queue", most=500 * MS)
    faults = ActiveFaults([queue])
    link = Link(1, "a", "b", 0, 0)
    faults.begin(queue)
    assert max(link.carry(bytes((0x21, 0, 0, 0)) + bytes(100), at, faults).held_ns for at in range(0, SECOND, MS)) > 0


# The device.


async def test_what_is_of_flows_that_send_little_is_given_apart_and_first() -> None:
    ports = SimulatedPorts(SimulatedNetwork(), sparse_first=True)
    port = ports.open_tun("hw0", 1400)
    assert isinstance(port, SimulatedTun)
    given: list[tuple[str, list[Packet]]] = []

    def taker(name: str) -> object:
        return lambda what: given.append((name, what if isinstance(what, list) else [what]))

    async with trio.open_nursery() as nursery:
        port.inject([PACKET], is_sparse=True)  # nobody reads apart yet
        names = [taker(name) for name in ("all", "lone", "sparse", "sparse lone")]
        nursery.start_soon(_serve, ports, port, *names)
        await trio.testing.wait_all_tasks_blocked()
        port.inject([PACKET + b"1"] * 2)
        port.inject([PACKET + b"2"], is_sparse=True)
        await trio.testing.wait_all_tasks_blocked()
        port.inject([PACKET + b"3", PACKET + b"4"], is_sparse=True)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert given == [
        ("all", [PACKET]),
        ("sparse lone", [PACKET + b"2"]),
        ("all", [PACKET + b"1"] * 2),
        ("sparse", [PACKET + b"3", PACKET + b"4"]),
    ]


async def _serve(ports: SimulatedPorts, port: SimulatedTun, *takers: object) -> None:
    take, take_lone, sparse, sparse_lone = takers
    await ports.serve(port, take, take_lone, sparse=(sparse, sparse_lone))  # type: ignore[arg-type]


async def test_who_reads_apart_is_told_that_the_device_is_closed() -> None:
    tun = SimulatedTun("hw0", 1400)
    tun.is_read_apart = True
    tun.inject([PACKET], is_sparse=True)
    tun.close()
    with pytest.raises(trio.ClosedResourceError):
        await tun.receive_apart()


# Forgers.


def test_a_forger_puts_a_datagram_into_the_other_lane_and_changes_its_counter_and_content() -> None:
    foretold: list[int] = []
    forger = Forger(fault("forge_pieces", every=SECOND, elsewhere=0.0), 1, foretold.append)
    heard = datagram(SPARSE, 1000)
    forger.hear("a", "b", Overheard(heard, ("192.0.2.1", 1), ("192.0.2.2", 1)))
    sent = [forged.data for _ in range(200) if (forged := forger.choose()) is not None]
    assert heard not in sent
    assert heard[:6] + b"\1\0" + heard[8:] in sent, "in the other lane"
    assert any(each[:16] == heard[:16] and len(each) == len(heard) for each in sent), "other content"
    assert any(each[:8] == heard[:8] and each[16:] == heard[16:] for each in sent), "another counter"
    assert not foretold, "it costs nothing"


# Promises.


def test_promises_about_the_lanes_are_broken_by_what_they_are_about() -> None:
    calm = Calm(unheard=(), waiting={}, endpoints={})
    promises = (lanes_lose_nothing, only_replays_are_refused, losses_are_real, endpoints_move_forward)
    assert [promise(calm) for promise in promises] == [None] * 4
    calm = replace(calm, lanes=Lanes(repeated=2, replayed=2))
    assert only_replays_are_refused(calm) is None
    broken = Lanes(unaccounted=(4, 5), repeated=2, replayed=3, lost_untruly=("a tells b",), moved_back=("b left",))
    calm = replace(calm, lanes=broken)
    told = [str(promise(calm)) for promise in promises]
    assert told == [
        "2 packets never came out, the first is packet 4",
        "3 datagrams were refused as replayed, 2 were",
        "a tells b",
        "b left",
    ]


@pytest.mark.parametrize("depth", Depth)
def test_the_sparse_lane_is_used_at_both_depths(depth: Depth) -> None:
    outcome = run_plan(draw_plan(load_scenario("sparse-lane"), 0, depth))
    assert outcome.failure is None, outcome.failure
    assert outcome.reached.places["packet_went_sparse"] > 100
    assert outcome.reached.places["sparse_overtook"] > 100
    assert outcome.reached.places["key_began_sparse"] > 0
