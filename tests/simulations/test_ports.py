"""The simulated ports of a host: they keep the contract of the real ones, the same way every time."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from holloway.actors.ports import Ports
from holloway.protocols.addresses import Address
from holloway.protocols.errors import LocalError, PortError, TunError
from holloway.protocols.icmp import echo_request, parse_echo_reply
from holloway.protocols.packets import SuperPacket
from holloway.simulations import ports as ports_module
from holloway.simulations.network import SimulatedNetwork
from holloway.simulations.ports import Configured, RouteAdded, RouteRemoved, SimulatedPorts, SimulatedTun

LEFT, RIGHT = "192.0.2.1", "192.0.2.2"
OURS, THEIRS = bytes([10, 9, 0, 1]), bytes([10, 9, 0, 2])
PACKET = b"\x45" + bytes(39)


async def test_what_a_program_injects_the_node_receives() -> None:
    tun = SimulatedTun("hw0", 1400)
    tun.inject([PACKET, PACKET + b"2"])
    with trio.testing.assert_checkpoints():
        assert await tun.receive() == [PACKET, PACKET + b"2"]
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def node() -> None:
            assert await tun.receive() == [PACKET]

        await trio.testing.wait_all_tasks_blocked()
        tun.inject([PACKET])


async def test_what_the_node_sends_the_program_collects() -> None:
    tun = SimulatedTun("hw0", 1400)
    tun.send([PACKET])
    tun.send([PACKET + b"2", PACKET + b"3"])
    with trio.testing.assert_checkpoints():
        assert await tun.collect() == [PACKET, PACKET + b"2", PACKET + b"3"]
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def program() -> None:
            assert await tun.collect() == [PACKET]

        await trio.testing.wait_all_tasks_blocked()
        tun.send([PACKET])


async def test_the_host_gets_a_super_packet_as_its_segments() -> None:
    tun = SimulatedTun("hw0", 1400)
    header = bytes([0x45, 0, 0, 28 + 30, 0, 0, 0, 0, 64, 17, 0, 0]) + THEIRS + OURS + bytes(8)
    super_packet = SuperPacket(header + b"a" * 20 + b"b" * 10, 20)
    tun.send([super_packet, SuperPacket(b"\x45", 20)])
    assert [packet[28:] for packet in await tun.collect()] == [b"a" * 20, b"b" * 10]
    assert tun.drops == {"tun_malformed": 1}
    tun.inject([super_packet])
    assert await tun.receive() == [super_packet]


async def test_what_a_kernel_would_refuse_is_counted() -> None:
    tun = SimulatedTun("hw0", 1400)
    tun.send([b"", bytes(40), PACKET])
    assert await tun.collect() == [PACKET]
    assert tun.drops == {"tun_einval": 2}


async def test_both_queues_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports_module, "TUN_QUEUE", 3)
    tun = SimulatedTun("hw0", 1400)
    tun.inject([PACKET] * 2)
    tun.inject([PACKET] * 2)
    tun.inject([PACKET])
    assert tun.drops == {"tun_queue_full": 2}
    tun.send([PACKET] * 5)
    assert tun.drops == {"tun_queue_full": 4}
    assert len(await tun.receive()) == len(await tun.collect()) == 3
    tun.inject([PACKET])
    assert await tun.receive() == [PACKET]


async def test_a_device_receive_takes_a_budget() -> None:
    tun = SimulatedTun("hw0", 1400)
    tun.inject([PACKET] * (ports_module.RECEIVE_BUDGET + 5))
    assert [len(await tun.receive()), len(await tun.receive())] == [ports_module.RECEIVE_BUDGET, 5]


async def test_a_packet_above_the_mtu_is_the_programs_mistake() -> None:
    tun = SimulatedTun("hw0", 100)
    with pytest.raises(LocalError, match="MTU"):
        tun.inject([PACKET, bytes(101)])
    tun.inject([PACKET + bytes(60)])
    assert len(await tun.receive()) == 1


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(OURS, THEIRS), (bytes(15) + b"\x01", bytes(15) + b"\x02")],
    ids=["ipv4", "ipv6"],
)
async def test_a_host_that_answers_pings_answers_pings_and_collects_the_rest(ours: bytes, theirs: bytes) -> None:
    tun = SimulatedTun("hw0", 1400, answer_pings=True)
    tun.send([echo_request(theirs, ours, 7, 1, b"payload"), PACKET])
    (answer,) = await tun.receive()
    assert isinstance(answer, bytes)
    reply = parse_echo_reply(answer)
    assert reply is not None
    assert (reply.source, reply.sequence, reply.payload) == (ours, 1, b"payload")
    assert await tun.collect() == [PACKET]


async def test_a_host_that_does_not_answer_pings_collects_them() -> None:
    tun = SimulatedTun("hw0", 1400)
    request = echo_request(THEIRS, OURS, 7, 1)
    tun.send([request])
    assert await tun.collect() == [request]


async def test_closing_the_device_wakes_both_sides() -> None:
    tun = SimulatedTun("hw0", 1400)

    async def wait(what: str) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await getattr(tun, what)()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "receive")
        nursery.start_soon(wait, "collect")
        await trio.testing.wait_all_tasks_blocked()
        tun.close()
    tun.close()
    with pytest.raises(LocalError):
        tun.inject([PACKET])
    tun.send([PACKET])
    assert tun.drops == {"tun_ebadf": 1}


async def test_what_was_delivered_before_the_device_closed_can_be_collected() -> None:
    tun = SimulatedTun("hw0", 1400)
    tun.send([PACKET])
    tun.close()
    assert await tun.collect() == [PACKET]
    with pytest.raises(trio.ClosedResourceError):
        await tun.collect()


def test_the_device_is_within_reach_once_the_node_has_opened_it() -> None:
    ports = SimulatedPorts(SimulatedNetwork())
    with pytest.raises(LocalError):
        _ = ports.tun
    device = ports.open_tun("hw0", 1400)
    assert ports.tun is device
    with pytest.raises(TunError, match="EBUSY"):
        ports.open_tun("hw0", 1400)
    device.close()
    assert ports.open_tun("hw0", 1400) is ports.tun is not device


@pytest.mark.parametrize(("host", "everywhere"), [(LEFT, "0.0.0.0"), ("2001:db8::1", "::")])
def test_sockets_are_bound_on_the_host(host: str, everywhere: str) -> None:
    for address in (None, everywhere, host):
        (port,) = SimulatedPorts(SimulatedNetwork(), host).open_datagrams(address, 1099)
        assert port.local[:2] == (host, 1099)
    with pytest.raises(PortError, match="EADDRNOTAVAIL"):
        SimulatedPorts(SimulatedNetwork(), host).open_datagrams("192.0.2.77", 1099)


async def test_netlink_remembers_what_it_was_asked() -> None:
    ports = SimulatedPorts(SimulatedNetwork())
    address, prefix, other = ip_interface("10.9.0.1/24"), ip_network("10.20.0.0/16"), ip_network("fd20::/48")
    async with ports.open_netlink() as netlink:
        await netlink.configure("hw0", [address], 1400)
        await netlink.add_route("hw0", prefix)
        await netlink.add_route("hw0", other)
    async with ports.open_netlink() as netlink:
        await netlink.remove_route("hw0", prefix)
        await netlink.remove_route("hw0", prefix)
        await netlink.remove_route("hw9", other)
    assert list(ports.netlink.calls) == [
        Configured("hw0", (address,), 1400),
        RouteAdded("hw0", prefix),
        RouteAdded("hw0", other),
        RouteRemoved("hw0", prefix),
        RouteRemoved("hw0", prefix),
        RouteRemoved("hw9", other),
    ]
    assert ports.netlink.routes == {other: "hw0"}


async def test_the_wall_clock_goes_with_trios_clock(autojump_clock: MockClock) -> None:
    ports = SimulatedPorts(SimulatedNetwork())
    assert ports.wall_ns() == ports_module.WALL_START_NS
    await trio.sleep(1.5)
    assert ports.wall_ns() == ports_module.WALL_START_NS + 1_500_000_000


def test_randomness_is_the_same_in_every_run_and_different_for_every_node() -> None:
    def draws(seed: int) -> list[bytes]:
        network = SimulatedNetwork()
        return [SimulatedPorts(network, host, seed=seed).entropy(32) for host in (LEFT, RIGHT, LEFT)]

    assert draws(0) == draws(0)
    assert len({*draws(0), *draws(1)}) == 6
    # Golden: the same under every PYTHONHASHSEED, platform and version.
    assert SimulatedPorts(SimulatedNetwork()).entropy(4).hex() == "e1f3cceb"


async def relay(ports: Ports, peer: Address) -> None:
    """A node without secrets: every packet in a datagram of its own."""
    tun = ports.open_tun("hw0", 1400)
    (wire,) = ports.open_datagrams(None, 1099)

    async def outbound() -> None:
        while True:
            wire.send([packet for packet in await tun.receive() if isinstance(packet, bytes)], peer)

    async def inbound() -> None:
        while True:
            for arrival in await wire.receive():
                tun.send(arrival.datagrams())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbound)
        nursery.start_soon(inbound)


async def test_two_nodes_in_one_program_exchange_packets(autojump_clock: MockClock) -> None:
    network = SimulatedNetwork(latency_s=0.02)
    left, right = SimulatedPorts(network, LEFT), SimulatedPorts(network, RIGHT, answer_pings=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay, left, (RIGHT, 1099))
        nursery.start_soon(relay, right, (LEFT, 1099))
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        left.tun.inject([echo_request(OURS, THEIRS, 7, 1)])
        (answer,) = await left.tun.collect()
        reply = parse_echo_reply(answer)
        assert reply is not None
        assert reply.source == THEIRS
        assert trio.current_time() - started == pytest.approx(0.04)
        nursery.cancel_scope.cancel()
