"""The handshake of both suites, byte for byte against the independent `noiseprotocol` library, and its refusals."""

from __future__ import annotations

import random
import struct

import pytest
from cryptography.exceptions import InvalidTag
from noise.connection import Keypair, NoiseConnection

from holloway.protocols.errors import HandshakeFailed
from holloway.protocols.keys import StaticKey
from holloway.protocols.noise import (
    MACS_BYTES,
    DerivedKeys,
    Initiator,
    OpenedInitiation,
    SymmetricState,
    derive,
    initiation_bytes,
    response_bytes,
)
from holloway.protocols.offers import ALL_TERMS, SEALED, Terms
from holloway.protocols.suites import AES_GCM, SUITES, WIREGUARD, Suite

both_suites = pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))

TIMESTAMP = bytes.fromhex("4000000068a1b2c300112233")
LOW_ORDER = bytes(32)


class Pair:
    """Two parties with keys from a seed."""

    def __init__(self, seed: int = 0) -> None:
        rng = random.Random(seed)
        self.private = {name: rng.randbytes(32) for name in ("a", "b", "ea", "eb")}
        self.keys = {name: StaticKey(private) for name, private in self.private.items()}
        self.preshared = rng.randbytes(32)
        self.token_a, self.token_b = rng.randbytes(16), rng.randbytes(16)
        self.shared = self.keys["a"].exchange(self.keys["b"].public)

    def initiator(self, suite: Suite, **changes: object) -> Initiator:
        arguments: dict[str, object] = {
            "shared": self.shared,
            "ephemeral": self.keys["ea"],
            "local_index": 0x11223344,
            "timestamp": TIMESTAMP,
            "token": self.token_a[: suite.token_bytes],
            "terms": ALL_TERMS,
        }
        return Initiator(suite, self.keys["a"], self.keys["b"].public, self.preshared, **{**arguments, **changes})  # type: ignore[arg-type]

    def respond(
        self, opened: OpenedInitiation, token: bytes, preshared: bytes | None = None
    ) -> tuple[bytes, DerivedKeys]:
        message, keys = opened.respond(
            self.preshared if preshared is None else preshared,
            ephemeral=self.keys["eb"],
            local_index=0x55667788,
            remote_token=token,
            token=self.token_b[: opened.suite.token_bytes],
            terms=Terms.LZ4,
        )
        return message + bytes(MACS_BYTES), keys

    def bind(self, noise: NoiseConnection, suite: Suite, header: bytes) -> None:
        """What the `aes-gcm` suite adds to Noise before each message."""
        if suite is AES_GCM:
            noise.noise_protocol.symmetric_state.mix_hash(header)

    def reference(self, suite: Suite, name: str) -> NoiseConnection:
        """The other implementation in the role of `a` (initiator) or `b`, with the same ephemeral key as ours."""
        noise = NoiseConnection.from_name(suite.noise_name)
        noise.set_psks(self.preshared)
        noise.set_prologue(suite.prologue)
        noise.set_keypair_from_private_bytes(Keypair.STATIC, self.private[name])
        noise.set_keypair_from_private_bytes(Keypair.EPHEMERAL, self.private["e" + name])
        if name == "a":
            noise.set_as_initiator()
            noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, self.keys["b"].public)
        else:
            noise.set_as_responder()
        with pytest.warns(UserWarning, match="ephemeral keypairs is already set"):
            noise.start_handshake()
        return noise


def said(suite: Suite, token: bytes, terms: int) -> bytes:
    """The end of a payload: WireGuard's has neither."""
    return token[: suite.token_bytes] + bytes((terms,))[: suite.terms_bytes]


@both_suites
@pytest.mark.parametrize("seed", range(5))
def test_initiator_speaks_with_an_independent_responder(suite: Suite, seed: int) -> None:
    pair = Pair(seed)
    reference = pair.reference(suite, "b")
    initiator = pair.initiator(suite)
    assert initiator.message[:8] == struct.pack("<II", suite.initiation, 0x11223344)
    pair.bind(reference, suite, initiator.message[:8])
    assert reference.read_message(initiator.message[8:]) == TIMESTAMP + said(suite, pair.token_a, ALL_TERMS)
    header = struct.pack("<III", suite.response, 0x55667788, 0x11223344)
    pair.bind(reference, suite, header)
    response = header + reference.write_message(said(suite, pair.token_b, Terms.LZ4)) + bytes(MACS_BYTES)
    keys = initiator.read_response(response)
    assert (keys.local_index, keys.remote_index) == (0x11223344, 0x55667788)
    assert keys.remote_token == pair.token_b[: suite.token_bytes]
    assert keys.terms == (Terms.LZ4 if suite is AES_GCM else SEALED)
    assert keys.receive == reference.noise_protocol.cipher_state_encrypt.k
    assert keys.send == reference.noise_protocol.cipher_state_decrypt.k


@both_suites
@pytest.mark.parametrize("seed", range(5))
def test_responder_speaks_with_an_independent_initiator(suite: Suite, seed: int) -> None:
    pair = Pair(seed)
    reference = pair.reference(suite, "a")
    header = struct.pack("<II", suite.initiation, 7)
    pair.bind(reference, suite, header)
    body = reference.write_message(TIMESTAMP + said(suite, pair.token_a, 0xFF))
    message = header + body + bytes(MACS_BYTES)
    opened = OpenedInitiation(suite, pair.keys["b"], message)
    assert opened.peer_public == pair.keys["a"].public
    timestamp, token = opened.authenticate(pair.shared)
    assert (timestamp, token) == (TIMESTAMP, pair.token_a[: suite.token_bytes])
    response, keys = pair.respond(opened, token)
    assert response[:12] == struct.pack("<III", suite.response, 0x55667788, 7)
    pair.bind(reference, suite, response[:12])
    assert reference.read_message(response[12:-MACS_BYTES]) == said(suite, pair.token_b, Terms.LZ4)
    assert keys.terms == (Terms.LZ4 if suite is AES_GCM else SEALED), "bits that nobody knows are not agreed on"
    assert keys.receive == reference.noise_protocol.cipher_state_encrypt.k
    assert keys.send == reference.noise_protocol.cipher_state_decrypt.k


@both_suites
def test_our_initiation_is_the_other_implementations_byte_for_byte(suite: Suite) -> None:
    pair = Pair(9)
    reference = pair.reference(suite, "a")
    pair.bind(reference, suite, struct.pack("<II", suite.initiation, 0x11223344))
    theirs = reference.write_message(TIMESTAMP + said(suite, pair.token_a, ALL_TERMS))
    assert pair.initiator(suite).message[8:] == theirs


@both_suites
def test_both_sides_of_ours_agree(suite: Suite) -> None:
    pair = Pair(3)
    initiator = pair.initiator(suite)
    opened = OpenedInitiation(suite, pair.keys["b"], initiator.message + bytes(MACS_BYTES))
    _, token = opened.authenticate(pair.shared)
    response, theirs = pair.respond(opened, token)
    ours = initiator.read_response(response)
    assert (ours.send, ours.receive) == (theirs.receive, theirs.send)
    assert ours.send != ours.receive
    assert ours.terms == theirs.terms == (Terms.LZ4 if suite is AES_GCM else SEALED), "what both are willing to"
    assert (ours.local_index, ours.remote_index) == (theirs.remote_index, theirs.local_index)
    assert theirs.remote_token == pair.token_a[: suite.token_bytes]


def test_lengths_are_wireguards_and_seventeen_more_with_token_and_terms() -> None:
    assert (initiation_bytes(WIREGUARD), response_bytes(WIREGUARD)) == (148, 92)  # WireGuard paper, section 5.4
    assert (initiation_bytes(AES_GCM), response_bytes(AES_GCM)) == (165, 109)
    pair = Pair()
    for suite in SUITES.values():
        initiator = pair.initiator(suite)
        assert len(initiator.message) + MACS_BYTES == initiation_bytes(suite)
        opened = OpenedInitiation(suite, pair.keys["b"], initiator.message + bytes(MACS_BYTES))
        opened.authenticate(pair.shared)
        assert len(pair.respond(opened, b"")[0]) == response_bytes(suite)


def test_derive_gives_the_keys_of_wireguard_go_kdf_test() -> None:
    # wireguard-go, device/kdf_test.go: key "test-key", input "test-input".
    t0, t1, t2 = derive(b"test-key", b"test-input", 3)
    assert t0.hex() == "6f0e5ad38daba1bea8a0d213688736f19763239305e0f58aba697f9ffc41c633"
    assert t1.hex() == "df1194df20802a4fe594cde27e92991c8cae66c366e8106aaa937a55fa371e8a"
    assert t2.hex() == "fac6e2745a325f5dc5d11a5b165aad08b0ada28e7b4e666b7c077934a4d76c24"
    assert derive(b"test-key", b"test-input", 1) == (t0,)


@both_suites
def test_every_flipped_byte_of_an_initiation_is_refused(suite: Suite) -> None:
    pair = Pair(4)
    whole = pair.initiator(suite).message + bytes(MACS_BYTES)
    for place in range(0 if suite is AES_GCM else 8, len(whole) - MACS_BYTES):
        broken = whole[:place] + bytes((whole[place] ^ 0x40,)) + whole[place + 1 :]
        with pytest.raises(HandshakeFailed):
            OpenedInitiation(suite, pair.keys["b"], broken).authenticate(pair.shared)


@both_suites
def test_every_flipped_byte_of_a_response_is_refused_and_the_true_one_still_accepted(suite: Suite) -> None:
    pair = Pair(5)
    initiator = pair.initiator(suite)
    opened = OpenedInitiation(suite, pair.keys["b"], initiator.message + bytes(MACS_BYTES))
    opened.authenticate(pair.shared)
    response, theirs = pair.respond(opened, b"")
    for place in range(0 if suite is AES_GCM else 12, len(response) - MACS_BYTES):
        broken = response[:place] + bytes((response[place] ^ 0x40,)) + response[place + 1 :]
        with pytest.raises(HandshakeFailed):
            initiator.read_response(broken)
    assert initiator.read_response(response).send == theirs.receive


@both_suites
def test_low_order_ephemeral_keys_are_refused_on_both_sides(suite: Suite) -> None:
    pair = Pair(6)
    initiator = pair.initiator(suite)
    whole = initiator.message + bytes(MACS_BYTES)
    with pytest.raises(HandshakeFailed):
        OpenedInitiation(suite, pair.keys["b"], whole[:8] + LOW_ORDER + whole[40:])
    opened = OpenedInitiation(suite, pair.keys["b"], whole)
    opened.authenticate(pair.shared)
    response, _ = pair.respond(opened, b"")
    with pytest.raises(HandshakeFailed):
        initiator.read_response(response[:12] + LOW_ORDER + response[44:])


def test_initiating_to_a_low_order_key_is_refused() -> None:
    pair = Pair(7)
    with pytest.raises(HandshakeFailed):
        Initiator(
            AES_GCM,
            pair.keys["a"],
            LOW_ORDER,
            pair.preshared,
            shared=pair.shared,
            ephemeral=pair.keys["ea"],
            local_index=1,
            timestamp=TIMESTAMP,
        )


@both_suites
def test_another_preshared_key_another_static_key_and_another_suite_do_not_fit(suite: Suite) -> None:
    pair, stranger = Pair(1), Pair(2)
    initiator = pair.initiator(suite)
    whole = initiator.message + bytes(MACS_BYTES)
    with pytest.raises(HandshakeFailed):
        OpenedInitiation(suite, stranger.keys["b"], whole)
    with pytest.raises(HandshakeFailed):
        OpenedInitiation(suite, pair.keys["b"], whole).authenticate(stranger.shared)
    other = AES_GCM if suite is WIREGUARD else WIREGUARD
    with pytest.raises(HandshakeFailed):
        OpenedInitiation(other, pair.keys["b"], whole)
    opened = OpenedInitiation(suite, pair.keys["b"], whole)
    opened.authenticate(pair.shared)
    response, _ = pair.respond(opened, b"", preshared=bytes(32))
    with pytest.raises(HandshakeFailed):
        initiator.read_response(response)


def test_identity_of_the_initiator_is_not_on_the_wire() -> None:
    pair = Pair(8)
    for suite in SUITES.values():
        message = pair.initiator(suite).message
        assert pair.keys["a"].public not in message
        assert pair.keys["b"].public not in message
        assert TIMESTAMP not in message


def test_repr_shows_no_key() -> None:
    pair = Pair(11)
    initiator = pair.initiator(AES_GCM)
    opened = OpenedInitiation(AES_GCM, pair.keys["b"], initiator.message + bytes(MACS_BYTES))
    _, token = opened.authenticate(pair.shared)
    _, keys = pair.respond(opened, token)
    state = SymmetricState(AES_GCM, pair.keys["b"].public)
    assert repr(initiator) == "<Initiator index 0x11223344>"
    assert repr(opened) == "<OpenedInitiation aes-gcm index 0x11223344>"
    assert repr(state) == "<SymmetricState aes-gcm>"
    for secret in (keys.send, keys.receive, keys.remote_token):
        assert repr(secret)[2:-1] not in repr(keys)


def test_the_transport_cipher_of_the_wireguard_suite_is_noises() -> None:
    pair = Pair(12)
    reference = pair.reference(WIREGUARD, "b")
    initiator = pair.initiator(WIREGUARD)
    reference.read_message(initiator.message[8:])
    response = struct.pack("<III", 2, 5, 0x11223344) + reference.write_message(b"") + bytes(MACS_BYTES)
    keys = initiator.read_response(response)
    for counter in range(3):
        sealed = WIREGUARD.aead(keys.send).encrypt(struct.pack("<IQ", 0, counter), b"inner", None)
        assert reference.decrypt(sealed) == b"inner"
    with pytest.raises(InvalidTag):
        WIREGUARD.aead(keys.send).decrypt(bytes(12), b"x" * 21, None)
