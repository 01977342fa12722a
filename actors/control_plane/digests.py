"""SHA-256 of files on disk: read in slices, so that many take turns, and remembered for as long as a file does not change.

Not responsible for which files those are, nor for threads: `go_on` blocks for as long as the disk takes for one slice.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TypeAlias

PIECE_BYTES = 1 << 20
SLICE_BYTES = 16 << 20
REMEMBERED_DIGESTS = 50_000

_Key: TypeAlias = tuple[int, ...]


@dataclass(slots=True)
class Digests:
    """Those of files that have not changed since they were read: what many ask for is read once."""

    _known: OrderedDict[_Key, str] = field(default_factory=OrderedDict)

    def of(self, descriptor: int) -> str:
        """The digest of an open regular file. Raises OSError, also for what is none."""
        hashing = Hashing(self, descriptor)
        while not hashing.go_on():
            pass
        return hashing.digest

    def get(self, key: _Key) -> str:
        """What is remembered; empty, when nothing is."""
        return self._known.get(key, "")

    def put(self, key: _Key, digest: str) -> None:
        """Remember it; of too many the oldest is forgotten."""
        self._known[key] = digest
        while len(self._known) > REMEMBERED_DIGESTS:
            self._known.popitem(last=False)


class Hashing:
    """The reading of one open file. `digest` is empty until all is read. Raises OSError for what is no regular file."""

    def __init__(self, digests: Digests, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        self.size, self.mode = status.st_size, stat.S_IMODE(status.st_mode) & 0o777
        self._key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        self._digests, self._descriptor = digests, descriptor
        self._hash, self._at = hashlib.sha256(), 0
        self.digest = digests.get(self._key)

    def go_on(self) -> bool:
        """Read another slice; whether that was all."""
        end = self._at + SLICE_BYTES
        while not self.digest and self._at < end:
            piece = os.pread(self._descriptor, PIECE_BYTES, self._at)
            self._hash.update(piece)
            self._at += len(piece)
            if not piece:
                self.size, self.digest = self._at, self._hash.hexdigest()
                self._digests.put(self._key, self.digest)
        return bool(self.digest)
