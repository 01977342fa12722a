"""How many queues of a TUN device are in use, by whoever: the kernel lets a second program attach to a device of several queues
without a word, and would hand it a part of the flows.

Not responsible for attaching (`tun`).

Sources: rtnetlink(7); Linux, include/uapi/linux/if_link.h; drivers/net/tun.c, tun_fill_info.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

NLMSG = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
NLATTR = struct.Struct("=HH")  # struct nlattr: length, type
IFINFOMSG_BYTES = 16
NLM_F_REQUEST = 1
RTM_NEWLINK, RTM_GETLINK = 16, 18
IFLA_IFNAME, IFLA_LINKINFO, IFLA_INFO_KIND, IFLA_INFO_DATA = 3, 18, 1, 2
IFLA_TUN_NUM_QUEUES, IFLA_TUN_NUM_DISABLED_QUEUES = 8, 9
NLA_TYPE_MASK = 0x3FFF
ANSWER_SPACE = 65_536
NUMBER = struct.Struct("=I")


def attached_queues(name: str) -> int | None:
    """How many queues somebody is attached to. `None` when there is no such device, when it is not one of several queues, and
    when the kernel does not say (before Linux 4.17). Raises `OSError`.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as route:
        word = name.encode() + b"\0"
        request = bytes(IFINFOMSG_BYTES) + NLATTR.pack(NLATTR.size + len(word), IFLA_IFNAME) + word
        request += bytes(-len(request) % 4)
        route.send(NLMSG.pack(NLMSG.size + len(request), RTM_GETLINK, NLM_F_REQUEST, 1, 0) + request)
        answer = route.recv(ANSWER_SPACE)
    length, kind, *_ = NLMSG.unpack_from(answer)
    if kind != RTM_NEWLINK:
        return None
    info = dict(_attributes(dict(_attributes(answer[NLMSG.size + IFINFOMSG_BYTES : length])).get(IFLA_LINKINFO, b"")))
    if info.get(IFLA_INFO_KIND) != b"tun\0":
        return None
    device = dict(_attributes(info.get(IFLA_INFO_DATA, b"")))
    found = [device[each] for each in (IFLA_TUN_NUM_QUEUES, IFLA_TUN_NUM_DISABLED_QUEUES) if each in device]
    return sum(NUMBER.unpack(each)[0] for each in found) if found else None


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= NLATTR.size:
        length, kind = NLATTR.unpack_from(data)
        if length < NLATTR.size:
            return
        yield kind & NLA_TYPE_MASK, data[NLATTR.size : length]
        data = data[(length + 3) & ~3 :]
