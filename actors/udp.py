"""UDP sockets of the kernel behind `DatagramPort`.

Responsible for binding, for draining and filling one non-blocking socket a family, and for counting what was lost on the
way. Not responsible for what is in a datagram, nor for whom it is: demultiplexing belongs to the actor above.

Whether a datagram may be fragmented is left to the kernel's default (`net.ipv4.ip_no_pmtu_disc`).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import Counter
from collections.abc import Sequence

import trio

from holloway.actors.ports import Arrival, DatagramPort, refusal
from holloway.protocols.addresses import Address, format_address
from holloway.protocols.errors import LocalError, PortError

BUFFER_BYTES = 4 << 20  # asked for in each direction; without CAP_NET_ADMIN the kernel caps it at net.core.*mem_max
RECEIVE_BUDGET = 128  # datagrams one `receive` takes before other tasks have their turn
DATAGRAM_SPACE = 65_536  # more than the 65 507 bytes of the largest UDP datagram over IPv4, 65 527 over IPv6
PORT_MAX = 65_535
SAME_PORT_ATTEMPTS = 16  # tries to find one port that is free in both families

SO_SNDBUFFORCE = 32  # include/uapi/asm-generic/socket.h; Python's socket module does not name these
SO_RCVBUFFORCE = 33
SO_MEMINFO = 55
MEMINFO = struct.Struct("9I")
MEMINFO_DROPS = 8  # SK_MEMINFO_DROPS, include/uapi/linux/sock_diag.h

# Errors that tell of an earlier datagram or of the state of the network. The socket itself is whole.
PASSING_ERRNOS = frozenset(
    {
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.EMSGSIZE,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EACCES,
        errno.EPERM,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EINTR,
    }
)
MISSING_FAMILY_ERRNOS = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
ADDRESS_PARTS = {socket.AF_INET: 2, socket.AF_INET6: 4}


class UdpSocket(DatagramPort):
    """One bound UDP socket, which it owns from now on and makes non-blocking."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.local: Address = sock.getsockname()
        self.drops: Counter[str] = Counter()
        self._socket = sock
        self._address_parts = ADDRESS_PARTS[sock.family]
        self._more = False  # the last budget was used up: more may be waiting in the socket
        self._overflows_seen = 0

    async def receive(self) -> list[Arrival]:
        """See `DatagramPort`. Takes up to `RECEIVE_BUDGET` datagrams, one `Arrival` each."""
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError(f"{format_address(self.local)} is closed")
        if self._more:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.wait_readable(self._socket)
        while not (arrivals := self._drain()):
            await trio.lowlevel.wait_readable(self._socket)
        return arrivals

    def _drain(self) -> list[Arrival]:
        arrivals: list[Arrival] = []
        self._more = False
        # CPython gives back the unused space in place; recvmsg_into one kept buffer and a copy cost 0.5 us more.
        take, space = self._socket.recvfrom, DATAGRAM_SPACE
        for _ in range(RECEIVE_BUDGET):
            try:
                data, source = take(space)
            except BlockingIOError:
                if len(arrivals) > 1:  # a full buffer never holds just one: a lone datagram need not ask
                    self._count_overflows()
                return arrivals
            except OSError as error:
                if error.errno in PASSING_ERRNOS:
                    self.drops[refusal("udp", error)] += 1
                    continue
                if arrivals:  # the next call meets the same error
                    return arrivals
                if self._socket.fileno() < 0:
                    raise trio.ClosedResourceError(f"{format_address(self.local)} was closed") from None
                raise PortError(
                    f"lost the UDP socket on {format_address(self.local)}",
                    f"{errno.errorcode.get(error.errno or 0, 'error')}: {error.strerror}",
                    "it is bound again on restart",
                ) from error
            if len(data) < space:
                arrivals.append(Arrival(source, data, len(data)))
            else:  # it filled the space, which no whole datagram does: the kernel cut it
                self.drops["udp_truncated"] += 1
        self._more = True
        self._count_overflows()
        return arrivals

    def _count_overflows(self) -> None:
        """What the kernel dropped because its receive buffer was full. Only a reader that lags has any: ask seldom."""
        try:
            seen = MEMINFO.unpack(self._socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO.size))[MEMINFO_DROPS]
        except OSError:  # before Linux 4.12, and in sandboxes that play the kernel: not counted, but carried
            return
        if fresh := (seen - self._overflows_seen) & 0xFFFFFFFF:
            self.drops["receive_buffer_full"] += fresh
            self._overflows_seen = seen

    def send(self, datagrams: Sequence[bytes], destination: Address) -> None:
        """See `DatagramPort`. A full send buffer is `udp_eagain`, a datagram above the path's limit `udp_emsgsize`."""
        if len(destination) != self._address_parts:
            raise LocalError(
                f"cannot send to {format_address(destination)} from {format_address(self.local)}",
                "they are of different address families",
            )
        send = self._socket.sendto
        for datagram in datagrams:
            try:
                send(datagram, destination)
            except OSError as error:
                self.drops[refusal("udp", error)] += 1

    def close(self) -> None:
        """See `DatagramPort`."""
        if self._socket.fileno() < 0:
            return
        if trio.lowlevel.in_trio_run():
            trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


def open_udp(address: str | None, port: int) -> list[UdpSocket]:
    """Bind `port` on a numeric `address`; with None on every address of both families, IPv4 first, one socket each.

    With port 0 the kernel picks a port, the same for both families. A family that the host has not is left out. Raises
    `PortError` when nothing could be bound, or the port is taken in one of the families.
    """
    if not 0 <= port <= PORT_MAX:
        raise LocalError(f"cannot listen on port {port}", f"a port is 0 to {PORT_MAX}", "choose another port")
    if address is not None:
        return [_bind(*_parse(address, port))]
    attempts = 1 if port else SAME_PORT_ATTEMPTS
    while True:
        attempts -= 1
        try:
            return _bind_both(port)
        except PortError as refused:
            if not attempts or not _is_caused_by(refused, errno.EADDRINUSE):
                raise


def _bind_both(port: int) -> list[UdpSocket]:
    sockets: list[UdpSocket] = []
    missing: PortError | None = None
    for family, everywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104 - a VPN listens
        chosen = sockets[0].local[1] if sockets else port
        try:
            sockets.append(_bind(family, (everywhere, chosen)))
        except PortError as refused:
            if _is_caused_by(refused, *MISSING_FAMILY_ERRNOS):
                missing = refused
                continue
            for sock in sockets:
                sock.close()
            raise
    if not sockets:
        assert missing is not None
        raise missing
    return sockets


def _parse(address: str, port: int) -> tuple[socket.AddressFamily, Address]:
    try:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError) as error:
        raise PortError(
            f"cannot listen on {address!r}",
            "it is not a numeric IPv4 or IPv6 address of this host",
            "use an address that `ip address` shows, or none to listen on all of them",
        ) from error
    family, _kind, _protocol, _name, sockaddr = found[0]
    return family, sockaddr  # type: ignore[return-value]


def _bind(family: socket.AddressFamily, address: Address) -> UdpSocket:
    sock: socket.socket | None = None
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for forced, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                sock.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
        sock.bind(address)
        return UdpSocket(sock)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise _refused(address, error) from error


def _refused(address: Address, error: OSError) -> PortError:
    port = address[1]
    name = errno.errorcode.get(error.errno or 0, "error")
    why, fix = {
        errno.EADDRINUSE: (
            f"another process has UDP port {port}",
            f"stop it (sudo ss -ulpn 'sport = :{port}' names it), or listen on another port",
        ),
        errno.EADDRNOTAVAIL: ("this host has no such address", "use an address that `ip address` shows, or none"),
        errno.EACCES: (f"port {port} needs CAP_NET_BIND_SERVICE", "listen on a port from 1024 up"),
        errno.EAFNOSUPPORT: ("the kernel lacks this address family", "listen on an address of the other family"),
        errno.EMFILE: ("this process has too many open files", "raise the limit: ulimit -n 65536"),
    }.get(error.errno or 0, (os.strerror(error.errno or 0), "see what the kernel says: sudo dmesg | tail"))
    return PortError(f"cannot listen on {format_address(address)}", f"{name}: {why}", fix)


def _is_caused_by(refused: PortError, *errnos: int) -> bool:
    return isinstance(refused.__cause__, OSError) and refused.__cause__.errno in errnos
