"""Whether the holder of a floating address answers on the data path: what a node that waits for it finds out by pings.

Not responsible for what follows from doubt (`protocols.floating_rival`).
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

import trio

from holloway.actors.peer_session import PeerSession
from holloway.actors.router import Router
from holloway.protocols.errors import HollowayError
from holloway.protocols.floating_table import FloatingTable

PING_EVERY_S = 0.2
LOST_PINGS = 3
"""So many in a row, and the holder is doubted."""
FIRST_PATIENCE_S = 1.0
ROUND_TRIPS = 3.0
"""How many of its round trips a holder has to answer, but `PING_EVERY_S` at least."""


class Doubt:
    """The pings of one node that waits for one address."""

    def __init__(self, address: IPv4Address, source: IPv4Address | None, table: FloatingTable, router: Router) -> None:
        """`source`: an address of ours; without one nobody is doubted."""
        self._address, self._source, self._table, self._router = address, source, table, router

    async def run(self, is_waiting: Callable[[], bool], tell: Callable[[int | None], None]) -> None:
        """While we are waiting, `tell` which claim, by its fence, has a holder that does not answer; None: nobody's."""
        doubted, lost, fence = None, 0, 0
        while True:
            began = trio.current_time()
            holder = self._table.holder(self._address)
            if not is_waiting() or holder is None or holder.fence != fence:
                lost, fence = 0, 0 if holder is None else holder.fence
            if is_waiting() and holder is not None:
                lost = 0 if await self._answers() else lost + 1
            now_doubted = fence if lost >= LOST_PINGS else None
            if now_doubted != doubted:
                doubted = now_doubted
                tell(doubted)
            await trio.sleep_until(max(began + PING_EVERY_S, trio.current_time()))

    async def _answers(self) -> bool:
        """Of somebody whom we cannot ask, nothing is known, and so no ill."""
        peer = self._router.routes.lookup(self._address.packed)
        target = None if peer is None else self._target(peer)
        if peer is None or target is None or self._source is None:
            return True
        known = peer.session.round_trip_s
        patience_s = FIRST_PATIENCE_S if known is None else max(PING_EVERY_S, ROUND_TRIPS * known)
        try:
            return await peer.ping(self._source.packed, target.packed, patience_s) is not None
        except HollowayError:  # too many pings of others wait
            return True

    def _target(self, peer: PeerSession) -> IPv4Address | None:
        """An address that is the peer's own."""
        floating = self._table.holders()
        hosts = [prefix.network_address for prefix in peer.peer.allowed if prefix.num_addresses == 1]
        return next((each for each in hosts if isinstance(each, IPv4Address) and each not in floating), None)
