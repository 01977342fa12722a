"""The addresses that this node's device has now: those that it always has, and floating ones while they are ours.

Whoever configures the device gives it `all`, so that nothing that was taken or given up comes back by mistake. Not
responsible for when an address is ours (`floating`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, ip_interface, ip_network

from holloway.actors.config.model import InterfaceAddress
from holloway.actors.ports import Netlink, TunPort
from holloway.actors.router import Router


class LocalAddresses:
    """Addresses with their prefix lengths; a floating one stands alone."""

    def __init__(self, lasting: Iterable[InterfaceAddress], router: Router) -> None:
        self.lasting = tuple(lasting)
        self._router = router
        self._floating: dict[IPv4Address, InterfaceAddress] = {}

    def all(self) -> tuple[InterfaceAddress, ...]:
        """What the device is to have."""
        return (*self.lasting, *self._floating.values())

    def set_local(self, port: TunPort) -> None:
        """Tell the device which packets end here."""
        port.set_local(address.ip.packed for address in self.all())

    async def take(self, address: IPv4Address, is_ours: Callable[[], bool], netlink: Netlink, port: TunPort) -> None:
        """Have the address for as long as `is_ours` says so, which is asked for each packet. Raises `PortError`."""
        self._floating[address] = ip_interface(f"{address}/32")
        self._router.borrow(ip_network(address), is_ours)
        self.set_local(port)
        await netlink.add_address(port.name, self._floating[address])

    async def give_up(self, address: IPv4Address, netlink: Netlink | None, port: TunPort | None) -> None:
        """Have it no more; one that we do not have is fine. Without `netlink` or `port` there is no device that has it.

        Raises `PortError`.
        """
        interface = self._floating.pop(address, None)
        self._router.give_back(ip_network(address))
        if interface is None or port is None:
            return
        self.set_local(port)
        if netlink is not None:
            await netlink.remove_address(port.name, interface)
