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

KNOWN_S = 1.0
"""How long what others have answered is believed: whoever challenges again and again does not keep us from answering."""


class Answer(Enum):
    """What to do about a challenge."""

    LATER = "others are being asked"
    STAY = "answer it"
    YIELD = "hand the address over"


class Defence:
    """What is known about the newest accusations: of many at once only the first makes us ask."""

    def __init__(self, timers: FloatingTimers) -> None:
        self._patience_s = timers.look_around_s + GRACE_S
        self._number = 0
        self._asked_until = -math.inf
        self._is_in_touch: bool | None = None
        self._known_until = -math.inf
        self.answer_at = -math.inf
        """When to answer the challenge that was considered last, unless it is known before what to do."""

    def consider(self, now: float, revision: int, challenge: FloatingChallenge) -> tuple[Answer, LookAround | None]:
        """What to do about the challenge at `revision`, and whom to ask first, if anybody is to be asked."""
        self.answer_at = -math.inf
        if not challenge.in_touch:
            return Answer.STAY, None
        if now < self._known_until:
            return Answer.YIELD if self._is_in_touch is False else Answer.STAY, None
        question = None
        if now >= self._asked_until:
            if revision == self._number:
                return Answer.STAY, None
            self._number, self._asked_until = revision, now + self._patience_s
            question = LookAround(revision, challenge.name, challenge.key)
        self.answer_at = self._asked_until
        return Answer.LATER, question

    def tell(self, now: float, number: int, is_in_touch: bool | None) -> None:
        """What came of the question `number`; None: there was nobody to ask. What is not known speaks for staying."""
        if number == self._number:
            self._is_in_touch = is_in_touch
            self._asked_until, self._known_until = -math.inf, now + KNOWN_S
