"""Whether the holder of a floating address answers on the data path: what a node that waits for it finds out by pings.

Not responsible for what the pings mean and when others are asked, too (`protocols.floating_pings`), for what follows from doubt
(`protocols.floating_rival`), nor for asking (`floating_reach`).
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

import trio

from holloway.actors.floating_reach import Reach
from holloway.actors.router import Router
from holloway.protocols.floating_pings import HolderPings
from holloway.protocols.floating_table import FloatingTable

PING_EVERY_S = 0.2


class Doubt:
    """The pings of one node that waits for one address."""

    def __init__(
        self, address: IPv4Address, reach: Reach, table: FloatingTable, router: Router, look_around_s: float
    ) -> None:
        """`look_around_s`: how long others may take to answer."""
        self._address, self._reach, self._table, self._router = address, reach, table, router
        self._look_around_s = look_around_s

    async def run(self, is_waiting: Callable[[], bool], tell: Callable[[int | None, bool], None]) -> None:
        """While we are waiting, `tell` which claim, by its fence, has a holder that does not answer, None for nobody's; and
        whether others answer us.
        """
        pings = HolderPings()
        told = pings.doubt
        while True:
            began = trio.current_time()
            holder = self._table.holder(self._address)
            pings.aim(holder.fence if is_waiting() and holder is not None else None)
            if pings.fence is not None:
                await self._ask(pings, are_others_asked=pings.are_others_asked(began))
            if pings.doubt != told:
                told = pings.doubt
                tell(*told)
            await trio.sleep_until(max(began + PING_EVERY_S, trio.current_time()))

    async def _ask(self, pings: HolderPings, *, are_others_asked: bool) -> None:
        """Ping the holder; and others, if they are asked, at the same time: a line that has just been mended is mended for all."""
        holder = self._router.routes.lookup(self._address.packed)
        async with trio.open_nursery() as nursery:

            async def ask_others() -> None:
                is_in_touch = await self._reach.is_in_touch(lambda peer: peer is holder, self._look_around_s)
                pings.others_asked(is_in_touch is True)

            if are_others_asked:
                nursery.start_soon(ask_others)
            # Of somebody whom we cannot ask, nothing is known, and so no ill.
            is_there = holder is None or await self._reach.answers(holder) is not False
        pings.holder_asked(is_there)
