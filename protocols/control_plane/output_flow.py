"""The output of one job on its way from an agent to the broker: numbered, in pieces, a bounded window of it under way.

What has not been confirmed is sent again after a cut, or when nothing was confirmed for a while. When too much waits, the process
is not read any more, until there is room: so it waits, as it would for a slow terminal. Output beyond the limit of the job is
thrown away and marked. Not responsible for who reads the process.
"""

from __future__ import annotations

import hashlib
from collections import deque

from holloway.protocols.control_plane.messages import Output, Stream

WINDOW = 32
PIECE_BYTES = 32 * 1024
FULL_BYTES = 512 * 1024
"""From so many bytes that wait on, the process is not read."""
REPEAT_AFTER_S = 5.0


class OutputFlow:
    """The output of one job. `limit` is in bytes, for both streams together."""

    def __init__(self, job: str, limit: int) -> None:
        self.count = 0
        """Pieces so far."""
        self.is_truncated = False
        self.is_paused = False
        self._job, self._left = job, limit
        self._waiting: deque[Output] = deque()
        self._under_way: deque[Output] = deque()
        self._bytes = 0
        self._hash = hashlib.sha256()
        self._repeat_at = float("inf")

    @property
    def is_drained(self) -> bool:
        """Whether the broker has all of it."""
        return not self._waiting and not self._under_way

    @property
    def repeat_at(self) -> float:
        """When `repeated` is to be called if nothing is confirmed before."""
        return self._repeat_at

    @property
    def digest(self) -> str:
        """SHA-256 of all pieces so far, in order."""
        return self._hash.hexdigest()

    def write(self, step: int, stream: Stream, data: bytes) -> bool:
        """The process wrote something. True when it is not to be read for now, and was read before."""
        if len(data) > self._left:
            self.is_truncated = True
            data = data[: self._left]
        self._left -= len(data)
        for at in range(0, len(data), PIECE_BYTES):
            piece = data[at : at + PIECE_BYTES]
            self.count += 1
            self._hash.update(piece)
            self._bytes += len(piece)
            self._waiting.append(Output(self._job, step, stream, self.count, piece))
        was_paused, self.is_paused = self.is_paused, self.is_paused or self._bytes >= FULL_BYTES
        return self.is_paused and not was_paused

    def due(self, at: float) -> list[Output]:
        """What may be sent now; it counts as sent."""
        found = []
        while self._waiting and len(self._under_way) < WINDOW:
            self._under_way.append(self._waiting.popleft())
            found.append(self._under_way[-1])
        if found:
            self._repeat_at = at + REPEAT_AFTER_S
        return found

    def confirm(self, at: float, position: int) -> bool:
        """Everything up to `position` has arrived. True when the process may be read again, and was not before."""
        while self._under_way and self._under_way[0].sequence <= position:
            self._bytes -= len(self._under_way.popleft().body)
            self._repeat_at = at + REPEAT_AFTER_S
        if not self._under_way:
            self._repeat_at = float("inf")
        was_paused, self.is_paused = self.is_paused, self.is_paused and self._bytes >= FULL_BYTES // 2
        return was_paused and not self.is_paused

    def repeated(self, at: float) -> list[Output]:
        """Everything that is under way, once more."""
        if self._under_way:
            self._repeat_at = at + REPEAT_AFTER_S
        return list(self._under_way)
