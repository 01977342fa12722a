"""Folders between a client and the broker: one is made like the other, file by file, over one connection.

Every file is whole or as it was before; the folder is not: whoever reads it meanwhile may find some files new and others old. Not
responsible for one file (`file_client`), nor for what there is to change (`holloway.protocols.control_plane.file_trees`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import trio

from holloway.actors.control_plane.digests import Digests
from holloway.actors.control_plane.file_client import FileClient
from holloway.actors.control_plane.file_store import measured, open_folder, open_source
from holloway.actors.control_plane.file_trees import Tree, read_folder, remove_files, set_mode
from holloway.protocols.control_plane.file_names import NameProblem, confined
from holloway.protocols.control_plane.file_trees import tree_changes
from holloway.protocols.errors import LocalError

SCRATCH = ".holloway-unfinished"
"""The folder at the top of one that is brought, while a file is not whole."""
MAX_BYTES = 1 << 43


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
    """What was done: files that went over or got another mode, that were removed, and that were the same; and what was left out."""

    changed: int
    removed: int
    same: int
    size: int
    left_out: tuple[str, ...] = ()
    obsolete: tuple[str, ...] = ()
    """Names that the other side still has, and this one has not."""


def confined_folder(name: str) -> tuple[str, ...]:
    """The parts of a folder's name at the broker. Raises LocalError for one that leads elsewhere."""
    parts = confined(name)
    if isinstance(parts, NameProblem):
        raise LocalError(
            f"{name[:80]!r} is no name of a folder at the broker", "no .., no slash at either end, no backslash"
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
        raise LocalError(f"the folder {name} is too large", f"it has {total} bytes, {max_bytes} are the most")
    there = await trio.to_thread.run_sync(_read, folder)
    changes = tree_changes(wanted, there.files if there is not None else (), deletes=deletes, modes=modes)
    removed = await trio.to_thread.run_sync(_remove, folder, changes.blocking)
    scratch = folder.path / SCRATCH
    await trio.to_thread.run_sync(_make, folder)
    for file in changes.bring:
        parts = (*folder.parts, *confined_folder(file.name))
        await client.get(f"{name}/{file.name}", folder.root, parts, scratch, deadline_s, modes=modes)
    for file in changes.set_mode:
        parts = (*folder.parts, *confined_folder(file.name))
        await trio.to_thread.run_sync(set_mode, folder.root, parts, file.mode)
    removed += await trio.to_thread.run_sync(_remove, folder, changes.remove)
    changed = len(changes.bring) + len(changes.set_mode)
    return Moved(changed, removed, changes.same, sum(file.size for file in changes.bring))


async def send(client: FileClient, folder: Folder, name: str, *, modes: bool, deadline_s: float) -> Moved:
    """Make the folder of that name at the broker like `folder`, but for what that has and this has not. Raises as `bring` does."""
    confined_folder(name)
    mine = await trio.to_thread.run_sync(_read, folder)
    if mine is None:
        raise LocalError(f"there is no folder {folder.path}", "it is to be put to the broker")
    theirs = await client.tree(name, deadline_s) or ()
    changes = tree_changes(mine.files, theirs, deletes=True, modes=modes)
    if changes.blocking:
        why = f"{changes.blocking[0]} is a file on one side and a folder on the other"
        raise LocalError(f"the folder {name} at the broker has another shape", why, "upload under another name")
    for file in (*changes.bring, *changes.set_mode):
        whole = f"{name}/{file.name}"
        confined_folder(whole)
        descriptor = await trio.to_thread.run_sync(open_source, folder.path / file.name)
        try:
            found = await trio.to_thread.run_sync(measured, descriptor)
            await client.put(descriptor, found, whole, deadline_s)
        finally:
            os.close(descriptor)
    size = sum(file.size for file in changes.bring)
    changed = len(changes.bring) + len(changes.set_mode)
    return Moved(changed, 0, changes.same, size, mine.left_out, changes.remove)


def _read(folder: Folder) -> Tree | None:
    return read_folder(folder.root, folder.parts, Digests(), skip=SCRATCH)


def _remove(folder: Folder, names: tuple[str, ...]) -> int:
    return remove_files(folder.root, [(*folder.parts, *name.split("/")) for name in names], keep=len(folder.parts))


def _make(folder: Folder) -> None:
    folder.root.mkdir(mode=0o755, parents=True, exist_ok=True)
    with open_folder(folder.root, folder.parts, make=True):
        pass
