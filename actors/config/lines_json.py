"""The line of every key of a JSON document, and keys written twice, which `json` does not tell.

A scanner for text that `json.loads` has already accepted. Not responsible for values.
"""

from __future__ import annotations

import json
import re

from holloway.actors.config.problems import KeyPath

_BLANK = re.compile(r"[ \t\r\n]*")
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_SCALAR = re.compile(r"[^ \t\r\n,\]}]+")


def json_lines(text: str) -> tuple[dict[KeyPath, int], list[tuple[KeyPath, int]]]:
    """Every key path of `text` with the line, from 1, of its key or list item; and each repeated key with its line.

    `text` must be what `json.loads` accepts. Raises RecursionError on deep nesting.
    """
    scanner = _Scanner(text)
    scanner.value(())
    return scanner.lines, scanner.repeated


class _Scanner:
    """One pass over one document."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self.repeated: list[tuple[KeyPath, int]] = []
        self._counted_to = 0
        self._line = 1

    def value(self, path: KeyPath) -> None:
        self._match(_BLANK)
        match self.text[self.at]:
            case "{":
                self._object(path)
            case "[":
                self._array(path)
            case '"':
                self._match(_STRING)
            case _:
                self._match(_SCALAR)
        self._match(_BLANK)

    def _object(self, path: KeyPath) -> None:
        seen: set[str] = set()
        self._step()
        while self.text[self.at] != "}":
            line = self._line_here()
            key = str(json.loads(self._match(_STRING)))
            member = (*path, key)
            self.lines.setdefault(member, line)
            if key in seen:
                self.repeated.append((member, line))
            seen.add(key)
            self._match(_BLANK)
            self.at += 1  # the colon
            self.value(member)
            if self.text[self.at] == ",":
                self._step()
        self.at += 1

    def _array(self, path: KeyPath) -> None:
        position = 0
        self._step()
        while self.text[self.at] != "]":
            item = (*path, position)
            self.lines[item] = self._line_here()
            self.value(item)
            position += 1
            if self.text[self.at] == ",":
                self._step()
        self.at += 1

    def _step(self) -> None:
        """Over an opening bracket or a comma, and the blanks after it."""
        self.at += 1
        self._match(_BLANK)

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"not JSON at character {self.at}")  # the caller promised text that json accepts
        self.at = match.end()
        return match.group()

    def _line_here(self) -> int:
        self._line += self.text.count("\n", self._counted_to, self.at)
        self._counted_to = self.at
        return self._line
