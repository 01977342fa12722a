"""What one node knows of the two keys of a floating address, from when, and what they say.

Not responsible for what follows from it (`floating`), nor for it being true any more: whatever is done on the strength of
it compares revisions.
"""

from __future__ import annotations

from dataclasses import dataclass

from holloway.protocols.floating_claims import (
    FloatingChallenge,
    FloatingClaim,
    FloatingProblem,
    decode_challenge,
    decode_floating_claim,
)
from holloway.protocols.floating_operations import Key, Seen


@dataclass(slots=True)
class _Known:
    """One key: what stands there, since when we know it, and the newest revision that told us something."""

    seen: Seen | None = None
    since: float = 0.0
    revision: int = 0

    def learn(self, now: float, revision: int, seen: Seen | None) -> bool:
        """Returns whether it is another one than before."""
        self.revision = revision
        if (seen and seen.mod_revision) == (self.seen and self.seen.mod_revision):
            return False
        self.seen, self.since = seen, now
        return True


class FloatingView:
    """Both keys. `since` of each is when the present one, or its absence, was first seen."""

    def __init__(self) -> None:
        self._claim, self._challenge = _Known(), _Known()
        self.holder: FloatingClaim | FloatingProblem | None = None
        """What the claim says; None when there is none."""
        self.challenger: FloatingChallenge | FloatingProblem | None = None
        """What the challenge says; None when there is none."""

    @property
    def claim(self) -> Seen | None:
        return self._claim.seen

    @property
    def challenge(self) -> Seen | None:
        return self._challenge.seen

    @property
    def claim_since(self) -> float:
        return self._claim.since

    @property
    def challenge_since(self) -> float:
        return self._challenge.since

    @property
    def claim_revision(self) -> int:
        """Of the newest put, 0 when there is no claim."""
        return self._claim.seen.mod_revision if self._claim.seen else 0

    @property
    def challenge_revision(self) -> int:
        """Of the newest put, 0 when there is no challenge."""
        return self._challenge.seen.mod_revision if self._challenge.seen else 0

    def look(self, now: float, revision: int, claim: Seen | None, challenge: Seen | None) -> None:
        """Both keys as they were at `revision`. This replaces everything: the store may be another one than before."""
        self._learn(now, Key.CLAIM, revision, claim)
        self._learn(now, Key.CHALLENGE, revision, challenge)

    def note(self, now: float, key: Key, revision: int, seen: Seen | None) -> None:
        """One key at `revision`. Nothing for what is no newer than we know."""
        if revision > (self._claim if key is Key.CLAIM else self._challenge).revision:
            self._learn(now, key, revision, seen)

    def _learn(self, now: float, key: Key, revision: int, seen: Seen | None) -> None:
        if key is Key.CLAIM:
            if self._claim.learn(now, revision, seen):
                self.holder = None if seen is None else decode_floating_claim(seen.value)
        elif self._challenge.learn(now, revision, seen):
            self.challenger = None if seen is None else decode_challenge(seen.value)
