"""Asking the registry about one floating address: one question at a time, with patience, and pauses after silence.

Not responsible for what is asked when (`floating`), nor for carrying it out.
"""

from __future__ import annotations

import math
from functools import partial
from typing import assert_never

from holloway.protocols.floating_claims import FloatingClaim, encode_floating
from holloway.protocols.floating_operations import FloatingLease, FloatingTimers, Key, Kind, LeaseUse, Operation
from holloway.protocols.floating_rival import Rival
from holloway.protocols.floating_view import FloatingView

MAX_DOUBLINGS = 16


class Asking:
    """The operation under way, if any. `sent_at`: when the newest was asked for, which is not after it was sent."""

    def __init__(self, us: FloatingClaim, timers: FloatingTimers, view: FloatingView, rival: Rival) -> None:
        self._timers, self._view, self._rival = timers, view, rival
        self._claim = encode_floating(us)
        self._number = 0
        self._silences = self._refusals = 0
        self.pending: Operation | None = None
        self.sent_at = -math.inf
        self.pause_until = -math.inf

    @property
    def patience_ends_at(self) -> float:
        """When the operation under way is given up; never, if there is none."""
        return math.inf if self.pending is None else self.sent_at + self.pending.patience_s

    def ask(self, now: float, kind: Kind, ours: int, lease: FloatingLease) -> Operation:
        """The operation that does `kind`, now under way. `ours`, `lease`: the revision and the lease of our claim."""
        self._number += 1
        self.pending, self.sent_at = self._operation(now, kind, ours, lease.id), now
        return self.pending

    def take(self, number: int) -> Operation | None:
        """The operation that was answered, if it is the one under way; then none is any more."""
        operation = self.pending
        if operation is None or operation.number != number:
            return None
        self.pending, self._silences = None, 0
        return operation

    def note_done(self) -> None:
        """What was asked for last was done."""
        self._refusals = 0

    def note_refused(self, now: float) -> None:
        """What was asked for last was refused. Once is a race; from twice on there is a pause."""
        self._refusals += 1
        if self._refusals > 1:
            self.pause_until = now + self._timers.retry_s

    def miss(self, now: float, *, is_urgent: bool) -> None:
        """The operation under way gets no answer. Pauses grow, unless it `is_urgent`."""
        timers = self._timers
        self.pending = None
        pause_s = timers.retry_s
        if not is_urgent:
            pause_s = min(pause_s * 2 ** min(self._silences, MAX_DOUBLINGS), timers.retry_max_s)
        self._silences += 1
        self.pause_until = now + pause_s

    def overtake(self) -> None:
        """Whatever is under way does not matter any more, and what comes next is not to wait."""
        self.pending, self.pause_until = None, -math.inf

    def _operation(self, now: float, kind: Kind, ours: int, lease: int) -> Operation:
        timers, view = self._timers, self._view
        claim, challenge = (Key.CLAIM, view.claim_revision), (Key.CHALLENGE, view.challenge_revision)
        patience_s = timers.patience_s if kind in (Kind.KEEP, Kind.ANSWER) else timers.calm_patience_s
        make = partial(Operation, number=self._number, kind=kind, patience_s=patience_s)
        match kind:
            case Kind.LOOK:
                return make()
            case Kind.CLAIM:
                puts = ((Key.CLAIM, self._claim),)
                absent = ((Key.CLAIM, 0),)
                return make(
                    compares=absent, puts=puts, deletes=(Key.CHALLENGE,), lease=LeaseUse.NEW, ttl_s=timers.ttl_s
                )
            case Kind.KEEP:
                return make(compares=(claim, (Key.CHALLENGE, 0)), lease=LeaseUse.KEEP, kept_lease=lease)
            case Kind.ANSWER:
                removed = (Key.CHALLENGE,)
                return make(compares=(claim, challenge), deletes=removed, lease=LeaseUse.KEEP, kept_lease=lease)
            case Kind.CHALLENGE:
                puts = ((Key.CHALLENGE, self._rival.challenge(now)),)
                ttl_s = timers.ttl_s + self._rival.answer_s  # nobody keeps it alive
                return make(compares=(claim, challenge), puts=puts, lease=LeaseUse.NEW, ttl_s=ttl_s)
            case Kind.EVICT:
                return make(compares=(claim, challenge), deletes=(Key.CLAIM,))
            case Kind.RELEASE:
                return make(compares=((Key.CLAIM, ours),), deletes=(Key.CLAIM,))
            case _:
                assert_never(kind)
