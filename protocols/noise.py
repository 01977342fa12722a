"""The Noise handshake IKpsk2 of both suites, message for message.

    initiation   -> e, es, s, ss     payload: TAI64N timestamp, the reset token of the sender's index, its terms
    response     <- e, ee, se, psk   payload: the reset token of the sender's index, its terms

With the `wireguard` suite the bytes are WireGuard's, and there are neither tokens nor terms. The `aes-gcm` suite adds one step to Noise:
before the tokens of a message its header is mixed into the hash, as a prologue would be.

Responsible for the cryptography of the two handshake messages up to their macs, which `cookies` appends. Not
responsible for retransmission, replay of initiations or key slots: that is `handshakes` and `session`. Sources: Noise
Protocol Framework, revision 34, sections 5 and 9; WireGuard paper, section 5.4.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass, field
from hashlib import blake2s

from cryptography.exceptions import InvalidTag

from holloway.protocols.errors import HandshakeFailed
from holloway.protocols.keys import KEY_BYTES, StaticKey
from holloway.protocols.offers import ALL_TERMS, SEALED, Terms
from holloway.protocols.suites import Suite
from holloway.protocols.tai64n import TAI64N_BYTES

TAG_BYTES = 16
MACS_BYTES = 32
"""mac1 and mac2, 16 bytes each, at the end of both handshake messages."""

_NONCE = bytes(12)
"""A handshake key seals one message, so its counter is 0, which is this nonce in both ciphers (Noise, section 12)."""
_INITIATION_HEADER = struct.Struct("<II")  # type, sender index
_RESPONSE_HEADER = struct.Struct("<III")  # type, sender index, receiver index


def initiation_bytes(suite: Suite) -> int:
    """Length of a whole initiation datagram in bytes: 148 in WireGuard, 165 in `aes-gcm`."""
    static, payload = KEY_BYTES + TAG_BYTES, TAI64N_BYTES + suite.token_bytes + suite.terms_bytes + TAG_BYTES
    return _INITIATION_HEADER.size + KEY_BYTES + static + payload + MACS_BYTES


def response_bytes(suite: Suite) -> int:
    """Length of a whole response datagram in bytes: 92 in WireGuard, 109 in `aes-gcm`."""
    return _RESPONSE_HEADER.size + KEY_BYTES + suite.token_bytes + suite.terms_bytes + TAG_BYTES + MACS_BYTES


def derive(chaining_key: bytes, material: bytes, count: int) -> tuple[bytes, ...]:
    """Noise's HKDF: `count` keys of 32 bytes each from a chaining key and input key material."""
    temporary = hmac.digest(chaining_key, material, blake2s)
    outputs: list[bytes] = []
    previous = b""
    for number in range(1, count + 1):
        previous = hmac.digest(temporary, previous + bytes((number,)), blake2s)
        outputs.append(previous)
    return tuple(outputs)


class SymmetricState:
    """Noise's SymmetricState: a chaining key, a transcript hash and the key for the next encryption."""

    __slots__ = ("_chaining_key", "_hash", "_key", "suite")

    def __init__(self, suite: Suite, responder_public: bytes) -> None:
        self.suite = suite
        self._chaining_key = blake2s(suite.noise_name).digest()
        self._hash = blake2s(self._chaining_key + suite.prologue).digest()
        self._key = b""
        self.mix_hash(responder_public)  # the pre-message of the IK pattern

    def __repr__(self) -> str:
        return f"<SymmetricState {self.suite.name}>"

    def copy(self) -> SymmetricState:
        twin = SymmetricState.__new__(SymmetricState)
        twin.suite, twin._chaining_key, twin._hash, twin._key = self.suite, self._chaining_key, self._hash, self._key
        return twin

    def mix_hash(self, data: bytes) -> None:
        self._hash = blake2s(self._hash + data).digest()

    def mix_header(self, header: bytes) -> None:
        """Before the first token of a message: bind what stands before its ephemeral key, in suites that do so."""
        if self.suite.is_header_bound:
            self.mix_hash(header)

    def mix_key(self, material: bytes) -> None:
        self._chaining_key, self._key = derive(self._chaining_key, material, 2)

    def mix_ephemeral(self, public: bytes) -> None:
        """The `e` token: with a pre-shared key in the pattern it also mixes into the key (Noise, section 9.2)."""
        self.mix_hash(public)
        (self._chaining_key,) = derive(self._chaining_key, public, 1)

    def mix_key_and_hash(self, preshared: bytes) -> None:
        self._chaining_key, extra, self._key = derive(self._chaining_key, preshared, 3)
        self.mix_hash(extra)

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        ciphertext = self.suite.aead(self._key).encrypt(_NONCE, plaintext, self._hash)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        """Raises `HandshakeFailed` when the ciphertext does not authenticate."""
        try:
            plaintext = self.suite.aead(self._key).decrypt(_NONCE, ciphertext, self._hash)
        except InvalidTag:
            raise HandshakeFailed("a handshake message does not authenticate") from None
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """The two transport keys: initiator to responder, responder to initiator."""
        first, second = derive(self._chaining_key, b"", 2)
        return first, second


@dataclass(frozen=True, slots=True)
class DerivedKeys:
    """What a completed handshake yields. `send` and `receive` are 32-byte keys of this side."""

    send: bytes = field(repr=False)
    receive: bytes = field(repr=False)
    local_index: int
    remote_index: int
    remote_token: bytes = field(repr=False)
    """Reset token of the other side's index, 16 bytes; empty in the `wireguard` suite."""
    terms: Terms = SEALED
    """What both sides are willing to."""


class Initiator:
    """Our side of a handshake that we began: one initiation, and at most one accepted response."""

    __slots__ = ("_ephemeral", "_preshared", "_state", "_static", "_terms", "local_index", "message")

    def __init__(
        self,
        suite: Suite,
        static: StaticKey,
        peer_public: bytes,
        preshared: bytes,
        *,
        shared: bytes,
        ephemeral: StaticKey,
        local_index: int,
        timestamp: bytes,
        token: bytes = b"",
        terms: Terms = SEALED,
    ) -> None:
        """`preshared`: 32 bytes, zeros when there is none. `shared`: the secret of both static keys, 32 bytes.

        `timestamp`: 12 bytes TAI64N. `token`: `suite.token_bytes`. `terms`: what we are willing to, in a suite that has
        terms. `message` is then the initiation without its macs.
        Raises `HandshakeFailed` for a low-order `peer_public`.
        """
        self.local_index = local_index
        self._static, self._ephemeral, self._preshared, self._terms = static, ephemeral, preshared, terms
        header = _INITIATION_HEADER.pack(suite.initiation, local_index)
        state = self._state = SymmetricState(suite, peer_public)
        state.mix_header(header)
        state.mix_ephemeral(ephemeral.public)
        state.mix_key(ephemeral.exchange(peer_public))
        sealed_static = state.encrypt_and_hash(static.public)
        state.mix_key(shared)
        sealed_payload = state.encrypt_and_hash(timestamp + token + _terms_of(suite, terms))
        self.message = header + ephemeral.public + sealed_static + sealed_payload

    def __repr__(self) -> str:
        return f"<Initiator index {self.local_index:#x}>"

    def read_response(self, message: bytes) -> DerivedKeys:
        """Read a whole response datagram of the right length that names our index.

        Raises `HandshakeFailed` and stays usable when it does not authenticate: a forged response costs nothing.
        """
        _type, remote_index, _receiver = _RESPONSE_HEADER.unpack_from(message)
        position = _RESPONSE_HEADER.size + KEY_BYTES
        remote_ephemeral = message[_RESPONSE_HEADER.size : position]
        state = self._state.copy()
        state.mix_header(message[: _RESPONSE_HEADER.size])
        state.mix_ephemeral(remote_ephemeral)
        state.mix_key(self._ephemeral.exchange(remote_ephemeral))
        state.mix_key(self._static.exchange(remote_ephemeral))
        state.mix_key_and_hash(self._preshared)
        token, terms = _token_and_terms(state.suite, state.decrypt_and_hash(message[position:-MACS_BYTES]))
        send, receive = state.split()
        return DerivedKeys(send, receive, self.local_index, remote_index, token, terms & self._terms)


class OpenedInitiation:
    """An initiation whose sender is known but not yet authenticated: `peer_public` decrypted, payload still sealed."""

    __slots__ = ("_sealed_payload", "_state", "_terms", "peer_public", "remote_ephemeral", "remote_index", "suite")

    def __init__(self, suite: Suite, static: StaticKey, message: bytes) -> None:
        """Read a whole initiation datagram of the right length. Costs one Diffie-Hellman.

        Raises `HandshakeFailed` when it was not made for `static`.
        """
        self.suite = suite
        _type, self.remote_index = _INITIATION_HEADER.unpack_from(message)
        position = _INITIATION_HEADER.size + KEY_BYTES
        self.remote_ephemeral = message[_INITIATION_HEADER.size : position]
        state = self._state = SymmetricState(suite, static.public)
        state.mix_header(message[: _INITIATION_HEADER.size])
        state.mix_ephemeral(self.remote_ephemeral)
        state.mix_key(static.exchange(self.remote_ephemeral))
        self.peer_public = state.decrypt_and_hash(message[position : position + KEY_BYTES + TAG_BYTES])
        self._sealed_payload = message[position + KEY_BYTES + TAG_BYTES : -MACS_BYTES]
        self._terms = SEALED

    def __repr__(self) -> str:
        return f"<OpenedInitiation {self.suite.name} index {self.remote_index:#x}>"

    def authenticate(self, shared: bytes) -> tuple[bytes, bytes]:
        """The initiator's timestamp (12 bytes) and reset token (`suite.token_bytes`). Call once.

        `shared` is the secret of our static key and the one of the peer that `peer_public` is believed to be. Raises
        `HandshakeFailed` when the payload does not authenticate, as with the secret of any other peer.
        """
        self._state.mix_key(shared)
        payload = self._state.decrypt_and_hash(self._sealed_payload)
        token, self._terms = _token_and_terms(self.suite, payload[TAI64N_BYTES:])
        return payload[:TAI64N_BYTES], token

    def respond(
        self,
        preshared: bytes,
        *,
        ephemeral: StaticKey,
        local_index: int,
        remote_token: bytes,
        token: bytes = b"",
        terms: Terms = SEALED,
    ) -> tuple[bytes, DerivedKeys]:
        """The response without its macs, and the responder's keys. Only after `authenticate`, once. `terms`: what we are
        willing to.

        No exchange here can fail: a remote ephemeral of low order was refused when the initiation was opened, and a
        static one has no `shared` secret to authenticate with.
        """
        header = _RESPONSE_HEADER.pack(self.suite.response, local_index, self.remote_index)
        state = self._state
        state.mix_header(header)
        state.mix_ephemeral(ephemeral.public)
        state.mix_key(ephemeral.exchange(self.remote_ephemeral))
        state.mix_key(ephemeral.exchange(self.peer_public))
        state.mix_key_and_hash(preshared)
        sealed = state.encrypt_and_hash(token + _terms_of(self.suite, terms))
        receive, send = state.split()
        return header + ephemeral.public + sealed, DerivedKeys(
            send, receive, local_index, self.remote_index, remote_token, terms & self._terms
        )


def _terms_of(suite: Suite, terms: Terms) -> bytes:
    return terms.to_bytes(suite.terms_bytes, "little") if suite.terms_bytes else b""


def _token_and_terms(suite: Suite, payload: bytes) -> tuple[bytes, Terms]:
    """The end of a payload of the right length. Terms that we do not know are nothing that we are willing to."""
    end = suite.token_bytes
    return payload[:end], Terms(int.from_bytes(payload[end:], "little") & ALL_TERMS)
