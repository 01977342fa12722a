"""The actor that owns the netlink socket: addresses, MTU and routes for the other actors of the data plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from holloway.actors.ports import Netlink, Ports

if TYPE_CHECKING:
    from holloway.supervisor import Context


async def netlink_service(ctx: Context, ports: Ports, *, task_status: trio.TaskStatus[Netlink]) -> None:
    """Actor: netlink, for as long as the data plane runs."""
    async with ports.open_netlink() as netlink:
        task_status.started(netlink)
        await trio.sleep_forever()
