"""Hosts with a TUN device each, for tests: all in this process, each in a namespace of its own.

Responsible for devices, sockets, counters and streams; not for what is done to packets on their way. The process moves to a
new namespace with every host but the first: for bodies of `namespaces.in_namespace` only, whose process ends with them.
"""

from __future__ import annotations

import ctypes
import hashlib
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import trio
from namespaces import wait_until_local

from holloway.actors.tun import KernelTun
from holloway.actors.tun_opening import open_tun
from holloway.protocols.packets import Packet, SuperPacket

ALL = ("csum", "tso4", "tso6", "uso4", "uso6")
HOSTS = ({4: "10.9.0.1", 6: "fd09::1"}, {4: "10.9.0.2", 6: "fd09::2"})
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
SO_SNDBUFFORCE, SO_RCVBUFFORCE, UDP_SEGMENT = 32, 33, 103
CLONE_NEWNET = 0x40000000
PORT = 4000


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


def device(host: int, *, offloads: bool = True, receive_super: bool = True) -> KernelTun:
    """The device `hw0` of one of the hosts, in the present namespace."""
    ours = HOSTS[host]
    made = open_tun("hw0", 1420, offloads=offloads, receive_super=receive_super)
    configure(host)
    made.set_local(socket.inet_pton(FAMILIES[version], address) for version, address in ours.items())
    return made


def configure(host: int) -> None:
    ip("link set hw0 addrgenmode none")
    ip("link set hw0 mtu 1420 up")
    ip(f"address add {HOSTS[host][4]}/24 dev hw0")
    ip(f"address add {HOSTS[host][6]}/64 dev hw0 nodad")
    wait_until_local(HOSTS[host][6])


def sysctl(name: str, value: str) -> None:
    Path("/proc/sys", name).write_text(value)


@dataclass
class Host:
    """One end: its device, its sockets and its counters. They stay in their namespace when this process leaves it."""

    tun: KernelTun
    listeners: dict[int, socket.socket] = field(default_factory=dict)
    datagrams: dict[int, socket.socket] = field(default_factory=dict)
    callers: dict[int, socket.socket] = field(default_factory=dict)
    snmp: list[IO[str]] = field(default_factory=list)

    def checksum_errors(self) -> int:
        """How many TCP segments and UDP datagrams this host found with a wrong checksum."""
        ipv4, ipv6 = self.snmp
        for file in self.snmp:
            file.seek(0)
        rows = [line.split() for line in ipv4]
        errors = 0
        for names, values in zip(rows[::2], rows[1::2], strict=True):
            errors += sum(int(value) for name, value in zip(names, values, strict=True) if name == "InCsumErrors")
        return errors + sum(int(line.split()[1]) for line in ipv6 if line.startswith("Udp6InCsumErrors"))

    def close(self) -> None:
        self.tun.close()
        for sock in (*self.listeners.values(), *self.datagrams.values(), *self.callers.values()):
            sock.close()
        for file in self.snmp:
            file.close()


def host(number: int, *, offloads: bool = True, receive_super: bool = True) -> Host:
    """Make a host of the present namespace."""
    sysctl("net/ipv4/tcp_ecn", "1")
    made = Host(device(number, offloads=offloads, receive_super=receive_super))
    for version, address in HOSTS[number].items():
        listener = socket.socket(FAMILIES[version])
        listener.bind((address, PORT))
        listener.listen()
        datagrams = socket.socket(FAMILIES[version], socket.SOCK_DGRAM)
        datagrams.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        datagrams.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 8 << 20)
        datagrams.bind((address, PORT))
        made.listeners[version], made.datagrams[version] = listener, datagrams
        made.callers[version] = socket.socket(FAMILIES[version])
    made.snmp = [Path("/proc/self/net", name).open() for name in ("snmp", "snmp6")]  # noqa: SIM115 - `close` does
    return made


def two_hosts(*, offloads: bool = True, receive_super: bool = True) -> tuple[Host, Host]:
    left = host(0, offloads=offloads, receive_super=receive_super)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    return left, host(1, offloads=offloads, receive_super=receive_super)


def whole(packets: Sequence[Packet]) -> list[Packet]:
    return list(packets)


def cut(packets: Sequence[Packet]) -> list[Packet]:
    """What a session gives that unfolds super-packets."""
    result: list[Packet] = []
    for packet in packets:
        result += packet.segments() if isinstance(packet, SuperPacket) else [packet]
    return result


async def carry(source: KernelTun, target: KernelTun, change: Callable[[Sequence[Packet]], list[Packet]]) -> None:
    while True:
        target.send(change(await source.receive()))


async def stream(left: Host, right: Host, version: int, data: bytes) -> str:
    """Send `data` by TCP from left to right, and the SHA-256 of what arrived."""
    received = hashlib.sha256()
    listener = trio.socket.from_stdlib_socket(left.listeners[version])
    caller = trio.SocketStream(await connected(right, version))
    accepted, _ = await listener.accept()
    async with trio.open_nursery() as nursery, trio.SocketStream(accepted) as incoming:

        async def send() -> None:
            await caller.send_all(data)
            await caller.send_eof()

        nursery.start_soon(send)
        async for piece in incoming:
            received.update(piece)
    await caller.aclose()
    return received.hexdigest()


async def connected(caller: Host, version: int) -> trio.socket.SocketType:
    sock = trio.socket.from_stdlib_socket(caller.callers[version])
    await sock.connect((HOSTS[0][version], PORT))
    return sock
