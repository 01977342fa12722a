"""Files below a root on disk: opened part by part, through no symbolic link, and put there whole or not at all.

A file that is put grows in a folder of its own, under a name made of who puts it, its name and its SHA-256, and is moved to its
place when it is whole and durable. Every function blocks for as long as the disk does; what the system refuses is OSError. Not
responsible for which names are allowed (`holloway.protocols.control_plane.file_names`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from holloway.protocols.control_plane.file_messages import Offer

PIECE_BYTES = 1 << 20
FLUSH_BYTES = 16 << 20
"""Written between two flushes: or the last one, with the whole of a large file before it, would take longer than anybody waits."""
MAX_UNFINISHED = 256
"""Beginnings of files that are kept for another attempt; of more, the oldest go."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Measured:
    """A file that is open for reading."""

    descriptor: int
    size: int
    sha256: str
    mode: int


@contextmanager
def _folder(root: Path, parts: Sequence[str], *, make: bool) -> Iterator[int]:
    """The folder below `root` that the parts lead to. No part is a symbolic link: the kernel refuses those (ELOOP, ENOTDIR)."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=descriptor)
                    os.fsync(descriptor)
            below = os.open(part, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def measure(root: Path, parts: Sequence[str]) -> Measured:
    """Open the file and read all of it once. Raises OSError, also for what is no regular file."""
    with _folder(root, parts[:-1], make=False) as folder:
        descriptor = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        return measured(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def measured(descriptor: int) -> Measured:
    """What an open file is: read once from its beginning to its end."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    digest, at = hashlib.sha256(), 0
    while piece := os.pread(descriptor, PIECE_BYTES, at):
        digest.update(piece)
        at += len(piece)
    return Measured(descriptor, at, digest.hexdigest(), stat.S_IMODE(status.st_mode) & 0o777)


class Unfinished:
    """One file that is put. `owner` and `offer` name what is there of it from an earlier attempt."""

    def __init__(self, folder: Path, owner: str, parts: tuple[str, ...], offer: Offer) -> None:
        name = hashlib.sha256("\0".join((owner, offer.sha256, str(offer.size), *parts)).encode()).hexdigest()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _drop_oldest(folder)
        self._path = folder / name
        self._parts, self._mode = parts, offer.mode & 0o777
        self._unflushed = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        try:
            if os.fstat(self._descriptor).st_size > offer.size:
                os.ftruncate(self._descriptor, 0)
        except BaseException:
            self.close()
            raise

    def read(self, offset: int) -> bytes:
        """The next piece of what is there; empty at its end."""
        return os.pread(self._descriptor, PIECE_BYTES, offset)

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes there. Raises OSError when not all of them find room."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written
        self._unflushed += len(data)
        if self._unflushed >= FLUSH_BYTES:
            self._unflushed = 0
            os.fdatasync(self._descriptor)

    def store(self, root: Path) -> None:
        """Make it durable, under its name. What had that name is replaced; a folder is not."""
        os.fchmod(self._descriptor, self._mode)
        os.fsync(self._descriptor)
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
        with _folder(root, self._parts[:-1], make=True) as folder:
            os.rename(self._path, self._parts[-1], dst_dir_fd=folder)
            os.fsync(folder)
        self.close()

    def discard(self) -> None:
        """Remove what is there."""
        self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Keep what is there for another attempt."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _drop_oldest(folder: Path) -> None:
    there = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for path in there[: max(0, len(there) - MAX_UNFINISHED + 1)]:
        path.unlink(missing_ok=True)
