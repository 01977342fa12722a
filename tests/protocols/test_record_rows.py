"""Sealing records of one datagram each: in a row they are what they are one by one."""

from __future__ import annotations

from itertools import pairwise

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.record_rows import open_row, seal_row
from holloway.protocols.record_wire import HEADER_BYTES, MAX_DATAGRAMS, Record, RecordKind
from holloway.protocols.runs import MAX_RUN_BYTES, flatten
from holloway.protocols.sealing import SealingBuffers, seal

CIPHER = AESGCM(bytes(range(32)))
INDEX = 0x2222_0002
LENGTHS = st.sampled_from([0, 1, 40, 40, 1388, 1388, 1388, 1404, 9000, 30_000])


@given(st.lists(st.tuples(LENGTHS, st.integers(1, 70)), max_size=6), st.integers(0, (1 << 52) - 500))
def test_a_row_is_its_records_one_by_one_in_runs_that_a_host_takes(
    lengths: list[tuple[int, int]], counter: int
) -> None:
    records = [
        Record(RecordKind.PACKETS.value, bytes([number % 256]) * length, 1)
        for length, count in lengths
        for number in range(count)
    ]
    runs = seal_row(CIPHER, INDEX, counter, records)
    singly = [
        seal(CIPHER, INDEX, each, record, SealingBuffers()).datagrams()[0]
        for each, record in enumerate(records, counter)
    ]
    assert flatten(runs) == singly
    for run in runs:
        assert run.length == len(b"".join(run.parts))
        assert run.datagram_count == len(run.parts) <= MAX_DATAGRAMS
        assert run.length <= MAX_RUN_BYTES or len(run.parts) == 1
    for run, following in pairwise(runs):
        is_closed = run.length % run.stride or len(run.parts) == MAX_DATAGRAMS or following.stride > run.stride
        assert is_closed or run.length + len(following.parts[0]) > MAX_RUN_BYTES, "no run ends early"


def test_a_row_ends_before_what_is_of_no_row() -> None:
    records = [Record(RecordKind.UNFINISHED.value, bytes([number]) * 50, 1) for number in range(6)]
    row = flatten(seal_row(CIPHER, INDEX, 7, records))
    stride = len(row[0])
    plaintexts = [record.plaintext for record in records]
    for data in (b"".join(row), memoryview(bytearray(b"".join(row)))):
        assert open_row(CIPHER.decrypt, data, 0, stride, 64) == (plaintexts, False)
        assert open_row(CIPHER.decrypt, data, 2 * stride, stride, 3) == (plaintexts[2:5], False)
        assert open_row(CIPHER.decrypt, data[:-1], 0, stride, 64) == (plaintexts[:5], False), "the last is shorter"
    others = {
        "of another session": flatten(seal_row(CIPHER, INDEX + 1, 10, records[3:4])),
        "of another kind": flatten(seal_row(CIPHER, INDEX, 10, [records[3]._replace(kind=RecordKind.PACKETS.value)])),
        "with a gap before it": flatten(seal_row(CIPHER, INDEX, 11, records[3:4])),
        "seen before": row[2:3],
        "of a record with more": [row[3][:8] + bytes([row[3][8] | 1]) + row[3][9:]],
        "with a number": [row[3][:4] + b"\1" + row[3][5:]],
    }
    for what, other in others.items():
        data = b"".join((*row[:3], *other, *row[4:]))
        assert open_row(CIPHER.decrypt, data, 0, stride, 64) == (plaintexts[:3], False), what
    for at in (HEADER_BYTES, stride - 1):
        forged = bytearray(b"".join(row))
        forged[3 * stride + at] ^= 1
        assert open_row(CIPHER.decrypt, forged, 0, stride, 64) == (plaintexts[:3], True)
