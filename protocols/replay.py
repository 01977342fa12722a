"""The replay window: which counters of one key have been seen.

Not responsible for authentication, nor for the last counter of a key: a counter may be committed only after the message
that carries it has authenticated, otherwise a forger could move the window past everything that is under way.

The rule is RFC 6479's (and RFC 4303's, section 3.4.3): a counter above the top is new; one that lags behind the top by
less than the size of the window is new once; an older one never is. The store is a ring of one byte a counter instead of
a ring of bits: 8 KiB instead of 1, and in Python two thirds of the time for a counter in order.
"""

from __future__ import annotations

from typing import Final

from holloway.protocols.errors import LocalError

WINDOW_SIZE = 8192  # as wireguard-go replay.go, CounterBitsTotal; its usable part is 8128
MIN_WINDOW_SIZE = 64  # RFC 4303, section 3.4.3: the size preferred by default
MAX_WINDOW_SIZE = 1 << 20

MAX_ROW = 64
"""So many counters one `commit_row` takes."""

_ONES = b"\1" * MAX_ROW


class ReplayWindow:
    """The counters seen under one key. `size` counters are remembered, a power of two from 64 to 2^20.

    Memory is `size` bytes, and no call takes longer than clearing those, however far a counter jumps.
    Raises LocalError for another size.
    """

    __slots__ = ("_mask", "_seen", "_size", "top")

    def __init__(self, size: int = WINDOW_SIZE) -> None:
        if not MIN_WINDOW_SIZE <= size <= MAX_WINDOW_SIZE or size & (size - 1):
            raise LocalError("no replay window", f"{size} is not a power of two from 64 to 2^20", "use the default")
        self._size: Final = size
        self._mask: Final = size - 1
        self._seen: Final = bytearray(size)
        self.top = -1
        """The greatest counter committed, -1 before the first. For others to read."""

    def is_new(self, counter: int) -> bool:
        """Whether `counter` (0 to 2^64 - 1) may still be accepted. Changes nothing."""
        top = self.top
        if counter > top:
            return True
        return top - counter < self._size and counter >= 0 and not self._seen[counter & self._mask]

    def commit(self, counter: int) -> bool:
        """Remember the counter (0 to 2^64 - 1) of a message that has authenticated; say whether it was new.

        False means that it was not, and nothing has changed: whoever asked `is_new` for a whole batch before opening it
        must not deliver the second of two messages with the same counter.
        """
        skipped = counter - self.top - 1
        if skipped < 0:
            if not self.is_new(counter):
                return False
        else:
            if skipped:
                self._forget(skipped)
            self.top = counter
        self._seen[counter & self._mask] = 1
        return True

    def commit_row(self, first: int, count: int) -> None:
        """The same for `count` counters from `first` on, 1 to `MAX_ROW` of them, all above the top."""
        self.commit(first)
        start = (first + 1) & self._mask
        end = start + count - 1
        if end > self._size:
            for counter in range(first + 1, first + count):
                self.commit(counter)
        else:
            self._seen[start:end] = _ONES[: count - 1]
            self.top = first + count - 1

    def _forget(self, count: int) -> None:
        """Clear the places of the `count` counters after the top: they held counters that leave the window."""
        size = self._size
        start = (self.top + 1) & self._mask
        end = start + count
        if end <= size:
            self._seen[start:end] = bytes(count)
        elif count < size:
            self._seen[start:] = bytes(size - start)
            self._seen[: end - size] = bytes(end - size)
        else:
            self._seen[:] = bytes(size)

    def __repr__(self) -> str:
        return f"ReplayWindow(size={self._size}, top={self.top})"
