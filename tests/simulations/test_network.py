"""The simulated network: every datagram at its time, in order, on Trio's clock, and the same way for the same seed."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from holloway.actors.ports import DatagramPort
from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.errors import LocalError, PortError
from holloway.simulations import network as network_module
from holloway.simulations.network import Link, SimulatedDatagrams, SimulatedNetwork

LEFT, RIGHT = "192.0.2.1", "192.0.2.2"


def two(network: SimulatedNetwork) -> tuple[SimulatedDatagrams, SimulatedDatagrams]:
    return network.bind(LEFT, 1), network.bind(RIGHT, 2)


async def taken(port: DatagramPort, within_s: float = 0.01) -> list[tuple[float, bytes]]:
    """What arrives until nothing more comes for `within_s`: when, and what."""
    found: list[tuple[float, bytes]] = []
    while True:
        with trio.move_on_after(within_s) as limit:
            arrivals = await port.receive()
            found += [(trio.current_time(), data) for arrival in arrivals for data in arrival.datagrams()]
        if limit.cancelled_caught:
            return found


async def test_a_datagram_arrives_with_the_address_it_came_from() -> None:
    left, right = two(SimulatedNetwork())
    left.send([b"one", b"", b"three"], right.local)
    assert await right.receive() == [Arrival(left.local, data, len(data)) for data in (b"one", b"", b"three")]
    right.send([b"back"], left.local)
    assert (await left.receive())[0].data == b"back"


@pytest.mark.parametrize(("host", "spelled"), [("2001:db8::1", "2001:0db8:0::0001"), (LEFT, LEFT)])
async def test_one_host_may_be_spelled_in_several_ways(host: str, spelled: str) -> None:
    port = SimulatedNetwork().bind(host, 7)
    destination: Address = (spelled, 7) if len(port.local) == 2 else (spelled, 7, 0, 0)
    port.send([b"to myself"], destination)
    assert (await port.receive())[0].source == port.local


async def test_latency_is_on_trios_clock(autojump_clock: MockClock) -> None:
    network = SimulatedNetwork(latency_s=0.25)
    left, right = two(network)
    left.send([b"first"], right.local)
    await trio.sleep(0.125)
    left.send([b"second"], right.local)
    assert await taken(right, 1) == [(0.25, b"first"), (0.375, b"second")]


async def test_links_are_shaped_one_by_one_and_by_direction(autojump_clock: MockClock) -> None:
    network = SimulatedNetwork(latency_s=1.0)
    left, right = two(network)
    network.shape(LEFT, RIGHT, Link(latency_s=0.5))
    network.shape(RIGHT, LEFT, Link(latency_s=0.25), both_ways=False)
    left.send([b"there"], right.local)
    right.send([b"back"], left.local)
    left.send([b"home"], left.local)
    assert await taken(right, 2) == [(0.5, b"there")]
    assert [data for _, data in await taken(left)] == [b"back", b"home"]


async def test_a_reader_asleep_until_a_late_datagram_is_woken_by_an_earlier_one(autojump_clock: MockClock) -> None:
    network = SimulatedNetwork(latency_s=10.0)
    left, right = two(network)
    near = network.bind("192.0.2.3", 3)
    network.shape("192.0.2.3", RIGHT, Link(latency_s=1.0))
    left.send([b"late"], right.local)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def speak() -> None:
            await trio.sleep(1)
            near.send([b"early"], right.local)

        assert await taken(right, 20) == [(2.0, b"early"), (10.0, b"late")]


async def test_a_link_that_becomes_faster_does_not_reorder(autojump_clock: MockClock) -> None:
    network = SimulatedNetwork(latency_s=1.0)
    left, right = two(network)
    left.send([b"1", b"2"], right.local)
    network.shape(LEFT, RIGHT, Link(latency_s=0.0))
    left.send([b"3"], right.local)
    assert [data for _, data in await taken(right, 2)] == [b"1", b"2", b"3"]


async def test_a_cut_link_loses_everything_and_says_so(autojump_clock: MockClock) -> None:
    network = SimulatedNetwork()
    left, right = two(network)
    network.shape(LEFT, RIGHT, Link(loss=1), both_ways=False)
    left.send([b"lost"] * 3, right.local)
    right.send([b"kept"], left.local)
    assert await taken(right, 1) == []
    assert [data for _, data in await taken(left)] == [b"kept"]
    assert network.drops == {"link_loss": 3}
    network.shape(LEFT, RIGHT, Link())
    left.send([b"healed"], right.local)
    assert [data for _, data in await taken(right)] == [b"healed"]


async def faulty_run(seed: int, link: Link, count: int = 200) -> list[bytes]:
    network = SimulatedNetwork(seed)
    left, right = two(network)
    network.shape(LEFT, RIGHT, link)
    left.send([b"%d" % number for number in range(count)], right.local)
    return [data for _, data in await taken(right, 1)]


async def test_faults_follow_the_seed(autojump_clock: MockClock) -> None:
    link = Link(loss=0.2, duplicate=0.2)
    one, again, other = await faulty_run(1, link), await faulty_run(1, link), await faulty_run(2, link)
    assert one == again != other
    assert 100 < len(set(one)) < 200
    assert len(one) > len(set(one))


async def test_one_fault_switched_off_does_not_move_another(autojump_clock: MockClock) -> None:
    both = await faulty_run(1, Link(loss=0.2, duplicate=0.2))
    loss = await faulty_run(1, Link(loss=0.2))
    assert list(dict.fromkeys(both)) == loss


async def test_faults_of_two_kinds_do_not_strike_the_same_datagrams(autojump_clock: MockClock) -> None:
    everything = [b"%d" % number for number in range(200)]
    kept, doubled = await faulty_run(1, Link(loss=0.5)), await faulty_run(1, Link(duplicate=0.5))
    assert [data for data in everything if data not in kept] != [
        data for data in everything if doubled.count(data) == 2
    ]


async def test_duplicates_follow_their_original(autojump_clock: MockClock) -> None:
    assert await faulty_run(1, Link(duplicate=1), 3) == [b"0", b"0", b"1", b"1", b"2", b"2"]


@pytest.mark.parametrize("wrong", [{"latency_s": -1.0}, {"loss": 1.1}, {"loss": -0.1}, {"duplicate": 2.0}])
def test_a_link_that_cannot_be_is_the_callers_mistake(wrong: dict[str, float]) -> None:
    with pytest.raises(LocalError):
        Link(**wrong)


async def test_taps_see_every_datagram_on_the_wire_even_the_lost_ones() -> None:
    network = SimulatedNetwork()
    left, right = two(network)
    seen: list[tuple[Address, Address, bytes]] = []
    network.taps.append(lambda source, destination, data: seen.append((source, destination, data)))
    network.shape(LEFT, RIGHT, Link(loss=1))
    left.send([b"lost"], right.local)
    left.send([b"to nobody"], ("192.0.2.9", 9))
    assert seen == [(left.local, right.local, b"lost"), (left.local, ("192.0.2.9", 9), b"to nobody")]


async def test_what_nobody_listens_for_is_counted() -> None:
    network = SimulatedNetwork()
    left, right = two(network)
    left.send([b"wrong port"], (RIGHT, 3))
    right.close()
    left.send([b"closed"], right.local)
    assert network.drops == {"no_such_address": 2}


async def test_a_reader_that_lags_loses_the_newest(autojump_clock: MockClock) -> None:
    network = SimulatedNetwork(latency_s=0.5)
    left, right = two(network)
    count = network_module.RECEIVE_QUEUE
    left.send([b"%d" % number for number in range(count + 3)], right.local)
    await trio.sleep(1)
    got = [data for _, data in await taken(right)]
    assert got == [b"%d" % number for number in range(count)]
    assert right.drops == {"receive_buffer_full": 3}
    left.send([b"again"], right.local)
    assert [data for _, data in await taken(right, 1)] == [b"again"]


async def test_datagrams_under_way_are_bounded(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    monkeypatch.setattr(network_module, "IN_FLIGHT_MAX", 5)
    network = SimulatedNetwork(latency_s=1)
    left, right = two(network)
    left.send([b"x"] * 8, right.local)
    assert network.drops == {"link_full": 3}
    await trio.sleep(1)
    left.send([b"y"], right.local)
    assert len(await taken(right, 2)) == 6


async def test_a_receive_takes_a_budget_and_always_yields() -> None:
    left, right = two(SimulatedNetwork())
    left.send([b"x"] * (network_module.RECEIVE_BUDGET + 5), right.local)
    for expected in (network_module.RECEIVE_BUDGET, 5):
        with trio.testing.assert_checkpoints():
            assert len(await right.receive()) == expected


@pytest.mark.parametrize(("host", "largest"), [(LEFT, 65_507), ("2001:db8::1", 65_527)])
async def test_the_largest_datagram_is_that_of_the_family(host: str, largest: int) -> None:
    port = SimulatedNetwork().bind(host, 7)
    port.send([bytes(largest + 1), bytes(largest)], port.local)
    assert len((await port.receive())[0].data) == largest
    assert port.drops == {"udp_emsgsize": 1}


async def test_an_address_of_the_other_family_or_no_address_is_the_callers_mistake() -> None:
    left, _ = two(SimulatedNetwork())
    for wrong in (("2001:db8::1", 1, 0, 0), ("example.com", 1)):
        with pytest.raises(LocalError):
            left.send([b"x"], wrong)


async def test_closing_wakes_the_reader_and_frees_the_port() -> None:
    network = SimulatedNetwork()
    left, right = two(network)

    async def read() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await right.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        right.close()
    right.close()
    with pytest.raises(trio.ClosedResourceError):
        await right.receive()
    right.send([b"x"], left.local)
    assert right.drops == {"udp_ebadf": 1}
    assert network.bind(RIGHT, 2).local == right.local


async def test_a_nat_that_forgets_its_mapping_moves_a_socket_unknown_to_its_owner() -> None:
    network = SimulatedNetwork()
    left, right = two(network)
    network.shape(LEFT, RIGHT, Link(latency_s=0))
    before, outside = left.local, ("203.0.113.9", 4000)
    network.rebind(left.local, outside)
    assert left.local == before
    left.send([b"hello"], right.local)
    (arrival,) = await right.receive()
    assert arrival.source == outside
    right.send([b"stale"], before)
    right.send([b"fresh"], outside)
    assert [data for _, data in await taken(left)] == [b"fresh"]
    assert network.drops == {"no_such_address": 1}
    network.rebind(outside, before)
    right.send([b"home"], before)
    assert [data for _, data in await taken(left)] == [b"home"]


async def test_a_link_belongs_to_the_host_and_not_to_its_nat() -> None:
    network = SimulatedNetwork()
    left, right = two(network)
    network.rebind(left.local, ("203.0.113.9", 4000))
    network.shape(LEFT, RIGHT, Link(loss=1))
    left.send([b"lost"], right.local)
    right.send([b"lost"], left.public)
    assert network.drops == {"link_loss": 2}


def test_a_rebinding_that_cannot_be_changes_nothing() -> None:
    network = SimulatedNetwork()
    left, right = two(network)
    for old, new in (
        (("192.0.2.9", 9), ("203.0.113.9", 1)),
        (left.local, right.local),
        (left.local, ("2001:db8::1", 1, 0, 0)),
    ):
        with pytest.raises(LocalError):
            network.rebind(old, new)
    assert (left.public, right.public) == (left.local, right.local)
    network.rebind(left.local, ("203.0.113.9", 4000))
    with pytest.raises(PortError):
        network.bind(LEFT, 1)


def test_a_port_is_bound_once_and_port_zero_is_a_free_one() -> None:
    network = SimulatedNetwork()
    first, second = network.bind(LEFT, 0), network.bind(LEFT, 0)
    assert first.local != second.local
    with pytest.raises(PortError, match="EADDRINUSE"):
        network.bind(LEFT, first.local[1])
    assert network.bind(RIGHT, first.local[1]).local[1] == first.local[1]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 30)), max_size=40),
    st.dictionaries(st.tuples(st.integers(0, 1), st.integers(0, 1)), st.integers(0, 10)),
)
def test_every_datagram_arrives_once_at_its_time_and_in_order(
    plan: list[tuple[int, int, int]], latencies: dict[tuple[int, int], int]
) -> None:
    """Senders speak on a grid of eighths of a second to readers that always listen; the model is a list sorted by time.

    Two of the three sockets are on one host, so that links and sockets are not the same thing.
    """
    hosts = [LEFT, RIGHT, LEFT]
    steps = sorted(enumerate(plan), key=lambda step: step[1][2])

    def latency_s(source: int, destination: int) -> float:
        return latencies.get((source % 2, destination % 2), 0) / 8

    async def scenario() -> list[list[tuple[float, bytes]]]:
        network = SimulatedNetwork()
        ports = [network.bind(host, number) for number, host in enumerate(hosts, 1)]
        for source, destination in latencies:
            link = Link(latency_s(source, destination))
            network.shape(hosts[source], hosts[destination], link, both_ways=False)
        got: list[list[tuple[float, bytes]]] = [[], [], []]

        async def read(which: int) -> None:
            got[which] = await taken(ports[which], 100)

        async with trio.open_nursery() as nursery:
            for which in range(3):
                nursery.start_soon(read, which)
            for number, (source, destination, at) in steps:
                await trio.sleep_until(at / 8)
                ports[source].send([b"%d" % number], ports[destination].local)
        return got

    expected: list[list[tuple[float, bytes]]] = [[], [], []]
    for number, (source, destination, at) in steps:
        expected[destination].append((at / 8 + latency_s(source, destination), b"%d" % number))
    got = trio.run(scenario, clock=MockClock(autojump_threshold=0))
    assert got == [sorted(each, key=lambda arrival: arrival[0]) for each in expected]
