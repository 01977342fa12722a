"""Names of files that others give: parts below a root, or a reason why not.

A name is parts with single slashes between them. Nothing in it leads anywhere but down: no part is empty, `.` or `..`, it does not
begin with a slash, and it has no NUL, backslash or control character. That a part is no symbolic link is for who opens it.
"""

from __future__ import annotations

from enum import Enum

from holloway.protocols.control_plane.file_messages import MAX_NAME_CHARS

MAX_PARTS = 32
MAX_PART_BYTES = 255
"""Linux, NAME_MAX."""


class NameProblem(Enum):
    """Why a name is none; the value is the name under which it is counted."""

    EMPTY = "file_name_empty"
    TOO_LONG = "file_name_too_long"
    ABSOLUTE = "file_name_absolute"
    CLIMBS = "file_name_climbs"
    CHARACTER = "file_name_character"


def confined(name: str) -> tuple[str, ...] | NameProblem:
    """The parts of a name below a root. Takes any text."""
    if not name:
        return NameProblem.EMPTY
    if len(name) > MAX_NAME_CHARS:
        return NameProblem.TOO_LONG
    if name.startswith("/"):
        return NameProblem.ABSOLUTE
    if any(character < " " or character in "\\\x7f" for character in name):
        return NameProblem.CHARACTER
    parts = tuple(name.split("/"))
    if any(part in ("", ".", "..") for part in parts):
        return NameProblem.CLIMBS
    try:
        is_long = any(len(part.encode("utf-8")) > MAX_PART_BYTES for part in parts)
    except UnicodeEncodeError:
        return NameProblem.CHARACTER
    return NameProblem.TOO_LONG if is_long or len(parts) > MAX_PARTS else parts
