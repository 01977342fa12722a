"""Receiver indices: the four bytes by which a datagram finds its session.

An index is half random, half a mac under a key derived from the node's private key. So a node that has lost its
sessions in a restart still recognises the indices that it gave out before, and can tell their owners with a reset,
while somebody who guesses gets no answer. Not responsible for what a reset causes: `demux` and `session`.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import blake2s
from typing import Final, Generic, TypeVar

from holloway.protocols.errors import LocalError
from holloway.protocols.suites import FIRST_RECEIVER_INDEX, PLAIN_DTLS_WORDS, TOKEN_BYTES

Handle = TypeVar("Handle")

MAX_INDICES = 24_576
"""Three eighths of the random halves: a free one is always near, and a guessed index is one in use with 2^-17.4."""


class IndexTable(Generic[Handle]):
    """Which session an index belongs to. `secret` is any key derived from the node's private key."""

    __slots__ = ("_entropy", "_index_key", "_owners", "_token_key", "owner")

    def __init__(self, secret: bytes, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._index_key = blake2s(b"receiver index", key=secret).digest()
        self._token_key = blake2s(b"reset token", key=secret).digest()
        self._owners: Final[dict[int, Handle]] = {}
        self.owner: Final[Callable[[int], Handle | None]] = self._owners.get
        """Whose an index is; None if it is nobody's. Asked for each datagram, so not a call of Python."""

    def __repr__(self) -> str:
        return f"<IndexTable {len(self._owners)} in use>"

    def __len__(self) -> int:
        return len(self._owners)

    def _complete(self, half: int) -> int:
        mac = blake2s(half.to_bytes(2, "little"), key=self._index_key, digest_size=2).digest()
        return half << 16 | int.from_bytes(mac, "little")

    def allocate(self, owner: Handle) -> int:
        """A fresh index, never below `FIRST_RECEIVER_INDEX`, nor a word that DTLS begins with. Raises `LocalError` when `MAX_INDICES` are in use."""
        if len(self._owners) >= MAX_INDICES:
            raise LocalError(
                "no receiver index is free", f"{MAX_INDICES} are in use", "spread the peers over more nodes"
            )
        half = int.from_bytes(self._entropy(2), "little")
        while (
            (index := self._complete(half)) < FIRST_RECEIVER_INDEX or index in self._owners or index in PLAIN_DTLS_WORDS
        ):
            half = (half + 1) & 0xFFFF  # the next one, not another draw: ends with any source of randomness
        self._owners[index] = owner
        return index

    def release(self, index: int) -> None:
        self._owners.pop(index, None)

    def was_issued(self, index: int) -> bool:
        """Whether this node, in this life or an earlier one, gave out `index`."""
        return hmac.compare_digest(self._complete(index >> 16).to_bytes(4, "little"), index.to_bytes(4, "little"))

    def token(self, index: int) -> bytes:
        """The reset token of `index`, 16 bytes: proof that its sender is the node that gave the index out."""
        return blake2s(index.to_bytes(4, "little"), key=self._token_key, digest_size=TOKEN_BYTES).digest()
