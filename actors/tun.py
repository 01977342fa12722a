"""The kernel's TUN device behind `TunPort`.

Responsible for packets and super-packets in and out of its file descriptor. Not responsible for opening it (`tun_opening`), for addresses, MTU and routes (`netlink`), for
choosing a peer, or for looking into packets: what offloads ask of us is `tun_offload`.

Source: Linux `Documentation/networking/tuntap.rst` and `include/uapi/linux/if_tun.h`.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import trio

from holloway.actors.outer_loop import LOOK_COST_BYTES, LOOK_EVERY, LOOKS, Reader
from holloway.actors.ports import TunPort, refusal, stream
from holloway.actors.tun_offload import (
    BULK_TCP,
    MOST_TCP_HEADERS,
    NO_OFFLOAD,
    Joiner,
    agree,
    arrived,
    decline,
    has_virtio_header,
    is_bulk_tcp,
    pieces,
)
from holloway.actors.tun_rows import LEAST_ALIKE, RowReader
from holloway.actors.tun_steering import unsteer
from holloway.protocols.acknowledgements import Row
from holloway.protocols.errors import TunError
from holloway.protocols.packets import (
    FRAGMENT_BITS,
    PROTOCOL_TCP,
    Packet,
    SuperPacket,
    UnfinishedPacket,
    byte_length,
    destination,
)
from holloway.protocols.virtio import PLAIN, VIRTIO_HEADER_BYTES, OffloadedPacket, offloaded

RECEIVE_BUDGET = 128  # packets one `receive` takes before other tasks have their turn
RECEIVE_BUDGET_BYTES = 512 * 1024  # so much, and it ends too: a super-packet is many packets to those who seal it
RECEIVE_ROWS = 4  # of like packets, or so many
# A host that sends rows is sending more while we carry the last ones. Who asks to be woken then is woken by the first packet
# of the next row, and carries that alone, which costs half as much as to carry the row. So the device is looked at after a
# pause of a millisecond, which is what epoll makes of it, and no more than so often in vain.
PAUSE_S, PAUSES = 0.0005, 2
SPARSE_BUDGET = 16
"""Packets of flows that send little that go before one of a bulk flow."""
LEAST_COST_BYTES = (
    RECEIVE_BUDGET_BYTES // RECEIVE_BUDGET
)  # what a short packet takes of it, when it is asked for one by one
PLAIN_PORTS = slice(VIRTIO_HEADER_BYTES + 20, VIRTIO_HEADER_BYTES + 24)  # of TCP in IPv4 without options
FEW_PACKETS = 4  # that a host may have answered at once with
FEW_BYTES = 2048  # longer than any packet that is not to be cut
PACKET_SPACE = 65_536 + 16  # more than any IP packet and virtio header: no MTU somebody sets later can cut one
_TOO_MUCH_AT_ONCE = frozenset({errno.EINVAL, errno.ENOMEM, errno.ENOBUFS})  # of a super-packet: try its segments


class KernelTun(TunPort):
    """A TUN device of the kernel by its file descriptor, which it owns from now on and makes non-blocking.

    The descriptor must be attached already, without packet information (`open_tun` does that; a privileged process may
    also hand one over). With a virtio header, every offload that the kernel grants is used.
    """

    def __init__(self, descriptor: int, name: str, mtu: int, *, receive_super: bool = True) -> None:
        """`receive_super`: see `open_tun`. Raises `OSError` for a descriptor that is not attached."""
        self._has_header = has_virtio_header(descriptor)
        self.offloads: tuple[str, ...] = ()
        if self._has_header:
            self.offloads = agree(descriptor, receive_super=receive_super)
        else:
            decline(descriptor)
        os.set_blocking(descriptor, False)
        self.name = name
        self.mtu = mtu
        self._superseded = 0
        self.drops: Counter[str] = Counter()
        self._descriptor = descriptor
        self._joiner = Joiner()
        self._rows = RowReader()
        self._acknowledgements = Row(VIRTIO_HEADER_BYTES)
        self._alike: tuple[bytes, bytes, int, bytes | None] = (
            b"",
            b"",
            0,
            None,
        )  # what packets of a bulk flow have in common
        self._given = SuperPacket(b"", 0)  # one of them; nobody keeps it, so it is used again
        self._pauses = 0  # to be made yet before we ask to be woken
        self._more = False  # the last budget was used up: more may be waiting in the device
        self._lone = False  # short packets come alone
        self._left = 0  # of the budget
        self._unasked = False  # the last one was given on before the device was asked for another
        self._are_held = False  # there are packets that were read and have not been given on
        self._kept: SuperPacket | None = None  # one that `stream` has read and leaves to `more`
        self.sparse: KernelTun | None = None
        """Another queue, to be read first, which it owns (`add_sparse`)."""
        self._answers = descriptor  # where the host's answer to what comes alone is looked for
        self.budget = RECEIVE_BUDGET
        """Packets that one `receive` takes."""
        self.look: Callable[..., bool] | None = None
        """Called between two packets of a bulk flow, now and then in a stream of them if `is_urgent`, and before others are handed on; see
        `OuterLoop.look`."""
        self.is_urgent: Callable[[], object] | None = None

    def add_sparse(self, queue: KernelTun) -> None:
        """From now on it has `queue`, to which the kernel gives what is of flows that send little."""
        queue.drops, queue.budget = self.drops, SPARSE_BUDGET
        self.sparse, self._answers, self.answers_sparse = queue, queue.fileno(), True

    @property
    def superseded(self) -> int:
        """See `TunPort`."""
        return self._superseded if self.sparse is None else self._superseded + self.sparse._superseded

    @superseded.setter
    def superseded(self, number: int) -> None:
        self._superseded = number
        if self.sparse is not None:
            self.sparse._superseded = 0

    def set_local(self, addresses: Iterable[bytes]) -> None:
        """See `TunPort`. With a virtio header, TCP segments to these addresses are joined from now on."""
        if self._has_header:
            self._joiner.set_local(addresses)

    async def receive(self) -> list[Packet]:
        """See `TunPort`. Takes up to `RECEIVE_BUDGET` packets, and no more once there are `RECEIVE_BUDGET_BYTES`."""
        if self._descriptor < 0:
            raise trio.ClosedResourceError(f"{self.name} is closed")
        if self._unasked:
            await trio.lowlevel.checkpoint_if_cancelled()
            if packets := self._drain(RECEIVE_BUDGET):
                self._are_held = True  # whoever takes meanwhile would have what came later first
                await trio.lowlevel.cancel_shielded_checkpoint()
                self._are_held = False
                return packets
            await trio.lowlevel.wait_readable(self._descriptor)
        elif self._more:
            await trio.lowlevel.checkpoint()
        elif self._pauses:
            self._pauses -= 1
            await trio.sleep(PAUSE_S)
        else:
            await trio.lowlevel.wait_readable(self._descriptor)
        while not (packets := self._drain_lone() if self._lone else self._drain(RECEIVE_BUDGET)):
            await trio.lowlevel.wait_readable(self._descriptor)
        return packets

    def reader(self, take: Callable[[list[Packet]], None], take_lone: Callable[[bytes], None] | None = None) -> Reader:
        """What reads in place of `receive` (`OuterLoop.serve`)."""
        read_some, header, plain, at = os.read, len(NO_OFFLOAD), NO_OFFLOAD, VIRTIO_HEADER_BYTES

        def read(is_rested: bool) -> None:
            if is_rested and self._lone and take_lone is not None:
                # As `_drain_lone`, but that it need not be told whether the device was asked in vain.
                try:
                    data = read_some(self._descriptor, PACKET_SPACE)
                except OSError:
                    pass  # `_drain` meets the same error, or there is something now
                else:
                    self._look(LOOKS)
                    if data[:header] == plain and self._has_header and at < len(data) <= FEW_BYTES:
                        take_lone(data[at:])
                    else:
                        packets = self._judged(data)
                        if packets:
                            take(packets)
                    return
            self._pauses = 0  # it makes none: to be woken costs that loop little
            packets = self._drain_lone() if is_rested and self._lone else self._drain(self.budget)
            if packets:
                self._look(LOOKS)
                take(packets)

        return read

    def fileno(self) -> int:
        """The descriptor, which stays this port's. Negative once it is closed."""
        return self._descriptor

    def _look(self, rounds: int) -> bool:
        """While something that was read before waits to be handed on: nobody who is called there reads here."""
        if self.look is None:
            return False
        before, self._left, self._are_held = (self._left, self._are_held), 0, True
        try:
            return self.look(rounds)
        finally:
            self._left, self._are_held = before

    def more(self) -> Packet | None:
        """See `TunPort`."""
        if (self._left > 0 or self._kept is not None) and self._look(1):
            self._left -= LOOK_COST_BYTES
        if self._kept is not None:
            kept, self._kept = self._kept, None
            return kept
        while self._left > 0:
            try:
                data = os.read(self._descriptor, PACKET_SPACE)
            except OSError as error:
                self._left = 0
                self._more = error.errno != errno.EAGAIN
                return None
            self._left -= max(len(data), LEAST_COST_BYTES)
            packet = arrived(data) if self._has_header else data
            if packet is not None:
                return packet
            self.drops["tun_malformed"] += 1
        return None

    def stream(self, like: SuperPacket, take: Callable[[SuperPacket], bool]) -> Packet | None:
        """See `TunPort`. What is common to a bulk flow is looked into once."""
        if not self._has_header:
            return stream(self.more, like, take)
        read, descriptor, wanted = os.read, self._descriptor, destination(like.data)
        head_before, addresses_before, offset_before, for_whom = self._alike
        if for_whom != wanted:
            head_before = b""
        given = self._given
        left, self._left = self._left, 0
        is_urgent, number, ports_before = self.is_urgent, 0, b""
        while left > 0:
            number += 1
            if is_urgent is not None and not number % LOOK_EVERY and is_urgent():
                self._left = left
                return None  # `more` looks at it
            try:
                data = read(descriptor, PACKET_SPACE)
            except OSError as error:
                self._more = error.errno != errno.EAGAIN
                return None
            size = len(data)
            left -= max(LEAST_COST_BYTES, size)
            if is_urgent is not None and (ports := data[PLAIN_PORTS]) != ports_before:
                ports_before = ports
                if is_urgent() and type(first := arrived(data)) is SuperPacket:
                    self._kept, self._left = first, left  # what its flow has sent before may be there
                    return None
            if size >= BULK_TCP.size:
                head, length, fragment, protocol, addresses, offset = BULK_TCP.unpack_from(data)
                if (
                    head == head_before
                    and addresses == addresses_before
                    and offset == offset_before
                    and length == size - VIRTIO_HEADER_BYTES
                    and protocol == PROTOCOL_TCP
                    and not fragment & FRAGMENT_BITS
                    and length >= MOST_TCP_HEADERS
                ):
                    given.data = memoryview(data)[VIRTIO_HEADER_BYTES:]
                    if take(given):
                        continue
                    self._left = left
                    return SuperPacket(given.data, given.segment_size, known_layout=given.known_layout)
            packet = arrived(data)
            if packet is None:
                self.drops["tun_malformed"] += 1
                continue
            if type(packet) is not SuperPacket or destination(packet.data) != wanted or not take(packet):
                self._left = left
                return packet
            if is_bulk_tcp(data):
                head_before, addresses_before, offset_before = head, addresses, offset
                self._alike = head, addresses, offset, wanted
                given.segment_size, given.known_layout = packet.segment_size, packet.known_layout
        return None

    def take(self) -> list[Packet]:
        """See `TunPort`. Takes at most `FEW_PACKETS`."""
        if self._descriptor < 0 or self._are_held:
            return []
        try:
            packets = self._drain(FEW_PACKETS)
        except TunError:  # the next `receive` meets the same error
            return []
        finally:
            self._left = 0  # nobody asks for more of this
        if packets:
            self._look(LOOKS)
        return packets

    def _drain_lone(self) -> list[Packet]:
        """Where one short packet after another comes alone, each is given on before the device is asked for more: to ask in vain
        costs as much as to be asked.
        """
        try:
            data = os.read(self._descriptor, PACKET_SPACE)
        except OSError:
            return self._drain(RECEIVE_BUDGET)  # meets the same error, or there is something now
        return self._judged(data)

    def _judged(self, data: bytes) -> list[Packet]:
        """What one read gave where packets come alone."""
        packet = arrived(data) if self._has_header else data
        self._unasked = self._lone = len(data) <= FEW_BYTES
        self._more = not self._lone
        if packet is None:
            self.drops["tun_malformed"] += 1
            return []
        return [packet]

    def _drain(self, budget: int) -> list[Packet]:
        packets: list[Packet] = []
        self._more = self._unasked = False
        self._left = 0
        left = RECEIVE_BUDGET_BYTES
        try:
            if self._rows.is_expected and budget == RECEIVE_BUDGET:
                for _ in range(RECEIVE_ROWS):
                    left -= self._read_row(packets)
                    if not self._rows.is_expected:
                        break
                    self._pauses = PAUSES if len(packets) > 1 else self._pauses
                self._more = True
                return packets
            left = self._read_each(packets, budget)
        except BlockingIOError:
            if len(packets) >= LEAST_ALIKE:
                self._rows.note(packets)
            if packets:
                self._lone = not self._pauses and len(packets) == 1 and byte_length(packets[0]) < FEW_BYTES
            return packets
        except OSError as error:
            if self._descriptor < 0:
                raise trio.ClosedResourceError(f"{self.name} was closed") from None
            if not packets:  # otherwise the next call meets the same error
                raise TunError(
                    f"lost the TUN device {self.name}",
                    f"{errno.errorcode.get(error.errno or 0, 'error')}: somebody deleted it, or its namespace is gone",
                    "it is made again on restart; `ip monitor link` shows who deletes it",
                ) from error
            return packets
        self._more, self._lone = True, False
        if len(packets) >= LEAST_ALIKE:
            self._rows.note(packets)
        self._left = left if packets and type(packets[-1]) is SuperPacket else 0
        return packets

    def _read_each(self, packets: list[Packet], budget: int) -> int:
        """Up to `budget` of them, or a super-packet: what follows that is asked for by `more`. How many bytes more may be read. Raises
        `OSError`, `BlockingIOError` when there is nothing more.
        """
        descriptor, read, has_header, left = self._descriptor, os.read, self._has_header, RECEIVE_BUDGET_BYTES
        row, last = self._acknowledgements, b""  # what `row` was asked about, while nothing has come since
        try:
            for _ in range(budget):
                # CPython gives back the unused space in place; readv into one kept buffer and a copy cost 0.3 us more.
                data = read(descriptor, PACKET_SPACE)
                left -= len(data)
                if has_header and len(data) == row.length:
                    is_superseded = row.supersedes(data)
                    if last and is_superseded:
                        self._superseded += 1
                    elif last:
                        self._add(last, packets)
                    last = data
                    continue
                if last:
                    self._add(last, packets)
                    last = b""
                packet = arrived(data) if has_header else data
                if packet is None:
                    self.drops["tun_malformed"] += 1
                    continue
                packets.append(packet)
                if left <= 0 or type(packet) is SuperPacket:
                    break
        finally:
            if last:
                self._add(last, packets)
        return left

    def _add(self, data: bytes, packets: list[Packet]) -> None:
        packet = arrived(data) if self._has_header else data
        if packet is None:
            self.drops["tun_malformed"] += 1
        else:
            packets.append(packet)

    def _read_row(self, packets: list[Packet]) -> int:
        """How many bytes were read. Raises `OSError`."""
        found, size = self._rows.read(self._descriptor)
        for packet in found:
            if packet is None:
                self.drops["tun_malformed"] += 1
            else:
                packets.append(packet)
        return size

    def send(self, packets: Sequence[Packet]) -> None:
        """See `TunPort`. A super-packet that is malformed is `tun_malformed`; one that the device does not take is written
        as its segments.
        """
        if len(packets) > 1 and self._joiner.is_active:
            packets = self._joiner.join(packets)
        descriptor, writev, has_header = self._descriptor, os.writev, self._has_header
        for packet in packets:
            if isinstance(packet, SuperPacket):
                ready = packet if isinstance(packet, OffloadedPacket) else offloaded(packet) if has_header else None
                if ready is None or not has_header:
                    self._send_pieces(packet)
                    continue
                try:
                    writev(descriptor, (ready.virtio, ready.data))
                except OSError as error:
                    self._not_taken(packet, error)
                continue
            if isinstance(packet, UnfinishedPacket):
                packet = packet.finished()
            try:
                writev(descriptor, (PLAIN, packet) if has_header else (packet,))
            except OSError as error:
                self.drops[refusal("tun", error)] += 1

    def send_bulk(self, packet: SuperPacket) -> None:
        """See `TunPort`."""
        if not self._has_header or not isinstance(packet, OffloadedPacket):
            self.send((packet,))
            return
        try:
            os.writev(self._descriptor, (packet.virtio, packet.data))
        except OSError as error:
            self._not_taken(packet, error)

    def send_lone(self, packet: bytes) -> list[Packet]:
        """See `TunPort`. Takes one packet."""
        try:
            os.write(self._descriptor, PLAIN + packet if self._has_header else packet)
        except OSError as error:
            self.drops[refusal("tun", error)] += 1
            return []
        if self._are_held and self._answers == self._descriptor:
            return []
        try:
            data = os.read(self._answers, PACKET_SPACE)
        except OSError:  # nothing; or the next `receive` meets the same error
            return []
        if data[: len(NO_OFFLOAD)] == NO_OFFLOAD and self._has_header and len(data) > VIRTIO_HEADER_BYTES:
            return [data[VIRTIO_HEADER_BYTES:]]  # `arrived` would say the same
        answer = arrived(data) if self._has_header else data
        if answer is None:
            self.drops["tun_malformed"] += 1
            return []
        return [answer]

    def _not_taken(self, packet: SuperPacket, error: OSError) -> None:
        if error.errno in _TOO_MUCH_AT_ONCE:
            self._send_pieces(packet)
        else:
            self.drops[refusal("tun", error)] += 1

    def _send_pieces(self, packet: SuperPacket) -> None:
        segments = pieces(packet)
        if not segments:
            self.drops["tun_malformed"] += 1
        for segment in segments:
            try:
                os.writev(self._descriptor, (PLAIN, segment) if self._has_header else (segment,))
            except OSError as error:
                self.drops[refusal("tun", error)] += 1

    def close(self) -> None:
        """See `TunPort`. A device that is not persistent disappears with its descriptor."""
        if self._descriptor < 0:
            return
        if self.sparse is not None:
            self.sparse.close()
            with suppress(OSError):  # a persistent device would go on sorting, for others
                unsteer(self._descriptor)
        if trio.lowlevel.in_trio_run():
            trio.lowlevel.notify_closing(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
