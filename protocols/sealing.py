"""Sealing records into datagrams, in memory that is used again and again: nothing is allocated for a record once it is warm.

A record that spans datagrams is sealed into one buffer, and leaves by one system call that gathers its pieces, each behind
its header. Making those slices costs more than sealing, and they are the same for every record of one shape, so they are kept
with the buffer. What the bytes are is said in `record_wire`.

Not responsible for what is sealed, nor for when it has been sent: whoever shares these buffers sends what he sealed before
anybody seals again (see `Session.runs_to_send`).
"""

from __future__ import annotations

from typing import NamedTuple

from holloway.protocols.noise import TAG_BYTES
from holloway.protocols.record_wire import HEADER, HEADER_BYTES, MAX_DATAGRAMS, MAX_SEALED_BYTES, SPREAD_BITS, Record
from holloway.protocols.runs import Run, lone_run
from holloway.protocols.suites import Aead

BUFFERS = 24
"""Records of one turn that find a buffer here: more than a turn's packets make, 1.6 MB in all. The next get fresh memory."""
SHAPES = 8
"""For so many lengths of record each buffer keeps its slices; a bulk flow has one or two."""

_NUMBERS = bytes(range(MAX_DATAGRAMS))


class Shape(NamedTuple):
    """For the records of one shape: where their headers go, where the sealed bytes go, the low bytes of the numbers in the
    headers, and all of it in the order in which it is sent.
    """

    heads: memoryview
    sealed: memoryview
    numbers: bytes
    run: Run


class SealingBuffer:
    """Room for the headers and for the sealed bytes of one record."""

    __slots__ = ("_heads", "_sealed", "shapes")

    def __init__(self) -> None:
        self._heads = memoryview(bytearray(MAX_DATAGRAMS * HEADER_BYTES))
        self._sealed = memoryview(bytearray(MAX_SEALED_BYTES))
        self.shapes: dict[tuple[int, int], Shape] = {}
        """Those that are known, for others to look up."""

    def shape(self, count: int, piece: int) -> Shape:
        """Make, and remember, that of `count` datagrams with `piece` sealed bytes each."""
        if len(self.shapes) >= SHAPES:
            del self.shapes[next(iter(self.shapes))]
        heads, sealed = self._heads[: count * HEADER_BYTES], self._sealed[: count * piece]
        parts: list[bytes | memoryview] = []
        for number in range(count):
            parts.append(heads[number * HEADER_BYTES : (number + 1) * HEADER_BYTES])
            parts.append(sealed[number * piece : (number + 1) * piece])
        run = Run(tuple(parts), HEADER_BYTES + piece, count * (HEADER_BYTES + piece))
        made = self.shapes[count, piece] = Shape(heads, sealed, _NUMBERS[:count], run)
        return made


class SealingBuffers:
    """The buffers of one node. Made when they are first needed."""

    __slots__ = ("_buffers", "_used", "opened")

    def __init__(self) -> None:
        self._buffers: list[SealingBuffer] = []
        self.opened = memoryview(bytearray(MAX_SEALED_BYTES))
        """Where one record after another is opened, each good until the next. Not to be read when opening one has failed."""
        self._used = 0

    def take(self, count: int, piece: int) -> Shape:
        """A buffer that nobody else has until `give_back`, for `count` datagrams with `piece` sealed bytes each."""
        number = self._used
        self._used = number + 1
        buffers = self._buffers
        buffer = buffers[number] if number < len(buffers) else self._another()
        return buffer.shapes.get((count, piece)) or buffer.shape(count, piece)

    def _another(self) -> SealingBuffer:
        buffer = SealingBuffer()
        if len(self._buffers) < BUFFERS:
            self._buffers.append(buffer)
        return buffer

    def only(self, count: int, piece: int) -> Shape:
        """The same of a buffer that is used for one record after another, while nobody has any."""
        self._used = 0
        shape = self.take(count, piece)
        self._used = 0
        return shape

    def give_back(self) -> None:
        """What was sealed is about to be sent: the next record may use the memory of the first."""
        self._used = 0


def seal(cipher: Aead, receiver: int, counter: int, record: Record, buffers: SealingBuffers) -> Run:
    """The datagrams of `record`, sealed with `counter`, which must be used for nothing else under this key.

    All have the same length. `receiver`: the peer's index; `counter`: 0 to 2^52 - 1.
    """
    kind, plaintext, count = record
    first = HEADER.pack(receiver, 0, kind, counter << SPREAD_BITS | count - 1)
    if count == 1:
        return lone_run(first + cipher.encrypt(first[4:], plaintext, None))
    length = len(plaintext) + TAG_BYTES
    heads, sealed, numbers, run = buffers.take(count, length // count)
    cipher.encrypt_into(first[4:], plaintext, None, sealed)
    heads[:] = first * count
    heads[4::HEADER_BYTES] = numbers
    return run
