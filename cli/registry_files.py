"""What a machine needs to reach the registry, from one machine to another: the files that a registry URL names travel inside
the invitation, and lie in the state directory of whoever joins.

Not responsible for what the files are for: that is the registry's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from holloway.protocols.errors import LocalError

if TYPE_CHECKING:
    from holloway.actors.state_directory import StateDirectory

_FILE_OF = {"ca": "ca", "cert": "cert", "key": "key", "password_file": "password"}
"""Settings of a URL that name files, and the names under which these travel."""
_KEPT = "registry-{}"


def pack(url: str) -> tuple[str, dict[str, str]]:
    """The URL without the places of files on this machine, and what is in them. Raises `LocalError` for one that cannot be read."""
    files: dict[str, str] = {}

    def carry(setting: str, path: str) -> str:
        name = _FILE_OF[setting]
        try:
            files[name] = Path(path).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise LocalError(f"cannot read {path}, which the registry URL names", str(error)) from error
        return name

    return _with_files(url, carry), files


def unpack(url: str, files: Mapping[str, str], state: StateDirectory) -> str:
    """The URL for this machine, with the files in its state directory. Raises `LocalError` when one is missing."""

    def keep(setting: str, name: str) -> str:
        if name != _FILE_OF[setting] or name not in files:
            raise LocalError("the invitation cannot be used", f"it does not bring the registry's {setting}")
        state.write(_KEPT.format(name), files[name])
        return os.fspath(state.file(_KEPT.format(name)))

    return _with_files(url, keep)


def _with_files(url: str, replace: Callable[[str, str], str]) -> str:
    place, mark, query = url.partition("?")
    if not url.startswith("etcd:") or not mark:
        return url
    parts = []
    for part in query.split("&"):
        setting, _, value = part.partition("=")
        parts.append(f"{setting}={quote(replace(setting, unquote(value)))}" if setting in _FILE_OF else part)
    return f"{place}?{'&'.join(parts)}"
