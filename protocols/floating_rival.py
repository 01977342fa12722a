"""What a node that waits for a floating address may do about it, and when: claim it, challenge its holder, evict it.

A claim that is no longer there may be made at once, unless a challenger that is no worse has just freed the address for
itself. A holder is challenged when it does not answer on the data path, when its claim is of an earlier life of ours or
cannot be read, and when we are better and have been healthy, and it has been there and answered us, for a while: so no two nodes
take turns. A challenge whose cause is gone is left to be answered. Not responsible for doing any of it (`floating`).
"""

from __future__ import annotations

import math

from holloway.protocols.floating_claims import FloatingChallenge, FloatingClaim, encode_floating
from holloway.protocols.floating_operations import FloatingTimers, Kind
from holloway.protocols.floating_view import FloatingView

STRANGER_ANSWER_S = 10.0
"""How long a challenge stands beside a claim that cannot be read. Later versions have to answer within this."""

YIELDS = 2
"""So many times the hold-off the address is left to whoever has challenged us, once we have yielded."""


class Rival:
    """The plans of one node for one floating address. `healthy_since`: None while it is not."""

    def __init__(self, us: FloatingClaim, timers: FloatingTimers, view: FloatingView) -> None:
        self._us, self._timers, self._view = us, timers, view
        self.healthy_since: float | None = None
        self._doubted_fence: int | None = None
        self._is_in_touch = False
        self._clear_since = -math.inf
        self._yield_until = -math.inf
        self._challenged_revision = 0
        self._said_in_touch = False
        self._challenge_from = -math.inf

    def plan(self) -> tuple[float, Kind]:
        """What to do next, and when; never: `math.inf`."""
        if self._view.claim is None:
            return self._claim_at(), Kind.CLAIM
        if self._is_our_challenge():
            return self._evict_at(), Kind.EVICT
        return self._challenge_at(), Kind.CHALLENGE

    def doubt(self, now: float, fence: int | None, *, is_in_touch: bool) -> None:
        """The holder whose claim has this fence does not answer; None: nobody is doubted. `is_in_touch`: others answer us."""
        if fence is None and self._doubted_fence is not None:
            self._clear_since = now
        self._doubted_fence, self._is_in_touch = fence, is_in_touch

    def yield_to_challenger(self, now: float) -> None:
        """We hand over because nobody hears us: whoever does better may be worse than we, and gets time to claim."""
        self._clear_since = now
        self._yield_until = now + YIELDS * self._timers.hold_off_s

    def accusation(self) -> FloatingChallenge | None:
        """What another node says of us as the holder: that we do not answer. None while nobody says so."""
        challenger, claim = self._view.challenger, self._view.claim
        if (
            isinstance(challenger, FloatingChallenge)
            and claim is not None
            and not (challenger.preempts or self._is_us(challenger))
            and challenger.fence == claim.mod_revision
        ):
            return challenger
        return None

    def is_stray(self) -> bool:
        """Whether the claim in the store is of this process, though nobody told us that it was made."""
        holder = self._view.holder
        return isinstance(holder, FloatingClaim) and self._is_us(holder)

    def is_bidden(self) -> bool:
        """Whether, as the holder, we are asked to hand over by a better node."""
        challenger, claim = self._view.challenger, self._view.claim
        return (
            isinstance(challenger, FloatingChallenge)
            and claim is not None
            and challenger.preempts
            and challenger.fence == claim.mod_revision
            and challenger.priority > self._us.priority
        )

    @property
    def answer_s(self) -> float:
        """Within what time the present holder answers a challenge, or has given up."""
        holder = self._view.holder
        return holder.answer_ms / 1000 if isinstance(holder, FloatingClaim) else STRANGER_ANSWER_S

    def challenge(self, now: float) -> bytes:
        """The challenge to put beside the present claim. Another one to the same claim will have to wait."""
        claim = self._view.claim
        assert claim is not None
        preempts = not self._is_suspect()
        pause_s = self._timers.preempt_after_s if preempts else self._timers.doubt_again_s
        self._challenged_revision = claim.mod_revision
        self._challenge_from = now + self.answer_s + pause_s
        us = self._us
        self._said_in_touch = in_touch = self._can_say_in_touch()
        said = FloatingChallenge(us.name, us.key, us.run, us.priority, claim.mod_revision, preempts, in_touch)
        return encode_floating(said)

    def _claim_at(self) -> float:
        challenger = self._view.challenger
        if (
            isinstance(challenger, FloatingChallenge)
            and not self._is_us(challenger)
            and challenger.priority >= self._us.priority
        ):
            return max(self._view.claim_since + self._timers.hold_off_s, self._yield_until)
        return self._yield_until

    def _evict_at(self) -> float:
        challenger = self._view.challenger
        assert isinstance(challenger, FloatingChallenge)
        if not challenger.preempts and not self._is_suspect():
            return math.inf
        return self._view.challenge_since + self.answer_s

    def _challenge_at(self) -> float:
        claim, holder, challenger = self._view.claim, self._view.holder, self._view.challenger
        assert claim is not None
        if isinstance(challenger, FloatingChallenge) and challenger.fence == claim.mod_revision:
            return math.inf  # another one is at it already
        if self._is_suspect():
            due = -math.inf
        elif (
            isinstance(holder, FloatingClaim) and holder.priority < self._us.priority and self.healthy_since is not None
        ):
            since = max(self.healthy_since, self._view.claim_since, self._clear_since)
            due = since + self._timers.preempt_after_s
        else:
            return math.inf
        has_news = self._can_say_in_touch() and not self._said_in_touch
        is_again = claim.mod_revision == self._challenged_revision and not has_news
        return max(due, self._challenge_from) if is_again else due

    def _can_say_in_touch(self) -> bool:
        """Whether others answer us and the present holder does not."""
        claim = self._view.claim
        return self._is_in_touch and claim is not None and claim.create_revision == self._doubted_fence

    def _is_suspect(self) -> bool:
        """Whether the claim may well have no living holder."""
        claim, holder = self._view.claim, self._view.holder
        assert claim is not None
        return (
            not isinstance(holder, FloatingClaim)
            or holder.key == self._us.key
            or claim.create_revision == self._doubted_fence
        )

    def _is_our_challenge(self) -> bool:
        claim, challenger = self._view.claim, self._view.challenger
        return (
            isinstance(challenger, FloatingChallenge)
            and claim is not None
            and self._is_us(challenger)
            and challenger.fence == claim.mod_revision
        )

    def _is_us(self, other: FloatingClaim | FloatingChallenge) -> bool:
        return (other.key, other.run) == (self._us.key, self._us.run)
