"""A token: a body of bytes as one word that people copy and paste, of which a mistake of hand and eye is told.

    WORD VERSION "-" BASE64URL        of: length (4 bytes), checksum (8 bytes), and the body

Not responsible for what the body says (`invitations`, `store_tokens`).
"""

from __future__ import annotations

import base64
import hashlib
import re

from holloway.protocols.errors import LocalError

MAX_TOKEN_CHARS = 48 * 1024
AGAIN = "copy the whole token once more, or ask for a new one: `holloway invite`"
_LENGTH_BYTES, _CHECKSUM_BYTES = 4, 8
_HEAD_BYTES = _LENGTH_BYTES + _CHECKSUM_BYTES
_TOKEN = re.compile(r"([a-z]+(?:-[a-z]+)?)([0-9]{1,4})-([A-Za-z0-9_-]*)\Z")


def wrap_token(word: str, version: int, body: bytes) -> str:
    """The token of a body. `word`: letters that say which kind it is."""
    head = len(body).to_bytes(_LENGTH_BYTES, "big") + _checksum(body)
    return f"{word}{version}-" + base64.urlsafe_b64encode(head + body).rstrip(b"=").decode("ascii")


def is_token(word: str, token: str) -> bool:
    """Whether it looks like one of that kind, whatever it holds."""
    found = _TOKEN.match("".join(token.split()))
    return found is not None and found[1] == word


def unwrap_token(word: str, version: int, token: str) -> bytes:
    """The body of a token, however it was wrapped into lines.

    Raises LocalError, which says what is wrong and never quotes the token.
    """
    packed = "".join(token.split())
    if len(packed) > MAX_TOKEN_CHARS:
        raise LocalError("not an invitation", f"it has more than {MAX_TOKEN_CHARS} characters", AGAIN)
    found = _TOKEN.match(packed)
    if found is None or found[1] != word:
        raise LocalError("not an invitation", f"an invitation is a word that begins with {word}{version}-", AGAIN)
    if int(found[2]) != version:
        raise LocalError(
            "an invitation of another version",
            f"it has the version {int(found[2])}, and this is a program for version {version}",
            "install the version of Holloway that the others of the network have",
        )
    digits = found[3][: len(found[3]) - (len(found[3]) % 4 == 1)]  # one digit alone holds no byte
    data = base64.urlsafe_b64decode(digits + "=" * (-len(digits) % 4))
    length, body = int.from_bytes(data[:_LENGTH_BYTES], "big"), data[_HEAD_BYTES:]
    if len(data) < _HEAD_BYTES or len(body) < length:
        raise LocalError("the invitation is cut short", "its end is missing", AGAIN)
    if len(body) > length or data[_LENGTH_BYTES:_HEAD_BYTES] != _checksum(body):
        raise LocalError("the invitation is damaged", "its checksum does not fit: a character is wrong", AGAIN)
    return body


def _checksum(body: bytes) -> bytes:
    """Against mistakes of hand and eye, not against anybody."""
    return hashlib.sha256(body).digest()[:_CHECKSUM_BYTES]
