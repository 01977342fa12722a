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
from holloway.protocols.keys import StaticKey, clamp
from holloway.simulations.network import SimulatedNetwork
from holloway.simulations.ports import SimulatedPorts

NAMES = ("a", "b")
OUTER = ("192.0.2.1", "192.0.2.2")  # RFC 5737
INNER = ("10.99.0.1", "10.99.0.2")
PING_INTERVAL_S = 0.1
SESSION_TIMEOUT_S = 10.0


async def demonstrate(count: int, suite: str) -> dict[str, Any]:
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
        answers = [answer async for answer in a.ping(NAMES[1], count=count, interval_s=PING_INTERVAL_S)]
        suites = [_peer(node)["suite"] for node in (a, b)]
    pings: Any = answers[-1]["result"]
    pair = bytes(map(int, INNER[0].split("."))) + bytes(map(int, INNER[1].split(".")))
    inner = (PING_PAYLOAD, pair, pair[4:] + pair[:4])
    is_clear = any(part in datagram for datagram in wire for part in inner)
    return {
        "nodes": [
            {"name": name, "address": address, "suite": used}
            for name, address, used in zip(NAMES, INNER, suites, strict=True)
        ],
        "ping": {"sent": pings["sent"], "received": pings["received"], "rtt_ms": pings["rtt_ms"]},
        # Checked, not assumed: enough datagrams were seen to carry the pings both ways, and nothing of the pings in them.
        "encrypted": len(wire) >= 2 * pings["received"] > 0 and not is_clear,
    }


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
