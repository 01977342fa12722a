"""Addresses, MTU and routes of the host, through pyroute2.

Responsible for the `Netlink` port against the kernel: idempotent changes, and three lines of what, why and fix for what
the kernel refuses. Not responsible for making the device (`tun`) nor for knowing which prefixes belong to whom.

pyroute2 speaks asyncio, so one task owns a trio-asyncio loop and one netlink socket in it, and is sent its work through a
memory channel. Both libraries are imported when netlink is opened and not before: importing trio-asyncio patches asyncio
for the whole process, which is no business of a program that embeds a node without touching the kernel.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_interface
from typing import Any, TypeAlias

import trio

from holloway.actors.masquerade import set_masquerade
from holloway.actors.netlink_events import HostEvents, open_events
from holloway.actors.netlink_gateway import carry_out_plan, strict_interfaces
from holloway.actors.ports import Netlink
from holloway.protocols.errors import PortError
from holloway.protocols.gateway import GatewayPlan

REQUEST_TIMEOUT_S = 10.0  # the kernel answers in under a millisecond, unless somebody holds its routing lock

IFF_UP = 0x1  # include/uapi/linux/if.h
IFLA_INET6_ADDR_GEN_MODE_NONE = 1  # include/uapi/linux/if_link.h
RTPROT_STATIC = 4  # include/uapi/linux/rtnetlink.h: ours, as against the kernel's own routes

Interface: TypeAlias = IPv4Interface | IPv6Interface
Prefix: TypeAlias = IPv4Network | IPv6Network
Job: TypeAlias = Callable[[Any], Awaitable[None]]
"""Asyncio-flavoured work on one `pyroute2.AsyncIPRoute`."""

RT_SCOPE_UNIVERSE = 0  # include/uapi/linux/rtnetlink.h
_UNUSABLE = 0x08 | 0x20 | 0x40  # IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE (include/uapi/linux/if_addr.h)
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_ABSENT_ROUTE = frozenset({errno.ESRCH, errno.ENOENT, errno.ENODEV})
_ABSENT_ADDRESS = frozenset({errno.EADDRNOTAVAIL, errno.ENODEV})
_REFUSED = {
    errno.EPERM: (
        "this process lacks CAP_NET_ADMIN",
        (
            "run as root, or prepare the interface once: sudo ip address add ADDRESS dev {interface}; "
            "sudo ip link set {interface} mtu MTU up"
        ),
    ),
    errno.EACCES: (
        "IPv6 is switched off for this interface",
        "sudo sysctl -w net.ipv6.conf.{interface}.disable_ipv6=0, or leave the IPv6 addresses out",
    ),
    errno.EEXIST: (
        "the host has it already, in another form",
        "remove the other one: ip address; ip route show table all",
    ),
    errno.ENODEV: ("there is no such interface", "see `ip link`; the TUN device must be open before it is configured"),
    errno.ENETDOWN: ("the interface is down", "sudo ip link set {interface} up"),
    errno.ENETUNREACH: ("the interface has no address of this family, or is down", "ip address show dev {interface}"),
    errno.EINVAL: (
        "the kernel does not accept a value",
        "an MTU is 68 to 65535, and at least 1280 with IPv6 addresses",
    ),
    errno.EAFNOSUPPORT: (
        "the kernel or a sandbox forbids this address family",
        "allow AF_NETLINK (RestrictAddressFamilies= of a systemd unit), or leave the IPv6 addresses out",
    ),
    errno.EMFILE: ("this process has too many open files", "raise the limit: ulimit -n 65536"),
    errno.ECANCELED: ("netlink was closed before the kernel answered", "ask again once the node is up"),
    errno.ETIMEDOUT: (f"no answer within {REQUEST_TIMEOUT_S:g} s", "see what keeps the kernel busy: dmesg; ip monitor"),
}


@dataclass(slots=True)
class _Request:
    job: Job
    done: trio.Event = field(default_factory=trio.Event)
    failure: Exception | None = None

    async def carry_out(self, kernel: Any, passing_errors: tuple[type[Exception], ...]) -> None:
        """Do the job and say so, whatever happens."""
        import trio_asyncio

        self.failure = OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
        try:
            with trio.move_on_after(REQUEST_TIMEOUT_S) as limit:
                await trio_asyncio.aio_as_trio(self.job)(kernel)
                self.failure = None
            if limit.cancelled_caught:
                self.failure = TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        except passing_errors as error:
            self.failure = error
        finally:
            self.done.set()


class TrioNetlink(Netlink):
    """The kernel's addresses and routes. Made by `open_netlink`; may be used from several tasks at once."""

    def __init__(self, requests: trio.MemorySendChannel[_Request], events: HostEvents) -> None:
        self._requests = requests
        self._events = events

    async def configure(
        self, interface: str, addresses: Sequence[Interface], mtu: int, *, bring_up: bool = True
    ) -> None:
        """See `Netlink`. What is right already is not touched, so that an interface which an administrator prepared
        needs no privilege. The IPv6 link-local address of a device that was up before stays: the kernel's, not ours.
        """
        job = partial(_configure, interface, addresses, mtu, bring_up)
        await self._ask("cannot configure {interface}", interface, job)

    async def add_address(self, interface: str, address: Interface) -> None:
        """See `Netlink`."""
        job = partial(_add_address, interface, address)
        await self._ask(f"cannot give {{interface}} the address {address}", interface, job)

    async def remove_address(self, interface: str, address: Interface) -> None:
        """See `Netlink`."""
        job = partial(_remove_address, interface, address)
        await self._ask(f"cannot take the address {address} from {{interface}}", interface, job)

    async def add_route(self, interface: str, prefix: Prefix) -> None:
        """See `Netlink`. A prefix that an address of the interface connects is left to the kernel's own route, which
        knows the source address to use.
        """
        await self._ask(f"cannot route {prefix} into {{interface}}", interface, partial(_add_route, interface, prefix))

    async def remove_route(self, interface: str, prefix: Prefix) -> None:
        """See `Netlink`. Removes only routes like those `add_route` makes."""
        what = f"cannot remove the route for {prefix} from {{interface}}"
        await self._ask(what, interface, partial(_remove_route, interface, prefix))

    async def host_addresses(self) -> list[tuple[str, IPv4Address | IPv6Address]]:
        """See `Netlink`."""
        found: list[tuple[str, IPv4Address | IPv6Address]] = []
        await self._ask("cannot read the addresses of {interface}", "this host", partial(_host_addresses, found))
        return found

    async def set_gateway(self, interface: str, plan: GatewayPlan | None) -> None:
        """See `Netlink`. Refused, once all is in place, where the kernel would drop what peers answer."""
        underlay: list[str] = []
        what = "cannot send the default route into {interface}" if plan else "cannot give back the default route"
        await self._ask(what, interface, partial(carry_out_plan, interface, plan, underlay))
        strict = strict_interfaces(underlay) if plan else []
        if strict:
            raise PortError(
                what.format(interface=interface),
                f"{strict[0]} drops what comes by another way than an answer would take (rp_filter 1): all that peers send",
                "sudo sysctl -w net.ipv4.conf.all.rp_filter=2   (and for good: a file in /etc/sysctl.d)",
            )

    async def set_masquerade(self, interface: str, versions: Collection[int]) -> None:
        """See `Netlink`. With nftables."""
        await set_masquerade(interface, versions)

    async def wait_changed(self) -> frozenset[str] | None:
        """See `Netlink`."""
        return await self._events.wait_changed()

    async def _ask(self, what: str, interface: str, job: Job) -> None:
        request = _Request(job)
        await self._requests.send(request)
        await request.done.wait()
        if request.failure is not None:
            raise _described(what, interface, request.failure) from request.failure


@asynccontextmanager
async def open_netlink() -> AsyncIterator[TrioNetlink]:
    """A netlink socket for as long as the context lasts. Leaving gives up the request being carried out.

    Raises `PortError` when the kernel gives no socket. What the body raises comes out as it is, not in a group.
    """
    sending, receiving = trio.open_memory_channel[_Request](0)
    working = trio.CancelScope()
    opening = _Request(_first_question)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_own_socket, opening, receiving, working)
        try:
            await opening.done.wait()
            if opening.failure is not None:
                raise _described("cannot open a netlink socket", "the interface", opening.failure) from opening.failure
            events = await open_events()
            try:
                yield TrioNetlink(sending, events)
            finally:
                events.close()
        except Exception as error:  # noqa: BLE001 - only carried over the nursery's end, which would wrap it in a group
            failure = error
        finally:
            sending.close()
            working.cancel()
    if failure is not None:
        raise failure


async def _first_question(kernel: Any) -> None:
    """pyroute2 opens its socket for the first request, so make one whose answer does not matter."""
    await kernel.link_lookup(ifname="lo")


async def _own_socket(
    opening: _Request, requests: trio.MemoryReceiveChannel[_Request], working: trio.CancelScope
) -> None:
    """Own the asyncio loop and the socket, and carry out requests one by one until `working` is cancelled.

    Shielded, because an asyncio object that is not closed in its running loop leaks its socket and warns about it; the
    context's end, cancelled or not, always cancels `working`.
    """
    import trio_asyncio
    from pyroute2 import AsyncIPRoute, NetlinkError

    with trio.CancelScope(shield=True):
        try:
            async with trio_asyncio.open_loop(), trio_asyncio.aio_as_trio(AsyncIPRoute()) as kernel:
                with working:
                    await opening.carry_out(kernel, (NetlinkError, OSError))
                    async for request in requests:
                        await request.carry_out(kernel, (NetlinkError, OSError))
        except* OSError as refused:  # both libraries open sockets, the first in nurseries of its own
            if opening.done.is_set():
                raise
            leaf: Exception = refused
            while isinstance(leaf, ExceptionGroup):
                leaf = leaf.exceptions[0]
            opening.failure = leaf
            opening.done.set()


def _described(what: str, interface: str, failure: Exception) -> PortError:
    # A NetlinkError is no OSError; it has its errno in `code`.
    number = getattr(failure, "code", None) or getattr(failure, "errno", None) or 0
    name = errno.errorcode.get(number, type(failure).__name__)
    why, fix = _REFUSED.get(
        number, (os.strerror(number) if number else str(failure), "see what the kernel says: sudo dmesg | tail")
    )
    return PortError(what.format(interface=interface), f"{name}: {why}", fix.format(interface=interface))


async def _index_of(kernel: Any, interface: str) -> int:
    found: list[int] = await kernel.link_lookup(ifname=interface)
    if not found:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    return found[0]


async def _addresses_of(kernel: Any, index: int) -> list[Interface]:
    """The addresses of an interface, in the order the kernel gives them."""
    found: list[Interface] = []
    async for message in await kernel.addr("dump", index=index):
        own = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")  # the latter is the far end's on a line
        found.append(ip_interface(f"{own}/{message['prefixlen']}"))
    return found


async def _host_addresses(found: list[tuple[str, IPv4Address | IPv6Address]], kernel: Any) -> None:
    names = {}
    async for link in await kernel.link("dump"):
        if link["flags"] & IFF_UP:
            names[link["index"]] = link.get_attr("IFLA_IFNAME")
    async for message in await kernel.addr("dump"):
        address = ip_interface(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")).ip
        is_usable = message["scope"] == RT_SCOPE_UNIVERSE and not message["flags"] & _UNUSABLE
        if message["index"] in names and is_usable and not address.is_loopback:
            found.append((names[message["index"]], address))


async def _configure(interface: str, addresses: Sequence[Interface], mtu: int, bring_up: bool, kernel: Any) -> None:
    index = await _index_of(kernel, interface)
    (link,) = await kernel.link("get", index=index)
    is_up = bool(link["flags"] & IFF_UP)
    if not is_up and not bring_up:
        return
    present = await _addresses_of(kernel, index)

    if not is_up and link.get_nested("IFLA_AF_SPEC", "AF_INET6") is not None:
        # Nobody answers on the link-local network of a tunnel: without it there are no router solicitations either.
        family = ["AF_INET6", {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", IFLA_INET6_ADDR_GEN_MODE_NONE]]}]
        await kernel.link("set", index=index, IFLA_AF_SPEC={"attrs": [family]})
    if link.get_attr("IFLA_MTU") != mtu:
        await kernel.link("set", index=index, mtu=mtu)
    # Stale addresses go first: to remove an IPv4 address takes along the later ones of its network.
    for address in present:
        is_kernels_own = address.version == 6 and address.is_link_local
        if address not in addresses and not is_kernels_own:
            await kernel.addr("del", **_address_fields(index, address))
    still_present = await _addresses_of(kernel, index)
    for address in addresses:
        if address not in still_present:
            await kernel.addr("replace", **_address_fields(index, address))
    if not is_up:
        await kernel.link("set", index=index, state="up")


async def _add_address(interface: str, address: Interface, kernel: Any) -> None:
    await kernel.addr("replace", **_address_fields(await _index_of(kernel, interface), address))


async def _remove_address(interface: str, address: Interface, kernel: Any) -> None:
    from pyroute2 import NetlinkError

    try:
        await kernel.addr("del", **_address_fields(await _index_of(kernel, interface), address))
    except (NetlinkError, OSError) as error:
        if (error.code if isinstance(error, NetlinkError) else error.errno) not in _ABSENT_ADDRESS:
            raise


def _address_fields(index: int, address: Interface) -> dict[str, Any]:
    return {
        "index": index,
        "family": _FAMILY[address.version],
        "address": str(address.ip),
        "prefixlen": address.network.prefixlen,
    }


async def _add_route(interface: str, prefix: Prefix, kernel: Any) -> None:
    from pyroute2 import NetlinkError

    index = await _index_of(kernel, interface)
    if any(address.network == prefix for address in await _addresses_of(kernel, index)):
        return
    try:
        await kernel.route("replace", **_route_fields(index, prefix))
    except NetlinkError as error:
        if error.code != errno.EPERM or not await _has_route(kernel, index, prefix):
            raise


async def _has_route(kernel: Any, index: int, prefix: Prefix) -> bool:
    """Whether an administrator made the route beforehand for a process without privilege."""
    routes = await kernel.route("dump", family=_FAMILY[prefix.version], oif=index)
    return any(
        [
            (route.get_attr("RTA_DST"), route["dst_len"]) == (str(prefix.network_address), prefix.prefixlen)
            async for route in routes
        ]
    )


async def _remove_route(interface: str, prefix: Prefix, kernel: Any) -> None:
    from pyroute2 import NetlinkError

    try:
        await kernel.route("del", **_route_fields(await _index_of(kernel, interface), prefix))
    except (NetlinkError, OSError) as error:
        if (error.code if isinstance(error, NetlinkError) else error.errno) not in _ABSENT_ROUTE:
            raise


def _route_fields(index: int, prefix: Prefix) -> dict[str, Any]:
    return {"dst": str(prefix), "oif": index, "family": _FAMILY[prefix.version], "proto": RTPROT_STATIC}
