"""Rules and the table of a gateway in the kernel, through pyroute2: made equal to a plan, whatever is there.

What is ours is told by protocol number and mark, so a plan can follow that of a node that was killed. Whoever adds something
waits until all before it is there, and whoever removes begins at the end: at no moment is a packet led anywhere else than by the
plan before or the one after. Runs on the loop that `netlink` owns. Not responsible for what the plan says
(`holloway.protocols.gateway`).
"""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from holloway.protocols.gateway import MAIN_TABLE, VERSIONS, DefaultRoute, GatewayPlan, Pin, Rule, gateway_table

PROTOCOL = 72
"""Ours among the origins of rules and routes (include/uapi/linux/rtnetlink.h: 4 is the administrator, others are daemons)."""
FIB_RULE_INVERT = 0x2  # include/uapi/linux/fib_rules.h
RTN_UNICAST, RTN_UNREACHABLE = 1, 7  # include/uapi/linux/rtnetlink.h
STRICT = 1  # of rp_filter, Documentation/networking/ip-sysctl.rst
_SUPPRESS_NOTHING = 0xFFFFFFFF
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
_BITS = {4: 32, 6: 128}
_NO_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EOPNOTSUPP})
_GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV})
_SETTINGS = Path("/proc/sys/net")


async def carry_out_plan(interface: str, plan: GatewayPlan | None, underlay: list[str], kernel: Any) -> None:
    """Make the kernel's rules and our table equal to `plan`; None: there are to be none. `underlay` is given the devices of
    the main table's IPv4 default routes. Raises what pyroute2 does.
    """
    from pyroute2 import NetlinkError

    for version in VERSIONS:
        try:
            await _carry_out(interface, plan, version, kernel)
        except NetlinkError as error:
            if version == 4 or error.code not in _NO_FAMILY:
                raise  # without IPv6 nothing can leave by it
    for route in await _routes(kernel, 4, MAIN_TABLE):
        if not route["dst_len"] and (index := route.get_attr("RTA_OIF")):
            (link,) = await kernel.link("get", index=index)
            underlay.append(link.get_attr("IFLA_IFNAME"))


def strict_interfaces(names: list[str]) -> list[str]:
    """Those of the interfaces that drop what comes by another way than an answer would take: of an address beyond the local
    network that is everything, once the default route leads elsewhere.
    """
    everywhere = _setting("ipv4/conf/all/rp_filter")
    return [name for name in dict.fromkeys(names) if max(everywhere, _setting(f"ipv4/conf/{name}/rp_filter")) == STRICT]


def forwards(version: int) -> bool:
    """Whether this host forwards packets of an IP version."""
    return _setting({4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}[version]) != 0


def _setting(name: str) -> int:
    try:
        return int((_SETTINGS / name).read_text())
    except (OSError, ValueError):
        return 0


async def _carry_out(interface: str, plan: GatewayPlan | None, version: int, kernel: Any) -> None:
    table = gateway_table(interface)
    routes = {route for route in plan.routes if route.version == version} if plan else set()
    rules = {rule for rule in plan.rules if rule.version == version} if plan else set()
    present_rules = await _our_rules(kernel, version, table)
    index = None
    if any(route.into_device for route in routes):
        (index,) = await kernel.link_lookup(ifname=interface) or _no_device()
    present_routes = await _our_routes(kernel, version, table, index)
    for route in routes - present_routes:
        await kernel.route("replace", **_route_fields(route, table, index))
    for rule in sorted(rules.difference(present_rules), key=lambda each: each.priority):
        await kernel.rule("add", **_rule_fields(rule))
    for rule in sorted((each for each in present_rules if each not in rules), key=lambda each: -each.priority):
        await _remove(kernel.rule, _rule_fields(rule))
    for route in present_routes - routes:
        await _remove(kernel.route, _route_fields(route, table, index))


async def _remove(change: Any, fields: dict[str, Any]) -> None:
    from pyroute2 import NetlinkError

    try:
        await change("del", **fields)
    except NetlinkError as error:
        if error.code not in _GONE:
            raise


def _no_device() -> list[int]:
    raise OSError(errno.ENODEV, "there is no such interface")


async def _our_rules(kernel: Any, version: int, table: int) -> list[Rule]:
    """One that is there twice is found twice."""
    found = []
    async for message in await kernel.rule("dump", family=_FAMILY[version]):
        mark, mask = message.get_attr("FRA_FWMARK") or 0, message.get_attr("FRA_FWMASK") or 0
        if message.get_attr("FRA_PROTOCOL") != PROTOCOL or table not in (mark, mask):
            continue
        target, ports = message.get_attr("FRA_DST"), message.get_attr("FRA_DPORT_RANGE")
        pin = None
        if target is not None:
            pin = Pin(ip_address(target), int(ports.partition(":")[0]) if ports else 0)
        found.append(
            Rule(
                version,
                message.get_attr("FRA_PRIORITY") or 0,
                message.get_attr("FRA_TABLE") or message["table"],
                mark,
                mask,
                is_inverted=bool(message["flags"] & FIB_RULE_INVERT),
                is_near=message.get_attr("FRA_SUPPRESS_PREFIXLEN") == 0,
                pin=pin,
            )
        )
    return found


def _rule_fields(rule: Rule) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "family": _FAMILY[rule.version],
        "table": rule.table,
        "priority": rule.priority,
        "fwmark": rule.mark,
        "fwmask": rule.mask,
        "flags": FIB_RULE_INVERT if rule.is_inverted else 0,
        "FRA_PROTOCOL": PROTOCOL,
    }
    if rule.is_near:
        fields["FRA_SUPPRESS_PREFIXLEN"] = 0
    if rule.pin is not None:
        fields |= {"dst": str(rule.pin.address), "dst_len": _BITS[rule.version], "FRA_IP_PROTO": socket.IPPROTO_TCP}
        if rule.pin.port:
            fields["FRA_DPORT_RANGE"] = f"{rule.pin.port}:{rule.pin.port}"
    return fields


async def _routes(kernel: Any, version: int, table: int) -> list[Any]:
    routes = await kernel.route("dump", family=_FAMILY[version], table=table)
    return [route async for route in routes if (route.get_attr("RTA_TABLE") or route["table"]) == table]


async def _our_routes(kernel: Any, version: int, table: int, index: int | None) -> set[DefaultRoute]:
    found = set()
    for message in await _routes(kernel, version, table):
        route = DefaultRoute(version, into_device=message["type"] == RTN_UNICAST)
        is_ours = message["proto"] == PROTOCOL and not message["dst_len"]
        leads_there = not route.into_device or index is None or message.get_attr("RTA_OIF") == index
        if is_ours and leads_there and message.get_attr("RTA_PRIORITY") == route.metric:
            found.add(route)
    return found


def _route_fields(route: DefaultRoute, table: int, index: int | None) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "family": _FAMILY[route.version],
        "dst": _EVERYWHERE[route.version],
        "table": table,
        "priority": route.metric,
        "proto": PROTOCOL,
        "type": RTN_UNICAST if route.into_device else RTN_UNREACHABLE,
    }
    if route.into_device and index is not None:
        fields["oif"] = index
    return fields
