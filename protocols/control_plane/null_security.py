"""Control without CURVE: nothing is encrypted, and everybody is whom he says.

Without keys a connection has a name that its owner chose: `node/NAME/…` is the node of that name, `client/NAME/…` an admin of that
name. Nobody can tell whether that is true, so whoever reaches the port commands every node. Where that is acceptable is the
caller's to decide: `is_loopback` is what is taken for it without being asked twice.
"""

from __future__ import annotations

import re
from enum import Enum
from ipaddress import ip_address

from holloway.protocols.control_plane.effects import Principal
from holloway.protocols.control_plane.fields import NAME
from holloway.protocols.control_plane.messages import Role
from holloway.protocols.errors import LocalError

_ROUTE = re.compile(rb"(node|client)/([A-Za-z0-9._-]{1,63})/[0-9a-f]{16}\Z")
TOKEN_BYTES = 8
WARNING = "security is null: nothing is encrypted, and whoever reaches the broker's port commands every node"


class Security(Enum):
    """How connections of the control plane are kept."""

    CURVE = "curve"
    NULL = "null"


def said_name(name: str, *, is_node: bool, token: bytes) -> bytes:
    """What a connection calls itself; `token`: random, so that two of one name are two. Raises LocalError for what is no name."""
    if not NAME.match(name) or len(token) != TOKEN_BYTES:
        raise LocalError(f"{name[:63]!r} is no name", "it has letters, digits, dots, hyphens and underscores")
    return f"{'node' if is_node else 'client'}/{name}/{token.hex()}".encode("ascii")


def principal_of(route: bytes) -> Principal | None:
    """Who a connection says it is; None for one that says nothing of the kind."""
    found = _ROUTE.match(route)
    name = found[2].decode("ascii") if found is not None else ""
    if found is None or not NAME.match(name):
        return None
    return Principal(name, Role.NODE if found[1] == b"node" else Role.ADMIN)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
