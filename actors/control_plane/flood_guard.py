"""A bound on what one connection can have libzmq hold for it: whoever sends more without an end of a message is cut off.

libzmq hands a message on when its last frame has come, and holds the others until then, however many there are: `ZMQ_MAXMSGSIZE`
bounds each of them and high-water marks count messages, so neither helps, nor does receiving part by part. What can be known is how many bytes the kernel has received on a connection
(`TCP_INFO`), and how many of them have come out of the socket. The difference is what libzmq and the kernel hold. It is
looked at when the memory of the process has grown, so that this costs nothing otherwise.

For sockets with CURVE, whose routing ids each name one connection. Not responsible for what is in the messages.
"""

from __future__ import annotations

import ctypes
import math
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from logging import Logger
from pathlib import Path

import trio
import zmq

from holloway.actors.bounded_log import BoundedLog
from holloway.actors.control_plane.zap import sender_words
from holloway.actors.control_plane.zmq_socket import MAX_FRAMES

LOOK_EVERY_S = 0.2
LATE_S = 1.0
"""After which we were busy, and what is held is not the fault of who has sent it."""
GROWTH_BYTES = 24 << 20
"""By how much the process has to grow until connections are looked at."""
MOST_BYTES = 12 << 20
"""Of one connection: the messages that may wait for us (5 MiB) and a full receive buffer of the kernel (6 MiB) are less than that."""
ALL_BYTES = 128 << 20
"""Of all connections together; above that those who have most are cut off."""
GIVE_BACK_AFTER_S = 1.0
"""After a connection was cut off, when libzmq has forgotten what it held for it."""
DRIFT_BYTES_S = 64
"""Heartbeats, which no message shows."""
HANDSHAKE_BYTES = 4096
_MESSAGE_BYTES = 33
"""CurveZMQ (RFC 26), a MESSAGE command: 8 its name, 8 nonce, 16 authenticator, 1 flags."""
_BYTES_RECEIVED = 128
"""Where `tcpi_bytes_received` is in `struct tcp_info` (linux/tcp.h)."""
_INFO_BYTES = 136
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MAX_ROUTES = 8192


@dataclass(slots=True)
class _Connection:
    """`inode` names the socket of the kernel, as descriptors are used again; `words` whose it is."""

    inode: int
    words: str
    since: float
    taken: int = 0


class FloodGuard:
    """The guard of one ROUTER, which is bound to `endpoint`. `tell` hears of each connection that is cut off: its address, with its key
    if it has sent a message before, and why.
    """

    def __init__(self, endpoint: str, log: Logger, tell: Callable[[str, str], None]) -> None:
        self._port, self._log, self._tell = int(endpoint.rpartition(":")[2]), BoundedLog(log), tell
        self._routes: dict[bytes, _Connection] = {}
        self._cut: set[int] = set()
        self._floor = _resident()
        self._give_back_at = math.inf

    def took(self, frames: Sequence[zmq.Frame]) -> None:
        """A message has come out of the socket: routing id, and the frames that were sent."""
        route = frames[0].bytes
        connection = self._routes.get(route)
        if connection is None:
            connection = self._routes[route] = _Connection(
                _inode(frames[-1]), sender_words(frames[-1]), trio.current_time()
            )
        connection.taken += sum(wire_bytes(len(frame)) for frame in frames[1:])
        if len(frames) > MAX_FRAMES:
            self._cut_sender(frames[-1], connection)

    async def run(self) -> None:
        """Look now and then, for ever."""
        was_late = False
        while True:
            slept_at = trio.current_time()
            await trio.sleep(LOOK_EVERY_S)
            is_late = trio.current_time() - slept_at > LATE_S
            if is_late and not was_late:  # first those have their turn who take what has come meanwhile
                was_late = True
                continue
            was_late = False
            if trio.current_time() >= self._give_back_at:
                self._give_back_at = math.inf
                await trio.to_thread.run_sync(_give_back)
            resident = _resident()
            self._floor = min(self._floor, resident)
            if resident >= self._floor + GROWTH_BYTES or len(self._routes) > _MAX_ROUTES:
                self.look()
                self._floor = _resident()

    def look(self) -> None:
        """Cut off whoever has more than he may."""
        now = trio.current_time()
        known = {connection.inode: connection for connection in self._routes.values()}
        there: set[int] = set()
        held: list[tuple[int, int, socket.socket]] = []
        try:
            for inode, received, line in _connections(self._port):
                there.add(inode)
                connection = known.get(inode)
                taken = HANDSHAKE_BYTES
                if connection is not None:
                    taken += connection.taken + int(DRIFT_BYTES_S * (now - connection.since))
                held.append((max(received - taken, 0), inode, line))
            held.sort(key=lambda each: each[0])
            total = sum(each[0] for each in held)
            while held and (held[-1][0] > MOST_BYTES or total > ALL_BYTES):
                size, inode, line = held.pop()
                total -= size
                connection = known.get(inode)
                what = f"{size} bytes that are no whole message"
                self._cut_off(what, inode, line, "" if connection is None else connection.words)
                line.close()
        finally:
            for _, _, line in held:
                line.close()
        self._cut &= there
        self._routes = {route: each for route, each in self._routes.items() if each.inode in there}

    def _cut_sender(self, frame: zmq.Frame, connection: _Connection) -> None:
        """Whoever has sent that: what it took to get past it he shall not have us do again at once."""
        with (
            suppress(OSError, ValueError, zmq.ZMQError),
            socket.socket(fileno=os.dup(int(frame.get(zmq.SRCFD)))) as line,
        ):
            if line.getsockname()[1] == self._port:
                inode = os.fstat(line.fileno()).st_ino  # he may have chosen a routing id, and come back with it
                self._cut_off(f"a message of more than {MAX_FRAMES} frames", inode, line, connection.words)

    def _cut_off(self, what: str, inode: int, line: socket.socket, words: str) -> None:
        try:
            who = words or str(line.getpeername()[0])
            line.shutdown(socket.SHUT_RDWR)  # libzmq sees the end of the stream, and forgets what is not whole
        except OSError:  # it has gone by itself
            return
        if inode not in self._cut:
            self._cut.add(inode)
            self._give_back_at = trio.current_time() + GIVE_BACK_AFTER_S
            self._log.warning("%s is cut off: it has sent %s", who, what)
            self._tell(who, what)


def wire_bytes(size: int) -> int:
    """What a frame of that size is on a connection with CURVE."""
    body = size + _MESSAGE_BYTES
    return body + (2 if body <= 255 else 9)  # ZMTP 3.1: flags, and a length of one or eight bytes


def _resident() -> int:
    """The memory of this process that is in use, in bytes."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE


def _give_back() -> None:
    """Have the C library return memory that is free (glibc: malloc_trim(3)), or what the process has would only ever grow."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _inode(frame: zmq.Frame) -> int:
    """The socket that a frame came from; 0 when that has gone."""
    try:
        return os.fstat(int(frame.get(zmq.SRCFD))).st_ino
    except (OSError, ValueError, zmq.ZMQError):
        return 0


def _connections(port: int) -> Iterator[tuple[int, int, socket.socket]]:
    """Those that were accepted on a port: inode, bytes received so far, and a socket that is the caller's."""
    seen = set()  # a descriptor of ours may have a number that was in use when they were listed
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.fstat(int(name))
            if not stat.S_ISSOCK(status.st_mode) or status.st_ino in seen:
                continue
            line = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # closed meanwhile
            continue
        try:
            is_ours = line.family in (socket.AF_INET, socket.AF_INET6) and line.type == socket.SOCK_STREAM
            if is_ours and line.getsockname()[1] == port:
                info = line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
                line.getpeername()  # raises for the one that listens
                (received,) = struct.unpack_from("=Q", info, _BYTES_RECEIVED)
                inode = os.fstat(line.fileno()).st_ino
                seen.add(inode)
                yield inode, received, line
                continue
        except (OSError, struct.error):  # gone, or a kernel that does not tell (before 4.1)
            pass
        line.close()
