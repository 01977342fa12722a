"""The shapes of outer addresses. Not responsible for inner addresses, which travel as raw bytes."""

from __future__ import annotations

from typing import TypeAlias

Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""A socket address as Python's `socket` gives it: `(host, port)` for IPv4, `(host, port, flow, scope)` for IPv6."""


def format_address(address: Address) -> str:
    """`192.0.2.7:1099` or `[fd00::1]:1099`; a scoped link-local address keeps its `%scope`."""
    host, port = address[0], address[1]
    if len(address) == 2:
        return f"{host}:{port}"
    scope = f"%{address[3]}" if address[3] and "%" not in host else ""
    return f"[{host}{scope}]:{port}"
