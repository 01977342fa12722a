"""The line of every key of a TOML document, which `tomllib` does not tell.

A light scanner for text that `tomllib` has already accepted, so it need not refuse anything: it walks headers, keys,
strings, arrays and inline tables and notes where each key path begins. Not responsible for values.

Grammar: TOML 1.0, https://toml.io/en/v1.0.0 ; the newlines and trailing commas that 1.1 allows in inline tables pass too.
"""

from __future__ import annotations

import re
import tomllib

from holloway.actors.config.problems import KeyPath

_BLANK = re.compile(r"[ \t]*")
# Loops are unrolled, so that each character is looked at once; possessive ones are broken in the Python 3.11.2 of Debian 12.
_FILLING = re.compile(r"[ \t\r\n]*(?:#[^\n]*[ \t\r\n]*)*")  # what may stand between statements and between array items
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BASIC_STRING = re.compile(r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"')
_LITERAL_STRING = re.compile(r"'[^'\n]*'")
# Up to two quotes may stand directly before the closing three.
_LONG_BASIC = re.compile(r'"""[^"\\]*(?:(?:\\.|"{1,2}(?!"))[^"\\]*)*"{3,5}', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''[^']*(?:'{1,2}(?!')[^']*)*'{3,5}", re.DOTALL)
_SCALAR = re.compile(r"[^,\]}\n#]*")  # numbers, booleans and dates, which may hold a blank


def toml_lines(text: str) -> dict[KeyPath, int]:
    """Every key path of `text` with the line, from 1, that its key (or list item) begins on.

    `text` must be what `tomllib.loads` accepts. A table's path has the line of its header, or of the first key that
    implies it. Raises RecursionError on nesting as deep as `tomllib` itself would refuse.
    """
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.document()
    return scanner.lines


class _Scanner:
    """One pass over one document."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self._tables: dict[KeyPath, int] = {}  # arrays of tables: how many tables each has so far
        self._counted_to = 0
        self._line = 1

    def document(self) -> None:
        table: KeyPath = ()
        self._match(_FILLING)
        while self.at < len(self.text):
            if self.text.startswith("[[", self.at):
                table = self._header(2)
            elif self.text.startswith("[", self.at):
                table = self._header(1)
            else:
                self._pair(table)
            self._match(_FILLING)

    def _header(self, brackets: int) -> KeyPath:
        line = self._line_here()
        self.at += brackets
        parts = self._key()
        self.at += brackets
        path: KeyPath = ()
        for part in parts[:-1]:
            path = (*path, part)
            self.lines.setdefault(path, line)
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
        path = (*path, parts[-1])
        if brackets == 1:
            # A header's own line is a better place than that of a sub-table which implied it before.
            self.lines[path] = line
            return path
        self.lines.setdefault(path, line)
        position = self._tables.get(path, 0)
        self._tables[path] = position + 1
        path = (*path, position)
        self.lines[path] = line
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line_here()
        path = table
        for part in self._key():
            path = (*path, part)
            self.lines.setdefault(path, line)
        self.at += 1  # the equals sign
        self._match(_BLANK)
        self._value(path)

    def _key(self) -> list[str]:
        """A key, dotted or not, and the blanks round it; stops at what follows."""
        parts = []
        while True:
            self._match(_BLANK)
            if self.text[self.at] == '"':
                # tomllib knows the escapes.
                parts.append(str(tomllib.loads(f"key = {self._match(_BASIC_STRING)}")["key"]))
            elif self.text[self.at] == "'":
                parts.append(self._match(_LITERAL_STRING)[1:-1])
            else:
                parts.append(self._match(_BARE_KEY))
            self._match(_BLANK)
            if self.text[self.at] != ".":
                return parts
            self.at += 1

    def _value(self, path: KeyPath) -> None:
        first = self.text[self.at]
        if first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        elif self.text.startswith('"""', self.at):
            self._match(_LONG_BASIC)
        elif self.text.startswith("'''", self.at):
            self._match(_LONG_LITERAL)
        elif first == '"':
            self._match(_BASIC_STRING)
        elif first == "'":
            self._match(_LITERAL_STRING)
        else:
            self._match(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        position = 0
        self._next_item()
        while self.text[self.at] != "]":
            item = (*path, position)
            self.lines[item] = self._line_here()
            self._value(item)
            position += 1
            self._match(_FILLING)
            if self.text[self.at] == ",":
                self._next_item()
        self.at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._next_item()
        while self.text[self.at] != "}":
            self._pair(path)
            self._match(_FILLING)
            if self.text[self.at] == ",":
                self._next_item()
        self.at += 1

    def _next_item(self) -> None:
        """Steps over an opening bracket or a comma, and what stands before the next item."""
        self.at += 1
        self._match(_FILLING)

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"not TOML at character {self.at}")  # the caller promised text that tomllib accepts
        self.at = match.end()
        return match.group()

    def _line_here(self) -> int:
        """The line of the current position; it only ever moves forward, so all newlines are counted once."""
        self._line += self.text.count("\n", self._counted_to, self.at)
        self._counted_to = self.at
        return self._line
