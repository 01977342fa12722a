"""Ctrl-C and SIGTERM at a time of our choosing: never while namespaces are being made or taken down.

    interrupts = Interrupts()
    with namespaces(2) as hosts, interrupts.allowed():
        ...                     # a signal ends the program from here, through every `finally`

Outside `allowed` a signal is kept until the next time it is allowed. After the first, further ones do nothing, so that an
impatient second Ctrl-C leaves nothing behind.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Takes the handlers of `SIGNALS`. The program then ends by `SystemExit` with 128 and the signal's number."""

    def __init__(self) -> None:
        self._allowed = False
        self._came: int | None = None
        for number in SIGNALS:
            signal.signal(number, self._take)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Raises what came before at once, and what comes meanwhile when it comes."""
        self._allowed = True
        try:
            self._raise_what_came()
            yield
        finally:
            self._allowed = False

    def _take(self, number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        self._came = number
        if self._allowed:
            self._raise_what_came()

    def _raise_what_came(self) -> None:
        if self._came is not None:
            self._allowed = False
            raise SystemExit(128 + self._came)
