"""X25519 keys: their text form, and the key pair of a node or of one handshake.

Not responsible for reading or writing key files, nor for where randomness comes from: private keys come in as 32 bytes.

Nothing here puts a key into an error or a `repr`, and no error is chained to one whose text or attributes hold a key.
"""

from __future__ import annotations

import base64
import re

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from holloway.protocols.errors import HandshakeFailed, LocalError

KEY_BYTES = 32  # RFC 7748, section 5: private keys, public keys and shared secrets of X25519
KEY_TEXT_CHARS = 44  # base64 of 32 bytes, padding included (wireguard-tools encoding.h: WG_KEY_LEN_BASE64 - 1)

_ALPHABET = re.compile(rb"[A-Za-z0-9+/]{43}=")
# 43 digits hold 258 bits, two more than a key: in the one canonical text of a key the last digit is a multiple of four.
_CANONICAL = re.compile(rb"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")
_FIX = "paste the whole key as `wg pubkey` or `wg genkey` prints it: 44 characters on one line, the last one '='"


def decode_key(text: str | bytes) -> bytes:
    """The 32 bytes of a key in WireGuard's base64: exactly 44 characters, no spaces, no line end.

    Accepts the canonical text only, so that equal keys have equal texts.

    Raises LocalError, which says what is wrong and never quotes the text.
    """
    # A character outside ASCII becomes '?', which base64 does not have. (An exception of the codec would carry the key.)
    encoded = text.encode("ascii", "replace") if isinstance(text, str) else bytes(text)
    if len(encoded) != KEY_TEXT_CHARS:
        raise LocalError("not a key", f"it has {len(encoded)} characters, a key has {KEY_TEXT_CHARS}", _FIX)
    if _ALPHABET.fullmatch(encoded) is None:
        raise LocalError("not a key", "it is not base64: 43 of A-Z a-z 0-9 + / and then '='", _FIX)
    if _CANONICAL.fullmatch(encoded) is None:
        raise LocalError("not a key", "its last character but one is not one that a key can end with", _FIX)
    return base64.b64decode(encoded)


def encode_key(key: bytes) -> str:
    """The text of a 32-byte key, private, public or preshared: 44 characters. Raises LocalError for another length."""
    _require_key(key, "key")
    return base64.b64encode(key).decode("ascii")


def clamp(private: bytes) -> bytes:
    """32 random bytes made into a private key as `wg genkey` does it (RFC 7748, section 5, decodeScalar25519).

    X25519 clamps by itself. Clamping before storing makes the stored text the one that WireGuard would have stored.
    Raises LocalError for another length.
    """
    _require_key(private, "private key")
    return bytes([private[0] & 248]) + private[1:31] + bytes([(private[31] & 127) | 64])


class StaticKey:
    """An X25519 key pair. Serves for ephemeral pairs as well: it is made of 32 private bytes, wherever they came from.

    Raises LocalError when `private` is not 32 bytes.
    """

    __slots__ = ("_private", "_public")

    def __init__(self, private: bytes) -> None:
        _require_key(private, "private key")
        self._private = X25519PrivateKey.from_private_bytes(private)
        self._public = self._private.public_key().public_bytes_raw()

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._public

    def exchange(self, peer_public: bytes) -> bytes:
        """The shared secret with the owner of `peer_public` (32 bytes): 32 bytes, never all zero.

        Raises HandshakeFailed when the peer's key is a point of low order, whose secret everybody knows (RFC 7748,
        section 6.1), and LocalError when `peer_public` is not 32 bytes.
        """
        _require_key(peer_public, "public key")
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError:
            raise HandshakeFailed("key exchange refused", "the peer's public key is a point of low order") from None

    def __repr__(self) -> str:
        return "<StaticKey>"


def _require_key(key: bytes, name: str) -> None:
    if len(key) != KEY_BYTES:
        raise LocalError(f"not a {name}", f"it has {len(key)} bytes, a {name} has {KEY_BYTES}")
