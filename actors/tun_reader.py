"""The actor that owns the TUN device: makes it, configures it, and hands its packets to the sessions.

Writing is a synchronous call on the port, made by the sessions. Not responsible for the routes of single peers
(`kernel_routes`).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import trio

from holloway.actors.config import InterfaceConfig
from holloway.actors.ports import Netlink, Ports, TunPort
from holloway.actors.router import Router
from holloway.protocols.packets import Packet

if TYPE_CHECKING:
    from holloway.actors.peer_session import PeerSession
    from holloway.supervisor import Context


async def tun_reader(
    ctx: Context,
    ports: Ports,
    interface: InterfaceConfig,
    router: Router,
    past_drops: Counter[str],
    *,
    task_status: trio.TaskStatus[TunPort],
) -> None:
    """Actor: the TUN device. Raises `TunError` when it cannot be made or goes away.

    What it counted goes into `past_drops` at its end.
    """
    port = ports.open_tun(interface.name, interface.mtu)
    try:
        netlink: Netlink = ctx.sibling("netlink").get()
        await netlink.configure(port.name, interface.addresses, interface.mtu)
        port.set_local(address.ip.packed for address in interface.addresses)
        task_status.started(port)
        while True:
            _offer(router.sort(await port.receive()))
    finally:
        port.close()
        past_drops.update(port.drops)


def _offer(batches: dict[PeerSession, list[Packet]]) -> None:
    for peer, batch in batches.items():
        peer.offer_packets(batch)
