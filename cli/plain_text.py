"""Making text from elsewhere safe to print: names and messages of peers, daemons, exceptions and files.

A terminal obeys control characters (escape sequences move the cursor, set titles, answer into the input), and
bidirectional controls make a line read otherwise than it is. Not responsible for quoting what a shell would read.
"""

from __future__ import annotations

import unicodedata
from typing import TypeAlias

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

# Control, format (bidirectional and zero-width ones), surrogate, private use, unassigned; line and paragraph separators.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def strip_controls(text: str) -> str:
    """`text` without the characters that a terminal or a reader could be deceived by; newlines and tabs are blanks."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        " " if character in "\n\r\t" else character
        for character in text
        if character in "\n\r\t" or unicodedata.category(character) not in _UNSAFE
    )


def one_line(text: object, limit: int = 500) -> str:
    """Any object's text on one safe line of at most `limit` characters."""
    line = " ".join(strip_controls(str(text)).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def strip_json(value: Json) -> Json:
    """A JSON tree with every string and key in it stripped. Recurses: the parser has bounded the depth."""
    if isinstance(value, str):
        return strip_controls(value)
    if isinstance(value, list):
        return [strip_json(each) for each in value]
    if isinstance(value, dict):
        return {strip_controls(key): strip_json(each) for key, each in value.items()}
    return value
