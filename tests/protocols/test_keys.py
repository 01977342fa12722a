"""Text form and exchange of X25519 keys, against `wg`, RFC 7748 and the points of low order."""

from __future__ import annotations

import base64
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.errors import HandshakeFailed, LocalError
from holloway.protocols.keys import KEY_BYTES, StaticKey, clamp, decode_key, encode_key

KEYS = st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES)

# Printed by `wg genkey` and `wg pubkey` of wireguard-tools.
WG_PAIRS = [
    ("sEBqLuSFnNNe1lULVpkq3SpkDtc6w0oJka2oN9WnXFI=", "/uxHAl2gbi8Xb2Tv456Y8G0CuVl7OWfqKb0hmX7yiFE="),
    ("CKqgLI9ZdPTBL6frXRviDUgn0AadjK/5duZrt8T/9Ew=", "Mjq6FyYFYxYLUjungjkAkOX6k+OB29uB7i3bAHuz7wc="),
    ("QFZoxoj7WCzIfMQPrdSTuBL2bYJ7L5tutpLt1Bd4g3A=", "zjU+pGwKGPSL+Fjoj0H3DvBwieOa+gjX8nP4hjfX3FM="),
]
TEXT = WG_PAIRS[0][0]

# RFC 7748, section 6.1.
ALICE_PRIVATE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
ALICE_PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB_PRIVATE = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
SECRET = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")

# Every u-coordinate of low order in 255 bits: 0, 1, two of order 8, and p - 1, p, p + 1 (cr.yp.to/ecdh.html).
P = 2**255 - 19
LOW_ORDER = [
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    P - 1,
    P,
    P + 1,
]


@pytest.mark.parametrize(("private", "public"), WG_PAIRS)
def test_public_key_is_the_one_that_wg_pubkey_prints(private: str, public: str) -> None:
    assert encode_key(StaticKey(decode_key(private)).public) == public


def test_exchange_gives_the_secret_of_rfc_7748() -> None:
    alice, bob = StaticKey(ALICE_PRIVATE), StaticKey(BOB_PRIVATE)
    assert (alice.public, bob.public) == (ALICE_PUBLIC, BOB_PUBLIC)
    assert alice.exchange(BOB_PUBLIC) == bob.exchange(ALICE_PUBLIC) == SECRET


@pytest.mark.parametrize("top_bit", [0, 1 << 255])
@pytest.mark.parametrize("point", LOW_ORDER)
def test_exchange_refuses_a_point_of_low_order(point: int, top_bit: int) -> None:
    with pytest.raises(HandshakeFailed, match="low order"):
        StaticKey(ALICE_PRIVATE).exchange((point | top_bit).to_bytes(32, "little"))


@given(KEYS)
def test_decode_reverses_encode_for_text_and_for_bytes(key: bytes) -> None:
    text = encode_key(key)
    assert text == base64.b64encode(key).decode()
    assert decode_key(text) == decode_key(text.encode()) == key


@given(KEYS, st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))
def test_of_the_texts_that_differ_in_the_last_character_only_the_canonical_is_a_key(key: bytes, last: str) -> None:
    text = encode_key(key)[:42] + last + "="
    if encode_key(base64.b64decode(text)) == text:
        assert encode_key(decode_key(text)) == text
    else:
        with pytest.raises(LocalError, match="last character"):
            decode_key(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "0 characters"),
        (TEXT[:-1], "43 characters"),
        (TEXT + "\n", "45 characters"),
        (TEXT[:-1] + "\n", "not base64"),
        (" " + TEXT[1:], "not base64"),
        (TEXT.replace("/", "_").replace("+", "-")[:10] + "-" + TEXT[11:], "not base64"),
        (TEXT[:-2] + "==", "not base64"),
        ("=" + TEXT[1:], "not base64"),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER A}" + TEXT[1:], "not base64"),
        ("\udcff" + TEXT[1:], "not base64"),
        (TEXT[:-2] + "J=", "last character"),
    ],
)
def test_what_is_not_a_key_is_refused_with_why_and_fix_and_is_not_quoted(text: str, why: str) -> None:
    with pytest.raises(LocalError) as caught:
        decode_key(text)
    assert why in caught.value.why
    assert caught.value.fix
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    told = "".join(traceback.format_exception_only(caught.value)) + repr(caught.value.args)
    assert not text or text not in told
    assert TEXT[1:-2] not in told


@pytest.mark.parametrize("length", [0, 31, 33, 44])
def test_a_key_of_another_length_is_misuse(length: int) -> None:
    for use in (encode_key, clamp, StaticKey, StaticKey(ALICE_PRIVATE).exchange):
        with pytest.raises(LocalError, match=f"has {length} bytes"):
            use(bytes(length))


def test_clamp_sets_the_bits_that_wg_genkey_sets() -> None:
    assert clamp(b"\xff" * 32) == b"\xf8" + b"\xff" * 30 + b"\x7f"
    assert clamp(bytes(32)) == bytes(31) + b"\x40"
    for private, _ in WG_PAIRS:
        assert clamp(decode_key(private)) == decode_key(private)


@given(KEYS)
def test_clamping_changes_neither_the_public_key_nor_a_clamped_key(private: bytes) -> None:
    clamped = clamp(private)
    assert clamp(clamped) == clamped
    assert StaticKey(clamped).public == StaticKey(private).public


def test_repr_shows_neither_key() -> None:
    key = StaticKey(ALICE_PRIVATE)
    shown = repr(key) + str(key) + f"{key}"
    assert shown == "<StaticKey>" * 3
    assert not hasattr(key, "__dict__")
    with pytest.raises(AttributeError):
        key.public = BOB_PUBLIC  # type: ignore[misc]
