"""The folder in which a node keeps what must outlive its process: keys, certificate, and what it has seen of its network.

Responsible for who may use it (nobody else: mode 0700, files 0600), for writing a file whole or not at all, also when the
machine stops in the middle, and for one writer at a time. Not responsible for what the files say.
"""

from __future__ import annotations

import fcntl
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import trio

from holloway.actors.secrets import RefusedFileError, private_contents
from holloway.protocols.errors import PortError

SYSTEM_STATE = Path("/var/lib/holloway")
CONFIG_FILE = "holloway.toml"
MAX_FILE_BYTES = 8 << 20
_LOCK_FILE = ".lock"

Result = TypeVar("Result")


def default_state(environ: Mapping[str, str], uid: int | None = None) -> Path:
    """Where a node of this user (`uid`, None: the caller) keeps its state: `/var/lib/holloway` for root, otherwise
    `$XDG_STATE_HOME/holloway` or what stands for it (XDG Base Directory Specification).
    """
    if (os.geteuid() if uid is None else uid) == 0:
        return SYSTEM_STATE
    home = Path(environ.get("HOME") or "~").expanduser()
    named = environ.get("XDG_STATE_HOME", "")
    return (Path(named) if named.startswith("/") else home / ".local" / "state") / "holloway"


class StateDirectory:
    """One such folder. What the system refuses is raised as `PortError`, with the command that mends it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"<StateDirectory {self.path}>"

    def create(self) -> None:
        """Make the folder unless it is there. One that others may enter is closed to them."""
        with _told(f"cannot make {self.path}"):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.stat().st_mode & 0o077:
                self.path.chmod(0o700)

    def file(self, name: str) -> Path:
        """Where a file of that name lies."""
        return self.path / name

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        with _told(f"cannot look into {self.path}"):
            return self.file(name).exists()

    def read(self, name: str) -> bytes | None:
        """What a file holds; None when there is none. Refuses a file that others may use: then it says nothing certain."""
        path = self.file(name)
        try:
            return private_contents(path, limit=MAX_FILE_BYTES)
        except FileNotFoundError:
            return None
        except RefusedFileError as refused:
            fix = refused.fix.format(path=shlex.quote(str(path)))
            raise PortError(f"{path} cannot be used", f"it {refused.what}", fix) from None
        except OSError as error:
            raise PortError(
                f"cannot read {path}", error.strerror or str(error), f"ls -l {shlex.quote(str(path))}"
            ) from error

    def write(self, name: str, contents: bytes | str) -> None:
        """Put a file there, in place of one that was: whole, or not at all, and to stay."""
        path = self.file(name)
        draft = path.with_name(f".{name}.{os.getpid()}")
        data = contents.encode() if isinstance(contents, str) else contents
        with _told(f"cannot write {path}"):
            try:
                draft.unlink(missing_ok=True)
                descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with open(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(draft, path)
            except BaseException:
                with suppress(OSError):
                    draft.unlink()
                raise
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def remove(self, name: str) -> None:
        """Forget a file. One that is not there is fine."""
        with _told(f"cannot remove {self.file(name)}"):
            self.file(name).unlink(missing_ok=True)

    async def apart(self, work: Callable[[], Result]) -> Result:
        """Do what uses these files in a thread, so that nobody waits for a disk but the caller; done to its end, also when he is
        cancelled. Returns and raises what `work` does.
        """
        return await trio.to_thread.run_sync(work)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else is in such a block of this folder meanwhile; waits for whoever is. Blocks the thread: keep it short."""
        with _told(f"cannot lock {self.path}"):
            descriptor = os.open(self.file(_LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with _told(f"cannot lock {self.path}"):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fix = "run it as root, or name another folder: --state DIR" if isinstance(error, PermissionError) else ""
        raise PortError(what, error.strerror or str(error), fix) from error
