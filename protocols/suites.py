"""The two cipher suites of the session protocol.

Responsible for what differs between them: Noise protocol name, prologue, message types, AEAD, message limits and
whether there are resets. Not responsible for the handshake (`noise`) nor for transport framing (`transport`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305


class MessageType(IntEnum):
    """The first little-endian 32-bit word of a datagram.

    1 to 4 are WireGuard's (paper, section 5.4). 0x21 to 0x24 are Holloway's own, as is 0xD7, which stands before DTLS
    (`dtls_wire`; outside of what RFC 7983 gives to DTLS itself). 5 to 255 otherwise are reserved. A
    word of `FIRST_RECEIVER_INDEX` or more is itself the receiver index of an `aes-gcm` transport datagram, so the
    common case needs one table lookup and no further header.
    """

    WIREGUARD_INITIATION = 1
    WIREGUARD_RESPONSE = 2
    WIREGUARD_COOKIE_REPLY = 3
    WIREGUARD_TRANSPORT = 4
    INITIATION = 0x21
    RESPONSE = 0x22
    COOKIE_REPLY = 0x23
    RESET = 0x24
    DTLS = 0xD7


FIRST_RECEIVER_INDEX = 256
"""Receiver indices below this are never allocated: those words are message types."""
PLAIN_DTLS_WORDS = frozenset(kind | 0xFE << 8 | minor << 16 for kind in (20, 21, 22, 23) for minor in (0xFD, 0xFF))
"""How datagrams of DTLS begin that nothing stands before: content type, version, and the zero byte of the first epochs (RFC 6347,
section 4.1). No receiver index is one of these either."""
TOKEN_BYTES = 16
TERMS_BYTES = 1


class Aead(Protocol):
    """An authenticated cipher with a 16-byte tag; `decrypt` raises `cryptography.exceptions.InvalidTag`."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...

    def encrypt_into(self, nonce: bytes, data: bytes, associated_data: bytes | None, buf: memoryview) -> int: ...

    def decrypt(self, nonce: bytes, data: bytes | memoryview, associated_data: bytes | None) -> bytes: ...

    def decrypt_into(self, nonce: bytes, data: bytes, associated_data: bytes | None, buf: memoryview) -> int: ...


@dataclass(frozen=True, slots=True)
class Suite:
    """One cipher suite.

    `prologue` is what both sides hash before the first message. `rekey_after_messages` and `reject_after_messages`
    bound what one transport key seals in one direction: at the first a successor is asked for, at the second it
    refuses.
    """

    name: str
    noise_name: bytes
    prologue: bytes
    initiation: MessageType
    response: MessageType
    cookie_reply: MessageType
    aead: Callable[[bytes], Aead]
    rekey_after_messages: int
    reject_after_messages: int
    transport: MessageType | None
    """The type word of transport datagrams; `None` where the receiver index stands in its place."""
    is_header_bound: bool
    """Whether the transcript holds the headers of handshake messages. In WireGuard their indices are under mac1 alone,
    which whoever knows the public key can make anew."""
    token_bytes: int
    """Length of the reset token in handshake payloads (see `docs/protocol.md`); 0 in a suite without resets."""
    terms_bytes: int
    """Length of the terms behind it (`offers.Terms`); 0 in a suite where nothing is agreed on."""


AES_GCM = Suite(
    name="aes-gcm",
    noise_name=b"Noise_IKpsk2_25519_AESGCM_BLAKE2s",
    prologue=b"Holloway v1 session",
    initiation=MessageType.INITIATION,
    response=MessageType.RESPONSE,
    cookie_reply=MessageType.COOKIE_REPLY,
    aead=AESGCM,
    # RFC 8446, section 5.5: about 2^24.5 full-size records keep the attacker's advantage below 2^-57.
    rekey_after_messages=1 << 24,
    reject_after_messages=1 << 25,
    transport=None,
    is_header_bound=True,
    token_bytes=TOKEN_BYTES,
    terms_bytes=TERMS_BYTES,
)

WIREGUARD = Suite(
    name="wireguard",
    noise_name=b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s",
    prologue=b"WireGuard v1 zx2c4 Jason@zx2c4.com",
    initiation=MessageType.WIREGUARD_INITIATION,
    response=MessageType.WIREGUARD_RESPONSE,
    cookie_reply=MessageType.WIREGUARD_COOKIE_REPLY,
    aead=ChaCha20Poly1305,
    rekey_after_messages=1 << 60,  # WireGuard paper, section 6.1
    reject_after_messages=(1 << 64) - (1 << 13) - 1,
    transport=MessageType.WIREGUARD_TRANSPORT,
    is_header_bound=False,
    token_bytes=0,
    terms_bytes=0,
)

SUITES: Mapping[str, Suite] = MappingProxyType({suite.name: suite for suite in (AES_GCM, WIREGUARD)})
