"""Collecting the pieces of records that did not arrive as one run: in any order, doubled, between others, or never whole.

A piece cannot be authenticated before its record is whole, so everything here may be forged, and the bound is the
defence. A piece is kept only if it comes from the address at which the peer is authenticated, and for a counter that the
peer may be using about now. The first piece at a position stays. So whoever forges pieces must know the receiver index,
the counter and the peer's address; then he costs the peer the records whose pieces he foretold, or, by flooding, those
that are incomplete at the time; never one that arrives as a run, and never what another peer sent.

What comes out is a sealed record, which the caller has still to open; only then may its counter be committed.
Not responsible for replays: the caller asks its window before it hands in a piece.

No call takes longer than one eviction of every record, memory is at most `MAX_BYTES` as counted here, which is above what
Python uses for full-size pieces, and at most what the node's budget leaves (`memory`): when that is used up, the oldest
records make room, and a piece that finds none is dropped. A piece that makes its record whole needs no room. Every piece is in
a record that was returned, is still here, or has been told of as dropped.
"""

from __future__ import annotations

from collections.abc import Callable

from holloway.protocols.addresses import Address
from holloway.protocols.events import DropReason
from holloway.protocols.memory import MemoryBudget
from holloway.protocols.record_wire import HEADER_BYTES, MAX_SEALED_BYTES, Head, parse_head

MAX_BYTES = 1 << 20
"""Of one key: fourteen records of 64 KiB, some 2 ms of 4 Gbit/s."""
MAX_RECORDS = 128
LIFETIME_S = 0.5
"""Since the first piece. A record as long as `record_size` allows takes 5 ms on the wire; two datagrams, the least that can
be, take less than this down to 48 kbit/s."""
HORIZON = 1 << 16
"""How far above the greatest authentic counter a piece may be: more records than are lost in a row, and with the 48 bits
of the first counter, 2^-31 for a guess."""
PIECE_OVERHEAD_BYTES = 64
RECORD_OVERHEAD_BYTES = 1024


class _Partial:
    __slots__ = ("missing", "pieces", "since", "stride")

    def __init__(self, count: int, stride: int, now: float) -> None:
        self.pieces: list[bytes | None] = [None] * count
        self.missing = count
        self.stride = stride
        self.since = now


class Reassembly:
    """The incomplete records under one key, oldest first."""

    __slots__ = ("_note_drop", "_partials", "_share")

    def __init__(
        self, note_drop: Callable[[DropReason, Address | None, int], None], memory: MemoryBudget | None = None
    ) -> None:
        """`note_drop` is told of every piece that is dropped: why, where it came from if that is known, how many. `memory`:
        what pieces and records take from, by default a budget of their own.
        """
        self._partials: dict[bytes, _Partial] = {}
        self._share = (memory or MemoryBudget()).network.share()
        self._note_drop = note_drop

    def __len__(self) -> int:
        """How many records are incomplete."""
        return len(self._partials)

    def __repr__(self) -> str:
        return f"<Reassembly {len(self)} records {self.held_bytes} bytes>"

    @property
    def held_bytes(self) -> int:
        """Memory in use, at most `MAX_BYTES`: pieces, and an allowance for what Python needs beside them."""
        return self._share.held

    @property
    def held_pieces(self) -> int:
        return sum(len(partial.pieces) - partial.missing for partial in self._partials.values())

    def add(
        self, datagram: bytes, source: Address, home: Address | None, top: int, now: float
    ) -> tuple[Head, bytes] | None:
        """Keep the piece that `datagram` is; the record's head and sealed bytes if that was the last one.

        `source`: where it came from; `home`: where the peer is authenticated at, None for nowhere. `top`: the greatest
        authentic counter under this key, or one less than its first (`record_wire.first_counter`). `now` in seconds.
        """
        head = parse_head(datagram)
        if head is None:
            self._note_drop(DropReason.PIECE_MALFORMED, source, 1)
            return None
        if source != home:
            self._note_drop(DropReason.PIECE_FOREIGN_SOURCE, source, 1)
            return None
        if head.counter > top + HORIZON:
            self._note_drop(DropReason.PIECE_OUT_OF_RANGE, source, 1)
            return None
        number, count = head.number, head.datagrams
        stride = len(datagram) - HEADER_BYTES
        self.expire(now)
        # Kind, counter and spread: pieces in which any of them differs are of different records.
        key = datagram[6:HEADER_BYTES]
        partial = self._partials.get(key)
        cost = stride + PIECE_OVERHEAD_BYTES
        if partial is None:
            if stride * count > MAX_SEALED_BYTES:
                self._note_drop(DropReason.PIECE_MISFIT, source, 1)
                return None
            if count == 1:
                return head, datagram[HEADER_BYTES:]
            cost += RECORD_OVERHEAD_BYTES
        elif stride != partial.stride:
            self._note_drop(DropReason.PIECE_MISFIT, source, 1)
            return None
        elif partial.pieces[number] is not None:
            self._note_drop(DropReason.PIECE_DOUBLE, source, 1)
            return None
        elif partial.missing == 1:
            self._remove(key)
            partial.pieces[number] = datagram[HEADER_BYTES:]
            return head, b"".join(piece for piece in partial.pieces if piece is not None)
        if not self._make_room(cost, None if partial is None else key):
            self._note_drop(DropReason.MEMORY_FULL, source, 1)
            return None
        if partial is None:
            partial = self._partials[key] = _Partial(count, stride, now)
        partial.pieces[number] = datagram[HEADER_BYTES:]
        partial.missing -= 1
        while self._share.held > MAX_BYTES or len(self._partials) > MAX_RECORDS:
            self._drop(next(iter(self._partials)), DropReason.PIECE_PUSHED_OUT)
        return None

    def _make_room(self, cost: int, joins: bytes | None) -> bool:
        """Take memory for a piece, of the oldest records if need be; False if there is none, or if the record that it
        `joins` was the oldest and had to go.
        """
        share, partials = self._share, self._partials
        if cost > share.limit:
            return False
        while not share.take(cost):
            oldest = next(iter(partials))
            self._drop(oldest, DropReason.MEMORY_FULL)
            if oldest == joins:
                return False
        return True

    def expire(self, now: float) -> None:
        """Drop the records that began `LIFETIME_S` ago or earlier."""
        partials = self._partials
        while partials:
            key = next(iter(partials))
            if now < partials[key].since + LIFETIME_S:  # as `next_expiry` has it: a difference may be rounded below it
                return
            self._drop(key, DropReason.PIECE_EXPIRED)

    def next_expiry(self) -> float | None:
        """When `expire` has something to do; None while nothing is here."""
        for partial in self._partials.values():
            return partial.since + LIFETIME_S
        return None

    def clear(self) -> None:
        """Drop everything: the key is forgotten, or the peer has moved."""
        for key in list(self._partials):
            self._drop(key, DropReason.PIECE_FORGOTTEN)

    def _drop(self, key: bytes, reason: DropReason) -> None:
        partial = self._remove(key)
        self._note_drop(reason, None, len(partial.pieces) - partial.missing)

    def _remove(self, key: bytes) -> _Partial:
        partial = self._partials.pop(key)
        held = len(partial.pieces) - partial.missing
        self._share.give(RECORD_OVERHEAD_BYTES + held * (partial.stride + PIECE_OVERHEAD_BYTES))
        return partial
