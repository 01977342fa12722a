"""The key files of broker, agents and operators on disk.

`ROOT/security/curve/server_keys.yml` is the broker's: its own pair and the keys it knows. `ROOT/security/curve/client_keys.yml` is an
agent's. An operator's lies where `--curve-key-file` says. Folders that are ours are 0700 and files 0600, a file that others may use is
refused, and every file is replaced whole or not at all.

Responsible for reading, writing and changing them, one writer at a time. Not responsible for their text (`key_text`).
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from holloway.actors.control_plane.curve import new_pair, public_of
from holloway.actors.control_plane.key_text import (
    MAX_KEY_FILE_BYTES,
    ClientKey,
    KeyFile,
    format_key_file,
    new_client,
    parse_key_file,
)
from holloway.actors.state_directory import StateDirectory
from holloway.protocols.control_plane.messages import Role
from holloway.protocols.errors import ConfigError, LocalError, PortError

CURVE_FOLDER = Path("security/curve")
OWN_FOLDER = ".holloway"
_OTHERS_USE = 0o077
_OTHERS_WRITE = 0o022
SERVER_KEYS = "server_keys.yml"
CLIENT_KEYS = "client_keys.yml"


def read_keys(path: Path) -> KeyFile | None:
    """What the key file at `path` says; None when there is none. Others may read one that holds no private key, and no one but its owner
    may write any. Raises PortError, ConfigError.
    """
    contents, mode = _contents(path)
    if contents is None:
        return None
    try:
        text = contents.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no key file", "it is not UTF-8", "restore it, or make another") from None
    keys = parse_key_file(text, str(path))
    if mode & (_OTHERS_USE if keys.private_key else _OTHERS_WRITE):
        why = f"it has mode {mode:04o}, so others may use it"
        raise PortError(f"{path} cannot be used", why, f"chmod 600 {shlex.quote(str(path))}")
    if keys.private_key:
        public = public_of(keys.private_key)
        if keys.public_key not in ("", public):
            raise ConfigError(
                f"{path} holds two halves that do not belong together",
                "public_key is not that of private_key",
                "remove public_key; it follows from the other",
            )
        keys = replace(keys, public_key=public)
    return keys


def _contents(path: Path) -> tuple[bytes | None, int]:
    """The bytes and the mode of a file of ours or of root; no bytes when there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # else a FIFO would hang us
    except FileNotFoundError:
        return None, 0
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _unreadable(path, "it is not a regular file")
        if status.st_uid not in (os.geteuid(), 0):
            raise _unreadable(path, f"it belongs to user {status.st_uid}, who could change it")
        return file.read(MAX_KEY_FILE_BYTES + 1), stat.S_IMODE(status.st_mode)


def _unreadable(path: Path, why: str) -> PortError:
    return PortError(f"{path} cannot be used", why, f"ls -l {shlex.quote(str(path))}")


def write_keys(path: Path, keys: KeyFile) -> None:
    """Put the key file there, in place of one that was. A folder of ours is closed to others; any other stays as it is. Raises
    PortError.
    """
    folder = StateDirectory(path.parent)
    if (
        path.parent.name == OWN_FOLDER
        or path.parent.parts[-2:] == CURVE_FOLDER.parts
        or not os.path.exists(path.parent)
    ):
        folder.create()
    folder.write(path.name, format_key_file(keys))


class ServerKeys:
    """The broker's key file under `root`. Every method blocks for as long as the disk does."""

    def __init__(self, root: Path) -> None:
        self.folder = StateDirectory(root / CURVE_FOLDER)
        self.path = self.folder.file(SERVER_KEYS)

    def __repr__(self) -> str:
        return f"<ServerKeys {self.path}>"

    def ensure(self) -> KeyFile:
        """What the file says; it is made, with a fresh pair, when there is none."""
        self.folder.create()
        with self.folder.alone():
            keys = read_keys(self.path)
            if keys is None or not keys.private_key:
                pair = new_pair()
                keys = replace(keys or KeyFile(), private_key=pair.secret, public_key=pair.public)
                write_keys(self.path, keys)
            return keys

    def read(self) -> KeyFile:
        """What the file says. Raises PortError when there is none: it has been there since the broker began."""
        keys = read_keys(self.path)
        if keys is None:
            raise PortError(f"{self.path} is gone", "somebody has moved it", "put it back, or start the broker anew")
        return keys

    def stamp(self) -> tuple[int, int, int] | None:
        """Something that changes when the file does; None while there is none."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def change(self, change: Callable[[KeyFile], KeyFile]) -> KeyFile:
        """Replace what the file says by what `change` makes of it, and return that; nobody else changes it meanwhile."""
        with self.folder.alone():
            keys = change(self.read())
            write_keys(self.path, keys)
            return keys


def with_client(keys: KeyFile, name: str, role: Role, public_key: str, now: str) -> KeyFile:
    """`keys` with one client more. Raises LocalError for a name or a key that is taken, or that is none."""
    client = new_client(name, role, public_key, now)
    if keys.client(name) is not None:
        raise LocalError(
            f"there is a client {name} already", "each has a name of its own", f"holloway client rotate {name}"
        )
    _require_new(keys, public_key)
    return replace(keys, client_keys=(*keys.client_keys, client))


def without_client(keys: KeyFile, name: str, now: str) -> KeyFile:
    """`keys` with that client's key revoked, for good. Raises LocalError when there is no such client."""
    return _replace(keys, replace(_known(keys, name), revoked=now))


def rotated_client(keys: KeyFile, name: str, public_key: str, now: str) -> KeyFile:
    """`keys` with another key for that client; the one before is revoked. Raises LocalError."""
    client = _known(keys, name)
    revoked = without_client(keys, name, now)
    _require_new(keys, public_key)
    return replace(revoked, client_keys=(*revoked.client_keys, new_client(name, client.role, public_key, now)))


def with_role(keys: KeyFile, name: str, role: Role) -> KeyFile:
    """`keys` with another role for that client. Raises LocalError when there is no such client."""
    return _replace(keys, replace(_known(keys, name), role=role))


def _known(keys: KeyFile, name: str) -> ClientKey:
    client = keys.client(name)
    if client is None:
        raise LocalError(f"there is no client {name}", "no key that counts has that name", "holloway client list")
    return client


def _require_new(keys: KeyFile, public_key: str) -> None:
    if any(each.public_key == public_key for each in keys.client_keys):
        raise LocalError("the broker knows the key already", "each client has a key of its own", "make another key")


def _replace(keys: KeyFile, client: ClientKey) -> KeyFile:
    return replace(
        keys,
        client_keys=tuple(client if each.public_key == client.public_key else each for each in keys.client_keys),
    )
