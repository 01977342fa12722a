"""The actors that read the queues of a node that has several: one for each socket number, one for each queue of the device.

    queues  one_for_one                                               (with more than one queue)
    ├─ udp-0 … udp-15      the socket of that number, of each family
    └─ tun-0 … tun-15      the queue of that number

A reader that crashes is back soon, and the others go on meanwhile; one whose socket broke comes back with a new one. Not
responsible for what becomes of what they read (`udp_endpoint`, `tun_reader`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from holloway.actors.tun_queues import TunQueues
from holloway.actors.udp_queues import UdpQueues
from holloway.supervisor import Child, Intensity, Supervisor

if TYPE_CHECKING:
    from holloway.actors.tun_reader import TunReader
    from holloway.actors.udp_endpoint import UdpEndpoint
    from holloway.supervisor import Context

RESTARTS_OF_EACH = 3
"""As many as a supervisor forgives by itself. They crash apart and are forgiven apart: one that crashes again and again backs off, and
takes nobody with it; when most of them do, something else is wrong, and the data plane begins again."""


def queue_readers(number: int) -> Supervisor:
    """The supervisor of all of them, for `number` queues."""
    children = [
        Child(name=f"{word}-{each}", run=partial(run, number=each))
        for word, run in (("udp", udp_queue), ("tun", tun_queue))
        for each in range(number)
    ]
    return Supervisor(children, name="queues", intensity=Intensity(restarts=len(children) * RESTARTS_OF_EACH))


async def udp_queue(ctx: Context, number: int, *, task_status: trio.TaskStatus[None]) -> None:
    """Actor: reads one socket of each family. Raises `PortError`."""
    endpoint: UdpEndpoint = ctx.ref("dataplane.udp").get()
    async with trio.open_nursery() as nursery:
        for family in endpoint.sockets:
            assert isinstance(family, UdpQueues)
            nursery.start_soon(endpoint.read, family.queues[number])
        task_status.started()


async def tun_queue(ctx: Context, number: int, *, task_status: trio.TaskStatus[None]) -> None:
    """Actor: reads one queue of the device."""
    reader: TunReader = ctx.ref("dataplane.tun").get()
    assert isinstance(reader.port, TunQueues)
    queue = reader.port.queues[number]
    task_status.started()
    while True:
        reader.carry(await queue.receive(), queue)
