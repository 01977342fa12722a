"""Bytes that a strange machine wrote, as text that is safe on a terminal.

Escape sequences go (ECMA-48: CSI, OSC, DCS, SOS, PM, APC and the short ones), and so do other control characters but tab and
newline, and the invisible characters that turn the direction of text. What is no UTF-8 becomes U+FFFD. A carriage return ends a
line. Sequences and characters may be cut in two by the way in which output arrives, so this is a machine that remembers.

Not responsible for what the text says.
"""

from __future__ import annotations

import codecs
from enum import Enum, auto

_TURNING = dict.fromkeys((0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)))
_OPENS_STRING = "P]X^_"  # DCS, OSC, SOS, PM, APC
_C1_STRING = {"\x90", "\x98", "\x9d", "\x9e", "\x9f"}
MAX_SEQUENCE_CHARS = 4096
"""A sequence that has not ended by then was none: what follows is text again, or a broken one would swallow everything."""


class _Mode(Enum):
    TEXT = auto()
    ESCAPE = auto()
    CSI = auto()
    STRING = auto()
    STRING_ESCAPE = auto()


class Sanitiser:
    """One stream of output."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._mode = _Mode.TEXT
        self._inside = 0
        self._had_return = False

    def feed(self, data: bytes, *, is_last: bool = False) -> str:
        """What of `data` may be shown; `is_last`: no more will come."""
        text = self._decoder.decode(data, is_last)
        if self._mode is _Mode.TEXT and not self._had_return and text.isascii() and text.isprintable():
            return text
        return "".join([shown for character in text if (shown := self._take(character))]).translate(_TURNING)

    def _take(self, character: str) -> str:
        if self._mode is not _Mode.TEXT:
            self._inside += 1
            if self._inside <= MAX_SEQUENCE_CHARS:
                return self._take_inside(character)
            self._mode = _Mode.TEXT
        had_return, self._had_return = self._had_return, False
        match character:
            case "\x1b":
                self._begin(_Mode.ESCAPE)
            case "\x9b":
                self._begin(_Mode.CSI)
            case _ if character in _C1_STRING:
                self._begin(_Mode.STRING)
            case "\n":
                return "" if had_return else "\n"
            case "\r":
                self._had_return = True
                return "\n"
            case "\t":
                return "\t"
            case _ if character >= " " and not "\x7f" <= character <= "\x9f":
                return character
        return ""

    def _take_inside(self, character: str) -> str:
        """A character of a sequence; what cannot be one ends it."""
        match self._mode:
            case _Mode.ESCAPE:
                if character == "[":
                    self._mode = _Mode.CSI
                elif character in _OPENS_STRING:
                    self._mode = _Mode.STRING
                elif not " " <= character <= "/":  # intermediates, ECMA-48 section 5.3.3
                    self._mode = _Mode.TEXT
                    if character < " ":
                        return self._take(character)
            case _Mode.CSI:
                if "@" <= character <= "~":
                    self._mode = _Mode.TEXT
                elif not " " <= character <= "?":
                    self._mode = _Mode.TEXT
                    return self._take(character)
            case _Mode.STRING if character in "\x07\x9c":
                self._mode = _Mode.TEXT
            case _Mode.STRING if character == "\x1b":
                self._mode = _Mode.STRING_ESCAPE
            case _Mode.STRING_ESCAPE:
                self._mode = _Mode.ESCAPE  # which ends the string, as in terminals
                return self._take_inside(character)
            case _:
                pass
        return ""

    def _begin(self, mode: _Mode) -> None:
        self._mode, self._inside = mode, 0


def sanitise(data: bytes) -> str:
    """The whole of an output as safe text."""
    return Sanitiser().feed(data, is_last=True)
