"""Records of one datagram each, many in a row: what small packets make, and what a path that loses makes of everything.

Here is done at once, and with few calls, what `sealing` and `record_keys` do for one record. Not responsible for what a record
means, nor for the replay window: `record_keys` is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct

from cryptography.exceptions import InvalidTag

from holloway.protocols.record_wire import HEADER, HEADER_BYTES, MAX_DATAGRAMS, SPREAD_BITS, Decrypt, Record
from holloway.protocols.runs import MAX_RUN_BYTES, Run
from holloway.protocols.suites import Aead

_NONCE = Struct("<HHQ")  # the header of a record's first datagram, without the receiver index
_STEP = 1 << SPREAD_BITS


def seal_row(cipher: Aead, receiver: int, counter: int, records: Sequence[Record]) -> list[Run]:
    """The datagrams of records that make one each, sealed with `counter` and those after it, in runs that a host takes at once.

    None of these counters must be used for anything else under this key.
    """
    runs: list[Run] = []
    row: list[bytes] = []
    stride = length = 0
    pack, encrypt, word = HEADER.pack, cipher.encrypt, counter << SPREAD_BITS
    for kind, plaintext, _ in records:
        head = pack(receiver, 0, kind, word)
        datagram = head + encrypt(head[4:], plaintext, None)
        word += _STEP
        size = len(datagram)
        if size != stride or length + size > MAX_RUN_BYTES or len(row) == MAX_DATAGRAMS:
            if row and size < stride and length + size <= MAX_RUN_BYTES and len(row) < MAX_DATAGRAMS:
                row.append(datagram)  # the last of a run may be shorter
                runs.append(Run(row, stride, length + size))
                row, stride, length = [], 0, 0
                continue
            if row:
                runs.append(Run(row, stride, length))
            row, stride, length = [], size, 0
        row.append(datagram)
        length += size
    if row:
        runs.append(Run(row, stride, length))
    return runs


def open_row(decrypt: Decrypt, data: bytes | memoryview, at: int, stride: int, most: int) -> tuple[list[bytes], bool]:
    """The plaintexts of the record that is the datagram at `at` of a run, and of those right behind it that have the next counters
    and are otherwise like it, `most` at most; and whether they end before one that is not authentic.

    The first header must have been judged, and be of a record of one datagram.
    """
    view, whole = memoryview(data), (len(data) - at) // stride
    index, number, kind, word = HEADER.unpack_from(data, at)
    plaintexts: list[bytes] = []
    pack = _NONCE.pack
    for each, part, sort, following, sealed in _datagram(stride).iter_unpack(view[at : at + min(whole, most) * stride]):
        if following != word or each != index or sort != kind or part != number:
            break
        try:
            plaintexts.append(decrypt(pack(0, kind, word), sealed, None))
        except InvalidTag:
            return plaintexts, True
        word += _STEP
    return plaintexts, False


@lru_cache(maxsize=256)
def _datagram(stride: int) -> Struct:
    """The fields of a header, and what is sealed behind them."""
    return Struct(f"<IHHQ{stride - HEADER_BYTES}s")
