"""The state directory of a simulated node: what it keeps from one life to the next, in memory, on a disk that can be full.

A process writes through a `Desk` of its own: one that was killed writes nothing more. Each write is whole, as a real one is. Not
responsible for what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import trio

from holloway.actors.state_directory import StateDirectory
from holloway.protocols.errors import PortError

Result = TypeVar("Result")
ROOT = Path("/simulated")


class Process(Protocol):
    """Whoever uses a disk."""

    is_over: bool


class Disk(StateDirectory):
    """The disk of one node, as its owner sees it."""

    def __init__(self, name: str) -> None:
        super().__init__(ROOT / name)
        self.files: dict[str, bytes] = {}
        self._full: dict[str, None] = {}

    def fill(self, fault: str) -> None:
        """There is no room from now on."""
        self._full[fault] = None

    def clear(self, fault: str) -> None:
        """There is room again, if nothing else has taken it."""
        self._full.pop(fault, None)

    @property
    def is_full(self) -> bool:
        return bool(self._full)

    def create(self) -> None:
        """See `StateDirectory`. It is there."""

    def has(self, name: str) -> bool:
        """See `StateDirectory`."""
        return name in self.files

    def read(self, name: str) -> bytes | None:
        """See `StateDirectory`."""
        return self.files.get(name)

    def write(self, name: str, contents: bytes | str) -> None:
        """See `StateDirectory`."""
        if self.is_full:
            raise PortError(f"cannot write {self.file(name)}", "No space left on device")
        self.files[name] = contents.encode() if isinstance(contents, str) else contents

    def remove(self, name: str) -> None:
        """See `StateDirectory`."""
        self.files.pop(name, None)

    async def apart(self, work: Callable[[], Result]) -> Result:
        """See `StateDirectory`. There are no threads here, and no disk to wait for."""
        await trio.lowlevel.checkpoint()
        return work()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """See `StateDirectory`. Nobody else can come in between."""
        yield


class Desk(Disk):
    """A disk as one process sees it."""

    def __init__(self, disk: Disk, process: Process) -> None:
        super().__init__(disk.path.name)
        self.files, self._full = disk.files, disk._full
        self._process = process

    def write(self, name: str, contents: bytes | str) -> None:
        """See `StateDirectory`."""
        if not self._process.is_over:
            super().write(name, contents)

    def remove(self, name: str) -> None:
        """See `StateDirectory`."""
        if not self._process.is_over:
            super().remove(name)
