"""Records that outlive their process: a small table of keys and bytes, in one SQLite file.

Responsible for durability: what `commit` returned from is there after a power cut. Every method blocks for as long as the disk
does, and may be called from any thread, by one at a time. Not responsible for what the records say.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from holloway.protocols.control_plane.effects import Forget, Keep
from holloway.protocols.errors import PortError

_SCHEMA = "CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID"


class RecordStore:
    """The file at `path`, mode 0600; made when there is none. What the system refuses is raised as `PortError`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC | os.O_RDWR | os.O_NOFOLLOW, 0o600))
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.0)
        except (OSError, sqlite3.Error) as error:
            raise self._told(error) from error
        try:
            # EXCLUSIVE: a second process on the same file would send what the first one has sent.
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute(_SCHEMA)
        except sqlite3.Error as error:
            self._connection.close()
            raise self._told(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def load(self) -> dict[str, bytes]:
        """Everything that is kept."""
        try:
            return {key: bytes(record) for key, record in self._connection.execute("SELECT key, record FROM records")}
        except sqlite3.Error as error:
            raise self._told(error) from error

    def commit(self, changes: Iterable[Keep | Forget]) -> None:
        """Make all changes, in order; all of them or, when this raises, none."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                for change in changes:
                    match change:
                        case Keep(key, record):
                            self._connection.execute("INSERT OR REPLACE INTO records VALUES (?, ?)", (key, record))
                        case Forget(key):
                            self._connection.execute("DELETE FROM records WHERE key = ?", (key,))
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._told(error) from error

    def _told(self, error: Exception) -> PortError:
        fix = (
            "end the other process"
            if "locked" in str(error)
            else f"look at the disk, and at the file: ls -l {self._path}"
        )
        why = "another process has it open" if "locked" in str(error) else str(error)
        return PortError(f"{self._path} cannot be used", why, fix)
