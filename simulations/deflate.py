"""A compression of the standard library in the place of LZ4: it keeps the same contract, and needs no extra.

Not responsible for what is compressed: see `holloway.protocols.compression`.
"""

from __future__ import annotations

import zlib

LEVEL = 1


class Deflate:
    """See `holloway.protocols.compression.Codec`."""

    def compress(self, data: bytes) -> bytes:
        return zlib.compress(data, LEVEL)

    def decompress(self, data: memoryview, length: int) -> bytes | None:
        decoder = zlib.decompressobj()
        try:
            plain = decoder.decompress(data, length + 1)  # 0 would be no limit, and one more tells that there is more
        except zlib.error:
            return None
        return plain if len(plain) == length and decoder.eof else None
