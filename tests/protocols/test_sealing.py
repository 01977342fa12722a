"""Sealing into memory that is used again: what leaves, how long it stays good, and how much memory there is."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.record_wire import HEADER_BYTES, Record, RecordKind, join_run, open_record
from holloway.protocols.runs import Run
from holloway.protocols.sealing import BUFFERS, SHAPES, SealingBuffer, SealingBuffers, seal

CIPHER = AESGCM(bytes(range(32)))
INDEX = 0x2222_0002


def record(count: int, piece: int, filler: int = 0) -> Record:
    return Record(RecordKind.PACKETS, bytes([filler]) * (count * piece - 16), count)


def plaintext_of(run: Run, counter: int) -> bytes | None:
    data = b"".join(run.parts)
    sealed = join_run(data, 0, run.stride) if run.stride < run.length else data[HEADER_BYTES:]
    assert sealed is not None
    return open_record(CIPHER.decrypt, RecordKind.PACKETS, counter, run.datagram_count, sealed)


@given(st.integers(1, 64), st.integers(33, 1000), st.integers(0, (1 << 52) - 1))
def test_what_is_sealed_is_opened_again(count: int, piece: int, counter: int) -> None:
    run = seal(CIPHER, INDEX, counter, record(count, piece), SealingBuffers())
    assert (run.datagram_count, run.stride, run.length) == (count, piece + HEADER_BYTES, count * (piece + HEADER_BYTES))
    assert len(b"".join(run.parts)) == run.length
    assert plaintext_of(run, counter) == record(count, piece).plaintext


def test_every_record_of_a_turn_has_memory_of_its_own() -> None:
    buffers = SealingBuffers()
    records = [record(2 + n % 3, 600, n) for n in range(BUFFERS + 10)]
    runs = [seal(CIPHER, INDEX, n, each, buffers) for n, each in enumerate(records)]
    assert [plaintext_of(run, n) for n, run in enumerate(runs)] == [each.plaintext for each in records]


def test_the_next_turn_uses_the_memory_of_the_one_before() -> None:
    buffers = SealingBuffers()
    first = seal(CIPHER, INDEX, 1, record(3, 600, 1), buffers)
    kept = first.datagrams()
    buffers.give_back()
    second = seal(CIPHER, INDEX, 2, record(3, 600, 2), buffers)
    assert all(one is other for one, other in zip(first.parts, second.parts, strict=True)), "nothing was made anew"
    assert second.datagrams() == first.datagrams() != kept


def test_no_more_buffers_are_kept_than_a_turn_needs() -> None:
    buffers = SealingBuffers()
    taken = [buffers.take(3, 600) for _ in range(2 * BUFFERS)]
    assert len({id(shape.sealed.obj) for shape in taken}) == 2 * BUFFERS
    buffers.give_back()
    again = [buffers.take(3, 600) for _ in range(BUFFERS)]
    assert all(shape is before for shape, before in zip(again, taken, strict=False))
    assert buffers.take(3, 600) is not buffers.take(3, 600), "beyond them memory is fresh"


def test_a_buffer_keeps_the_slices_of_a_few_shapes() -> None:
    buffer = SealingBuffer()
    known = buffer.shape(4, 100)
    assert buffer.shapes[4, 100] is known
    for piece in range(200, 200 + SHAPES):
        buffer.shape(2, piece)
    assert (4, 100) not in buffer.shapes
    assert len(buffer.shapes) == SHAPES
    heads, sealed, numbers, run = buffer.shape(4, 100)
    assert (len(heads), len(sealed), numbers, len(run.parts)) == (64, 400, bytes(range(4)), 8)
    assert [len(part) for part in run.parts] == [16, 100] * 4
