"""Compressed records: whether it is worth it, the form it has, and no more out of one than its length allows.

    record ──pack──► the same, shorter, in fewer datagrams          plaintext ──unpack──► plaintext

The plaintext of a packed record is

    length of what was packed 4 | length of the zeros at the end 2 | LZ4 block | zeros

What is packed is compressed first and sealed then, so nothing is unpacked that is not authentic. But an authentic peer may be
hostile: a record is unpacked into its stated length or not at all, and that is at most `MOST_EXPANSION` times its own, and
at most that of the longest record. So a peer makes nobody work or hold much more by compressing than without; what
compresses better than that is padded.

What does not shrink is sent as it is, and to find that out costs little: after a record that did not shrink the next one is not
tried, after another one the next two, and so on up to `MOST_SKIPPED`.

The codec comes from outside. Not responsible for who compresses (`offers`), nor for what is in a record.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Protocol

from holloway.protocols.noise import TAG_BYTES
from holloway.protocols.record_wire import MAX_DATAGRAMS, MAX_PLAINTEXT_BYTES, PACKED_MARK, Record

MIN_PACKED_BYTES = 128
"""What is shorter is not worth a try: most of it is headers."""
MOST_EXPANSION = 16
MOST_SKIPPED = 64
"""Records that are not tried after some that did not shrink. Then bulk that does not compress pays for one try in 65."""
MAX_UNPACKED_BYTES = MAX_PLAINTEXT_BYTES + MAX_DATAGRAMS - 1
"""The longest plaintext of a record that is not packed."""

_HEAD = Struct("<IH")
_WORTH_OF_EIGHT = 7  # a record that does not lose an eighth of its length costs the receiver more than it saves


class Codec(Protocol):
    """A compression without state. Raises nothing for any bytes."""

    def compress(self, data: bytes) -> bytes: ...

    def decompress(self, data: memoryview, length: int) -> bytes | None:
        """Exactly `length` bytes, or None. Holds no more than that."""


@dataclass(slots=True)
class Packing:
    """What compression came to, in bytes of plaintext: as it was, and as it went. `skipped`: bytes that went as they were."""

    sent_plain: int = 0
    sent_packed: int = 0
    sent_skipped: int = 0
    received_plain: int = 0
    received_packed: int = 0


class Packer:
    """Packs and unpacks the records of one session."""

    __slots__ = ("_codec", "_packing", "_pause", "_skip")

    def __init__(self, codec: Codec, packing: Packing) -> None:
        """`packing` counts."""
        self._codec, self._packing = codec, packing
        self._pause = self._skip = 0

    def pack(self, record: Record, piece: int) -> Record:
        """The record for fewer or shorter datagrams, or as it is. `piece`: sealed bytes that a datagram holds."""
        kind, plaintext, _ = record
        length = len(plaintext)
        if length < MIN_PACKED_BYTES:
            return record
        packing = self._packing
        if self._skip:
            self._skip -= 1
            packing.sent_skipped += length
            return record
        block = self._codec.compress(plaintext)
        least = max(_HEAD.size + len(block), -(-length // MOST_EXPANSION))
        if 8 * least > _WORTH_OF_EIGHT * length:
            self._skip = self._pause = min(2 * self._pause + 1, MOST_SKIPPED)
            packing.sent_skipped += length
            return record
        self._pause = 0
        count = -(-(least + TAG_BYTES) // piece)
        total = least + -(least + TAG_BYTES) % count
        zeros = total - _HEAD.size - len(block)
        packing.sent_plain += length
        packing.sent_packed += total
        return Record(kind | PACKED_MARK, b"".join((_HEAD.pack(length, zeros), block, bytes(zeros))), count)

    def unpack(self, plaintext: bytes) -> bytes | None:
        """What was packed; None when it is malformed, or longer than allowed."""
        size = len(plaintext)
        if size < _HEAD.size:
            return None
        length, zeros = _HEAD.unpack_from(plaintext)
        if length > min(MOST_EXPANSION * size, MAX_UNPACKED_BYTES) or _HEAD.size + zeros > size:
            return None
        unpacked = self._codec.decompress(memoryview(plaintext)[_HEAD.size : size - zeros], length)
        if unpacked is not None:
            self._packing.received_plain += length
            self._packing.received_packed += size
        return unpacked
