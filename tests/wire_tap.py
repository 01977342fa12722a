"""Counts what passes a device: lengths, fragments, and packets in which a given text can be read.

    with tapping(right, "eth0", text=b"...") as seen:
        ...
    assert not seen.fragments

Unlike `hostile.watching` it keeps no packet, so that it can look on while a gigabyte passes. The kernel's own count of what
it could not show is in `missed`. As a program it is the tap: `DEVICE TEXT_HEX`, which prints what it saw once a line comes on
stdin. Standard library alone, so that it starts at once. Not responsible for what should have been seen.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from namespaces import Namespace

ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 3, 0x0800, 0x86DD
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_RCVBUFFORCE = 33
BUFFER_BYTES = 256 << 20
BURST = 256
IPV6_FRAGMENT = 44  # RFC 8200, section 4.5
FRAGMENT_BITS = 0x3FFF  # RFC 791, section 3.1: more-fragments flag and fragment offset


@dataclass
class Tapped:
    """What passed, both ways, known when the tap has ended. `lengths`: how many IP packets of each total length."""

    lengths: Counter[int] = field(default_factory=Counter)
    fragments: int = 0
    legible: int = 0
    missed: int = 0

    def share_of_bytes(self, least: int) -> float:
        """Of all bytes, how many were in packets of at least `least` bytes."""
        return sum(length * count for length, count in self.lengths.items() if length >= least) / sum(
            length * count for length, count in self.lengths.items()
        )


@contextmanager
def tapping(host: Namespace, device: str, *, text: bytes) -> Iterator[Tapped]:
    """Look on while the context lasts."""
    from namespaces import start_in  # here, because the tap has no packages to import it with

    argv = [sys.executable, "-S", __file__, device, text.hex()]
    tap = start_in(host, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert tap.stdout is not None
    assert tap.stdout.readline() == "ready\n"
    tapped = Tapped()
    yield tapped
    said = json.loads(tap.communicate("stop\n", timeout=60)[0])
    tapped.lengths.update({int(length): count for length, count in said.pop("lengths").items()})
    vars(tapped).update(said)


def tap(device: str, text: bytes) -> None:
    seen = Tapped()
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as source:
        source.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        source.bind((device, ETH_P_ALL))
        source.setblocking(False)
        print("ready", flush=True)
        while sys.stdin not in select.select([source, sys.stdin], [], [])[0]:
            drain(source, seen, text, BURST)
        drain(source, seen, text, sys.maxsize)
        _, seen.missed = struct.unpack("=II", source.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    print(json.dumps(vars(seen)))


def drain(source: socket.socket, seen: Tapped, text: bytes, most: int) -> None:
    for _ in range(most):
        try:
            packet, (_, protocol, *_) = source.recvfrom(65_536)
        except BlockingIOError:
            return
        if protocol == ETH_P_IP:
            seen.fragments += bool((packet[6] << 8 | packet[7]) & FRAGMENT_BITS)
        elif protocol == ETH_P_IPV6:
            seen.fragments += packet[6] == IPV6_FRAGMENT
        else:
            continue
        seen.lengths[len(packet)] += 1
        seen.legible += text in packet


if __name__ == "__main__":
    tap(sys.argv[1], bytes.fromhex(sys.argv[2]))
