"""The kernel's ports put together."""

from __future__ import annotations

import time
from ipaddress import ip_interface, ip_network

import trio
from namespaces import in_namespace

from holloway.actors.kernel import KernelPorts
from holloway.actors.netlink import TrioNetlink
from holloway.actors.ports import Ports
from holloway.actors.tun import KernelTun
from holloway.actors.udp import UdpSocket


@in_namespace
async def test_one_host_opens_everything_a_node_asks_for() -> None:
    ports: Ports = KernelPorts()
    tun = ports.open_tun("hw0", 1380)
    assert isinstance(tun, KernelTun)
    assert (tun.name, tun.mtu) == ("hw0", 1380)
    ipv4, ipv6 = ports.open_datagrams(None, 0)
    assert isinstance(ipv4, UdpSocket)
    async with ports.open_netlink() as netlink:
        assert isinstance(netlink, TrioNetlink)
        await netlink.configure(tun.name, [ip_interface("10.9.0.1/24")], tun.mtu)
        await netlink.add_route(tun.name, ip_network("10.20.0.0/16"))
        ipv4.send([b"routed into the tunnel"], ("10.20.0.1", 7))
        with trio.fail_after(5):
            (packet,) = await tun.receive()
        assert isinstance(packet, bytes)
        assert packet.endswith(b"routed into the tunnel")
    for port in (tun, ipv4, ipv6):
        port.close()


def test_the_wall_clock_is_the_systems() -> None:
    before = time.time_ns()
    assert before <= KernelPorts().wall_ns() <= time.time_ns()


def test_randomness_is_fresh_every_time() -> None:
    ports = KernelPorts()
    assert len(ports.entropy(32)) == 32
    assert ports.entropy(32) != ports.entropy(32) != KernelPorts().entropy(32)


def test_the_steady_clock_goes_on_while_the_host_sleeps() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= KernelPorts().steady_s() <= time.clock_gettime(time.CLOCK_BOOTTIME)
