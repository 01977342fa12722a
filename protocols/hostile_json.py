"""JSON that others wrote, read field by field: every function returns what it promises or raises ValueError.

For the modules of this room that turn hostile JSON into values; they catch ValueError at one place and give their own
reason. Not responsible for what the fields mean.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import TypeVar

Item = TypeVar("Item")
MAX_INTEGER = 2**53 - 1
"""The last integer that every reader of JSON keeps exactly (RFC 8259, section 6)."""
Fields = Mapping[str, object]


def compact(fields: Fields) -> str:
    """The fields as JSON, in ASCII, without spaces: what `read_object` reads."""
    return json.dumps(fields, separators=(",", ":"), allow_nan=False)


def read_object(value: bytes | str, max_bytes: int) -> dict[str, object]:
    """A JSON object of at most `max_bytes`. Of a key that comes twice the last one counts, as everywhere in Python."""
    if len(value) > max_bytes:
        raise ValueError("too long")
    try:
        fields = json.loads(value)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return object_of(fields)


def object_of(item: object) -> dict[str, object]:
    """The item as a JSON object."""
    match item:
        case dict():
            return item
        case _:
            raise ValueError("not an object")


def text(fields: Fields, key: str, max_chars: int) -> str:
    """A text in ASCII, so that its characters are its bytes."""
    value = fields.get(key)
    if not isinstance(value, str) or len(value) > max_chars or not value.isascii():
        raise ValueError(f"{key}: not a text of at most {max_chars} ASCII characters")
    return value


def integer(fields: Fields, key: str, low: int, high: int) -> int:
    """A whole number from `low` to `high`."""
    value = fields.get(key)
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{key}: not a whole number from {low} to {high}")
    return value


def octets(fields: Fields, key: str, max_bytes: int) -> bytes:
    """Bytes in base64 (RFC 4648, section 4)."""
    encoded = text(fields, key, -(-max_bytes // 3) * 4)
    try:
        value = base64.b64decode(encoded, validate=True)
    except ValueError:  # binascii.Error is one
        raise ValueError(f"{key}: not base64") from None
    if len(value) > max_bytes or base64.b64encode(value).decode() != encoded:
        raise ValueError(f"{key}: too long, or not the one base64 text of its bytes")
    return value


def hexadecimal(fields: Fields, key: str, length: int) -> bytes:
    """`length` bytes in small hexadecimal digits."""
    encoded = text(fields, key, 2 * length)
    value = bytes.fromhex(encoded)
    if len(value) != length or value.hex() != encoded:
        raise ValueError(f"{key}: not {length} bytes in hexadecimal")
    return value


def listed(fields: Fields, key: str, max_items: int, read: Callable[[object], Item]) -> tuple[Item, ...]:
    """A list of at most `max_items`, each read by `read`."""
    items = fields.get(key)
    if not isinstance(items, list) or len(items) > max_items:
        raise ValueError(f"{key}: not a list of at most {max_items}")
    return tuple(read(item) for item in items)


def base64_text(value: bytes) -> str:
    """What `octets` reads."""
    return base64.b64encode(value).decode("ascii")
