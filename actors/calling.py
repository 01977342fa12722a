"""Where a peer can be called: its endpoints as socket addresses, in the order in which they are worth a try.

A numeric endpoint is an address already; a host name, or an address with a zone, is one after a look-up, which may fail,
and give something else the next time. Not responsible for when to call: that is `peer_session`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeGuard

import trio

from holloway.actors.config import Endpoint
from holloway.protocols.addresses import Address

LOOK_UP_RETRY_S = 1.0
LOOK_UP_RETRY_MAX_S = 300.0
LOOK_UP_AGAIN_S = 15.0
"""A peer that does not answer has its names looked up again, but not more often than this."""
MAX_ADDRESSES = 16
"""A name with more addresses than this is not tried out on all of them."""

Reach = Callable[[tuple[object, ...]], TypeGuard[Address]]
"""Whether there is a socket of the family of an address."""


class Callbook:
    """The endpoints of one peer, and what they came to."""

    def __init__(self, endpoints: Sequence[Endpoint], can_reach: Reach) -> None:
        self._can_reach = can_reach
        self._found: dict[Endpoint, list[Address]] = {}
        self.names: tuple[Endpoint, ...] = ()
        """Those that take a look-up."""
        self.proven: Address | None = None
        """Where an authentic datagram of the peer came from last."""
        self._news = trio.Event()
        self._unanswered = trio.Event()
        self.replace(endpoints)

    def replace(self, endpoints: Sequence[Endpoint]) -> None:
        """Other endpoints from now on. What a name came to is kept as long as the name is."""
        before = self._found
        self._found = {}
        names = []
        for endpoint in endpoints:
            address = numeric(endpoint)
            if address is None:
                names.append(endpoint)
                self._found[endpoint] = before.get(endpoint, [])
            else:
                self._found[endpoint] = [address] if self._can_reach(address) else []
        self.names = tuple(names)
        self._tell()

    @property
    def addresses(self) -> list[Address]:
        """Every address that the endpoints came to and that we have a socket for, best first, each once."""
        return list(dict.fromkeys(address for found in self._found.values() for address in found))

    def at(self, attempt: int) -> Address | None:
        """Where to call in attempt number `attempt` of a dialling: in turn, from where the peer was last heard on."""
        places = self.addresses
        if self.proven is not None:
            places = list(dict.fromkeys((self.proven, *places)))
        return places[(attempt - 1) % len(places)] if places else None

    async def look_up(self, endpoint: Endpoint) -> str | None:
        """Ask what a name comes to now. Returns why that is nothing; what was known is kept then."""
        try:
            answers = await trio.socket.getaddrinfo(endpoint.host, endpoint.port, type=trio.socket.SOCK_DGRAM)
        except (OSError, UnicodeError) as error:  # the latter of a name that cannot be put into a question
            return str(error)
        found = [address for *_, address in answers if self._can_reach(address) and _is_callable(address[0])]
        if not found:
            return "it has no address that can be called from the sockets that we have"
        if endpoint in self._found:  # it may have been replaced meanwhile
            self._found[endpoint] = list(dict.fromkeys(found))[:MAX_ADDRESSES]
            self._tell()
        return None

    def not_answered(self) -> None:
        """The peer does not answer: what its names came to may be out of date."""
        self._unanswered.set()

    async def keep_looking_up(self, warn: Callable[[Endpoint, str], None], has_changed: Callable[[], None]) -> None:
        """Look every name up until all have addresses, and again whenever the peer does not answer. For the names there are now:
        cancel it when they are replaced. `warn` is told why there is nothing, once for each reason.
        """
        pause_s = LOOK_UP_RETRY_S
        failed: dict[Endpoint, str] = {}
        names = self.names
        while True:
            self._unanswered = trio.Event()
            before = self.addresses
            for name in names:
                why = await self.look_up(name)
                if why is None:
                    failed.pop(name, None)
                elif failed.get(name) != why:
                    failed[name] = why
                    warn(name, why)
            if self.addresses != before:
                has_changed()
            if failed:
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, LOOK_UP_RETRY_MAX_S)
            else:
                pause_s = LOOK_UP_RETRY_S
                await self._unanswered.wait()
                await trio.sleep(LOOK_UP_AGAIN_S)

    async def wait_found(self) -> None:
        """Wait until there is an address to call at."""
        while not self.addresses:
            await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()


def numeric(endpoint: Endpoint) -> Address | None:
    """The address of an endpoint, spelled as the kernel spells it; `None` for a name, and for an address with a zone.

    An address that nobody can be called at, such as one of a group, is a name that no look-up makes into an address.
    """
    try:
        address = ip_address(endpoint.host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None or not _is_host(address):
            return None
        if address.ipv4_mapped is None:
            return str(address), endpoint.port, 0, 0
        address = address.ipv4_mapped  # our IPv6 socket is for IPv6 alone
    return (str(address), endpoint.port) if _is_host(address) else None


def _is_callable(host: object) -> bool:
    return isinstance(host, str) and _is_host(ip_address(host))


def _is_host(address: IPv4Address | IPv6Address) -> bool:
    return not (address.is_multicast or address.is_unspecified)
