"""Where control sockets lie. Imports almost nothing, because `holloway status` starts here.

Not responsible for making the folder or the socket, nor for judging the rest of a configuration.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SYSTEM_FOLDER = Path("/run/holloway")


def user_folder(environ: Mapping[str, str], uid: int) -> Path:
    """The folder of an ordinary user: `$XDG_RUNTIME_DIR/holloway`, or where systemd would put it."""
    return Path(environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}") / "holloway"


def default_socket(interface: str, environ: Mapping[str, str], uid: int | None = None) -> Path:
    """The control socket of the node that owns `interface`, for the user `uid` (None = the caller)."""
    uid = os.geteuid() if uid is None else uid
    folder = SYSTEM_FOLDER if uid == 0 else user_folder(environ, uid)
    return folder / f"{interface}.sock"


def socket_folders(environ: Mapping[str, str], uid: int | None = None) -> tuple[Path, ...]:
    """Every folder in which a daemon this user might talk to puts its socket by default."""
    uid = os.geteuid() if uid is None else uid
    return (SYSTEM_FOLDER, user_folder(environ, uid))


def control_socket(path: Path, environ: Mapping[str, str]) -> Path:
    """The control socket of the node that runs, or would run, from the file at `path`.

    Judges nothing else, so that a running node can be asked while its file is being edited. Raises ConfigProblems for a
    file that cannot be read or parsed, and for one that does not say enough.
    """
    from holloway.actors.config.documents import read_document

    tree = read_document(path).tree
    named = environ.get("HOLLOWAY_CONTROL_SOCKET")
    if named:
        return Path(named)
    named = _text(tree, "control", "socket")
    if named is not None:
        return path.parent / named
    interface = environ.get("HOLLOWAY_INTERFACE_NAME") or _text(tree, "interface", "name")
    if interface is not None and "/" not in interface:
        return default_socket(interface, environ)
    from holloway.actors.config.loading import load_config

    control = load_config(path, environ=environ).control
    assert control is not None, "a configuration from a file always has a control socket"
    return control.socket


def _text(tree: Mapping[str, object], section: str, key: str) -> str | None:
    table = tree.get(section)
    value = table.get(key) if isinstance(table, Mapping) else None
    return value if isinstance(value, str) and value else None
