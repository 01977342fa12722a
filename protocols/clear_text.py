"""Records that anybody can read and nobody can make: the cipher of two sides that agreed on plain text.

It has the form of the suite's cipher, so that everything else stays as it is: counters, replay window, the cutting of records, and
16 bytes of tag. Only, the data is left as it is, and the tag is AES-GCM's over the data as associated data, which is GMAC
(NIST SP 800-38D, section 3). Its key follows from the transport key and is another one, so that what was made for one of
the two ciphers is never good for the other.

Not responsible for who may have this: that is `offers`, and the handshake.
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from holloway.protocols.noise import TAG_BYTES


class ClearText:
    """See `suites.Aead`. There is no associated data: what stands beside the data is in the nonce."""

    __slots__ = ("_mac",)

    def __init__(self, key: bytes) -> None:
        """`key`: 32 bytes, the transport key."""
        self._mac = AESGCM(hashlib.blake2s(b"in clear", key=key).digest())

    def __repr__(self) -> str:
        return "<ClearText>"

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """The data, and its tag."""
        assert associated_data is None
        return data + self._mac.encrypt(nonce, b"", data)

    def encrypt_into(self, nonce: bytes, data: bytes, associated_data: bytes | None, buf: memoryview) -> int:
        """The same into `buf`. How many bytes it is."""
        assert associated_data is None
        end = len(data)
        buf[:end] = data
        buf[end : end + TAG_BYTES] = self._mac.encrypt(nonce, b"", data)
        return end + TAG_BYTES

    def decrypt(self, nonce: bytes, data: bytes | memoryview, associated_data: bytes | None) -> bytes:
        """The data. Raises `cryptography.exceptions.InvalidTag` when it is not authentic. `data`: at least a tag."""
        assert associated_data is None
        body = bytes(data[:-TAG_BYTES])
        self._mac.decrypt(nonce, bytes(data[-TAG_BYTES:]), body)
        return body

    def decrypt_into(self, nonce: bytes, data: bytes, associated_data: bytes | None, buf: memoryview) -> int:
        """The same into `buf`, as long as the data. How many bytes it is."""
        buf[:] = self.decrypt(nonce, data, associated_data)
        return len(buf)
