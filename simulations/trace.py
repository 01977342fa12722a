"""The trace of a run: JSON lines, in the order in which things happened, and their SHA-256.

    {"t":1500000000,"seq":42,"node":"a","kind":"arrive","peer":"b","size":112,"cause":40,"what":"data 7f3a91c2"}

`t` is virtual time in nanoseconds, `seq` counts the lines from 1, `cause` is the line that led to this one, 0 for none.
The hash is that of the file, byte for byte: `sha256sum` of a written trace gives it again. A trace never holds a time of the
wall clock, an `id` or a float, so equal plans have equal traces in every process. Not responsible for what is worth a line.
"""

from __future__ import annotations

import hashlib
from typing import IO

_CHUNK_LINES = 512


class Trace:
    """Hashes lines, and writes them to `file` if there is one. Names are letters, digits, dots and dashes."""

    __slots__ = ("_file", "_hash", "_lines", "count")

    def __init__(self, file: IO[str] | None = None) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._lines: list[str] = []
        self.count = 0

    def add(self, at_ns: int, node: str, kind: str, peer: str, size: int, cause: int, what: str) -> int:
        """One line; its number."""
        self.count += 1
        self._lines.append(
            f'{{"t":{at_ns},"seq":{self.count},"node":"{node}","kind":"{kind}","peer":"{peer}",'
            f'"size":{size},"cause":{cause},"what":"{what}"}}\n'
        )
        if len(self._lines) >= _CHUNK_LINES:
            self._flush()
        return self.count

    def digest(self) -> str:
        """The SHA-256 of all lines so far, in hexadecimal."""
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        text = "".join(self._lines)
        self._lines.clear()
        self._hash.update(text.encode())
        if self._file is not None:
            self._file.write(text)
