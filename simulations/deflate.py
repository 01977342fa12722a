"""A compression of the standard library in the place of LZ4: it keeps the same contract, and needs no extra.

Not responsible for what is compressed: see `holloway.protocols.compression`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

LEVEL = 1


class Deflate:
    """See `holloway.protocols.compression.Codec`."""

    def __init__(self, look: Callable[[int, int], None] = lambda packed, length: None) -> None:
        """`look` is told of everything that is to be unpacked: how long it is, and what it is to become."""
        self._look = look

    def compress(self, data: bytes) -> bytes:
        return zlib.compress(data, LEVEL)

    def decompress(self, data: memoryview, length: int) -> bytes | None:
        self._look(len(data), length)
        decoder = zlib.decompressobj()
        try:
            plain = decoder.decompress(data, length + 1)  # 0 would be no limit, and one more tells that there is more
        except zlib.error:
            return None
        return plain if len(plain) == length and decoder.eof else None
