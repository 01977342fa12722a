"""What the kernel tells of its interfaces: a netlink socket that only listens.

Not responsible for what to do about it (`host_watch`), nor for asking or changing anything (`netlink`).
"""

from __future__ import annotations

import errno
import os
import socket
import struct

import trio

from holloway.protocols.errors import PortError

IFF_UP = 0x1  # include/uapi/linux/if.h
RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100  # include/uapi/linux/rtnetlink.h
RTM_NEWLINK, RTM_NEWADDR, RTM_DELADDR = 16, 20, 21
SETTLE_S = 0.1
"""Changes come in bursts, and an address is of use only once its route is there."""
RESTLESS_S = 2.0
"""Where changes never end they are told this often."""
RECEIVE_BYTES = 64 * 1024

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index


def changed_interfaces(data: bytes) -> set[int]:
    """Indices of the interfaces that came up, or whose addresses changed, in one read of the socket.

    Takes any bytes; what is not one of the three messages is passed over.
    """
    found: set[int] = set()
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, position)
        body, end = position + _HEADER.size, position + length
        if length < _HEADER.size or end > len(data):
            break
        if kind == RTM_NEWLINK and end - body >= _LINK.size:
            _family, _type, index, flags, _change = _LINK.unpack_from(data, body)
            if flags & IFF_UP:
                found.add(index)
        elif kind in (RTM_NEWADDR, RTM_DELADDR) and end - body >= _ADDRESS.size:
            found.add(_ADDRESS.unpack_from(data, body)[-1])
        position += (length + 3) & ~3  # NLMSG_ALIGN
    return found


class HostEvents:
    """The listening socket. Made by `open_events`; serves one task."""

    def __init__(self, listener: trio.socket.SocketType) -> None:
        self._listener = listener

    async def wait_changed(self) -> frozenset[str] | None:
        """The names of interfaces that came up or whose addresses changed, once it has been calm for `SETTLE_S`.

        `None` when the kernel had more to tell than the socket could hold: anything may have changed.
        """
        indices, has_lost = await self._read()
        give_up_at = trio.current_time() + RESTLESS_S
        while trio.current_time() < give_up_at:
            with trio.move_on_after(SETTLE_S) as calm:
                more, has_lost_more = await self._read()
                indices, has_lost = indices | more, has_lost or has_lost_more
            if calm.cancelled_caught:
                break
        if has_lost:
            return None
        return frozenset(name for index in sorted(indices) if (name := _name_of(index)) is not None)

    async def _read(self) -> tuple[set[int], bool]:
        """Wait for something worth telling."""
        while True:
            try:
                found = changed_interfaces(await self._listener.recv(RECEIVE_BYTES))
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise PortError("cannot listen to netlink", os.strerror(error.errno or 0)) from error
                return set(), True
            if found:
                return found, False

    def close(self) -> None:
        """Let go of the socket. Twice is fine."""
        self._listener.close()


async def open_events() -> HostEvents:
    """Listen to the kernel. Raises `PortError` when it gives no socket."""
    try:
        listener = trio.socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        try:
            await listener.bind((0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise PortError(
            "cannot listen to netlink",
            os.strerror(error.errno or 0),
            "allow AF_NETLINK (RestrictAddressFamilies= of a systemd unit)",
        ) from error
    return HostEvents(listener)


def _name_of(index: int) -> str | None:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return None  # it is gone already
