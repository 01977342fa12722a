"""Whether the holder of a floating address answers on the data path: what a node that waits for it finds out by pings.

With the last ping that the holder does not answer it asks others, to know whether it is not itself that nobody hears. Not responsible for what
follows from doubt (`protocols.floating_rival`), nor for asking (`floating_reach`).
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

import trio

from holloway.actors.floating_reach import Reach
from holloway.actors.router import Router
from holloway.protocols.floating_table import FloatingTable

PING_EVERY_S = 0.2
LOST_PINGS = 3
"""So many in a row, and the holder is doubted."""


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
        doubted, lost, fence, is_in_touch = None, 0, 0, False
        while True:
            began = trio.current_time()
            holder = self._table.holder(self._address)
            if not is_waiting() or holder is None or holder.fence != fence:
                lost, fence = 0, 0 if holder is None else holder.fence
            if is_waiting() and holder is not None:
                is_there, is_in_touch = await self._ask(are_others_asked=lost == LOST_PINGS - 1)
                lost = 0 if is_there else lost + 1
            now_doubted = fence if lost >= LOST_PINGS else None
            if now_doubted != doubted:
                doubted = now_doubted
                tell(doubted, is_in_touch)
            await trio.sleep_until(max(began + PING_EVERY_S, trio.current_time()))

    async def _ask(self, *, are_others_asked: bool) -> tuple[bool, bool]:
        """Whether the holder answers; and whether others do, if they are asked. At the same time: a line that has just been
        mended is mended for all.
        """
        holder = self._router.routes.lookup(self._address.packed)
        is_in_touch: bool | None = None
        async with trio.open_nursery() as nursery:

            async def ask_others() -> None:
                nonlocal is_in_touch
                is_in_touch = await self._reach.is_in_touch(lambda peer: peer is holder, self._look_around_s)

            if are_others_asked:
                nursery.start_soon(ask_others)
            # Of somebody whom we cannot ask, nothing is known, and so no ill.
            is_there = holder is None or await self._reach.answers(holder) is not False
        return is_there, is_in_touch is True
