"""The demo's last tier: two real nodes in this process, on a simulated network, with a tap on its wire."""

from __future__ import annotations

import logging
import secrets
from ipaddress import ip_interface, ip_network
from typing import Any

import trio

from holloway.actors import (
    Config,
    Endpoint,
    InterfaceConfig,
    Node,
    NodeConfig,
    PeerConfig,
    SessionConfig,
    open_node,
)
from holloway.actors.peer_session import PING_PAYLOAD
from holloway.cli.demo_report import INNER, NAMES, OUTER, PING_INTERVAL_S, report
from holloway.protocols.keys import StaticKey, clamp
from holloway.simulations.network import SimulatedNetwork
from holloway.simulations.ports import SimulatedPorts

SESSION_TIMEOUT_S = 10.0


async def demonstrate(count: int, suite: str) -> Any:
    """Run the nodes, ping from a to b, and report. The handshake and every record are the real ones."""
    logging.getLogger("holloway").addHandler(logging.NullHandler())
    wire: list[bytes] = []
    network = SimulatedNetwork()
    network.taps.append(lambda source, destination, datagram: wire.append(datagram))
    keys = [clamp(secrets.token_bytes(32)) for _ in NAMES]
    first = _config(0, keys, suite)
    second = _config(1, keys, suite)
    async with (
        open_node(first, ports=SimulatedPorts(network, OUTER[0], answer_pings=True)) as a,
        open_node(second, ports=SimulatedPorts(network, OUTER[1], answer_pings=True)) as b,
    ):
        with trio.fail_after(SESSION_TIMEOUT_S):
            await a.connected(NAMES[1])
            await b.connected(NAMES[0])
        answers: list[Any] = [answer async for answer in a.ping(NAMES[1], count=count, interval_s=PING_INTERVAL_S)]
        suites = [_peer(node)["suite"] for node in (a, b)]
    times = [answer["event"]["rtt_ms"] for answer in answers if "rtt_ms" in answer.get("event", {})]
    return report(suites, count, times, wire, PING_PAYLOAD)


def _peer(node: Node) -> Any:
    peers: Any = node.status()["peers"]
    return peers[0]


def _config(position: int, keys: list[bytes], suite: str) -> Config:
    other = 1 - position
    return Config(
        node=NodeConfig(name=NAMES[position]),
        interface=InterfaceConfig(name="hw0", addresses=(ip_interface(f"{INNER[position]}/24"),)),
        session=SessionConfig(private_key=keys[position]),
        peers=(
            PeerConfig(
                name=NAMES[other],
                public_key=StaticKey(keys[other]).public,
                endpoint=Endpoint(OUTER[other], 1099),
                allowed=(ip_network(f"{INNER[other]}/32"),),
                suite=suite,
            ),
        ),
    )
