"""Two programs for a network namespace: one watches a device, the other floods a socket as fast as its owner reads.

    watch DEVICE                                    until a line comes on stdin; prints a line for each packet
    flood FILE PID PORT IPV4 IPV6 IMPOSTOR          sends the datagrams in FILE to PORT, where process PID reads

Responsible for packets on and off the wire, with nothing but the standard library, so that they start at once; not for what
is in them (`hostile`).
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time
from enum import IntEnum
from pathlib import Path

PORT = 1099
RAW_MAX_BYTES = 1472  # a raw socket does not fragment: Ethernet's 1500 less IPv4 and UDP headers
BACKLOG_BYTES = 1 << 20  # the flood pauses when so much waits in the victim's socket, which holds eight times that
PAUSE_S = 0.001
RATE_PER_S = 30_000  # no faster than this, so that what is to happen during a flood has the time
GLANCE = 64  # datagrams between two looks at the victim's socket
RECORD = struct.Struct("<BI")  # one datagram in FILE: sender, length
PACKET_OUTGOING = 4  # linux/if_packet.h
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
TAP_BYTES = 32 << 20


class Sender(IntEnum):
    """Where a hostile datagram seems to come from."""

    THIRD_HOST = 0
    THIRD_HOST_IPV6 = 1
    PEER = 2
    PEER_OTHER_PORT = 3
    NOBODY = 4
    """An address of the underlay that no host has."""


def watch(device: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as tap:
        tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, TAP_BYTES)
        tap.bind((device, ETH_P_ALL))
        print("ready", flush=True)
        packets: list[tuple[int, bytes]] = []
        while True:
            readable, _, _ = select.select([tap, sys.stdin], [], [])
            if tap in readable:
                packet, (_, _, kind, _, _) = tap.recvfrom(65_536)
                packets.append((kind, packet))
            elif sys.stdin in readable:
                break
    for kind, packet in packets:
        print(kind, packet.hex())


def send_flood(path: str, pid: str, port: int, ipv4: str, ipv6: str, impostor: str) -> None:
    recorded = Path(path).read_bytes()
    refused = count = position = 0
    tables = [os.open(f"/proc/{pid}/net/{table}", os.O_RDONLY) for table in ("udp", "udp6")]
    nobody = ipv4.rsplit(".", 1)[0] + ".222"
    sources = {Sender.PEER: (impostor, port), Sender.PEER_OTHER_PORT: (impostor, 4242), Sender.NOBODY: (nobody, port)}
    headers = {sender: _ipv4_header(*source, ipv4) for sender, source in sources.items()}
    began = time.monotonic()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as plain6,
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
    ):
        while position < len(recorded):
            number, length = RECORD.unpack_from(recorded, position)
            position += RECORD.size
            data = recorded[position : position + length]
            position += length
            try:
                if number == Sender.THIRD_HOST:
                    plain.sendto(data, (ipv4, port))
                elif number == Sender.THIRD_HOST_IPV6:
                    plain6.sendto(data, (ipv6, port))
                else:
                    head, source_port = headers[Sender(number)]
                    udp = struct.pack(">HHHH", source_port, port, 8 + length, 0)
                    raw.sendto(head + udp + data, (ipv4, 0))
            except OSError:
                refused += 1
            count += 1
            if count % GLANCE == 0 or length > RAW_MAX_BYTES:
                while (
                    max(_waiting(table, port) for table in tables) > BACKLOG_BYTES
                    or count > (time.monotonic() - began) * RATE_PER_S
                ):
                    time.sleep(PAUSE_S)
        while max(_waiting(table, port) for table in tables):
            time.sleep(PAUSE_S)
    print(json.dumps({"sent": count - refused, "refused": refused, "seconds": time.monotonic() - began}))


def _ipv4_header(source: str, port: int, target: str) -> tuple[bytes, int]:
    """An IPv4 header whose length, checksum and identification the kernel fills in (raw(7)), and the UDP port."""
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    return struct.pack(">BBHHHBBH", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0) + addresses, port


def _waiting(table: int, port: int) -> int:
    """Bytes in the receive buffers of the sockets on `port`, from an open /proc/PID/net/udp."""
    text = os.pread(table, 65_536, 0).decode()
    lines = [line.split() for line in text.splitlines()[1:]]
    return max((int(line[4].split(":")[1], 16) for line in lines if line[1].endswith(f":{port:04X}")), default=0)


if __name__ == "__main__":
    if sys.argv[1] == "watch":
        watch(sys.argv[2])
    else:
        send_flood(sys.argv[2], sys.argv[3], int(sys.argv[4]), *sys.argv[5:])
