"""The audit trail on disk: lines appended and made durable, in files of bounded size, one chain through all of them.

The newest file is `audit.jsonl`; a full one is renamed to `audit-N.jsonl`, where N is the number of its last line. Every method
blocks for as long as the disk does. Not responsible for the form of the lines (`holloway.protocols.control_plane.audit_chain`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from logging import Logger
from pathlib import Path
from typing import BinaryIO, Self

from holloway.protocols.control_plane.audit_chain import MAX_LINE_BYTES, Flaw, Head, head_of, next_line
from holloway.protocols.control_plane.effects import Audit
from holloway.protocols.errors import PortError

AUDIT_FILE = "audit.jsonl"
MAX_FILE_BYTES = 64 << 20


class AuditFile:
    """The trail in `folder`. What the system refuses is raised as `PortError`."""

    def __init__(self, folder: Path, log: Logger) -> None:
        self._folder = folder
        self._path = folder / AUDIT_FILE
        self._log = log
        try:
            self._file, self._head = self._open()
        except OSError as error:
            raise self._told(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, wall: float, entries: Iterable[Audit]) -> None:
        """Append the entries, durably."""
        lines = []
        for entry in entries:
            line, self._head = next_line(self._head, wall, entry)
            lines.append(line)
        try:
            self._file.write(b"".join(lines))
            self._file.flush()
            os.fsync(self._file.fileno())
            if self._file.tell() >= MAX_FILE_BYTES:
                self._file.close()
                self._path.rename(self._folder / f"audit-{self._head.number}.jsonl")
                self._file = self._new()
        except OSError as error:
            raise self._told(error) from error

    def _open(self) -> tuple[BinaryIO, Head]:
        """The file, to be appended to, and the head of the chain in it. A last line that was not written whole is cut off."""
        file = self._new()
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - 2 * MAX_LINE_BYTES)
        with self._path.open("rb") as reader:
            reader.seek(start)
            tail = reader.read()
        whole, newline, rest = tail.rpartition(b"\n")
        if rest:
            self._log.warning("the last line of %s was not written whole: it is cut off", self._path)
            file.truncate(size - len(rest))
        if not newline:
            return file, self._previous_head()
        head = head_of(whole.rpartition(b"\n")[2])
        if not isinstance(head, Flaw):
            return file, head
        file.close()
        aside = self._path.with_name(f"damaged-{os.getpid()}-{AUDIT_FILE}")
        self._path.rename(aside)
        self._log.error(
            "%s ends in a line that is none (%s): it is %s now, and a new trail begins", self._path, head.value, aside
        )
        return self._new(), Head()

    def _previous_head(self) -> Head:
        """The head that the youngest full file has left; that of nothing, when there is none."""
        numbers = [int(path.stem[6:]) for path in self._folder.glob("audit-*.jsonl") if path.stem[6:].isdecimal()]
        if not numbers:
            return Head()
        with (self._folder / f"audit-{max(numbers)}.jsonl").open("rb") as reader:
            reader.seek(max(0, reader.seek(0, os.SEEK_END) - 2 * MAX_LINE_BYTES))
            head = head_of(reader.read().rstrip(b"\n").rpartition(b"\n")[2])
        return Head() if isinstance(head, Flaw) else head

    def _new(self) -> BinaryIO:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.fdopen(os.open(self._path, flags, 0o600), "ab")

    def _told(self, error: OSError) -> PortError:
        return PortError(f"{self._path} cannot be written", error.strerror or str(error), "look at the disk")
