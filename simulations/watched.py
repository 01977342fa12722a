"""A cipher under watch: it does what the real one does, and the promise about its nonces is asked about on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from holloway.protocols.suites import Aead, Suite
from holloway.simulations.oracles import no_nonce_used_twice


def watched_suite(suite: Suite, hold: Callable[..., None]) -> Suite:
    """`suite` with a cipher that remembers, for a whole world, which nonces each key has sealed with."""
    used: dict[bytes, dict[bytes, None]] = {}

    def make(key: bytes) -> Aead:
        return _WatchedCipher(suite.aead(key), used.setdefault(key, {}), hold)

    return replace(suite, aead=make)


class _WatchedCipher:
    """A cipher that keeps the promise about its nonces under watch."""

    __slots__ = ("_cipher", "_hold", "_used", "decrypt")

    def __init__(self, cipher: Aead, used: dict[bytes, None], hold: Callable[..., None]) -> None:
        self._cipher, self._used, self._hold = cipher, used, hold
        self.decrypt = cipher.decrypt

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        self._hold(no_nonce_used_twice, self._used, nonce)
        return self._cipher.encrypt(nonce, data, associated_data)
