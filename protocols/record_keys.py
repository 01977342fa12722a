"""The key slot of the `aes-gcm` suite: packets in records that span as many datagrams as the path bears.

Joins the parts: what is in a record (`records`), records as datagrams (`record_wire`), how many datagrams a record may have
(`record_size`), and pieces that came out of order (`reassembly`). All of them begin anew with each key, so that nothing
which was said under one key is believed under another.

Not responsible for choosing a slot, for timers, or for who may send which packet.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag

from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.clear_text import ClearText
from holloway.protocols.compression import Codec, Packer
from holloway.protocols.events import DropReason
from holloway.protocols.journal import Journal
from holloway.protocols.memory import MemoryBudget
from holloway.protocols.noise import TAG_BYTES, DerivedKeys
from holloway.protocols.offers import Terms
from holloway.protocols.packets import Packet, UnfinishedPacket
from holloway.protocols.reassembly import Reassembly
from holloway.protocols.record_kinds import KINDS, misfit
from holloway.protocols.record_rows import open_row, seal_row
from holloway.protocols.record_size import LossMeter, RecordSize
from holloway.protocols.record_turns import MAX_RECORDS, OpeningTurn, SealingTurn
from holloway.protocols.record_wire import (
    CLEAR_MARK,
    HEADER,
    HEADER_BYTES,
    MAX_DATAGRAMS,
    MAX_SEALED_BYTES,
    PACKED_MARK,
    SPARSE_MARK,
    SPREAD_BITS,
    Record,
    RecordKind,
    first_counter,
    join_run,
    open_record,
)
from holloway.protocols.records import packets_of, plan, super_packets_of
from holloway.protocols.replay import ReplayWindow
from holloway.protocols.runs import Run, lone_run
from holloway.protocols.sealing import seal
from holloway.protocols.suites import Suite
from holloway.protocols.transport import MIN_TRANSPORT_BYTES, MOST_COUNTERS, NOTHING, Opened, TransportKeys

if TYPE_CHECKING:
    from holloway.protocols.tunnel import Tunnel

REKEY_AFTER_BYTES = 1 << 37
"""With 2^33 blocks of AES under one key its outputs stay 2^-63 from random ones (NIST SP 800-38D; RFC 8446, section 5.5)."""
REJECT_AFTER_BYTES = 1 << 38

_SPREAD_MASK = (1 << SPREAD_BITS) - 1
_CLEAR, _PACKED, _SPARSE = CLEAR_MARK, PACKED_MARK, SPARSE_MARK
_PACKETS = RecordKind.PACKETS.value
_SUPER_PACKETS = RecordKind.SUPER_PACKETS.value
_REPORT = RecordKind.REPORT.value  # kinds from here on carry no packets
_MARKED = 0x0100  # what is not less has marks
_PLACES, _SPARSE_HEAD = 32, 0xFFFF_0000_FFFF_FFFF  # more bits than a key has records; receiver index and kind
SPARSE_WINDOW = 1024
"""Counters of the sparse lane that are remembered. What takes it stands in no queue."""


class RecordKeys(TransportKeys):
    """See `TransportKeys`."""

    __slots__ = (
        "_buffers",
        "_bytes",
        "_end_in",
        "_first_in",
        "_first_out",
        "_fresh_until",
        "_kinds",
        "_lone_in",
        "_lone_out",
        "_mark",
        "_meter",
        "_opening",
        "_packer",
        "_pieces",
        "_rows",
        "_sealing",
        "_size",
        "_sparse_in",
        "_sparse_kind",
        "_sparse_newest",
        "_sparse_out",
        "_sparse_sent",
        "_sparse_window",
    )

    def __init__(
        self,
        suite: Suite,
        derived: DerivedKeys,
        journal: Journal,
        *,
        is_initiator: bool,
        created_at: float,
        expires_at: float,
        epoch: int,
        memory: MemoryBudget | None = None,
        codec: Codec | None = None,
    ) -> None:
        """`memory`: what pieces of records take from, by default a budget of their own. `codec`: without one nothing was agreed
        on that would need it.
        """
        super().__init__(
            suite,
            derived,
            journal,
            is_initiator=is_initiator,
            created_at=created_at,
            expires_at=expires_at,
            epoch=epoch,
        )
        terms = derived.terms
        if Terms.CLEAR in terms:
            self._seal, self._receive = ClearText(derived.send), ClearText(derived.receive)
        self._packer = Packer(codec, journal.packing) if codec is not None and Terms.LZ4 in terms else None
        self._mark = _CLEAR if Terms.CLEAR in terms else 0
        self._rows = (_PACKETS | self._mark, RecordKind.UNFINISHED.value | self._mark)
        self._kinds = KINDS[terms if self._packer is not None else terms & ~Terms.LZ4]
        # What `HEADER` begins with in a record that is one datagram: to have that module's code fetched costs more than all it does.
        self._sparse_kind = _PACKETS | self._mark | _SPARSE
        self._lone_out = HEADER.pack(self.remote_index, 0, _PACKETS | self._mark, 0)[:8]
        self._lone_in = (_PACKETS | self._mark) << 48 | self.local_index  # of them the first 8 bytes as a number
        self._sparse_out, self._sparse_in = (
            self._sparse_kind << 48 | index for index in (self.remote_index, self.local_index)
        )
        self._sparse_sent, self._sparse_newest = 0, NOTHING
        self._sparse_window = ReplayWindow(SPARSE_WINDOW)
        self._first_out, self._first_in = first_counter(derived.send), first_counter(derived.receive)
        self._end_in = self._first_in + self._limit
        self._fresh_until = min(suite.rekey_after_messages, self._limit - MOST_COUNTERS)
        self._bytes = 0
        self._size = RecordSize()
        self._meter = LossMeter(self._first_in)
        memory = memory or MemoryBudget()
        self._pieces = Reassembly(journal.drop, memory)
        self._buffers = memory.sealing
        self._sealing: SealingTurn | None = None
        self._opening: OpeningTurn | None = None

    @property
    def newest(self) -> int:
        """See `TransportKeys`. A record of the sparse lane says how many of the other lane were sealed before it."""
        top = self._window.top
        return max((top - self._first_in) << _PLACES if top >= 0 else NOTHING, self._sparse_newest)

    @property
    def is_worn(self) -> bool:
        """See `TransportKeys`."""
        return (
            self._bytes >= REKEY_AFTER_BYTES or max(self._sent, self._sparse_sent) >= self._suite.rekey_after_messages
        )

    def can_seal(self, packets: Sequence[Packet]) -> bool:
        """See `TransportKeys`."""
        return self._bytes < REJECT_AFTER_BYTES and super().can_seal(packets)

    # Sending.

    def seal(self, packets: Sequence[Packet], room: int, now: float) -> list[Run]:
        """See `TransportKeys`. A packet that does not fit in a datagram is spread over several."""
        if len(packets) == 1 and isinstance(packet := packets[0], bytes) and len(packet) <= room:
            # Nobody shares its record: it takes the short way, there as well as here.
            packet = packet.finished() if isinstance(packet, UnfinishedPacket) else packet
            if self._packer is not None:
                record = self._packer.pack(Record(_PACKETS, packet, 1), room + TAG_BYTES)
                return [self._seal_alone(record.kind, record.plaintext)]
            return [self._seal_alone(_PACKETS, packet)]
        records, refused = plan(packets, room, self._size.size(now))
        if self._packer is not None:
            pack, piece = self._packer.pack, room + TAG_BYTES
            records = [pack(record, piece) for record in records]
        if self._mark:
            records = [Record(kind | self._mark, plaintext, count) for kind, plaintext, count in records]
        if refused:
            self._journal.drop(DropReason.MALFORMED, None, refused)
        cipher, receiver = self._seal, self.remote_index
        counter = self._first_out + self._take_counters(len(records))
        self._bytes += sum([len(record.plaintext) for record in records])
        datagrams = sum([record.datagrams for record in records])
        self._size.sent(len(records), datagrams)
        if datagrams == len(records):
            return seal_row(cipher, receiver, counter, records)
        return [seal(cipher, receiver, each, record, self._buffers) for each, record in enumerate(records, counter)]

    def seal_record(self, kind: RecordKind, plaintext: bytes) -> Run:
        """One record in one datagram, however long."""
        return self._seal_alone(kind, plaintext)

    def _seal_alone(self, kind: int, plaintext: bytes) -> Run:
        number = self._take_counters(1)
        header = HEADER.pack(self.remote_index, 0, kind | self._mark, (self._first_out + number) << SPREAD_BITS)
        self._size.sent(1, 1)
        self._bytes += len(plaintext)
        return lone_run(header + self._seal.encrypt(header[4:], plaintext, None))

    # The short way: see `express`. What is compressed does not take it.

    def seal_lone(self, packet: bytes) -> bytes | None:
        """See `TransportKeys`."""
        number, total, size = self._sent, self._bytes + len(packet), self._size
        if number + 1 >= self._fresh_until or total >= REKEY_AFTER_BYTES or self._packer is not None:
            return None
        self._sent = number + 1
        self._bytes = total
        size.records += 1
        size.datagrams += 1
        head, word = self._lone_out, ((self._first_out + number) << SPREAD_BITS).to_bytes(8, "little")
        return head + word + self._seal.encrypt(head[4:] + word, packet, None)

    def seal_sparse(self, packet: bytes) -> bytes | None:
        """See `TransportKeys`. Nobody counts what of this arrives: it says nothing about the others, and no record is longer for it."""
        number, total = self._sparse_sent, self._bytes + len(packet)
        if number >= self._fresh_until or total >= REKEY_AFTER_BYTES:
            return None
        self._sparse_sent = number + 1
        self._bytes = total
        others = self._sent
        head = (self._sparse_out | (others & 0xFFFF) << 32).to_bytes(8, "little")
        word = ((self._first_out + number) << SPREAD_BITS | others >> 16).to_bytes(8, "little")
        return head + word + self._seal.encrypt(head[4:] + word, packet, None)

    def open_lone(self, data: bytes | memoryview, now: float) -> bytes | None:
        """See `TransportKeys`."""
        if len(data) < MIN_TRANSPORT_BYTES or self._packer is not None:
            return None
        word = int.from_bytes(data[8:HEADER_BYTES], "little")
        counter, head = word >> SPREAD_BITS, int.from_bytes(data[:8], "little")
        is_sparse = head & _SPARSE_HEAD == self._sparse_in
        window = self._sparse_window if is_sparse else self._window
        if (
            counter <= window.top
            or not self._first_in <= counter < self._end_in
            or not (is_sparse or (head == self._lone_in and not word & _SPREAD_MASK))
        ):
            return None
        nonce = data[4:HEADER_BYTES]
        if type(nonce) is not bytes:
            nonce = bytes(nonce)
        plaintext = self._receive.decrypt(nonce, data[HEADER_BYTES:], None)
        if is_sparse:
            self._note_sparse(head, word)
        window.commit(counter)
        if not is_sparse and self._meter.arrived(counter, 1, now):
            self.is_waiting = True
        return plaintext

    # The short way of a bulk flow: see `bulk`. What is compressed does not take it.

    def sealing_turn(self, room: int, now: float, *, is_narrow: bool) -> SealingTurn | None:
        """See `TransportKeys`."""
        most = min(self._fresh_until - 1, self._sent + MAX_RECORDS)
        if (
            most <= self._sent
            or self._bytes + MAX_RECORDS * MAX_SEALED_BYTES >= REKEY_AFTER_BYTES
            or self._packer is not None
        ):
            return None
        turn = self._sealing
        if turn is None or turn.room != room or turn.is_narrow is not is_narrow:
            turn = self._sealing = SealingTurn(self, room, is_narrow=is_narrow)
        turn.begin(self, most, now)
        return turn

    def opening_turn(self, tunnel: Tunnel, home: Address, now: float) -> OpeningTurn | None:
        """See `TransportKeys`."""
        if self._packer is not None:
            return None
        turn = self._opening = self._opening or OpeningTurn(self)
        turn.begin(self, tunnel, home, now)
        return turn

    def seal_report(self, now: float) -> list[Run]:
        """See `TransportKeys`."""
        return [self._seal_alone(RecordKind.REPORT, self._meter.report(now).encode())]

    # Receiving.

    def open(self, arrival: Arrival, home: Address | None, now: float) -> list[Opened]:
        """See `TransportKeys`. Pieces of a record that do not come in one run must come from `home`."""
        source, data, stride, memory = arrival
        opened: list[Opened] = []
        end = len(data)
        if stride < MIN_TRANSPORT_BYTES:
            self._journal.drop(DropReason.BAD_LENGTH, source, arrival.datagram_count)
            return opened
        at = 0
        while at < end:
            size = stride if at + stride <= end else end - at
            if size <= HEADER_BYTES:
                self._journal.drop(DropReason.BAD_LENGTH, source)
                break
            index, number, kind, word = HEADER.unpack_from(data, at)
            count, counter = (word & _SPREAD_MASK) + 1, word >> SPREAD_BITS
            if kind == self._sparse_kind:
                self._open_sparse(data[at : at + size], source, opened)
            elif (reason := self._refusal(index, number, kind, counter, count)) is not None:
                self._journal.drop(reason, source)
            elif count == 1 and at + 2 * stride <= end and kind in self._rows and counter > self._window.top:
                at += stride * self._open_row(data, at, stride, kind, counter, source, now, opened)
                continue
            elif count == 1:
                if not self._open(kind, counter, 1, data[at + HEADER_BYTES : at + size], source, now, size, opened):
                    self._journal.drop(
                        DropReason.BAD_LENGTH if size < MIN_TRANSPORT_BYTES else DropReason.NOT_AUTHENTIC, source
                    )
            elif (sealed := join_run(data, at, stride, memory)) is None:
                self._collect(data[at : at + size], size, source, home, now, opened)
            else:
                run = count * stride
                if not self._open(kind, counter, count, sealed, source, now, run, opened):
                    self._collect(data[at : at + run], stride, source, home, now, opened)
                at += run
                continue
            at += stride
        return opened

    def _open_sparse(self, data: bytes | memoryview, source: Address, opened: list[Opened]) -> None:
        """One datagram of the sparse lane."""
        index, number, _, word = HEADER.unpack_from(data)
        counter, window, size, plaintext, reason = word >> SPREAD_BITS, self._sparse_window, len(data), None, None
        if index != self.local_index:
            reason = DropReason.UNKNOWN_INDEX
        elif size < MIN_TRANSPORT_BYTES:
            reason = DropReason.BAD_LENGTH
        elif not self._first_in <= counter < self._end_in:
            reason = DropReason.NOT_AUTHENTIC
        elif not window.is_new(counter):
            reason = DropReason.REPLAYED
        else:
            with suppress(InvalidTag):
                plaintext = self._receive.decrypt(bytes(data[4:HEADER_BYTES]), data[HEADER_BYTES:], None)
        if plaintext is None:
            self._journal.drop(reason or DropReason.NOT_AUTHENTIC, source)
            return
        self._note_sparse(number << 32, word)
        window.commit(counter)
        if (packets := packets_of(plaintext, 1)) is None:
            self._journal.drop(DropReason.MALFORMED, source)
        opened.append(Opened(RecordKind.PACKETS, packets or (), size))

    def _note_sparse(self, head: int, word: int) -> None:
        """Of an authentic record of the sparse lane: the numbers that its header is made of, the first perhaps in part."""
        others = (head >> 32 & 0xFFFF) | (word & _SPREAD_MASK) << 16
        place = (others - 1) << _PLACES | (word >> SPREAD_BITS) - self._first_in + 1
        self._sparse_newest = max(self._sparse_newest, place)

    def _open_row(
        self,
        data: bytes | memoryview,
        at: int,
        stride: int,
        kind: int,
        counter: int,
        source: Address,
        now: float,
        opened: list[Opened],
    ) -> int:
        """Open the records of one datagram each that follow each other at `at`, the first of which is new. How many were looked at."""
        most = min(MAX_DATAGRAMS, self._end_in - counter)
        plaintexts, is_forged = open_row(self._receive.decrypt, data, at, stride, most)
        count = len(plaintexts)
        if count:
            self._window.commit_row(counter, count)
            if self._meter.arrived_row(counter, count, now, count):
                self.is_waiting = True
            packets: list[bytes] = []
            for plaintext in plaintexts:
                found = packets_of(plaintext, 1)
                if found is None:
                    self._journal.drop(DropReason.MALFORMED, source)
                else:
                    packets += found
            opened.append(Opened(self._kinds[kind], packets, count * stride, count))
        if is_forged:
            self._journal.drop(DropReason.NOT_AUTHENTIC, source)
        return count + is_forged

    def _refusal(self, index: int, number: int, kind: int, counter: int, count: int) -> DropReason | None:
        """Why a datagram need not be looked at further, if its header is to be believed."""
        if (
            counter > self._window.top
            and self._first_in <= counter < self._end_in
            and number < count <= MAX_DATAGRAMS
            and kind in self._kinds
            and index == self.local_index
        ):
            return None  # nearly always; what is not is looked at once more, for the reason
        if count > MAX_DATAGRAMS or number >= count:
            return DropReason.MALFORMED
        if kind not in self._kinds:
            return misfit(kind, self._mark)
        if index != self.local_index:
            return DropReason.UNKNOWN_INDEX
        if not self._first_in <= counter < self._end_in:
            return DropReason.NOT_AUTHENTIC  # no key of the peer's ever seals with it
        return None if self._window.is_new(counter) else DropReason.REPLAYED

    def _collect(
        self,
        data: bytes | memoryview,
        stride: int,
        source: Address,
        home: Address | None,
        now: float,
        opened: list[Opened],
    ) -> None:
        """Keep pieces of records that are not whole yet."""
        self.is_waiting = True
        for at in range(0, len(data), stride):
            piece = bytes(data[at : at + stride])
            index, number, kind, word = HEADER.unpack_from(piece)
            if kind == self._sparse_kind:
                self._open_sparse(piece, source, opened)
                continue
            reason = self._refusal(index, number, kind, word >> SPREAD_BITS, (word & _SPREAD_MASK) + 1)
            if reason is not None:
                self._journal.drop(reason, source)
                continue
            whole = self._pieces.add(piece, source, home, max(self._window.top, self._first_in - 1), now)
            if whole is not None:
                head, sealed = whole
                size = len(sealed) + head.datagrams * HEADER_BYTES
                if not self._open(head.kind, head.counter, head.datagrams, sealed, source, now, size, opened):
                    self._journal.drop(DropReason.NOT_AUTHENTIC, source, head.datagrams)

    def _open(
        self,
        kind: int,
        counter: int,
        count: int,
        sealed: bytes | memoryview,
        source: Address,
        now: float,
        size: int,
        opened: list[Opened],
    ) -> bool:
        """Open a record whose counter is new; whether it was authentic."""
        plaintext = open_record(self._receive.decrypt, kind, counter, count, sealed)
        if plaintext is None:
            return False
        self._window.commit(counter)
        name, is_packed = self._kinds[kind], False
        if kind >= _MARKED:
            kind, is_packed = name.value, kind & _PACKED != 0
        if self._meter.arrived(counter, count, now, is_report=kind >= _REPORT):
            self.is_waiting = True
        if kind >= _REPORT:
            reason = self._size.hear(plaintext, now) if kind == _REPORT else None
            if reason is not None:
                self._journal.drop(reason, source)
            opened.append(Opened(name, (), size, count, plaintext))
            return True
        padding = count
        if is_packed:
            assert self._packer is not None
            unpacked = self._packer.unpack(plaintext)
            if unpacked is None:
                self._journal.drop(DropReason.UNPACKING_REFUSED, source)
                opened.append(Opened(name, (), size, count))
                return True
            plaintext, padding = unpacked, MAX_DATAGRAMS  # it may have been planned for more datagrams than it came in
        packets: Sequence[Packet] | None
        packets = super_packets_of(plaintext, padding) if kind == _SUPER_PACKETS else packets_of(plaintext, padding)
        if packets is None:
            self._journal.drop(DropReason.MALFORMED, source)
            packets = ()
        opened.append(Opened(name, packets, size, count))
        return True

    @property
    def report_due_at(self) -> float | None:
        """See `TransportKeys`."""
        return self._meter.due_at

    def next_expiry(self) -> float | None:
        """See `TransportKeys`."""
        return self._pieces.next_expiry()

    def expire(self, now: float) -> None:
        """See `TransportKeys`."""
        self._pieces.expire(now)

    def forget(self) -> None:
        """See `TransportKeys`."""
        self._pieces.clear()
