"""Macs and cookies: the published XChaCha vectors, and the rules of WireGuard's section 5.4.4 and 5.4.7."""

from __future__ import annotations

import hashlib
import random

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.addresses import Address
from holloway.protocols.cookies import (
    COOKIE_LIFETIME_S,
    COOKIE_REPLY_BYTES,
    COOKIE_SECRET_S,
    MacChecker,
    MacWriter,
    encode_source,
    hchacha20,
)
from holloway.protocols.suites import MessageType

PUBLIC = bytes(range(100, 132))
HERE: Address = ("192.0.2.7", 1099)
MESSAGE = b"\x01\x00\x00\x00" + b"\x99\x88\x77\x66" + b"some handshake message"
KIND = MessageType.WIREGUARD_COOKIE_REPLY


def parties(seed: int = 0) -> tuple[MacWriter, MacChecker]:
    """Who sends to `PUBLIC`, and who has that key."""
    return MacWriter(PUBLIC), MacChecker(PUBLIC, random.Random(seed).randbytes)


def test_hchacha20_vector_of_the_xchacha_draft_section_2_2_1() -> None:
    out = hchacha20(bytes(range(32)), bytes.fromhex("000000090000004a0000000031415927"))
    assert out.hex() == "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"


def test_xchacha20_poly1305_vector_of_the_xchacha_draft_appendix_a_3_1() -> None:
    nonce = bytes.fromhex("404142434445464748494a4b4c4d4e4f5051525354555657")
    plaintext = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    cipher = ChaCha20Poly1305(hchacha20(bytes(range(0x80, 0xA0)), nonce[:16]))
    sealed = cipher.encrypt(bytes(4) + nonce[16:], plaintext, bytes.fromhex("50515253c0c1c2c3c4c5c6c7"))
    assert sealed.hex() == (
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39"
        "ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
        "21f9664c97637da9768812f615c68b13b52e"
        "c0875924c1c7987947deafd8780acf49"
    )


def test_mac1_is_the_papers_and_mac2_is_zero_without_a_cookie() -> None:
    writer, checker = parties()
    whole = writer.append(MESSAGE, 0.0)
    key = hashlib.blake2s(b"mac1----" + PUBLIC).digest()
    assert whole == MESSAGE + hashlib.blake2s(MESSAGE, key=key, digest_size=16).digest() + bytes(16)
    assert checker.is_mac1_valid(whole)
    assert not checker.is_mac2_valid(whole, HERE, 0.0)


def test_mac1_of_another_key_or_of_an_altered_message_is_invalid() -> None:
    _, checker = parties()
    assert not checker.is_mac1_valid(MacWriter(bytes(32)).append(MESSAGE, 0.0))
    whole = MacWriter(PUBLIC).append(MESSAGE, 0.0)
    for place in range(len(whole) - 16):
        assert not checker.is_mac1_valid(whole[:place] + bytes((whole[place] ^ 1,)) + whole[place + 1 :])


def exchange(writer: MacWriter, checker: MacChecker, now: float, source: Address = HERE) -> bytes:
    """A message that is answered with a cookie; the reply."""
    return checker.cookie_reply(KIND, writer.append(MESSAGE, now), source, now)


def test_cookie_makes_mac2_valid_for_its_source_only() -> None:
    writer, checker = parties()
    reply = exchange(writer, checker, 0.0)
    assert len(reply) == COOKIE_REPLY_BYTES == 64
    assert reply[:8] == b"\x03\x00\x00\x00" + MESSAGE[4:8]  # the sender's index comes back as the receiver index
    assert writer.read_cookie_reply(reply, 0.0)
    whole = writer.append(MESSAGE, 1.0)
    assert checker.is_mac1_valid(whole)
    assert checker.is_mac2_valid(whole, HERE, 1.0)
    for elsewhere in (("192.0.2.8", 1099), ("192.0.2.7", 1100), ("2001:db8::1", 1099, 0, 0)):
        assert not checker.is_mac2_valid(whole, elsewhere, 1.0)
    assert not checker.is_mac2_valid(whole[:-1] + bytes((whole[-1] ^ 1,)), HERE, 1.0)


def test_reply_is_read_by_the_reference_construction() -> None:
    writer, checker = parties()
    sent = writer.append(MESSAGE, 0.0)
    reply = checker.cookie_reply(KIND, sent, HERE, 0.0)
    key = hashlib.blake2s(b"cookie--" + PUBLIC).digest()
    nonce, mac1 = reply[8:32], sent[-32:-16]
    cookie = ChaCha20Poly1305(hchacha20(key, nonce[:16])).decrypt(bytes(4) + nonce[16:], reply[32:], mac1)
    assert writer.read_cookie_reply(reply, 0.0)
    whole = writer.append(MESSAGE, 0.0)
    assert whole[-16:] == hashlib.blake2s(whole[:-16], key=cookie, digest_size=16).digest()


def test_cookie_is_used_for_two_minutes() -> None:
    writer, checker = parties()
    assert writer.read_cookie_reply(exchange(writer, checker, 0.0), 0.0)
    assert writer.append(MESSAGE, COOKIE_LIFETIME_S - 0.1)[-16:] != bytes(16)
    assert writer.append(MESSAGE, COOKIE_LIFETIME_S)[-16:] == bytes(16)


def test_secret_changes_after_two_minutes_and_old_cookies_die_with_it() -> None:
    writer, checker = parties()
    late, now = COOKIE_SECRET_S - 1.0, COOKIE_SECRET_S
    exchange(MacWriter(PUBLIC), checker, 0.0)
    assert writer.read_cookie_reply(exchange(writer, checker, late), late)
    assert checker.is_mac2_valid(writer.append(MESSAGE, late), HERE, late)
    assert not checker.is_mac2_valid(writer.append(MESSAGE, now), HERE, now)
    fresh = MacWriter(PUBLIC)
    assert fresh.read_cookie_reply(exchange(fresh, checker, now), now)
    assert not checker.is_mac2_valid(writer.append(MESSAGE, now), HERE, now)
    assert checker.is_mac2_valid(fresh.append(MESSAGE, now), HERE, now)


def test_reply_to_another_message_from_another_node_or_altered_is_refused() -> None:
    writer, checker = parties()
    assert not writer.read_cookie_reply(exchange(MacWriter(PUBLIC), checker, 0.0), 0.0), "we have sent nothing"
    reply = exchange(writer, checker, 0.0)
    stranger = MacChecker(bytes(32), random.Random(1).randbytes)
    assert not writer.read_cookie_reply(stranger.cookie_reply(KIND, writer.append(MESSAGE, 0.0), HERE, 0.0), 0.0)
    writer.append(MESSAGE + b"another", 0.0)
    assert not writer.read_cookie_reply(reply, 0.0), "a reply to the message before"
    writer.append(MESSAGE, 0.0)
    for place in range(8, COOKIE_REPLY_BYTES):
        assert not writer.read_cookie_reply(reply[:place] + bytes((reply[place] ^ 1,)) + reply[place + 1 :], 0.0)
    assert not writer.read_cookie_reply(reply[:-1], 0.0)
    assert repr(writer) == "<MacWriter cookie=none>"
    assert writer.read_cookie_reply(reply, 0.0)
    assert repr(writer) == "<MacWriter cookie=held>"


def test_one_cookie_for_each_message() -> None:
    writer, checker = parties()
    reply = exchange(writer, checker, 0.0)
    assert writer.read_cookie_reply(reply, 0.0)
    assert not writer.read_cookie_reply(reply, 100.0), "a replay must not make an old cookie young again"


@given(st.text(), st.text(), st.integers(0, 65535), st.integers(0, 65535))
def test_sources_are_told_apart_whatever_the_host_says(host: str, other: str, port: int, other_port: int) -> None:
    same = encode_source((host, port)) == encode_source((other, other_port))
    assert same == ((host, port) == (other, other_port))


@given(st.binary(max_size=100))
def test_no_reply_raises(data: bytes) -> None:
    writer, _ = parties()
    writer.append(MESSAGE, 0.0)
    assert not writer.read_cookie_reply(data, 0.0)


def test_repr_shows_no_secret() -> None:
    _, checker = parties()
    exchange(MacWriter(PUBLIC), checker, 0.0)
    assert repr(checker) == "<MacChecker>"


def test_wrong_key_does_not_open_the_reference() -> None:
    with pytest.raises(InvalidTag):
        ChaCha20Poly1305(hchacha20(bytes(32), bytes(16))).decrypt(bytes(12), bytes(32), None)
