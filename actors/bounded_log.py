"""A logger that nobody can fill: so many lines in so much time, and then how many were left out.

Made for lines that peers, records or clients cause. Not responsible for levels, formats or where lines go: those are the
logger's behind it, whose owner is the program.
"""

from __future__ import annotations

import logging
import math

import trio

LINES = 10
PERIOD_S = 60.0


class BoundedLog:
    """Passes at most `lines` lines in each `period_s` seconds of Trio's clock on to `log`; the period's first comes late
    enough to say what the period before left out. Lines below the level of `log` cost nothing and count for nothing."""

    def __init__(self, log: logging.Logger, *, lines: int = LINES, period_s: float = PERIOD_S) -> None:
        self._log = log
        self._lines = lines
        self._period_s = period_s
        self._since = -math.inf
        self._said = 0
        self._left_out = 0

    def debug(self, message: str, *args: object) -> None:
        self._say(logging.DEBUG, message, args)

    def info(self, message: str, *args: object) -> None:
        self._say(logging.INFO, message, args)

    def warning(self, message: str, *args: object) -> None:
        self._say(logging.WARNING, message, args)

    def error(self, message: str, *args: object) -> None:
        self._say(logging.ERROR, message, args)

    def _say(self, level: int, message: str, args: tuple[object, ...]) -> None:
        if not self._log.isEnabledFor(level):
            return
        now = trio.current_time()
        if now - self._since >= self._period_s:
            if self._left_out:
                self._log.warning("%d more lines of this kind were left out", self._left_out)
            self._since, self._said, self._left_out = now, 0, 0
        if self._said < self._lines:
            self._said += 1
            self._log.log(level, message, *args)
        else:
            self._left_out += 1
