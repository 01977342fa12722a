"""Where this node can be reached, as far as its host knows: for a record that names no endpoints by configuration.

Not responsible for what NATs make of it: whoever hears from us learns our address from what comes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from holloway.actors.ports import Netlink
from holloway.protocols.addresses import Address
from holloway.protocols.errors import PortError

MAX_ENDPOINTS = 8

log = logging.getLogger("holloway.node")


def reachable(
    addresses: Iterable[IPv4Address | IPv6Address], listening: Iterable[Address]
) -> tuple[tuple[str, int], ...]:
    """Endpoints for the addresses of a host at the sockets `listening`, best first: public ones before private ones, and
    of either IPv6 before IPv4, which is behind a NAT more often.
    """
    ports: dict[int, int] = {}
    bound: dict[int, set[str]] = {4: set(), 6: set()}
    for socket in listening:
        address = ip_address(socket[0].partition("%")[0])
        ports[address.version] = socket[1]
        if not address.is_unspecified:
            bound[address.version].add(str(address))
    usable = [
        each
        for each in dict.fromkeys(addresses)
        if each.version in ports and (not bound[each.version] or str(each) in bound[each.version])
    ]
    usable.sort(key=lambda each: (not each.is_global, -each.version))
    return tuple((str(each), ports[each.version]) for each in usable[:MAX_ENDPOINTS])


class OwnEndpoints:
    """The endpoints of one node. What was known last is used while the host does not tell."""

    def __init__(self, interface: str) -> None:
        """`interface`: the node's own, whose addresses lead nowhere."""
        self._interface = interface
        self._known: tuple[tuple[str, int], ...] = ()

    async def find(self, netlink: Netlink | None, listening: Sequence[Address]) -> tuple[tuple[str, int], ...]:
        """Ask the host. `listening`: our sockets."""
        if netlink is None or not listening:
            return self._known
        try:
            found = await netlink.host_addresses()
        except PortError as error:
            log.warning("the addresses of this host cannot be read: %s", error)
            return self._known
        self._known = reachable([address for name, address in found if name != self._interface], listening)
        return self._known
