"""What a holder does that is told that it does not answer: it asks others before it believes or denies it.

A challenge may come from a node that lies, or whose own data path is broken, so no challenge is believed for itself; and it may be
true, though the registry answers us, so none is denied without looking. A holder yields when both hold: the challenger says that
others answer it, and of the nodes that the holder asks itself less than half do. Then one node alone, whatever it says or does
not answer, takes the address from nobody; nor do nodes take turns, because whoever is cut off cannot say that it is in touch.

Not responsible for asking (`floating` has it done), nor for what yielding means.
"""

from __future__ import annotations

import math
from enum import Enum

from holloway.protocols.floating_claims import FloatingChallenge
from holloway.protocols.floating_operations import FloatingTimers, LookAround

GRACE_S = 0.15
"""How much longer than the asking the answer may take: who has heard nobody by then says so only afterwards."""


class Answer(Enum):
    """What to do about a challenge."""

    LATER = "others are being asked"
    STAY = "answer it"
    YIELD = "hand the address over"


class Defence:
    """What is known about the newest accusation."""

    def __init__(self, timers: FloatingTimers) -> None:
        self._patience_s = timers.look_around_s + GRACE_S
        self._revision = 0
        self._until = -math.inf
        self._is_in_touch: bool | None = None

    @property
    def until(self) -> float:
        """When the asking ends, whatever has come of it."""
        return self._until

    def consider(self, now: float, revision: int, challenge: FloatingChallenge) -> tuple[Answer, LookAround | None]:
        """What to do about the challenge at `revision`, and whom to ask first, if anybody is to be asked."""
        if not challenge.in_touch:
            self._until = -math.inf
            return Answer.STAY, None
        question = None
        if revision != self._revision:
            self._revision, self._until, self._is_in_touch = revision, now + self._patience_s, None
            question = LookAround(revision, challenge.name, challenge.key)
        if self._is_in_touch is False:
            return Answer.YIELD, None
        return (Answer.STAY if now >= self._until else Answer.LATER), question

    def tell(self, number: int, is_in_touch: bool | None) -> None:
        """What came of the question `number`; None: there was nobody to ask. What is not known speaks for staying."""
        if number == self._revision:
            self._is_in_touch = is_in_touch
            if is_in_touch is not False:
                self._until = -math.inf
