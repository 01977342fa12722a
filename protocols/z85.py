"""Z85, the text form of CURVE keys (ZeroMQ RFC 32): 32 bytes in 40 characters.

Not responsible for what a key is good for.
"""

from __future__ import annotations

from holloway.protocols.errors import LocalError

KEY_BYTES = 32
KEY_CHARS = 40
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_VALUE_OF = {digit: value for value, digit in enumerate(_DIGITS)}


def encode_z85(key: bytes) -> str:
    """The 40 characters of a 32-byte key. Raises LocalError for another length."""
    if len(key) != KEY_BYTES:
        raise LocalError("not a CURVE key", f"it has {len(key)} bytes, a key has {KEY_BYTES}")
    text = []
    for at in range(0, KEY_BYTES, 4):
        number = int.from_bytes(key[at : at + 4], "big")
        text += [_DIGITS[number // 85**place % 85] for place in (4, 3, 2, 1, 0)]
    return "".join(text)


def decode_z85(text: str) -> bytes:
    """The 32 bytes of a key in Z85. Raises LocalError, which never quotes the text."""
    if len(text) != KEY_CHARS or not all(digit in _VALUE_OF for digit in text):
        raise LocalError("not a CURVE key", f"it is not {KEY_CHARS} characters of Z85")
    key = b""
    for at in range(0, KEY_CHARS, 5):
        number = 0
        for digit in text[at : at + 5]:
            number = number * 85 + _VALUE_OF[digit]
        if number >> 32:
            raise LocalError("not a CURVE key", "five of its characters stand for more than four bytes")
        key += number.to_bytes(4, "big")
    return key
