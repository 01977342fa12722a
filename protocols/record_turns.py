"""The records of one turn of a bulk flow: super-packets sealed one after another, and runs opened one after another.

In a turn nothing else happens to the key, and no time passes. So what depends on the key, on the path or on the length of a
packet is looked up once, and what is counted is counted at the end: each record then touches little more than its own
bytes, which is most of what it costs, as the 60 KB of it drive everything else out of the caches of the processor.

Parts of `RecordKeys`, which has one of each for all its turns. Not responsible for what is unusual (pieces, records that several
packets share, compression): that is left alone, untouched, for `RecordKeys.seal` and `RecordKeys.open`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag

from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival, RunMemory
from holloway.protocols.events import DropReason
from holloway.protocols.mss import begins_connection
from holloway.protocols.noise import TAG_BYTES
from holloway.protocols.packets import IPV6_HEADER_BYTES, MAX_SEGMENTS, Layout, Packet, SuperPacket
from holloway.protocols.record_wire import (
    HEADER,
    HEADER_BYTES,
    MAX_DATAGRAMS,
    MAX_SEALED_BYTES,
    SIZE_BYTES,
    SPREAD_BITS,
    RecordKind,
    join_run,
)
from holloway.protocols.records import PLAIN_TCP, capacity, is_right, only_plain_tcp, super_packets_of
from holloway.protocols.replay import MAX_ROW
from holloway.protocols.runs import Run
from holloway.protocols.transport import MIN_TRANSPORT_BYTES

if TYPE_CHECKING:
    from holloway.protocols.record_keys import RecordKeys
    from holloway.protocols.tunnel import Tunnel

MAX_RECORDS = MAX_ROW
"""No turn has more of them."""

_SPREAD_MASK = (1 << SPREAD_BITS) - 1
_SUPER_PACKETS = RecordKind.SUPER_PACKETS.value


class SealingTurn:
    """Super-packets into records, each of which leaves before the next is sealed, as all use the same memory. Once a turn is closed,
    `records`, `packets`, `bytes` and `stride` say what was sealed: segments, bytes of datagrams, and the longest datagram.
    """

    __slots__ = (
        "_alike",
        "_count",
        "_datagrams",
        "_encrypt_into",
        "_first",
        "_heads",
        "_keys",
        "_kind",
        "_last",
        "_layout",
        "_length",
        "_limit",
        "_most",
        "_numbers",
        "_padding",
        "_plaintext_bytes",
        "_prefix",
        "_receiver",
        "_run",
        "_sealed",
        "_segment",
        "_segments",
        "bytes",
        "is_narrow",
        "packets",
        "records",
        "room",
        "stride",
    )

    def __init__(self, keys: RecordKeys, room: int, *, is_narrow: bool) -> None:
        """`room`: inner bytes a datagram. `is_narrow`: what begins a connection is to be left alone."""
        self.room, self.is_narrow = room, is_narrow
        self._encrypt_into = keys._seal.encrypt_into
        self._receiver, self._kind, self._first = keys.remote_index, _SUPER_PACKETS | keys._mark, keys._first_out
        self._keys: RecordKeys | None = None  # only in a turn: they have us
        self._most = self._limit = self._last = 0
        self.records = self.packets = self.bytes = self.stride = self._datagrams = self._plaintext_bytes = 0
        # Of packets like the last one:
        self._alike = 0  # how many
        self._length = self._segment = self._segments = self._count = 0
        self._layout: Layout | None = None
        self._prefix = self._padding = self._numbers = b""

    def begin(self, keys: RecordKeys, last: int, now: float) -> None:
        """The first thing in a turn. `last`: the number of records under the key that is not to be passed."""
        self._keys, self._last = keys, last
        most = keys._size.size(now)
        if most != self._most:
            self._most, self._limit, self._layout = most, capacity(self.room, most), None
        self.records = self.packets = self.bytes = self.stride = self._datagrams = self._plaintext_bytes = 0

    def seal(self, packet: SuperPacket) -> Run | None:
        """A run, good until the next is sealed. None: nothing has happened."""
        data = packet.data
        if (
            len(data) != self._length
            or packet.segment_size != self._segment
            or packet.known_layout is not self._layout
            or self._layout is None
        ) and not self._prepare(packet):
            return None
        keys = self._keys
        assert keys is not None
        number = keys._sent
        if number >= self._last or (self.is_narrow and begins_connection(packet)):
            return None
        keys._sent = number + 1
        first = HEADER.pack(self._receiver, 0, self._kind, (self._first + number) << SPREAD_BITS | self._count - 1)
        self._encrypt_into(first[4:], b"".join((self._prefix, data, self._padding)), None, self._sealed)
        heads = self._heads
        heads[:] = first * self._count
        heads[4::HEADER_BYTES] = self._numbers
        self._alike += 1
        return self._run

    def _prepare(self, packet: SuperPacket) -> bool:
        """Look up what packets like this one have in common. Whether they may be sealed here."""
        self._count_alike()
        data, size, layout = packet.data, packet.segment_size, packet.layout
        length = SIZE_BYTES + len(data)
        self._layout = None
        if (
            layout is None
            or not length <= self._limit < 2 * (length - SIZE_BYTES)
            or not size < length - SIZE_BYTES - layout.payload_at <= size * MAX_SEGMENTS
            or length <= self.room  # one datagram
        ):
            return False
        sealed = length + TAG_BYTES
        keys = self._keys
        assert keys is not None
        self._count = -(-sealed // (self.room + TAG_BYTES))
        padding = -sealed % self._count
        self._heads, self._sealed, self._numbers, self._run = keys._buffers.only(
            self._count, (sealed + padding) // self._count
        )
        self._prefix, self._padding = size.to_bytes(SIZE_BYTES, "little"), bytes(padding)
        self._length, self._segment, self._layout = len(data), size, layout
        self._segments = -(-(len(data) - layout.payload_at) // size)
        return True

    def _count_alike(self) -> None:
        number, self._alike = self._alike, 0
        if number:
            run = self._run
            self.records += number
            self.packets += number * self._segments
            self.bytes += number * run.length
            self.stride = max(self.stride, run.stride)
            self._datagrams += number * self._count
            self._plaintext_bytes += number * (SIZE_BYTES + self._length + len(self._padding))

    def close(self) -> None:
        """The last thing in a turn."""
        keys, self._keys = self._keys, None
        assert keys is not None
        if self._alike:
            self._count_alike()
        if self.records:
            keys._bytes += self._plaintext_bytes
            size = keys._size
            size.records += self.records
            size.datagrams += self._datagrams


class OpeningTurn:
    """Runs into super-packets, each of which is delivered before the next is opened, as all use the same memory. Once a turn is
    closed, `records`, `packets` and `bytes` say what was opened: segments that are good, and bytes of authentic datagrams;
    `has_data`, whether that was more than keepalives.
    """

    __slots__ = (
        "_alike",
        "_count",
        "_decrypt_into",
        "_end",
        "_home",
        "_index",
        "_is_late",
        "_is_narrow",
        "_is_over",
        "_keys",
        "_kind",
        "_known",
        "_memory",
        "_next",
        "_now",
        "_packet",
        "_parts",
        "_plaintext",
        "_row",
        "_segments",
        "_size",
        "_stride",
        "_tail_at",
        "_trusted",
        "_tunnel",
        "bytes",
        "has_data",
        "packets",
        "records",
    )

    def __init__(self, keys: RecordKeys) -> None:
        self._decrypt_into = keys._receive.decrypt_into
        self._packet: SuperPacket
        self._index, self._kind, self._end = keys.local_index, _SUPER_PACKETS | keys._mark, keys._end_in
        self._keys: RecordKeys | None = None  # only in a turn: they have us
        self._tunnel: Tunnel | None = None  # likewise
        self.records = self.packets = self.bytes = self._next = self._row = 0
        self.has_data = self._is_over = self._is_late = self._is_narrow = False
        # Of runs like the last one:
        self._stride = self._count = self._tail_at = 0
        self._size = -1  # none is like it
        self._memory: RunMemory | None = None
        self._parts: Sequence[memoryview] | None = None
        # Of packets like the last one:
        self._alike = self._segments = 0
        self._known: tuple[object, ...] | None = None
        self._trusted: tuple[object, ...] | None = None  # the same, once the peer may send them

    def begin(self, keys: RecordKeys, tunnel: Tunnel, home: Address, now: float) -> None:
        """The first thing in a turn. `home`: where the peer is authenticated at. `tunnel`: whose `inside` says what the peer may send,
        and takes what is not to be delivered straight.
        """
        self._keys, self._tunnel, self._home, self._now = keys, tunnel, home, now
        self._is_narrow = tunnel.path.size < tunnel.widest
        self.records = self.packets = self.bytes = 0
        self.has_data = self._is_over = self._is_late = False
        self._next = max(keys._window.top + 1, keys._first_in)  # new, and above all others
        self._row = 0  # how many counters before it are not counted yet
        self._trusted = None

    def open(self, arrival: Arrival) -> Packet | None:
        """A super-packet, good until the next is opened. An empty packet: there is nothing to deliver; what there may be is with
        the tunnel. None: nothing has happened.
        """
        source, data, stride, memory = arrival
        is_alike = stride == self._stride and len(data) == self._size and memory is self._memory
        if not is_alike and len(data) < MIN_TRANSPORT_BYTES:
            return None
        index, number, kind, word = HEADER.unpack_from(data)
        if kind != self._kind or index != self._index or number or source != self._home:
            return None
        if not is_alike and not self._fit(arrival):
            return None
        counter, last = word >> SPREAD_BITS, self._count - 1
        if (
            counter >= self._end
            or word & _SPREAD_MASK != last
            or HEADER.unpack_from(data, self._tail_at) != (index, last, kind, word)  # see `join_run`
            or self._is_over
            or (counter != self._next and not self._skips_to(counter))
        ):
            return None
        parts = self._parts
        joined = join_run(data, 0, stride) if parts is None else b"".join(parts)
        assert joined is not None
        plaintext = self._plaintext
        try:
            self._decrypt_into(bytes(data[4:HEADER_BYTES]), joined, None, plaintext)
        except InvalidTag:  # forged, or pieces of several records: the general way finds out
            return None
        self._row += 1
        self._next = counter + 1
        self._is_over = self._row == MAX_ROW
        found = PLAIN_TCP.unpack_from(plaintext) if len(plaintext) >= PLAIN_TCP.size else None
        if found == self._trusted and found is not None and is_right(plaintext, self._packet):
            self._alike += 1
            return self._packet
        return self._judge(found, source)

    def _skips_to(self, counter: int) -> bool:
        """Something was lost, or has overtaken this: whether it is new."""
        self._count_row()
        keys = self._keys
        assert keys is not None
        if counter < keys._first_in or not keys._window.is_new(counter):
            return False
        self._next = counter
        self._is_late = counter < keys._window.top
        if self._is_late:
            self._trusted = None  # so that it is looked at: what follows it need not be new
        return True

    def _fit(self, arrival: Arrival) -> bool:
        """Look up what runs like this one have in common. Whether they may be opened here."""
        _, data, stride, memory = arrival
        size = len(data)
        if not MIN_TRANSPORT_BYTES <= stride <= size:
            return False
        count = size // stride
        sealed = size - count * HEADER_BYTES
        if count * stride != size or count > MAX_DATAGRAMS or sealed > MAX_SEALED_BYTES:
            return False
        keys = self._keys
        assert keys is not None
        self._count_row()
        self._count_alike()
        self._known = self._trusted = None
        self._stride, self._size, self._memory, self._count, self._tail_at = stride, size, memory, count, size - stride
        self._parts = None if memory is None else memory.parts(0, stride, count, HEADER_BYTES)
        self._plaintext = keys._buffers.opened[: sealed - TAG_BYTES]
        return True

    def _judge(self, found: tuple[object, ...] | None, source: Address) -> Packet:
        """What to do with a record whose packet is not like the one before."""
        self._count_alike()
        self._trusted = None
        plaintext, tunnel, keys = self._plaintext, self._tunnel, self._keys
        assert tunnel is not None
        assert keys is not None
        if self._is_late:
            self._count_row()
            self._next, self._is_late = keys._window.top + 1, False
        inside, journal = tunnel.inside, keys._journal
        only: SuperPacket | None
        if found is not None and found == self._known and is_right(plaintext, self._packet):
            only = self._packet
        else:
            only = only_plain_tcp(plaintext, self._count)
        if only is None:
            found = None
            packets = super_packets_of(bytes(plaintext), self._count)
            if packets is None:
                journal.drop(DropReason.MALFORMED, source)
                return b""
            if not packets:
                return b""
            self.has_data = True
            if len(packets) > 1:
                self.packets += inside.add(RecordKind.SUPER_PACKETS, packets, source)
                self._is_over = bool(inside.packets)
                return b""
            only = packets[0]
        self.has_data = True
        reason = inside.inspect(bytes(only.data[:IPV6_HEADER_BYTES]))
        if reason is not None:
            journal.drop(reason, source, only.count)
            return b""
        if self._is_narrow:
            self.packets += only.count
            if begins_connection(only):  # it is told of the path
                self._is_over = True
                inside.packets.append(only)
                return b""
        elif found is None:
            self.packets += only.count
        else:
            if found != self._known:
                self._known, self._packet, self._segments = found, only, only.count
            self._trusted, self._alike = found, 1
        return only

    def _count_alike(self) -> None:
        self.packets += self._alike * self._segments
        self._alike = 0

    def _count_row(self) -> None:
        """The window moves, and the meter hears of the records."""
        row, self._row = self._row, 0
        if row:
            keys, first = self._keys, self._next - row
            assert keys is not None
            self.records += row
            self.bytes += row * self._size
            if first > keys._window.top:
                keys._window.commit_row(first, row)
                is_due = keys._meter.arrived_row(first, row, self._now, row * self._count)
            else:  # one that is late
                keys._window.commit(first)
                is_due = keys._meter.arrived(first, self._count, self._now)
            if is_due:
                keys.is_waiting = True

    def close(self) -> None:
        """The last thing in a turn."""
        self._count_row()
        self._count_alike()
        self._keys = self._tunnel = None
