"""Folders between a client and the broker: one is made like the other, file by file, over one connection.

Every file is whole or as it was before; the folder is not: whoever reads it meanwhile may find some files new and others old. The list
of a folder says which files go over: one that is another one when its turn comes is refused, and the others go on. Not responsible for one file (`file_client`), nor for what there is to change (`holloway.protocols.control_plane.file_trees`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from holloway.actors.control_plane.digests import Digests
from holloway.actors.control_plane.file_client import FileClient
from holloway.actors.control_plane.file_store import Measured, measure, open_folder
from holloway.actors.control_plane.file_trees import Tree, read_folder, remove_files, set_mode
from holloway.protocols.control_plane.file_getter import ANOTHER_FILE
from holloway.protocols.control_plane.file_messages import BEHIND_A_LINK, NO_SUCH_FILE
from holloway.protocols.control_plane.file_names import NameProblem, confined
from holloway.protocols.control_plane.file_receiver import WRONG_DIGEST
from holloway.protocols.control_plane.file_sender import CHANGED
from holloway.protocols.control_plane.file_trees import TreeFile, tree_changes
from holloway.protocols.errors import LocalError, PortError

SCRATCH = ".holloway-unfinished"
"""The folder at the top of one that is brought, while a file is not whole."""
MAX_BYTES = 1 << 43
MAX_NAMED = 5
"""Of the files that were refused, in the words for people."""
_NOT_AS_LISTED = (ANOTHER_FILE, WRONG_DIGEST, CHANGED, NO_SUCH_FILE, BEHIND_A_LINK)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.EACCES)
"""What the system says of a name that no longer leads to the file that was read there."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder here: below `root`, where `parts` lead, which are made when they are missing."""

    root: Path
    parts: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.root.joinpath(*self.parts)


@dataclass(frozen=True, slots=True)
class Moved:
    """What was done: files that went over or got another mode, that were removed, and that were the same; and what was left out.

    When files were refused nothing is removed but what was in the way of others.
    """

    changed: int
    removed: int
    same: int
    size: int
    left_out: tuple[str, ...] = ()
    obsolete: tuple[str, ...] = ()
    """Names that the other side still has, and this one has not."""
    refused: tuple[str, ...] = ()
    """Files that were other ones than the list had said: nothing of them was stored."""


def require_all(refused: Sequence[str]) -> None:
    """Raises LocalError, which names them, when files were refused."""
    if refused:
        more = len(refused) - MAX_NAMED
        names = ", ".join(refused[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
        why = "since the folder was listed they were changed, moved, or replaced by others or by links"
        raise LocalError(f"refused: {names}", why, "see who writes there, and say the same again")


def confined_folder(name: str) -> tuple[str, ...]:
    """The parts of a folder's name at the broker. Raises LocalError for one that leads elsewhere."""
    parts = confined(name)
    if isinstance(parts, NameProblem):
        raise LocalError(
            f"{name[:80]!r} is no name of a folder at the broker",
            "no .., no slash at either end, no backslash",
            "name it as in: conf/shop",
        )
    return parts


async def bring(
    client: FileClient,
    name: str,
    folder: Folder,
    *,
    deletes: bool,
    modes: bool,
    deadline_s: float,
    max_bytes: int = MAX_BYTES,
) -> Moved:
    """Make `folder` like the folder of that name at the broker. Raises LocalError, BrokerError, PortError, OSError."""
    confined_folder(name)
    wanted = await client.tree(name, deadline_s)
    if wanted is None:
        raise LocalError(
            f"there is no folder {name} at the broker", "nobody has put it there", "holloway upload DIR NAME"
        )
    total = sum(file.size for file in wanted)
    if total > max_bytes:
        raise LocalError(
            f"the folder {name} is too large",
            f"it has {total} bytes, {max_bytes} are the most",
            "sync less at once, or start the agent with a larger --max-sync",
        )
    there = await trio.to_thread.run_sync(_read, folder)
    changes = tree_changes(wanted, there.files if there is not None else (), deletes=deletes, modes=modes)
    removed = await trio.to_thread.run_sync(_remove, folder, changes.blocking)
    scratch = folder.path / SCRATCH
    await trio.to_thread.run_sync(_make, folder)
    refused: list[TreeFile] = []
    for file in changes.bring:
        parts, whole = (*folder.parts, *confined_folder(file.name)), f"{name}/{file.name}"
        try:
            await client.get(whole, folder.root, parts, scratch, deadline_s, modes=modes, listed=file)
        except PortError as error:
            if error.why not in _NOT_AS_LISTED:
                raise
            refused.append(file)
    for file in changes.set_mode:
        parts = (*folder.parts, *confined_folder(file.name))
        await trio.to_thread.run_sync(set_mode, folder.root, parts, file.mode)
    if not refused:
        removed += await trio.to_thread.run_sync(_remove, folder, changes.remove)
    changed = len(changes.bring) + len(changes.set_mode) - len(refused)
    size = sum(file.size for file in changes.bring) - sum(file.size for file in refused)
    return Moved(changed, removed, changes.same, size, refused=_names(refused))


async def send(client: FileClient, folder: Folder, name: str, *, modes: bool, deadline_s: float) -> Moved:
    """Make the folder of that name at the broker like `folder`, but for what that has and this has not. Raises as `bring` does."""
    confined_folder(name)
    try:
        top = await trio.to_thread.run_sync(_open, folder)
    except (FileNotFoundError, NotADirectoryError):
        raise LocalError(
            f"there is no folder {folder.path}", "it is to be put to the broker", "name one that is there"
        ) from None
    try:
        return await _send(client, top, name, modes=modes, deadline_s=deadline_s)
    finally:
        os.close(top)


async def _send(client: FileClient, top: int, name: str, *, modes: bool, deadline_s: float) -> Moved:
    """The same with an open folder: whatever its name leads to later, what is sent is below it."""
    mine = await trio.to_thread.run_sync(partial(read_folder, top, (), Digests(), skip=SCRATCH))
    assert mine is not None, "it is open"
    theirs = await client.tree(name, deadline_s) or ()
    changes = tree_changes(mine.files, theirs, deletes=True, modes=modes)
    if changes.blocking:
        why = f"{changes.blocking[0]} is a file on one side and a folder on the other"
        raise LocalError(f"the folder {name} at the broker has another shape", why, "upload under another name")
    refused: list[TreeFile] = []
    for file in (*changes.bring, *changes.set_mode):
        whole = f"{name}/{file.name}"
        confined_folder(whole)
        found = await trio.to_thread.run_sync(_measure_listed, top, file)
        if found is None:
            refused.append(file)
            continue
        try:
            await client.put(found.descriptor, found, whole, deadline_s)
        except PortError as error:
            if error.why not in _NOT_AS_LISTED:
                raise
            refused.append(file)
        finally:
            os.close(found.descriptor)
    lost = set(refused)
    size = sum(file.size for file in changes.bring if file not in lost)
    changed = len(changes.bring) + len(changes.set_mode) - len(refused)
    obsolete = () if refused else changes.remove
    return Moved(changed, 0, changes.same, size, mine.left_out, obsolete, _names(refused))


def _names(files: Sequence[TreeFile]) -> tuple[str, ...]:
    return tuple(file.name for file in files)


def _measure_listed(top: int, file: TreeFile) -> Measured | None:
    """The file, open, when it is still the one that was listed; None when it is not, or has gone. Raises OSError."""
    try:
        found = measure(top, file.name.split("/"))
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return None
    if (found.size, found.sha256) == (file.size, file.sha256):
        return found
    os.close(found.descriptor)
    return None


def _open(folder: Folder) -> int:
    with open_folder(folder.root, folder.parts, make=False) as descriptor:
        return os.dup(descriptor)


def _read(folder: Folder) -> Tree | None:
    return read_folder(folder.root, folder.parts, Digests(), skip=SCRATCH)


def _remove(folder: Folder, names: tuple[str, ...]) -> int:
    return remove_files(folder.root, [(*folder.parts, *name.split("/")) for name in names], keep=len(folder.parts))


def _make(folder: Folder) -> None:
    folder.root.mkdir(mode=0o755, parents=True, exist_ok=True)
    with open_folder(folder.root, folder.parts, make=True):
        pass
