"""Files below a root on disk: opened part by part, through no symbolic link, and put there whole or not at all.

A file that is put grows in a folder of its own, under a name made of who puts it, its name and its SHA-256, and is moved to its
place when it is whole and durable. Every function blocks for as long as the disk does; what the system refuses is OSError. Not
responsible for which names are allowed (`holloway.protocols.control_plane.file_names`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from holloway.actors.control_plane.digests import PIECE_BYTES, Digests, Hashing
from holloway.protocols.control_plane.file_messages import Offer
from holloway.protocols.errors import LocalError

FLUSH_BYTES = 16 << 20
"""Written between two flushes: or the last one, with the whole of a large file before it, would take longer than anybody waits."""
MAX_UNFINISHED = 256
"""Beginnings of files that are kept for another attempt; of more, the oldest go."""
_NAME = re.compile("[0-9a-f]{64}")
Root: TypeAlias = Path | int
"""A folder below which files are: where it is, or it itself, open."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Measured:
    """A file that is open for reading."""

    descriptor: int
    size: int
    sha256: str
    mode: int


def kind(mode: int) -> str:
    """What a file is that is no regular one, for people."""
    kinds = {
        stat.S_IFIFO: "a FIFO",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a folder",
    }
    return kinds.get(stat.S_IFMT(mode), "something unknown")


def open_source(path: Path) -> int:
    """A file that is to be sent, open. Raises LocalError for what is no regular file, which is not touched, and OSError."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise LocalError(
            f"{path} is not sent", f"it is {kind(mode)}, and no regular file", "put what it gives into a file"
        )
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def require_replaceable(root: Path, parts: Sequence[str]) -> None:
    """Raises OSError, which names it, when something is there that is no regular file: that is never replaced."""
    with suppress(FileNotFoundError, NotADirectoryError), open_folder(root, parts[:-1], make=False) as folder:
        _require_replaceable(folder, parts[-1])


def _require_replaceable(folder: int, name: str) -> None:
    with suppress(FileNotFoundError):
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EEXIST, f"{name} is {kind(mode)}, which no file replaces")


@contextmanager
def open_folder(root: Root, parts: Sequence[str], *, make: bool) -> Iterator[int]:
    """The folder below `root` that the parts lead to. No part is a symbolic link: the kernel refuses those (ELOOP, ENOTDIR)."""
    place, inside = (".", root) if isinstance(root, int) else (root, None)
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=inside)
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


def open_wanted(root: Root, parts: Sequence[str]) -> int:
    """A file that is there, open. Raises OSError, also for what is no regular file, which is not touched."""
    with open_folder(root, parts[:-1], make=False) as folder:
        return open_regular(folder, parts[-1])


def open_regular(folder: int, name: str) -> int:
    """The file of that name in an open folder, open for reading. Raises as `open_wanted` does."""
    _require_regular(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        _require_regular(os.fstat(descriptor).st_mode)  # it may have become another one just then
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(mode: int) -> None:
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {kind(mode)}, and no regular file")


def measure(root: Root, parts: Sequence[str]) -> Measured:
    """Open the file and read all of it once. Raises OSError, also for what is no regular file."""
    descriptor = open_wanted(root, parts)
    try:
        return measured(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def measured(descriptor: int) -> Measured:
    """What an open file is: read once from its beginning to its end."""
    hashing = Hashing(Digests(), descriptor)
    while not hashing.go_on():
        pass
    return Measured(descriptor, hashing.size, hashing.digest, hashing.mode)


def replace_small(root: Path, parts: Sequence[str], data: bytes) -> None:
    """Put a small file there, whole or not at all, for others to read."""
    with open_folder(root, parts[:-1], make=True) as folder:
        _require_replaceable(folder, parts[-1])
        beside = f".{parts[-1]}.new"
        with suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(beside, flags, 0o644, dir_fd=folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.rename(beside, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)


class Unfinished:
    """One file that is put. `owner` and `offer` name what is there of it from an earlier attempt."""

    def __init__(self, folder: Path, owner: str, parts: tuple[str, ...], offer: Offer) -> None:
        name = hashlib.sha256("\0".join((owner, offer.sha256, str(offer.size), *parts)).encode()).hexdigest()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._name, self._parts, self._mode = name, parts, offer.mode & 0o777
        self._unflushed, self._descriptor = 0, -1
        self._folder = os.open(folder, _FOLDER)
        try:
            _require_ours(self._folder, folder)
            _drop_oldest(self._folder)
            self._descriptor = _open_or_create(self._folder, name)
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
        """Make it durable, under its name. A regular file of that name is replaced, and nothing else."""
        os.fchmod(self._descriptor, self._mode)
        os.fsync(self._descriptor)
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
        with open_folder(root, self._parts[:-1], make=True) as folder:
            _require_replaceable(folder, self._parts[-1])
            os.rename(self._name, self._parts[-1], src_dir_fd=self._folder, dst_dir_fd=folder)
            os.fsync(folder)
        self.close()

    def discard(self) -> None:
        """Remove what is there."""
        with suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._folder)
        self.close()

    def close(self) -> None:
        """Keep what is there for another attempt."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1


def _require_ours(descriptor: int, folder: Path) -> None:
    """Nobody else may put anything there that we would write to, or remove."""
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PermissionError(errno.EPERM, f"{folder} is not ours alone: remove it, or chmod 700")


def _open_or_create(folder: int, name: str) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with suppress(FileNotFoundError):
        return os.open(name, flags, dir_fd=folder)
    return os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)


def _drop_oldest(folder: int) -> None:
    """Of what is named as we name it, and nothing else."""
    found = []
    for name in os.listdir(folder):
        if _NAME.fullmatch(name):
            with suppress(FileNotFoundError):  # somebody else has just finished it
                found.append((os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime_ns, name))
    for _, name in sorted(found)[: max(0, len(found) - MAX_UNFINISHED + 1)]:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
