"""A cipher under watch: it does what the real one does, and the promise about its nonces is asked about on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from holloway.protocols.record_wire import SPARSE_MARK, SPREAD_BITS
from holloway.protocols.suites import Aead, Suite
from holloway.simulations.oracles import no_nonce_used_twice
from holloway.simulations.record_oracles import record_number, records_begin_at_their_first_counter


def watched_suite(suite: Suite, hold: Callable[..., None], note: Callable[[int, bytes], None] | None = None) -> Suite:
    """`suite` with a cipher that remembers, for a whole world, which nonces each key has sealed with. `note` is told of each
    record: its number, and what is in it.
    """
    has_records = suite.transport is None
    used: dict[bytes, dict[bytes, None]] = {}

    def make(key: bytes) -> Aead:
        return _WatchedCipher(suite.aead(key), key, used.setdefault(key, {}), hold, note, has_records)

    return replace(suite, aead=make)


class _WatchedCipher:
    """A cipher that keeps the promise about its nonces under watch."""

    __slots__ = ("_cipher", "_has_records", "_hold", "_key", "_note", "_used", "decrypt", "decrypt_into")

    def __init__(
        self,
        cipher: Aead,
        key: bytes,
        used: dict[bytes, None],
        hold: Callable[..., None],
        note: Callable[[int, bytes], None] | None,
        has_records: bool,
    ) -> None:
        self._cipher, self._key, self._used, self._hold, self._note = cipher, key, used, hold, note
        self._has_records = has_records
        self.decrypt, self.decrypt_into = cipher.decrypt, cipher.decrypt_into

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        if self._has_records and nonce[2:4] != b"\0\0":  # a kind: this is no message of a handshake
            word, kind = int.from_bytes(nonce[4:], "little"), int.from_bytes(nonce[2:4], "little")
            number = record_number(kind, word)
            lane = bytes((kind & SPARSE_MARK != 0,))
            if lane not in self._used:  # nor is anything else as short
                self._used[lane] = None
                self._hold(records_begin_at_their_first_counter, self._key, word >> SPREAD_BITS)
            self._hold(no_nonce_used_twice, self._used, number.to_bytes(8, "big"))
            if self._note is not None:
                self._note(number, data)
        else:
            self._hold(no_nonce_used_twice, self._used, nonce)
        return self._cipher.encrypt(nonce, data, associated_data)

    def encrypt_into(self, nonce: bytes, data: bytes, associated_data: bytes | None, buf: memoryview) -> int:
        """See `Aead`."""
        buf[:] = self.encrypt(nonce, data, associated_data)
        return len(buf)
