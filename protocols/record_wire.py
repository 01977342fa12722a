"""Sealed records as datagrams: sealing and cutting, finding the datagrams of one record again, joining and opening.

A record is sealed once and cut into 1 to 64 datagrams of one length. Each has the header of the suite's transport:

    receiver index 4 | number in the record 2 | kind 2 | counter * 2^12 + number of datagrams - 1, 8

The nonce is bytes 4 to 15 of the first one. So kind, counter and number of datagrams are authenticated, and the position of
every piece, too: a piece elsewhere makes another ciphertext. One counter is one record, whatever its length.

Not responsible for what is in a record (`records`), for counters, keys and replay (`transport`), nor for collecting pieces
that come out of order (`reassembly`). Datagrams are hostile: nothing here raises for any bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from struct import Struct
from typing import NamedTuple, TypeAlias

from cryptography.exceptions import InvalidTag

from holloway.protocols.arrivals import RunMemory
from holloway.protocols.noise import TAG_BYTES
from holloway.protocols.packets import ByteView

HEADER = Struct("<IHHQ")
"""Receiver index, number in the record, kind, counter and spread."""
HEADER_BYTES = HEADER.size
MAX_DATAGRAMS = 64
"""The most datagrams of one record: what six bits count, and what the kernel takes in one call (UDP_MAX_SEGMENTS)."""
SIZE_BYTES = 2
MAX_PLAINTEXT_BYTES = SIZE_BYTES + 65_535
"""Of one record, without padding: the longest IP packet and its segment size."""
MAX_SEALED_BYTES = MAX_PLAINTEXT_BYTES + MAX_DATAGRAMS - 1 + TAG_BYTES
SPREAD_BITS = 12
"""Low bits of the last header word: the number of datagrams of the record less one. The upper six of them are zero."""
FIRST_COUNTER_BYTES = 6

_RECORD_KEY = Struct("<HQ")  # what all datagrams of a record have in common
_HEAD = Struct("<HHQ")
_FIRST = b"\0\0"  # the number of a record's first datagram
_NUMBERS = bytes(range(MAX_DATAGRAMS))

Decrypt: TypeAlias = Callable[[bytes, bytes | memoryview, None], bytes]
"""As in `suites.Aead`: nonce, data, no associated data. Raises `InvalidTag`."""


class RecordKind(IntEnum):
    """What a record holds; see `records`."""

    PACKETS = 1
    UNFINISHED = 2
    SUPER_PACKETS = 3
    REPORT = 4
    """How records of the other direction have arrived: `record_size.Report`."""
    PROBE = 5
    """Nothing but its own length, to find out whether that passes: `path_mtu.Probe`."""
    PROBE_ACK = 6
    """A probe has arrived: `path_mtu.ProbeAck`."""


KIND_BITS = 0x00FF
"""Of the kind on the wire, what is left without its marks."""
PACKED_MARK = 0x0100
"""Added to the kind of a record that is compressed (`compression`)."""
CLEAR_MARK = 0x0200
"""Added to the kind of a record that is authenticated and not encrypted (`clear_text`)."""
SPARSE_MARK = 0x0400
"""Added to the kind of a record of the sparse lane, whose counters are its own: kind and counter together make the nonce."""


class Record(NamedTuple):
    """A plaintext ready to be sealed, and how many datagrams it makes: its length and the tag's is a multiple of that.

    `kind`: a `RecordKind`, with marks.
    """

    kind: int
    plaintext: bytes
    datagrams: int


class Head(NamedTuple):
    """What the header of a datagram says beyond the receiver index. Not authenticated before its record is."""

    number: int
    kind: int
    counter: int
    datagrams: int


def first_counter(key: bytes) -> int:
    """The counter of the first record under a transport key of 32 bytes: 48 bits that only both ends know.

    Whoever cannot see the traffic cannot guess which counters a receiver would collect pieces for.
    """
    return int.from_bytes(
        hashlib.blake2s(b"first counter", key=key, digest_size=FIRST_COUNTER_BYTES).digest(), "little"
    )


def parse_head(datagram: ByteView) -> Head | None:
    """The header of a datagram that has a header and at least one byte; None when it cannot be of any record."""
    if len(datagram) <= HEADER_BYTES:
        return None
    number, kind, word = _HEAD.unpack_from(datagram, 4)
    spread = word & (1 << SPREAD_BITS) - 1
    if spread >= MAX_DATAGRAMS or number > spread:
        return None
    return Head(number, kind, word >> SPREAD_BITS, spread + 1)


def join_run(data: bytes | memoryview, at: int, stride: int, memory: RunMemory | None = None) -> bytes | None:
    """The sealed record whose first datagram is the one at `at` of a run of datagrams of `stride` bytes, back to back; None
    if the run does not hold it whole and in order. `memory`: see `Arrival`.

    Only the ends are looked at: if anything between them is not of this record, the tag will tell.
    """
    number, kind, word = _HEAD.unpack_from(data, at + 4)
    last = word & (1 << SPREAD_BITS) - 1
    end = at + (last + 1) * stride
    if number or end > len(data) or _HEAD.unpack_from(data, end - stride + 4) != (last, kind, word):
        return None
    if memory is not None:
        return b"".join(memory.parts(at, stride, last + 1, HEADER_BYTES))
    return b"".join(_pieces(stride, last + 1).unpack_from(data, at))


@lru_cache(maxsize=256)
def _pieces(stride: int, count: int) -> Struct:
    """The pieces in a run of `count` datagrams of `stride` bytes. To take them all at once costs half of slicing them."""
    return Struct(f"{HEADER_BYTES}x{stride - HEADER_BYTES}s" * count)


def open_record(decrypt: Decrypt, kind: int, counter: int, datagrams: int, sealed: bytes | memoryview) -> bytes | None:
    """The plaintext of a sealed record, or None when it is not authentic."""
    if not TAG_BYTES <= len(sealed) <= MAX_SEALED_BYTES:
        return None
    try:
        return decrypt(_FIRST + _RECORD_KEY.pack(kind, counter << SPREAD_BITS | datagrams - 1), sealed, None)
    except InvalidTag:
        return None
