"""Keeps the kernel's routes into the tunnel equal to the prefixes of the peers.

A route that the kernel refuses costs that prefix and nothing else: it is told once, counted, and asked for again later.
Not responsible for which prefixes there are (`roster`), nor for the inner routing between peers (`router`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress

import trio

from holloway.actors.bounded_log import BoundedLog
from holloway.actors.config.model import Prefix
from holloway.actors.ports import Netlink
from holloway.actors.wanted import PrefixSet
from holloway.protocols.errors import PortError

RETRY_S = 30.0


class KernelRoutes:
    """The routes into one interface. `connected`: its own networks, which the kernel routes by itself."""

    def __init__(
        self,
        netlink: Netlink,
        interface: str,
        connected: Iterable[Prefix],
        *,
        known: Sequence[Prefix],
        problems: Counter[str],
        log: BoundedLog,
    ) -> None:
        """`known`: prefixes that may have a route already, made by whoever had this task before."""
        self._netlink = netlink
        self._interface = interface
        self._connected = PrefixSet(connected)
        self._problems = problems
        self._log = log
        self._is_made: dict[Prefix, bool] = dict.fromkeys(known, False)
        self.refused: dict[Prefix, str] = {}
        """Prefixes that have no route though they should, and why."""
        self.retry_at = math.inf
        """When to call `update` again even if nothing changed, on Trio's clock."""
        self._declined: set[Prefix] = set()

    @property
    def known(self) -> list[Prefix]:
        """Every prefix that may have a route."""
        return list(self._is_made)

    @property
    def made(self) -> list[Prefix]:
        """Every prefix that has a route."""
        return [prefix for prefix, is_made in self._is_made.items() if is_made]

    async def update(self, prefixes: Iterable[Prefix]) -> None:
        """Remove the routes for prefixes that are not in `prefixes`, and add those that are missing."""
        wanted = dict.fromkeys(prefix for prefix in prefixes if self._is_ours_to_route(prefix))
        for prefix in [prefix for prefix in self.known if prefix not in wanted]:
            await self._remove(prefix)
        self.refused = {prefix: why for prefix, why in self.refused.items() if prefix in wanted}
        for prefix in wanted:
            if not self._is_made.get(prefix):
                await self._add(prefix)
        self.retry_at = trio.current_time() + RETRY_S if self.refused else math.inf

    def doubt(self) -> None:
        """The kernel may have lost the routes: the next `update` makes every one again."""
        self._is_made = dict.fromkeys(self._is_made, False)

    async def clear(self) -> None:
        """Remove every route, as far as there is still a netlink to do it with."""
        with suppress(trio.ClosedResourceError):
            for prefix in self.known:
                await self._remove(prefix)

    def _is_ours_to_route(self, prefix: Prefix) -> bool:
        if prefix.prefixlen:
            return not self._connected.covers(prefix)
        if prefix not in self._declined:  # without rules it would take the datagrams of the tunnel itself with it
            self._declined.add(prefix)
            self._log.warning("no kernel route for %s: `holloway up --gateway` makes it, or make it yourself", prefix)
        return False

    async def _add(self, prefix: Prefix) -> None:
        self._is_made[prefix] = False  # from now on there may be one
        try:
            await self._netlink.add_route(self._interface, prefix)
        except PortError as error:
            self._problems["route_refused"] += 1
            if self.refused.get(prefix) != str(error):
                self.refused[prefix] = str(error)
                self._log.warning("no kernel route for %s: %s", prefix, error)
        else:
            self._is_made[prefix] = True
            self.refused.pop(prefix, None)

    async def _remove(self, prefix: Prefix) -> None:
        try:
            await self._netlink.remove_route(self._interface, prefix)
        except PortError as error:
            self._problems["route_not_removed"] += 1
            self._log.warning("the kernel route for %s stays: %s", prefix, error)
        self._is_made.pop(prefix, None)
        self.refused.pop(prefix, None)
