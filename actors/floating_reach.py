"""Whether other nodes hear this one on the data path: what a node finds out by asking them, each with one ping in the tunnel.

Those that were heard from lately are asked; only if none was, the others, too: a machine that is switched off is no witness as long
as there is a better one. Not responsible for what follows from it (`protocols.floating_defence`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address

import trio

from holloway.actors.roster import Roster
from holloway.actors.running_peer import RunningPeer
from holloway.protocols.errors import HollowayError
from holloway.protocols.floating_table import FloatingTable

MAX_ASKED = 8
LEAST_PATIENCE_S = 0.2
FIRST_PATIENCE_S = 1.0
ROUND_TRIPS = 3.0
"""How many of its round trips a peer has to answer, but `LEAST_PATIENCE_S` at least."""


class Reach:
    """Asks peers from `source`, an address of ours; without one nobody can be asked."""

    def __init__(self, source: IPv4Address | None, table: FloatingTable, roster: Roster) -> None:
        self._source, self._table, self._roster = source, table, roster

    async def answers(self, peer: RunningPeer, patience_s: float | None = None) -> bool | None:
        """Whether a peer answers, by default within some of its round trips; None when it cannot be asked."""
        target = self._target(peer)
        if target is None or self._source is None:
            return None
        if patience_s is None:
            known = peer.session.round_trip_s
            patience_s = FIRST_PATIENCE_S if known is None else max(LEAST_PATIENCE_S, ROUND_TRIPS * known)
        try:
            return await peer.ping(self._source.packed, target.packed, patience_s) is not None
        except HollowayError:  # too many pings of others wait
            return None

    async def is_in_touch(self, is_left_out: Callable[[RunningPeer], bool], patience_s: float) -> bool | None:
        """Whether at least half of the peers that are asked answer within `patience_s`; None when nobody could be asked."""
        running = [peer for _, peer in sorted(self._roster.running.items()) if not is_left_out(peer)]
        asked = [peer for peer in running if peer.health() == "ok"] or running
        found: Counter[bool | None] = Counter()
        async with trio.open_nursery() as nursery:

            async def ask(peer: RunningPeer) -> None:
                found[await self.answers(peer, patience_s)] += 1
                if 2 * found[True] >= len(asked[:MAX_ASKED]) - found[None] and found[True]:
                    nursery.cancel_scope.cancel()

            for peer in asked[:MAX_ASKED]:
                nursery.start_soon(ask, peer)
        if not found[True] and not found[False]:
            return None
        return 2 * found[True] >= len(asked[:MAX_ASKED]) - found[None]

    def _target(self, peer: RunningPeer) -> IPv4Address | None:
        """An address that is the peer's own."""
        floating = self._table.holders()
        hosts = [prefix.network_address for prefix in peer.peer.allowed if prefix.num_addresses == 1]
        return next((each for each in hosts if isinstance(each, IPv4Address) and each not in floating), None)
