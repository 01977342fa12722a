"""Switches off what a device does for its stack in one step with many packets, so that one packet is one frame on the wire.

    cut_on_the_wire(left, "eth0")       # in a namespace
    python device_features.py eth0      # in this one

A veth pair hands a train of up to 64 segments over in one piece. Whoever loses or counts what passes between the ends then
loses or counts trains. Responsible for segmentation and receive offloads of a device by ioctl(2), as `ethtool -K` switches
them; not for the offloads of TUN devices, which belong to the program behind them.

Source: Linux, include/uapi/linux/ethtool.h, net/ethtool/common.c for the names.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from namespaces import Namespace

SIOCETHTOOL = 0x8946
ETHTOOL_GSTRINGS, ETHTOOL_GSSET_INFO, ETHTOOL_GFEATURES, ETHTOOL_SFEATURES = 0x1B, 0x37, 0x3A, 0x3B
ETH_SS_FEATURES = 4
NAME_BYTES = 32  # ETH_GSTRING_LEN
TRAINS = (
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
    "tx-udp-segmentation",
    "tx-generic-segmentation",
    "rx-gro",
    "rx-gro-list",
    "rx-udp-gro-forwarding",
)


def cut_on_the_wire(host: Namespace, device: str) -> None:
    """Switch the `TRAINS` of a device in a namespace off. Raises `AssertionError` when one of them stays on."""
    from namespaces import run_in  # here, because the program has no packages to import it with

    run_in(host, [sys.executable, "-S", __file__, device])


def switch_off(device: str, names: tuple[str, ...] = TRAINS) -> list[str]:
    """Switch features of a device in the present namespace off; those that are still on. Raises `OSError`.

    Names that the kernel does not know count as off.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        known = _feature_names(control, device)
        places = [known.index(name) for name in names if name in known]
        blocks = -(-len(known) // 32)
        wanted = [0] * blocks
        for place in places:
            wanted[place // 32] |= 1 << place % 32
        set_off = [word for mask in wanted for word in (mask, 0)]  # valid, requested
        _ask(control, device, struct.pack(f"=II{2 * blocks}I", ETHTOOL_SFEATURES, blocks, *set_off))
        answer = _ask(control, device, struct.pack("=II", ETHTOOL_GFEATURES, blocks) + bytes(16 * blocks))
        active = struct.unpack_from(f"={4 * blocks}I", answer, 8)[2::4]  # available, requested, active, never changed
        return [known[place] for place in places if active[place // 32] >> place % 32 & 1]


def _feature_names(control: socket.socket, device: str) -> list[str]:
    counted = _ask(control, device, struct.pack("=IIQI", ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0))
    (count,) = struct.unpack_from("=I", counted, 16)
    request = struct.pack("=III", ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count) + bytes(count * NAME_BYTES)
    text = _ask(control, device, request)[12:]
    return [text[at : at + NAME_BYTES].rstrip(b"\0").decode() for at in range(0, count * NAME_BYTES, NAME_BYTES)]


def _ask(control: socket.socket, device: str, request: bytes) -> bytes:
    """One SIOCETHTOOL: the request with the kernel's answer written over it."""
    data = ctypes.create_string_buffer(request, len(request))
    fcntl.ioctl(control, SIOCETHTOOL, struct.pack("16sP16x", device.encode(), ctypes.addressof(data)))
    return data.raw


if __name__ == "__main__":
    if left_on := switch_off(sys.argv[1]):
        sys.exit(f"{sys.argv[1]}: {', '.join(left_on)} cannot be switched off")
