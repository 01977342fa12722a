"""A watch over a store that keeps its history: a cursor into the log of changes, and nothing else.

Responsible for: moving the cursor, so that each change is handed over once, and refusing two readers at once. NOT
responsible for: storing or buffering changes. Because the log is the store's own and bounded, a slow watch costs no
memory: the store compacts its log past the cursor, and the watch fails with "compacted".
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from holloway.actors.registry.limits import closed
from holloway.actors.registry.port import Changes, Watch
from holloway.protocols.errors import RegistryError


class ChangeLog(Protocol):
    """What a watch reads from."""

    def read(self, prefix: bytes, after: int) -> Awaitable[tuple[Changes, int]]:
        """Return the next changes under `prefix` after revision `after`, maybe none, and the last revision read."""
        ...

    def wait_beyond(self, revision: int) -> Awaitable[None]:
        """Return when the store may have passed `revision`, or somebody asked every watch to look again."""
        ...


class LogWatch(Watch):
    """See `Watch`."""

    def __init__(self, log: ChangeLog, prefix: bytes, after: int) -> None:
        self._log = log
        self._prefix = prefix
        self._cursor = after
        self._reading = False
        self._open = True

    async def receive(self) -> Changes:
        if self._reading:
            raise RegistryError(
                "The watch is being read already",
                "two tasks called receive at once, and each change is given once",
                "open one watch for each task",
                kind="denied",
            )
        self._reading = True
        try:
            while self._open:
                # The cursor moves in the same step in which the batch is returned: no checkpoint lies between the two.
                changes, self._cursor = await self._log.read(self._prefix, self._cursor)
                if changes:
                    return changes
                if self._open:
                    await self._log.wait_beyond(self._cursor)
            raise closed()
        finally:
            self._reading = False

    def close(self) -> None:
        """Refuse further reading."""
        self._open = False
