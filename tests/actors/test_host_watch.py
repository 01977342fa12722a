"""What a node does when the interfaces of its host change, in a simulated world."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network

import trio
from trio.testing import MockClock

from holloway.actors import Config, Endpoint, InterfaceConfig, NodeConfig, PeerConfig, SessionConfig, open_node
from holloway.protocols.keys import StaticKey
from holloway.simulations.network import SimulatedNetwork
from holloway.simulations.ports import Configured, RouteAdded, SimulatedPorts

PREFIX = ip_network("10.50.0.0/16")


def config(number: int) -> Config:
    other = 3 - number
    return Config(
        node=NodeConfig(name=f"n{number}"),
        interface=InterfaceConfig(name="hw0", addresses=(ip_interface(f"10.99.0.{number}/24"),)),
        session=SessionConfig(private_key=bytes([number]) * 32),
        peers=(
            PeerConfig(
                name=f"n{other}",
                public_key=StaticKey(bytes([other]) * 32).public,
                allowed=(ip_network(f"10.99.0.{other}/32"), *((PREFIX,) if other == 2 else ())),
                endpoint=Endpoint(f"192.0.2.{other}", 1099),
            ),
        ),
    )


def test_our_own_interface_is_put_right_and_another_ones_change_is_announced() -> None:
    async def main() -> None:
        network = SimulatedNetwork()
        left, right = SimulatedPorts(network, "192.0.2.1"), SimulatedPorts(network, "192.0.2.2")
        wire: list[bytes] = []
        network.taps.append(lambda source, destination, datagram: wire.append(datagram))
        async with open_node(config(1), ports=left) as node, open_node(config(2), ports=right):
            await node.connected("n2")
            await trio.sleep(60)
            left.netlink.calls.clear()
            wire.clear()

            left.netlink.change("hw0")
            await trio.sleep(1)
            assert [type(call) for call in left.netlink.calls] == [Configured, RouteAdded]
            assert left.netlink.calls[1] == RouteAdded("hw0", PREFIX)
            assert not wire

            left.netlink.change("eth0")
            await trio.sleep(1)
            assert len(left.netlink.calls) == 2
            assert len(wire) == 1  # one keepalive

    trio.run(main, clock=MockClock(autojump_threshold=0))
