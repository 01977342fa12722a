"""CURVE keys as text: ZeroMQ RFC 32's own examples, and nothing that is not one of 32 bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.errors import LocalError
from holloway.protocols.z85 import decode_z85, encode_z85

# zmq_curve(7), "Test key values": the server's public key, in both forms.
KEY = bytes.fromhex("54fcba24e93249969316fb617c872bb0c1d1ff14800427c594cbfacf1bc2d652")
TEXT = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"


def test_the_example_of_the_specification() -> None:
    assert encode_z85(KEY) == TEXT
    assert decode_z85(TEXT) == KEY
    assert decode_z85("HelloWorld" * 4).startswith(bytes.fromhex("864fd26fb559f75b"))  # RFC 32's own


@given(st.binary(min_size=32, max_size=32))
def test_every_key_has_one_text(key: bytes) -> None:
    text = encode_z85(key)
    assert len(text) == 40
    assert decode_z85(text) == key


@pytest.mark.parametrize(
    "text",
    ["", TEXT[:-1], TEXT + "0", TEXT[:-1] + " ", TEXT[:-1] + "\u00e9", TEXT[:-1] + '"', TEXT[:-1] + "~", "#" * 40],
)
def test_what_is_no_key_is_misuse_and_is_not_quoted(text: str) -> None:
    with pytest.raises(LocalError, match="not a CURVE key") as caught:
        decode_z85(text)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_bytes_of_another_length_are_no_key(length: int) -> None:
    with pytest.raises(LocalError, match="not a CURVE key"):
        encode_z85(bytes(length))


@given(st.text(min_size=40, max_size=40))
def test_any_text_is_the_one_text_of_a_key_or_misuse(text: str) -> None:
    try:
        key = decode_z85(text)
    except LocalError:
        return
    assert encode_z85(key) == text
