"""A UDP socket of the kernel behind `DatagramPort`.

Responsible for draining and filling (`udp_sending`) one non-blocking socket, many datagrams a system call where the kernel can
(`udp_offload` says how), and for counting what was lost on the way. Not responsible for binding (`udp_binding`), nor for
what is in a datagram and for whom it is: demultiplexing belongs to the actor above.

No datagram is fragmented, here or on the way, unless `send` is told that it may be: a probe of the path would prove nothing
(`protocols.path_mtu`). Nor does the socket believe ICMP about the path; the device's MTU alone makes it refuse a datagram.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterator
from functools import partial

import trio

from holloway.actors.outer_loop import LOOK_COST_BYTES, LOOK_EVERY, LOOKS, Reader
from holloway.actors.ports import refusal
from holloway.actors.udp_offload import (
    ANCILLARY_SPACE,
    can_send_runs,
    receive_runs,
    stride_of,
)
from holloway.actors.udp_sending import SendingSocket
from holloway.protocols.addresses import Address, format_address
from holloway.protocols.arrivals import Arrival, RunMemory
from holloway.protocols.errors import PortError

# One `receive` takes no more, but for the rest of a run, before other tasks have their turn. Eight full runs keep the cost
# of a turn small beside that of its work, sixteen did no better; of tiny datagrams it is the number that takes time.
RECEIVE_BUDGET = 512
RECEIVE_BUDGET_BYTES = 512 << 10
FEW_DATAGRAMS = 16  # from so many in one turn on it is bulk
FEW_BYTES = 2048  # more than any lone datagram on a path without jumbo frames
FULL_BYTES = 32 << 10  # memory with more in it takes no other run: what lies at the beginning costs less to take apart
DATAGRAM_SPACE = 65_536  # more than the 65 507 bytes of the largest UDP datagram over IPv4, 65 527 over IPv6
MEMORY_BYTES = (
    FULL_BYTES + 2 * 65_536
)  # for a run of lone datagrams that begins where another ended, and one that does not join it

SO_MEMINFO = 55  # include/uapi/asm-generic/socket.h; Python's socket module does not name it
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


class UdpSocket(SendingSocket):
    """One bound UDP socket, which it owns from now on and makes non-blocking.

    The attribute `offloads` names what is in use: with `gso` runs of datagrams are sent, with `gro` received by one system
    call. With the parameter `offloads=False` neither is.
    """

    def __init__(self, sock: socket.socket, *, offloads: bool = True) -> None:
        sock.setblocking(False)
        super().__init__(sock, sends_runs=offloads and can_send_runs(sock))
        self._receives_runs = offloads and receive_runs(sock)
        self.offloads: tuple[str, ...] = ("gso",) * self._sends_runs + ("gro",) * self._receives_runs
        self._more = False  # the last budget was used up: more may be waiting in the socket
        self._lone = False  # datagrams come alone
        self._left = 0  # of the budget, after a long run
        self._failure: OSError | None = None  # for the next `receive`
        self._unasked = False  # the last one was given on before the socket was asked for another
        self._bulk = False  # the last receive took many
        self._kept: list[RunMemory] = []  # for many, when they first come
        self._overflows_seen = 0
        self.sparse: UdpSocket | None = None
        self.look: Callable[..., bool] | None = None
        """Called between two runs of a bulk flow, now and then in a stream of them if `is_urgent`, and before others are handed on; see
        `OuterLoop.look`."""
        self.is_urgent: Callable[[], object] | None = None
        self.budget = RECEIVE_BUDGET
        """Datagrams that one `receive` takes."""

    @property
    def socket(self) -> socket.socket:
        """The socket itself, for what concerns its address and options. It stays this port's to read, write and close."""
        return self._socket

    async def receive(self) -> list[Arrival]:
        """See `DatagramPort`. Takes datagrams up to `RECEIVE_BUDGET` and `RECEIVE_BUDGET_BYTES`, a run being one `Arrival`.

        Where one datagram after another comes alone, each is given on before the socket is asked for more: to ask in vain
        first made an echo 5 us later, and 17 us after 4 ms of rest.
        """
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError(f"{format_address(self.local)} is closed")
        if self._unasked:
            await trio.lowlevel.checkpoint_if_cancelled()
            if arrivals := self._drain():
                await trio.lowlevel.cancel_shielded_checkpoint()
                return arrivals
            await trio.lowlevel.wait_readable(self._socket)
        elif self._more:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.wait_readable(self._socket)
        while not (arrivals := self._drain_lone() if self._lone and self._receives_runs else self._drain()):
            await trio.lowlevel.wait_readable(self._socket)
        return arrivals

    def reader(
        self, take: Callable[[list[Arrival]], None], take_lone: Callable[[Arrival], None] | None = None
    ) -> Reader:
        """What reads in place of `receive` (`OuterLoop.serve`)."""
        space, more_space, few, arrival = DATAGRAM_SPACE, ANCILLARY_SPACE, FEW_BYTES, _arrival

        def read(is_rested: bool) -> None:
            if is_rested and self._lone and take_lone is not None and self._receives_runs:
                # As `_drain_lone`, but that it need not be told whether the socket was asked in vain.
                try:
                    data, ancillary, _, source = self._socket.recvmsg(space, more_space)
                except OSError as error:
                    self._nothing_alone(error)
                    return
                size = len(data)
                if self.look is not None:
                    self.look(LOOKS)
                if not ancillary and size <= few:
                    take_lone(arrival((source, data, size, None)))
                    return
                arrivals = self._not_alone(source, data, ancillary)
                if arrivals:
                    take(arrivals)
                return
            arrivals = self._drain_lone() if is_rested and self._lone and self._receives_runs else self._drain()
            if arrivals:
                if self.look is not None:
                    left, self._left = self._left, 0  # whoever is called there has none of it
                    self.look(LOOKS)
                    self._left = left
                take(arrivals)

        return read

    def fileno(self) -> int:
        """The descriptor of the socket, negative once it is closed."""
        return self._socket.fileno()

    def _drain_lone(self) -> list[Arrival]:
        """The one datagram that most likely is there; an empty list if there is nothing."""
        self._more = self._unasked = False
        try:
            data, ancillary, _flags, source = self._socket.recvmsg(DATAGRAM_SPACE, ANCILLARY_SPACE)
        except OSError as error:
            self._nothing_alone(error)
            return []
        size = len(data)
        if not ancillary and size <= FEW_BYTES and size != DATAGRAM_SPACE:
            self._unasked = True
            return [_arrival((source, data, size, None))]
        return self._not_alone(source, data, ancillary)

    def _nothing_alone(self, error: OSError) -> None:
        if isinstance(error, BlockingIOError):
            return
        if error.errno not in PASSING_ERRNOS:
            raise self._lost(error) from error
        self.drops[refusal("udp", error)] += 1

    def _not_alone(self, source: Address, data: bytes, ancillary: list[tuple[int, int, bytes]]) -> list[Arrival]:
        """A run, or a long datagram."""
        size = len(data)
        self._more, self._lone = True, False
        if size == DATAGRAM_SPACE:
            self.drops["udp_truncated"] += 1
            return []
        return [Arrival(source, data, stride_of(ancillary, size) if ancillary else size)]

    def _drain(self) -> list[Arrival]:
        """What the socket has, up to the budgets; an empty list if it has nothing."""
        arrivals: list[Arrival] = []
        self._more = self._unasked = False
        self._left = 0
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise self._lost(failure) from failure
        try:
            if not self._receives_runs:
                self._take_plain(arrivals)
            elif self._bulk:
                self._take_many(arrivals, self.budget)
            else:
                self._take_many(arrivals, self._take_few(arrivals))
        except BlockingIOError:
            if arrivals:
                self._lone = len(arrivals) == 1 and len(arrivals[0].data) <= FEW_BYTES
                if not self._lone:  # a full buffer never holds just one: a lone datagram need not ask
                    self._count_overflows()
            return arrivals
        except OSError as error:
            if not arrivals:  # if there are some, the next call meets the same error
                raise self._lost(error) from error
            return arrivals
        self._more, self._lone = True, False
        self._count_overflows()
        return arrivals

    def _take_plain(self, arrivals: list[Arrival]) -> None:
        """Without offloads. Raises `OSError`, `BlockingIOError` when nothing is left, as do the other two."""
        take, space = self._socket.recvfrom, DATAGRAM_SPACE
        for _ in range(self.budget):
            try:
                data, source = take(space)
            except OSError as error:
                self._pass_over(error)
                continue
            if len(data) == space:
                self.drops["udp_truncated"] += 1
            else:
                arrivals.append(Arrival(source, data, len(data)))

    def _take_few(self, arrivals: list[Arrival]) -> int:
        """Take up to `FEW_DATAGRAMS`, each into memory of its own, but end with a long one or a run. What is left of the budget.

        For short datagrams that is cheapest: CPython gives back what they leave of a fresh buffer, in place.
        """
        take, space = self._socket.recvmsg, DATAGRAM_SPACE
        left = self.budget
        for _ in range(min(FEW_DATAGRAMS, left)):
            try:
                data, ancillary, _flags, source = take(space, ANCILLARY_SPACE)
            except OSError as error:
                self._pass_over(error)
                continue
            size = len(data)
            if size == space:
                self.drops["udp_truncated"] += 1
                continue
            stride = stride_of(ancillary, size) if ancillary else size
            arrivals.append(Arrival(source, data, stride))
            left -= -(-size // stride) if stride < size else 1
            if stride < size or size > FEW_BYTES:
                break
        return left

    def _take_many(self, arrivals: list[Arrival], left: int) -> None:
        """Take up to `left` datagrams into memory that stays, which saves 20 us a run of the allocator's work. What comes alone
        joins the run before it where it fits, as it would have in the kernel.
        """
        take, space, memories = self._socket.recvmsg_into, DATAGRAM_SPACE, self._memories()
        memory = next(memories)
        run_at = at = stride = before = 0  # `before`: bytes in the memories that are full
        run_source: Address | None = None
        is_run = False
        try:
            while left > 0 and before + at < RECEIVE_BUDGET_BYTES:
                if at > FULL_BYTES and (is_run or at + space > MEMORY_BYTES or at + stride - run_at >= space):
                    if run_source is not None:
                        arrivals.append(_arrived(memory, run_at, at, run_source, stride))
                    before += at
                    memory, run_source = next(memories), None
                    run_at = at = 0
                try:
                    size, ancillary, _, source = take((memory.view[at : at + space],), ANCILLARY_SPACE)
                except OSError as error:
                    self._pass_over(error)
                    left -= 1
                    continue
                if size == space:
                    self.drops["udp_truncated"] += 1
                    left -= 1
                    continue
                each = stride_of(ancillary, size) if ancillary else size
                if run_source is None and not arrivals and FULL_BYTES < size > each:
                    # What follows it is asked for by `more`.
                    arrivals.append(Arrival(source, memory.view[:size], each, memory))
                    self._left = RECEIVE_BUDGET_BYTES - size
                    left = 0
                    break
                is_run = each < size
                left -= -(-size // each) if is_run else 1
                joins = (
                    source == run_source
                    and 0 < each <= stride
                    and each in (stride, size)
                    and at + size - run_at < space
                    and not (at - run_at) % stride  # the last one was not a shorter one
                )
                if not joins:
                    if run_source is not None:
                        arrivals.append(_arrived(memory, run_at, at, run_source, stride))
                    run_at, run_source, stride = at, source, each
                at += size
        finally:
            if run_source is not None:
                arrivals.append(_arrived(memory, run_at, at, run_source, stride))
            self._bulk = self.budget - left >= FEW_DATAGRAMS

    def more(self) -> Arrival | None:
        """See `DatagramPort`."""
        if self._left <= 0:
            return None
        if self.look is not None:
            left, self._left = self._left, 0  # whoever is called there has none of it
            self._left = left - LOOK_COST_BYTES if self.look() else left
        memory = self._kept[0]
        try:
            size, ancillary, _, source = self._socket.recvmsg_into((memory.view[:DATAGRAM_SPACE],), ANCILLARY_SPACE)
        except OSError as error:
            self._left = 0
            self._note_end(error)
            return None
        each = stride_of(ancillary, size) if ancillary else size
        self._left = self._left - size if size > FULL_BYTES else 0
        if size == DATAGRAM_SPACE:
            self.drops["udp_truncated"] += 1
            return None
        return _arrival((source, memory.view[:size], each, memory))

    def stream(self, take: Callable[[Arrival], bool]) -> Arrival | None:
        """See `DatagramPort`. What runs of a bulk flow have in common is looked up once."""
        left, self._left = self._left, 0
        if left <= 0:
            return None
        receive, memory = self._socket.recvmsg_into, self._kept[0]
        room = (memory.view[:DATAGRAM_SPACE],)
        before, ancillary_before, each_before, data_before = 0, None, 0, memory.view[:0]
        is_urgent, number = self.is_urgent, 0
        while left > 0:
            number += 1
            if is_urgent is not None and not number % LOOK_EVERY and is_urgent():
                self._left = left
                return None  # `more` looks at it
            try:
                size, ancillary, _, source = receive(room, ANCILLARY_SPACE)
            except OSError as error:
                self._note_end(error)
                return None
            if size == before and ancillary == ancillary_before:
                arrival = _arrival((source, data_before, each_before, memory))
            else:
                if size == DATAGRAM_SPACE:
                    self.drops["udp_truncated"] += 1
                    return None
                before, ancillary_before, data_before = size, ancillary, memory.view[:size]
                each_before = stride_of(ancillary, size) if ancillary else size
                arrival = _arrival((source, data_before, each_before, memory))
            left = left - size if size > FULL_BYTES else 0
            if not take(arrival):
                self._left = left
                return arrival
        return None

    def _note_end(self, error: OSError) -> None:
        """Of what `receive` gave, and what follows it."""
        self._more = error.errno != errno.EAGAIN
        if error.errno in PASSING_ERRNOS:
            self.drops[refusal("udp", error)] += 1
        elif not isinstance(error, BlockingIOError):
            self._failure, self._lone = error, False  # the kernel tells it once

    def _memories(self) -> Iterator[RunMemory]:
        """All that a turn may need, the same ones in each turn."""
        yield from self._kept
        while True:
            self._kept.append(RunMemory(MEMORY_BYTES))
            yield self._kept[-1]

    def _pass_over(self, error: OSError) -> None:
        """Count an error that the socket survives. Raises the others."""
        if error.errno not in PASSING_ERRNOS:
            raise error
        self.drops[refusal("udp", error)] += 1

    def _lost(self, error: OSError) -> Exception:
        if self._socket.fileno() < 0:
            return trio.ClosedResourceError(f"{format_address(self.local)} was closed")
        return PortError(
            f"lost the UDP socket on {format_address(self.local)}",
            f"{errno.errorcode.get(error.errno or 0, 'error')}: {error.strerror}",
            "it is bound again on restart",
        )

    def _count_overflows(self) -> None:
        """What the kernel dropped because its receive buffer was full; of a run it counts one. Only a reader that lags has
        any: ask seldom.
        """
        try:
            seen = MEMINFO.unpack(self._socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO.size))[MEMINFO_DROPS]
        except OSError:  # before Linux 4.12, and in sandboxes that play the kernel: not counted, but carried
            return
        if fresh := (seen - self._overflows_seen) & 0xFFFFFFFF:
            self.drops["receive_buffer_full"] += fresh
            self._overflows_seen = seen

    def close(self) -> None:
        """See `DatagramPort`."""
        if self._socket.fileno() < 0:
            return
        if self.sparse is not None:
            self.sparse.close()
        if trio.lowlevel.in_trio_run():
            trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


_arrival: Callable[[tuple[Address, bytes | memoryview, int, RunMemory | None]], Arrival] = partial(
    tuple.__new__, Arrival
)
"""Like `Arrival._make`, and not a call of Python."""


def _arrived(memory: RunMemory, begin: int, end: int, source: Address, stride: int) -> Arrival:
    """What lies in `memory` from byte `begin` to `end`."""
    return Arrival(source, memory.view[begin:end], stride, None if begin else memory)
