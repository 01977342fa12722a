"""The actor that follows what happens to the host's interfaces, whoever did it.

When our own interface comes up again or its addresses change, the kernel has forgotten addresses and routes of it: they are
put back. When another one changes, the host may be reachable elsewhere: every peer hears from us at once, from whatever
address that is now, instead of finding out by silence. An interface that is down stays down: somebody wants it so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from holloway.actors.bounded_log import BoundedLog
from holloway.actors.config import InterfaceConfig
from holloway.actors.local_addresses import LocalAddresses
from holloway.actors.ports import Netlink
from holloway.actors.roster import Roster
from holloway.actors.tun_reader import TunReader
from holloway.protocols.errors import PortError

if TYPE_CHECKING:
    from holloway.supervisor import Context

LOG_LINES = 20


async def watch_host(
    ctx: Context,
    interface: InterfaceConfig,
    addresses: LocalAddresses,
    roster: Roster,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    """Actor: reacts to changes of the host's interfaces. Runs after the roster."""
    netlink: Netlink = ctx.sibling("netlink").get()
    tun: TunReader = ctx.sibling("tun").get()
    log = BoundedLog(ctx.log, lines=LOG_LINES)
    task_status.started(None)
    while True:
        changed = await netlink.wait_changed()
        if changed is None or tun.port.name in changed:
            try:
                await netlink.configure(tun.port.name, addresses.all(), interface.device_mtu, bring_up=False)
            except PortError as error:
                roster.problems["interface_not_restored"] += 1
                log.warning("%s cannot be put right: %s", tun.port.name, error)
            else:
                roster.recheck_routes()
        if changed is None or changed - {tun.port.name}:
            for peer in list(roster.running.values()):
                if peer.session.epoch:  # one without a key could only be called, which its own timers do
                    peer.announce()
