"""Folders on disk, read as lists of files and changed file by file, through no symbolic link.

What is neither a file nor a folder is left out, and so is what has a name that cannot travel. Every function blocks for as long as the
disk does; what the system refuses is OSError. Not responsible for what there is to change (`holloway.protocols.control_plane.file_trees`).
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holloway.actors.control_plane.digests import Digests
from holloway.actors.control_plane.file_store import Measured, Root, open_folder, open_regular
from holloway.protocols.control_plane.file_names import NameProblem, confined
from holloway.protocols.control_plane.file_trees import MAX_TREE_BYTES, MAX_TREE_FILES, TreeFile, format_tree
from holloway.protocols.errors import LocalError


@dataclass(frozen=True, slots=True)
class Tree:
    """What is in a folder. `left_out`: what is there and is no file, or cannot travel."""

    files: tuple[TreeFile, ...]
    left_out: tuple[str, ...]


def read_folder(root: Root, parts: Sequence[str], digests: Digests, *, skip: str = "") -> Tree | None:
    """What is in the folder that the parts lead to; None when there is none. `skip`: a folder at its top that does not count.

    Raises LocalError for a folder with too many files.
    """
    try:
        with open_folder(root, parts, make=False) as top:
            return _read_below(top, digests, skip)
    except (FileNotFoundError, NotADirectoryError):
        if not parts or not _is_there(root, parts):
            return None
        raise


def _read_below(top: int, digests: Digests, skip: str) -> Tree:
    """Folder by folder, each opened anew from `top`: whatever becomes a link meanwhile is left out."""
    files: list[TreeFile] = []
    left_out: list[str] = []
    folders: list[tuple[str, ...]] = [()]
    while folders:
        below = folders.pop()
        try:
            with open_folder(top, below, make=False) as folder, os.scandir(folder) as entries:
                for entry in entries:
                    parts = (*below, entry.name)
                    whole = "/".join(parts)
                    if whole == skip and not entry.is_file(follow_symlinks=False):
                        continue
                    if isinstance(confined(whole), NameProblem):
                        left_out.append(whole)
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(parts)
                    elif (found := _file(folder, entry.name, whole, digests)) is not None:
                        files.append(found)
                    else:
                        left_out.append(whole)
                    if len(files) > MAX_TREE_FILES:
                        raise LocalError(
                            "the folder is too large", f"{MAX_TREE_FILES} files are the most", "take several folders"
                        )
        except (FileNotFoundError, NotADirectoryError):
            left_out.append("/".join(below))
    return Tree(tuple(sorted(files, key=lambda file: file.name)), tuple(left_out))


def _is_there(root: Root, parts: Sequence[str]) -> bool:
    try:
        with open_folder(root, parts[:-1], make=False) as folder:
            os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        return True
    return True


def _file(folder: int, name: str, whole: str, digests: Digests) -> TreeFile | None:
    try:
        descriptor = open_regular(folder, name)
    except OSError:  # a link, a socket, one that we may not read, or it has just gone
        return None
    try:
        status = os.fstat(descriptor)
        return TreeFile(whole, status.st_size, digests.of(descriptor), stat.S_IMODE(status.st_mode) & 0o777)
    finally:
        os.close(descriptor)


def measure_folder(root: Path, parts: Sequence[str], digests: Digests, scratch: Path) -> Measured:
    """The list of a folder's files as an open file without a name. Raises LocalError for a folder that is too large."""
    tree = read_folder(root, parts, digests)
    data = format_tree(None if tree is None else tree.files)
    if len(data) > MAX_TREE_BYTES:
        raise LocalError(
            "the folder is too large", f"the list of its files has {len(data)} bytes", "take several folders"
        )
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=scratch) as file:
        file.write(data)
        file.flush()
        return Measured(os.dup(file.fileno()), len(data), hashlib.sha256(data).hexdigest(), 0o600)


def set_mode(root: Path, parts: Sequence[str], mode: int) -> None:
    """Give a file these permission bits."""
    with open_folder(root, parts[:-1], make=False) as folder:
        descriptor = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fchmod(descriptor, mode & 0o777)
    finally:
        os.close(descriptor)


def remove_files(root: Path, names: Iterable[Sequence[str]], *, keep: int = 1) -> int:
    """Remove files, and folders that are empty then, but none of the first `keep` parts; how many files there were."""
    removed = 0
    for parts in names:
        with suppress(FileNotFoundError, NotADirectoryError):
            with open_folder(root, parts[:-1], make=False) as folder:
                os.unlink(parts[-1], dir_fd=folder)
                os.fsync(folder)
            removed += 1
        for end in range(len(parts) - 1, keep, -1):
            try:
                with open_folder(root, parts[: end - 1], make=False) as folder:
                    os.rmdir(parts[end - 1], dir_fd=folder)
            except OSError:  # not empty, or gone
                break
    return removed
