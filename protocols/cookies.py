"""Macs and cookies of handshake messages: proof of address before work is done (WireGuard paper, section 5.4.4, 5.4.7).

`MacWriter` is the side that sends handshake messages, `MacChecker` the side that receives them. Not responsible for
deciding when the receiver is under load: that is `demux`.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable
from hashlib import blake2s

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from holloway.protocols.addresses import Address
from holloway.protocols.suites import MessageType

MAC_BYTES = 16
COOKIE_NONCE_BYTES = 24
COOKIE_REPLY_BYTES = 64
COOKIE_SECRET_S = 120.0  # WireGuard paper, section 5.4.7: the secret changes every two minutes
COOKIE_LIFETIME_S = 120.0  # the same section: how long a received cookie is of use

_CHACHA_CONSTANTS = struct.unpack("<4I", b"expand 32-byte k")


def _mac(key: bytes, data: bytes) -> bytes:
    return blake2s(data, key=key, digest_size=MAC_BYTES).digest()


def mac1_key(responder_public: bytes) -> bytes:
    """Key of mac1: whoever can compute it knows the public key of the receiver."""
    return blake2s(b"mac1----" + responder_public).digest()


def cookie_key(responder_public: bytes) -> bytes:
    return blake2s(b"cookie--" + responder_public).digest()


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """HChaCha20 (draft-irtf-cfrg-xchacha-03, section 2.2): 32-byte key, 16-byte nonce, 32 bytes out.

    ChaCha20's block function is the permuted state plus the state it began with, and here the first and last rows of
    that beginning are public, so HChaCha20 is a key stream block with them taken off again.
    """
    stream = Cipher(ChaCha20(key, nonce), mode=None).encryptor().update(bytes(64))
    words = struct.unpack("<16I", stream)
    first = [(word - constant) & 0xFFFFFFFF for word, constant in zip(words[:4], _CHACHA_CONSTANTS, strict=True)]
    last = [(word - part) & 0xFFFFFFFF for word, part in zip(words[12:], struct.unpack("<4I", nonce), strict=True)]
    return struct.pack("<8I", *first, *last)


def _xchacha(key: bytes, nonce: bytes) -> tuple[ChaCha20Poly1305, bytes]:
    """The cipher and 12-byte nonce by which XChaCha20-Poly1305 works (draft-irtf-cfrg-xchacha-03, section 2.3)."""
    return ChaCha20Poly1305(hchacha20(key, nonce[:16])), bytes(4) + nonce[16:]


def encode_source(address: Address) -> bytes:
    """The source of a datagram as our cookies bind it: port and host, whatever text the socket gives for the host.

    Nobody but us reads a cookie, so it need not be the packed address that other implementations hash.
    """
    return f"{address[1]} {address[0]}".encode("utf-8", "backslashreplace")


class MacWriter:
    """Appends mac1 and mac2 to our handshake messages, and remembers the cookie that the peer gave us."""

    __slots__ = ("_cookie", "_cookie_at", "_cookie_key", "_last_mac1", "_mac1_key")

    def __init__(self, peer_public: bytes) -> None:
        self._mac1_key = mac1_key(peer_public)
        self._cookie_key = cookie_key(peer_public)
        self._last_mac1 = b""
        self._cookie = b""
        self._cookie_at = 0.0

    def __repr__(self) -> str:
        return f"<MacWriter cookie={'held' if self._cookie else 'none'}>"

    def append(self, message: bytes, now: float) -> bytes:
        """`message` with its macs; mac2 is zero unless a cookie younger than `COOKIE_LIFETIME_S` is held."""
        mac1 = self._last_mac1 = _mac(self._mac1_key, message)
        message += mac1
        if self._cookie and now - self._cookie_at < COOKIE_LIFETIME_S:
            return message + _mac(self._cookie, message)
        return message + bytes(MAC_BYTES)

    def read_cookie_reply(self, message: bytes, now: float) -> bool:
        """Take the cookie out of a cookie reply. False when it does not authenticate.

        One reply for each message of ours (wireguard-linux, cookie.c): a second one, a replay say, changes nothing.
        """
        if not self._last_mac1 or len(message) != COOKIE_REPLY_BYTES:
            return False
        cipher, nonce = _xchacha(self._cookie_key, message[8 : 8 + COOKIE_NONCE_BYTES])
        try:
            cookie = cipher.decrypt(nonce, message[8 + COOKIE_NONCE_BYTES :], self._last_mac1)
        except InvalidTag:
            return False
        self._cookie, self._cookie_at, self._last_mac1 = cookie, now, b""
        return True


class MacChecker:
    """Checks the macs of handshake messages made for our public key, and makes cookie replies."""

    __slots__ = ("_cookie_key", "_entropy", "_mac1_key", "_secret", "_secret_at")

    def __init__(self, public: bytes, entropy: Callable[[int], bytes]) -> None:
        self._mac1_key = mac1_key(public)
        self._cookie_key = cookie_key(public)
        self._entropy = entropy
        self._secret = b""
        self._secret_at = 0.0

    def __repr__(self) -> str:
        return "<MacChecker>"

    def is_mac1_valid(self, message: bytes) -> bool:
        """Whether the sender of a whole handshake message knows our public key."""
        return hmac.compare_digest(_mac(self._mac1_key, message[:-32]), message[-32:-16])

    def is_mac2_valid(self, message: bytes, source: Address, now: float) -> bool:
        """Whether the sender has lately received a cookie at `source`."""
        if not self._secret or now - self._secret_at >= COOKIE_SECRET_S:
            return False
        cookie = _mac(self._secret, encode_source(source))
        return hmac.compare_digest(_mac(cookie, message[:-16]), message[-16:])

    def cookie_reply(self, kind: MessageType, message: bytes, source: Address, now: float) -> bytes:
        """The cookie reply (64 bytes) to a handshake message whose mac1 is valid."""
        if not self._secret or now - self._secret_at >= COOKIE_SECRET_S:
            self._secret, self._secret_at = self._entropy(32), now
        sender = message[4:8]
        nonce = self._entropy(COOKIE_NONCE_BYTES)
        cipher, short_nonce = _xchacha(self._cookie_key, nonce)
        cookie = _mac(self._secret, encode_source(source))
        sealed = cipher.encrypt(short_nonce, cookie, message[-32:-16])
        return kind.to_bytes(4, "little") + sender + nonce + sealed
