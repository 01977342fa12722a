"""The secrets of a node, read from the files that its configuration names.

Responsible for who may read those files, for their size and form, and for telling when a peer has this node's own key.
Not responsible for deriving anything from the passphrase, which is slow by design and done once, off the event loop.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from holloway.actors.config.loading import NOTHING, Examined
from holloway.actors.config.model import Config
from holloway.actors.config.problems import ConfigProblems, KeyPath, Problem, format_key
from holloway.protocols.errors import LocalError

MAX_SECRET_BYTES = 4096
_OTHERS_BITS = 0o077  # group and others: read, write, execute


@dataclass(frozen=True, slots=True)
class Secrets:
    """A node's private key (32 bytes), the network's passphrase if it has one, and each peer's pre-shared key (32 bytes)
    by the peer's name. `repr` shows none of it."""

    private_key: bytes = field(repr=False)
    passphrase: bytes | None = field(default=None, repr=False)
    preshared_keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(slots=True)
class SecretsFound:
    """What one look at the secrets gave: `secrets` exactly when there are no problems; the files that were looked at; and
    the PermissionError of a file that could not be opened, if there was one."""

    secrets: Secrets | None = None
    problems: list[Problem] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    denied: PermissionError | None = None


class RefusedFileError(Exception):
    """A file holds nothing that may be used: what is wrong with it, and the remedy, in which `{path}` is the file."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what, fix)
        self.what = what
        self.fix = fix


def load_secrets(config: Config, *, environ: Mapping[str, str] = NOTHING) -> Secrets:
    """Reads every secret that `config` names, or takes the bytes it holds.

    A file must be a regular one of this user or of root that nobody else may use (0600 or stricter), at most
    `MAX_SECRET_BYTES` long; a line end at its end does not count. Files in `$CREDENTIALS_DIRECTORY` of `environ` may be
    readable by root's group: systemd grants them to a service by an access list, which shows as that bit.

    Raises ConfigProblems naming all that is wrong (from the PermissionError if a file may not be opened); its `fix` for a
    file with too wide a mode is the `chmod 600` command. Also raised when a peer has this node's own public key.
    """
    found = examine_secrets(config, environ=environ)
    if found.secrets is None:
        raise ConfigProblems(found.problems, config.path) from found.denied
    return found.secrets


def examine_secrets(config: Config, *, environ: Mapping[str, str] = NOTHING) -> SecretsFound:
    """As `load_secrets`, but returns what it found. Problems name keys of the configuration, without a line."""
    session = config.session
    look = _Look(config.path, environ)
    private = look.take(_PRIVATE, session.private_key, session.private_key_file)
    passphrase = look.take(_PASSPHRASE, session.passphrase, session.passphrase_file)
    preshared = {}
    for position, peer in enumerate(config.peers):
        value = look.take(("peer", position, _PRESHARED), peer.preshared_key, peer.preshared_key_file)
        if value is not None:
            preshared[peer.name] = value
    if private is None and session.private_key_file is None:
        look.report(_PRIVATE, "missing", "make one: holloway keygen --output node.key")
    if private is not None:
        look.compare(private, {("peer", position): peer.public_key for position, peer in enumerate(config.peers)})
        if not look.found.problems:
            look.found.secrets = Secrets(private, passphrase, preshared)
    return look.found


def examine_secret_files(examined: Examined, *, environ: Mapping[str, str] = NOTHING) -> SecretsFound:
    """Looks at the secrets that a configuration names, even one that has other problems; `secrets` stays None. Problems
    carry the lines of their keys."""
    look = _Look(examined.path, environ)
    private, public_keys = None, {}
    for setting in examined.settings:
        if isinstance(setting.value, Path) and setting.key[-1] in _READERS:
            value = look.take(setting.key, None, setting.value)
            private = value if setting.key == _PRIVATE else private
        elif setting.key[-1] == "public_key" and isinstance(setting.value, bytes):
            public_keys[setting.key[:2]] = setting.value
    if private is not None:
        look.compare(private, public_keys)
    look.found.problems = [replace(each, line=examined.lines.get(each.key)) for each in look.found.problems]
    return look.found


class _Look:
    """One look at the secrets of one configuration."""

    def __init__(self, path: Path | None, environ: Mapping[str, str]) -> None:
        self.found = SecretsFound()
        self._path = path
        credentials = environ.get("CREDENTIALS_DIRECTORY")
        self._credentials = Path(credentials) if credentials else None

    def report(self, key: KeyPath, what: str, fix: str) -> None:
        self.found.problems.append(Problem(self._path, None, format_key(key), what, fix))

    def take(self, key: KeyPath, value: bytes | None, path: Path | None) -> bytes | None:
        """The secret itself, or what its file holds; None when there is none or it was refused and reported."""
        if path is None:
            return value
        self.found.files.append(path)
        read, maker = _READERS[str(key[-1])]
        try:
            return read(private_contents(path, systemd=path.parent == self._credentials))
        except RefusedFileError as refused:
            self.report(key, f"{path} {refused.what}", refused.fix.format(path=shlex.quote(str(path))))
        except FileNotFoundError:
            self.report(key, f"{path} does not exist", f"make it: {maker.format(path=shlex.quote(str(path)))}")
        except PermissionError as error:
            self.found.denied = error
            self.report(key, f"{path} may not be opened by this user", f"ls -l {shlex.quote(str(path))}")
        except OSError as error:
            self.report(key, f"{path} cannot be read: {error.strerror}", f"ls -l {shlex.quote(str(path))}")
        return None

    def compare(self, private: bytes, public_keys: Mapping[KeyPath, bytes]) -> None:
        from holloway.protocols.keys import StaticKey  # needs cryptography; reading a configuration does not

        own = StaticKey(private).public
        for key, public in public_keys.items():
            if public == own:
                fix = "paste the peer's, or give each node a key of its own"
                self.report((*key, "public_key"), "this is the node's own public key", fix)


def private_contents(path: Path, *, limit: int = MAX_SECRET_BYTES, systemd: bool = False) -> bytes:
    """The bytes of a file that only its owner may use, at most `limit`; `systemd`: its group may be root's (see `load_secrets`).

    The open file is judged, so it cannot be swapped in between. Raises `RefusedFileError`, and OSError when it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # else a FIFO would hang the start
    try:
        _require_private(os.fstat(descriptor), systemd=systemd)
        data = os.read(descriptor, limit + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise RefusedFileError(f"is larger than {limit} bytes", "name a file that holds the secret alone")
    return data


def _require_private(status: os.stat_result, *, systemd: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise RefusedFileError("is not a regular file", "name a file that holds the secret alone")
    user = os.geteuid()
    if status.st_uid not in (user, 0):
        raise RefusedFileError(f"belongs to user {status.st_uid}, who could change it", f"sudo chown {user} {{path}}")
    mode = stat.S_IMODE(status.st_mode)
    excess = mode & _OTHERS_BITS
    if systemd and status.st_uid == 0:
        excess &= ~stat.S_IRGRP
    if excess:
        raise RefusedFileError(f"has mode {mode:04o}, so others may use it", "chmod 600 {path}")


def _key(data: bytes) -> bytes:
    from holloway.protocols.keys import decode_key

    try:
        return decode_key(data.strip())
    except LocalError as error:
        raise RefusedFileError(f"holds no key: {error.why}", f"move it away and make another: {_KEYGEN}") from None


def _passphrase(data: bytes) -> bytes:
    # One line end only: blanks may belong to the passphrase, and every node must read the same bytes.
    text = data.removesuffix(b"\n").removesuffix(b"\r")
    if not text:
        raise RefusedFileError("is empty", "write the network's passphrase into it")
    if b"\n" in text:
        raise RefusedFileError("has several lines", "write the passphrase on one line")
    return text


_PRIVATE: KeyPath = ("session", "private_key_file")
_PASSPHRASE: KeyPath = ("session", "passphrase_file")
_PRESHARED = "preshared_key_file"
_KEYGEN = "holloway keygen --output {path}"
_READERS = {
    "private_key_file": (_key, _KEYGEN),
    "passphrase_file": (_passphrase, "(umask 077; cat > {path})"),
    _PRESHARED: (_key, "(umask 077; cat > {path})"),
}
"""How the file of each key is read, and the command that makes one."""
