"""Opens the UDP sockets of a node: binds them, gives them large buffers, and says in three lines why the kernel would not.

Responsible for addresses, ports, families and socket buffers. Not responsible for what goes through the sockets (`udp`).
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import socket
from struct import Struct

from holloway.actors.udp import UdpSocket
from holloway.actors.udp_offload import SOL_UDP, UDP_GRO
from holloway.protocols.addresses import Address, format_address
from holloway.protocols.errors import LocalError, PortError

log = logging.getLogger("holloway.udp")

BUFFER_BYTES = 8 << 20  # asked for in each direction; without CAP_NET_ADMIN the kernel caps it at net.core.*mem_max
PORT_MAX = 65_535
SAME_PORT_ATTEMPTS = 16  # tries to find one port that is free in both families
SO_SNDBUFFORCE = 32  # include/uapi/asm-generic/socket.h; Python's socket module does not name these
SO_RCVBUFFORCE = 33
SO_ATTACH_REUSEPORT_CBPF = 51
SPARSE_DSCP = 45  # of flows that build no queue: draft-ietf-tsvwg-nqb, section 4
SPARSE_BUDGET = 8
"""Datagrams that one look takes of what is marked. Anybody may mark what he sends; a look comes before each run of a bulk flow,
and must not cost more than that."""
TRAFFIC_CLASS = {  # where it is in the header, how it is got out of it (size, shift), and what sets it
    socket.AF_INET: (1, 0x30, 2, (socket.IPPROTO_IP, socket.IP_TOS)),
    socket.AF_INET6: (0, 0x28, 6, (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)),
}
SKF_NET_OFF = 0xFFF00000  # include/uapi/linux/filter.h: from here on offsets count from the header of IP
MISSING_FAMILY_ERRNOS = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


def open_udp(address: str | None, port: int, *, offloads: bool = True, mark: int = 0) -> list[UdpSocket]:
    """Bind `port` on a numeric `address`; with None on every address of both families, IPv4 first, one socket each.

    With port 0 the kernel picks a port, the same for both families. A family that the host has not is left out. `offloads`
    is what `UdpSocket` is told; `mark`, unless it is 0, is on whatever is sent (SO_MARK, socket(7)). Raises `PortError` when nothing could be bound, or the port is taken in one of the
    families. Socket buffers that the kernel keeps small are one line in the log.
    """
    if not 0 <= port <= PORT_MAX:
        raise LocalError(f"cannot listen on port {port}", f"a port is 0 to {PORT_MAX}", "choose another port")
    bound = [_bind(*_parse(address, port))] if address is not None else _bind_everywhere(port)
    if mark:
        _set_mark(bound, mark)
    _warn_of_small_buffers(bound[0])
    return [UdpSocket(sock, offloads=offloads) for sock in bound]


def open_beside(first: UdpSocket, *, offloads: bool = True) -> UdpSocket:
    """One more socket of the address of `first`, like it in everything: the kernel spreads what arrives over all of them by
    where it comes from (SO_REUSEPORT, socket(7)). `offloads`: see `open_udp`. Raises `PortError`.

    That `first` was bound without the option is what keeps the port ours: another node that wants it binds its own first socket
    like that, too, and is refused. The option stays set, since the kernel looks at it for each datagram.
    """
    try:
        first.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        mark = first.socket.getsockopt(socket.SOL_SOCKET, socket.SO_MARK)
    except OSError as error:
        raise _refused(first.local, error) from error
    sock = _bind(first.socket.family, first.local, is_shared=True)
    if mark:
        _set_mark([sock], mark)
    return UdpSocket(sock, offloads=offloads)


def open_sparse(first: UdpSocket, *, offloads: bool = True) -> None:
    """Give `first` its `UdpSocket.sparse`, which the kernel gives what is marked as of a flow that sends little, and marks so what
    it sends. The mark is a DSCP: a network that removes it takes only the advantage away. Raises `OSError` and `PortError`.
    """
    at, size, shift, option = TRAFFIC_CLASS[first.socket.family]
    sparse = open_beside(first, offloads=offloads)
    try:
        sparse.socket.setsockopt(*option, SPARSE_DSCP << 2)
        if "gro" in sparse.offloads:
            sparse.socket.setsockopt(SOL_UDP, UDP_GRO, 0)  # a run would be more than its budget
        filter_ = b"".join(
            _FILTER.pack(*each)
            for each in (
                (size, 0, 0, SKF_NET_OFF + at),  # A = the header there
                (0x74, 0, 0, shift),  # A >>= shift
                (0x54, 0, 0, 0x3F),  # A &= 63
                (0x15, 0, 1, SPARSE_DSCP),
                (0x06, 0, 0, 1),  # the socket that joined second
                (0x06, 0, 0, 0),
            )
        )
        memory = ctypes.create_string_buffer(filter_)
        program = _PROGRAM.pack(len(filter_) // _FILTER.size, ctypes.addressof(memory))
        first.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, program)
    except OSError:
        sparse.close()
        raise
    sparse.drops, sparse.budget = first.drops, SPARSE_BUDGET
    first.sparse = sparse


_FILTER = Struct("=HBBI")  # struct sock_filter: code, jump if true, if not, number
_PROGRAM = Struct("@HP")  # struct sock_fprog: number of instructions, where they are


def _bind_everywhere(port: int) -> list[socket.socket]:
    attempts = 1 if port else SAME_PORT_ATTEMPTS
    while True:
        attempts -= 1
        try:
            return _bind_both(port)
        except PortError as refused:
            if not attempts or not _is_caused_by(refused, errno.EADDRINUSE):
                raise


def _bind_both(port: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing: PortError | None = None
    for family, everywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104 - a VPN listens
        chosen = sockets[0].getsockname()[1] if sockets else port
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


def _bind(family: int, address: Address, *, is_shared: bool = False) -> socket.socket:
    sock: socket.socket | None = None
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        if is_shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for forced, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                sock.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
        sock.bind(address)
        return sock
    except OSError as error:
        if sock is not None:
            sock.close()
        raise _refused(address, error) from error


def _set_mark(bound: list[socket.socket], mark: int) -> None:
    try:
        for sock in bound:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    except OSError as error:
        for sock in bound:
            sock.close()
        raise PortError(
            "datagrams cannot be kept out of the tunnel",
            f"{errno.errorcode.get(error.errno or 0, 'error')}: to mark them takes CAP_NET_ADMIN",
            "run as root, or without a gateway",
        ) from error


def _warn_of_small_buffers(sock: socket.socket) -> None:
    """Say once what the kernel made of the wish for large buffers; it gives twice what it grants (socket(7))."""
    for option, direction, limit in (
        (socket.SO_RCVBUF, "receive", "net.core.rmem_max"),
        (socket.SO_SNDBUF, "send", "net.core.wmem_max"),
    ):
        granted = sock.getsockopt(socket.SOL_SOCKET, option) // 2
        if granted < BUFFER_BYTES:
            log.warning(
                "the UDP %s buffer is %d KiB instead of %d: bursts will be lost. %s caps it for a process without"
                " CAP_NET_ADMIN; raise it with: sudo sysctl -w net.core.rmem_max=%d net.core.wmem_max=%d",
                direction,
                granted >> 10,
                BUFFER_BYTES >> 10,
                limit,
                BUFFER_BYTES,
                BUFFER_BYTES,
            )
            return


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
