"""Keys from a passphrase, against OpenSSL and hashlib."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.errors import LocalError
from holloway.protocols.psk import network_key, pair_key

KEYS = st.binary(min_size=32, max_size=32)


def test_network_key_is_pbkdf2_hmac_sha512_with_600_000_iterations() -> None:
    # openssl kdf -keylen 32 -kdfopt digest:SHA512 -kdfopt pass:... -kdfopt salt:home -kdfopt iter:600000 PBKDF2
    golden = "a01bfff729f7ed4256313623cc6a0014f86ec8721f91a7aab6551a76cebe44fc"
    assert network_key(b"correct horse battery staple", "home").hex() == golden


def test_network_key_is_salted_with_the_utf_8_of_the_name() -> None:
    # The same command with hexsalt:6d6169736f6e2dc3a9
    golden = "30b48328cdd201d012eedb334b8dd3fa081ac54357ab428d0893919916d5444b"
    assert network_key(b"correct horse battery staple", "maison-é").hex() == golden


@pytest.mark.parametrize(("passphrase", "name"), [(b"", "home"), (b"secret", ""), (b"secret", "ho\udcffme")])
def test_an_empty_passphrase_or_a_name_that_is_no_salt_is_misuse(passphrase: bytes, name: str) -> None:
    with pytest.raises(LocalError) as caught:
        network_key(passphrase, name)
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None


def test_pair_key_is_keyed_blake2s_over_the_sorted_public_keys() -> None:
    network, low, high = bytes(range(200, 232)), bytes(range(32)), bytes(range(32, 64))
    # openssl mac -macopt size:32 -macopt hexkey:c8c9... -in low-then-high BLAKE2SMAC
    golden = "ed251119f1bf6aa995c757e2797df3cfa225316f1bf5fe93882cfce0d307145b"
    assert pair_key(network, low, high).hex() == golden
    assert pair_key(network, high, low).hex() == golden


@given(KEYS, KEYS, KEYS)
def test_pair_key_is_the_same_from_both_sides_and_is_hashlibs(network: bytes, a: bytes, b: bytes) -> None:
    expected = hashlib.blake2s(min(a, b) + max(a, b), key=network).digest()
    assert pair_key(network, a, b) == pair_key(network, b, a) == expected


@given(KEYS, KEYS, st.integers(0, 255))
def test_pair_key_depends_on_every_bit_of_the_network_key(a: bytes, b: bytes, bit: int) -> None:
    other = (1 << bit).to_bytes(32, "big")
    assert pair_key(bytes(32), a, b) != pair_key(other, a, b)


@pytest.mark.parametrize("lengths", [(31, 32, 32), (32, 33, 32), (32, 32, 0)])
def test_pair_key_of_something_that_is_no_key_is_misuse(lengths: tuple[int, int, int]) -> None:
    network, a, b = (bytes(length) for length in lengths)
    with pytest.raises(LocalError, match="no pair key"):
        pair_key(network, a, b)
