"""What a host must be told so that its default route leads through the tunnel: rules and one table of its own.

    20000  to STORE, TCP port N     the main table          one rule for each server of the store
    20001  without our mark         the main table, but for its default route
    20002  without our mark         our table: default into the device, or unreachable

Datagrams of the node carry the mark, so they are routed as if there were no gateway, whatever becomes of the host's own
default route; no route to any peer has to be kept. The connection to the store cannot be marked: it is told by where it goes.
What the main table routes more closely, as the local network and the prefixes of peers, is not touched. Nothing else has a way
past our table: a family that the exit does not offer, or of which this node has no address, is unreachable there. wg-quick(8)
does the same, without the pins.

Pure: who asks the kernel is `holloway.actors.netlink_gateway`, and who the exit is `holloway.actors.gateway` knows.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

VERSIONS = (4, 6)
MAIN_TABLE = 254  # RT_TABLE_MAIN, include/uapi/linux/rtnetlink.h
PIN_PRIORITY, NEAR_PRIORITY, FAR_PRIORITY = 20_000, 20_001, 20_002
"""Before the main table (32766) and what `ip rule add` makes without a priority, behind VRFs (1000) and Tailscale (5210)."""
DEVICE_METRIC, CLOSED_METRIC = 100, 200
MAX_PINS = 32
_TABLES, _TABLE_BITS = 0x20000, 0x3FFF


@dataclass(frozen=True, slots=True)
class Pin:
    """A TCP server that is reached outside of the tunnel."""

    address: IPv4Address | IPv6Address
    port: int


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the host: packets with `mark` under `mask` (all others if `is_inverted`), and to `pin` if there is one, are
    routed by `table`; `is_near`: except by a default route in it."""

    version: int
    priority: int
    table: int
    mark: int
    mask: int
    is_inverted: bool = False
    is_near: bool = False
    pin: Pin | None = None


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """A default route in our table: into the device, or to nowhere, with an error to who sends."""

    version: int
    into_device: bool

    @property
    def metric(self) -> int:
        """The device is preferred where there are both."""
        return DEVICE_METRIC if self.into_device else CLOSED_METRIC


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """Everything that the host is to be told. `table` is the mark of the node's datagrams, too."""

    table: int
    routes: frozenset[DefaultRoute]
    rules: frozenset[Rule]


def gateway_table(interface: str) -> int:
    """The table and the mark of the node with this device: the same in every life, so that what a killed one left is found.

    Bits that others read in marks (0x4000 and 0x8000 are Kubernetes') are not used.
    """
    return _TABLES | (zlib.crc32(interface.encode()) & _TABLE_BITS)


def plan_gateway(
    interface: str,
    *,
    own: Collection[int],
    offered: Collection[int] | None,
    pins: Iterable[Pin],
    is_strict: bool = False,
) -> GatewayPlan:
    """The plan for a node with addresses of the IP versions `own` and an exit that offers `offered`, or is not known (None): then
    the device gets what it could be for. `is_strict`: without the device, too, nothing leaves. Of `pins` the first count.
    """
    table = gateway_table(interface)
    usable = set(own) if offered is None else set(own).intersection(offered)
    routes: set[DefaultRoute] = set()
    rules: set[Rule] = set()
    for version in VERSIONS:
        if version in usable:
            routes.add(DefaultRoute(version, into_device=True))
        if version not in usable or is_strict:
            routes.add(DefaultRoute(version, into_device=False))
        rules.add(Rule(version, NEAR_PRIORITY, MAIN_TABLE, table, 0xFFFFFFFF, is_inverted=True, is_near=True))
        rules.add(Rule(version, FAR_PRIORITY, table, table, 0xFFFFFFFF, is_inverted=True))
    for pin in list(dict.fromkeys(pins))[:MAX_PINS]:
        # The mask tells whose rule it is: an inverted one would mean neither this mark nor this server.
        rules.add(Rule(pin.address.version, PIN_PRIORITY, MAIN_TABLE, mark=0, mask=table, pin=pin))
    return GatewayPlan(table, frozenset(routes), frozenset(rules))


def closed(plan: GatewayPlan) -> GatewayPlan:
    """The same while there is no device: nothing leaves but by the marks and pins of the plan."""
    return replace(plan, routes=frozenset(DefaultRoute(version, into_device=False) for version in VERSIONS))
