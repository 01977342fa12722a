"""Collecting the pieces of records that did not arrive as one run: in any order, doubled, between others, or never whole.

A piece cannot be authenticated before its record is whole, so everything here may be forged, and the bound is the
defence. A piece is kept only if it comes from the address at which the peer is authenticated, and for a counter that the
peer may be using about now. The first piece at a position stays. So whoever forges pieces must know the receiver index,
the counter and the peer's address; then he costs the peer the records whose pieces he foretold, or, by flooding, those
that are incomplete at the time; never one that arrives as a run, and never what another peer sent.

What comes out is a sealed record, which the caller has still to open; only then may its counter be committed.
Not responsible for replays: the caller asks its window before it hands in a piece.

No call takes longer than one eviction of every record, memory is at most `MAX_BYTES` as counted here, which is above what
Python uses for full-size pieces. Every piece is in a record that was returned, is still here, or is counted in `drops`.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum

from holloway.protocols.addresses import Address
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


class PieceDrop(Enum):
    """Why pieces, counted one by one, were dropped. The value is the name under which `status` counts it."""

    MALFORMED = "piece_malformed"
    FOREIGN_SOURCE = "piece_foreign_source"
    OUT_OF_RANGE = "piece_out_of_range"
    DOUBLE = "piece_double"
    MISFIT = "piece_misfit"
    """Not as long as the pieces that came before it, or such that the record would be longer than any."""
    EXPIRED = "piece_expired"
    PUSHED_OUT = "piece_pushed_out"
    FORGOTTEN = "piece_forgotten"
    """The caller gave up the whole buffer, with the key that it belonged to."""


class _Partial:
    __slots__ = ("missing", "pieces", "since", "stride")

    def __init__(self, count: int, stride: int, now: float) -> None:
        self.pieces: list[bytes | None] = [None] * count
        self.missing = count
        self.stride = stride
        self.since = now


class Reassembly:
    """The incomplete records under one key, oldest first."""

    __slots__ = ("_bytes", "_partials", "drops")

    def __init__(self) -> None:
        self._partials: dict[bytes, _Partial] = {}
        self._bytes = 0
        self.drops: Counter[PieceDrop] = Counter()

    def __len__(self) -> int:
        """How many records are incomplete."""
        return len(self._partials)

    def __repr__(self) -> str:
        return f"<Reassembly {len(self)} records {self._bytes} bytes>"

    @property
    def held_bytes(self) -> int:
        """Memory in use, at most `MAX_BYTES`: pieces, and an allowance for what Python needs beside them."""
        return self._bytes

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
            self.drops[PieceDrop.MALFORMED] += 1
            return None
        if source != home:
            self.drops[PieceDrop.FOREIGN_SOURCE] += 1
            return None
        if head.counter > top + HORIZON:
            self.drops[PieceDrop.OUT_OF_RANGE] += 1
            return None
        number, count = head.number, head.datagrams
        stride = len(datagram) - HEADER_BYTES
        self.expire(now)
        # Kind, counter and spread: pieces in which any of them differs are of different records.
        key = datagram[6:HEADER_BYTES]
        partial = self._partials.get(key)
        if partial is None:
            if stride * count > MAX_SEALED_BYTES:
                self.drops[PieceDrop.MISFIT] += 1
                return None
            partial = self._partials[key] = _Partial(count, stride, now)
            self._bytes += RECORD_OVERHEAD_BYTES
        elif stride != partial.stride:
            self.drops[PieceDrop.MISFIT] += 1
            return None
        pieces = partial.pieces
        if pieces[number] is not None:
            self.drops[PieceDrop.DOUBLE] += 1
            return None
        pieces[number] = datagram[HEADER_BYTES:]
        partial.missing -= 1
        self._bytes += stride + PIECE_OVERHEAD_BYTES
        if not partial.missing:
            self._remove(key)
            return head, b"".join(piece for piece in pieces if piece is not None)
        while self._bytes > MAX_BYTES or len(self._partials) > MAX_RECORDS:
            self._drop(next(iter(self._partials)), PieceDrop.PUSHED_OUT)
        return None

    def expire(self, now: float) -> None:
        """Drop the records that began `LIFETIME_S` ago or earlier."""
        partials = self._partials
        while partials:
            key = next(iter(partials))
            if now - partials[key].since < LIFETIME_S:
                return
            self._drop(key, PieceDrop.EXPIRED)

    def next_expiry(self) -> float | None:
        """When `expire` has something to do; None while nothing is here."""
        for partial in self._partials.values():
            return partial.since + LIFETIME_S
        return None

    def clear(self) -> None:
        """Drop everything: the key is forgotten, or the peer has moved."""
        for key in list(self._partials):
            self._drop(key, PieceDrop.FORGOTTEN)

    def _drop(self, key: bytes, reason: PieceDrop) -> None:
        partial = self._remove(key)
        self.drops[reason] += len(partial.pieces) - partial.missing

    def _remove(self, key: bytes) -> _Partial:
        partial = self._partials.pop(key)
        held = len(partial.pieces) - partial.missing
        self._bytes -= RECORD_OVERHEAD_BYTES + held * (partial.stride + PIECE_OVERHEAD_BYTES)
        return partial
