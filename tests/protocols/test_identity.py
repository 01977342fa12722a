"""Key pairs of nodes and authorities: made of entropy, kept as PEM, and good for one purpose at a time."""

from __future__ import annotations

import pytest
from authority_world import identity, mutations
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols import identity as module
from holloway.protocols.errors import LocalError
from holloway.protocols.identity import ENTROPY_BYTES, IS_DETERMINISTIC, Identity, PublicKey

OURS = identity("ours")
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def test_a_key_pair_follows_from_its_entropy() -> None:
    assert identity("ours").public == OURS.public
    assert identity("ours").pem() == OURS.pem()
    assert identity("other").public != OURS.public
    assert len({identity("ours").public, OURS.public, identity("other").public}) == 2


@pytest.mark.parametrize("drawn", [0, 1, ORDER - 2, ORDER - 1, ORDER, 2 ** (8 * ENTROPY_BYTES) - 1])
def test_every_entropy_makes_a_key_that_signs(drawn: int) -> None:
    made = Identity.from_entropy(drawn.to_bytes(ENTROPY_BYTES, "big"))
    assert made.public.verify(made.sign(b"x"), b"x")
    assert made.private.private_numbers().private_value == 1 + drawn % (ORDER - 1)


@pytest.mark.parametrize("length", [0, 32, ENTROPY_BYTES - 1, ENTROPY_BYTES + 1])
def test_entropy_of_another_length_is_misuse(length: int) -> None:
    with pytest.raises(LocalError, match="48 are needed"):
        Identity.from_entropy(bytes(length))


def test_a_fingerprint_is_the_hash_of_the_public_key_as_certificates_have_it() -> None:
    # openssl pkey -in key.pem -pubout -outform DER | sha256sum, of the key whose private number is 1: the base point.
    one = Identity.from_entropy(bytes(ENTROPY_BYTES))
    assert one.public.fingerprint.hex() == "5cd252fb0ce8932436faf8ccd1040981b89ee4ad6b9fe9e2a2b7e71aacb27cd3"


def test_pem_holds_the_key() -> None:
    assert Identity.from_pem(OURS.pem()).public == OURS.public
    assert OURS.pem().startswith("-----BEGIN PRIVATE KEY-----\n")


def pem_of(key: object, password: bytes | None = None) -> str:
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey)
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    made = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return made.decode()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "unencrypted private key"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "unencrypted private key"),
        ("\u00e9" * 100, "unencrypted private key"),
        (pem_of(OURS.private, b"secret"), "unencrypted private key"),
        (pem_of(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))), "unencrypted private key"),
        (pem_of(ec.derive_private_key(7, ec.SECP384R1())), "P-256"),
    ],
    ids=["empty", "no DER", "no ASCII", "encrypted", "of another kind", "on another curve"],
)
def test_a_file_that_holds_no_identity_is_told_apart_and_not_quoted(text: str, why: str) -> None:
    with pytest.raises(LocalError, match=why) as caught:
        Identity.from_pem(text)
    assert not text or text not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_key_on_another_curve_is_no_identity() -> None:
    with pytest.raises(LocalError, match="P-256"):
        Identity(ec.derive_private_key(7, ec.SECP384R1()))
    with pytest.raises(ValueError, match="P-256"):
        PublicKey(ec.derive_private_key(7, ec.SECP256K1()).public_key())
    with pytest.raises(ValueError, match="P-256"):
        PublicKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key())


def test_damaged_pem_is_another_key_or_none() -> None:
    for text in mutations(OURS.pem().encode(), 200):
        try:
            Identity.from_pem(text.decode("latin-1"))
        except LocalError:
            continue


def test_a_signature_is_of_one_key_and_one_message() -> None:
    signature = OURS.sign(b"message")
    assert OURS.public.verify(signature, b"message")
    assert not OURS.public.verify(signature, b"massage")
    assert not identity("other").public.verify(signature, b"message")


@pytest.mark.skipif(not IS_DETERMINISTIC, reason="OpenSSL before 3.2 draws a number for each signature")
def test_equal_messages_get_equal_signatures() -> None:
    # RFC 6979, appendix A.2.5: P-256, SHA-256, message "sample".
    number = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721
    signer = Identity(ec.derive_private_key(number, ec.SECP256R1()))
    r, s = decode_dss_signature(signer.sign(b"sample"))
    assert r == 0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716
    assert s == 0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8


@given(st.binary(max_size=100), st.binary(max_size=20))
def test_any_bytes_are_no_signature(signature: bytes, data: bytes) -> None:
    assert not OURS.public.verify(signature, data)


def test_a_damaged_signature_is_none() -> None:
    signature = OURS.sign(b"message")
    assert not any(OURS.public.verify(damaged, b"message") for damaged in mutations(signature, 300))


@pytest.mark.parametrize(
    ("label", "network", "text"), [("record", "net", "x"), ("renewal", "net", "x"), ("record", "other", "x")]
)
def test_a_text_is_signed_for_one_purpose_in_one_network(label: str, network: str, text: str) -> None:
    signature = OURS.sign_text(label, network, text)
    for other in [("record", "net", "x"), ("renewal", "net", "x"), ("record", "other", "x"), ("record", "net", "y")]:
        assert OURS.public.verify_text(signature, *other) == (other == (label, network, text))
    assert OURS.public.verify(signature, f"holloway {label}\0{network}\0{text}".encode())


def test_a_text_that_could_be_taken_for_another_is_not_signed_and_not_verified() -> None:
    for label, network, text in [("a\0b", "net", "x"), ("", "net", "x"), ("a", "n\0t", "x"), ("a", "net", "\u00e9")]:
        with pytest.raises(LocalError, match="plain ASCII"):
            OURS.sign_text(label, network, text)
    assert not OURS.public.verify_text(OURS.sign_text("a", "net", "?"), "a", "net", "\u00e9")


def test_no_repr_shows_a_private_key() -> None:
    private = f"{OURS.private.private_numbers().private_value:x}"
    assert OURS.public.fingerprint.hex()[:16] in repr(OURS)
    assert OURS.public.fingerprint.hex()[:16] in repr(OURS.public)
    assert private not in repr(OURS) + str(OURS.__slots__)
    assert OURS.public != "x"


def test_where_openssl_cannot_sign_deterministically_it_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise module.UnsupportedAlgorithm("no")

    monkeypatch.setattr(module.ec, "ECDSA", refuse)
    assert not module._deterministic()
