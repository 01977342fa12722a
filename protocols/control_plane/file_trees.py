"""Folders as lists of their files: what a client gets that wants a name with a slash at its end, and what there is to do about it.

    {"tree":1,"is_there":true}
    {"name":"a/b","size":5,"sha256":HEX,"mode":420}
    …

One line each, sorted by name. A list is read as strictly as a message: it comes from another machine. Not responsible for disks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from holloway.protocols.control_plane.file_messages import MAX_FILE_BYTES, MAX_NAME_CHARS
from holloway.protocols.control_plane.file_names import NameProblem, confined
from holloway.protocols.hostile_json import compact, integer, read_object

MAX_TREE_FILES = 20_000
MAX_TREE_BYTES = 16 << 20
_VERSION = 1
_MAX_LINE_BYTES = 8192


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One file. `name` is below the folder."""

    name: str
    size: int
    sha256: str
    mode: int


@dataclass(frozen=True, slots=True)
class TreeChanges:
    """What makes one folder of another: `bring` those, set the mode of those, remove those; `blocking` ones before anything is brought,
    because a folder has to be where they are, or they are where a file has to be.
    """

    bring: tuple[TreeFile, ...]
    set_mode: tuple[TreeFile, ...]
    blocking: tuple[str, ...]
    remove: tuple[str, ...]
    same: int


def format_tree(files: Iterable[TreeFile] | None) -> bytes:
    """The list; of None, that there is no such folder."""
    head = compact({"tree": _VERSION, "is_there": files is not None})
    rows = sorted(files or (), key=lambda file: file.name)
    lines = [compact({"name": f.name, "size": f.size, "sha256": f.sha256, "mode": f.mode}) for f in rows]
    return "".join(f"{line}\n" for line in (head, *lines)).encode("ascii")


def read_tree(data: bytes) -> tuple[TreeFile, ...] | None:
    """What the list says; None when there is no such folder. Raises ValueError for what is no list."""
    if len(data) > MAX_TREE_BYTES or not data.endswith(b"\n"):
        raise ValueError("it is no list of files")
    head, *lines = data.decode("ascii").split("\n")[:-1]
    first = read_object(head, _MAX_LINE_BYTES)
    if first.get("tree") != _VERSION or type(first.get("is_there")) is not bool or len(lines) > MAX_TREE_FILES:
        raise ValueError("it is a list of another kind, or too long")
    files = tuple(_file(line) for line in lines)
    if any(before.name >= after.name for before, after in pairwise(files)):
        raise ValueError("it is not in order")
    return files if first["is_there"] else None


def _file(line: str) -> TreeFile:
    fields = read_object(line, _MAX_LINE_BYTES)
    name, digest = fields.get("name"), fields.get("sha256")
    if not isinstance(name, str) or len(name) > MAX_NAME_CHARS or isinstance(confined(name), NameProblem):
        raise ValueError("a name leads out of the folder")
    if not isinstance(digest, str) or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise ValueError("a SHA-256 is none")
    return TreeFile(name, integer(fields, "size", 0, MAX_FILE_BYTES), digest, integer(fields, "mode", 0, 0o777))


def tree_changes(wanted: Iterable[TreeFile], have: Iterable[TreeFile], *, deletes: bool, modes: bool) -> TreeChanges:
    """What makes `wanted` of `have`. `deletes`: what is not wanted goes; `modes`: permission bits count."""
    there = {file.name: file for file in have}
    bring, set_mode, names, folders, same = [], [], set[str](), set[str](), 0
    for file in wanted:
        names.add(file.name)
        folders |= _folders_of(file.name)
        old = there.get(file.name)
        if old is None or (old.size, old.sha256) != (file.size, file.sha256):
            bring.append(file)
        elif modes and old.mode != file.mode:
            set_mode.append(file)
        else:
            same += 1
    gone = sorted(there.keys() - names) if deletes else []
    blocking = {name for name in gone if name in folders or _folders_of(name) & names}
    others = [name for name in gone if name not in blocking]
    return TreeChanges(tuple(bring), tuple(set_mode), tuple(sorted(blocking)), tuple(others), same)


def _folders_of(name: str) -> set[str]:
    parts = name.split("/")
    return {"/".join(parts[:at]) for at in range(1, len(parts))}
