"""What the programs of the control plane on a node have its record say, in a network with an authority: an agent's key, and a broker.

On every node, whether it may have a broker or not. Not responsible for who believes that (`trust_watch`).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from holloway.protocols.broker_places import BrokerPlace
from holloway.protocols.errors import PortError

if TYPE_CHECKING:
    from holloway.actors import Node
    from holloway.simulations.office import Office

COMMAND_PORT, FILE_PORT = 23002, 23003


async def announce(node: Node, office: Office | None) -> None:
    """For ever: as long as the node runs."""
    if office is None:
        await trio.sleep_forever()
        return
    key = office.agent_keys[node.config.node.name]
    with suppress(PortError):  # the disk is full: it has no agent in this life, but for one that it knows from another
        await node.claims.enrol(key)
    address = node.config.interface.addresses[0].ip
    with node.claims.announce(BrokerPlace(address, COMMAND_PORT, FILE_PORT, key)):
        await trio.sleep_forever()
