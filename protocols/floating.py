"""One floating address on one node: several nodes may have it, one at a time does, and when it dies another one follows.

Whoever puts the claim (create, if absent, on a lease) is the holder. It owns the address only for a short while after each
confirmation, a transaction that finds the claim untouched and no challenge beside it, counted from when that was SENT. So a
holder that stands still, or that the store does not answer, has given up by its own clock, whether it notices or not
(`owns`), before anybody else can have the address:

* A claim vanishes with its lease, which lives `ttl_s` from the last confirmation at least.
* Before, only another node can remove it: it puts a challenge, and removes the claim if the same challenge still stands
  beside the same claim `answer_s` later, the time that the claim promises. The last clean confirmation was sent before the
  challenge was there, so what it was good for is over.
* The holder itself gives up first, and removes its claim afterwards.

A claim that is deleted by hand is outside this: its holder notices at the next confirmation, and until then only the fence,
the revision at which a claim was made, tells those who send whom to believe (`floating_table`).

A challenge says why: the holder does not answer on the data path (then it shows that it lives by removing the challenge,
or hands over if it finds that others do not hear it either: `floating_defence`), or the challenger is better, and has been healthy for long enough (then the holder hands over). Clocks need only tick alike,
while the machine sleeps, too: on Linux that is CLOCK_BOOTTIME, and not CLOCK_MONOTONIC.

Responsible for when what is done. Not responsible for doing it, for who may hold the address, nor for the data path.
"""

from __future__ import annotations

import math
from typing import assert_never

from holloway.protocols.errors import LocalError
from holloway.protocols.floating_asking import Asking
from holloway.protocols.floating_claims import FloatingClaim
from holloway.protocols.floating_defence import Answer, Defence
from holloway.protocols.floating_operations import (
    Action,
    FloatingLease,
    FloatingTimers,
    GiveUpLocally,
    Key,
    Kind,
    Seen,
    TakeLocally,
)
from holloway.protocols.floating_rival import Rival
from holloway.protocols.floating_states import TRANSITIONS, Phase
from holloway.protocols.floating_view import FloatingView


class FloatingAddress:
    """One floating address on one node.

    Tell it what happens; after each call carry out `actions` in their order, the first before the second, and call
    `handle_timeout` at `next_timeout`. `now` is in seconds of a clock that never goes back or stops. Starts as not healthy.
    """

    def __init__(
        self, name: str, key: str, run: str, *, priority: int = 0, timers: FloatingTimers | None = None
    ) -> None:
        """`key`: our fingerprint. `run`: 16 random hexadecimal digits. Raises `LocalError` for what others would refuse."""
        self._timers = timers or FloatingTimers()
        self._us = FloatingClaim(name, key, run, priority, round(self._timers.answer_s * 1000))
        self._view = FloatingView()
        self._rival = Rival(self._us, self._timers, self._view)
        self._defence = Defence(self._timers)
        self._phase = Phase.OUT
        self._actions: list[Action] = []
        self._is_stopped = False
        # Ours.
        self._revision = 0
        self._lease = FloatingLease(0, 0.0)
        self._keep_at = 0.0
        self._is_owning = False
        self._owned_until = -math.inf
        self._asking = Asking(self._us, self._timers, self._view, self._rival)
        self._look_at = -math.inf

    def __repr__(self) -> str:
        return f"<FloatingAddress {self._phase.name} revision {self._revision}>"

    # What it is.

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def is_finished(self) -> bool:
        """Whether it was stopped, and nothing is left to do."""
        return self._is_stopped and self._phase is Phase.OUT and self._asking.pending is None

    def owns(self, now: float) -> bool:
        """Whether the address is ours at this moment. Ends by itself: ask before each use, not once."""
        return self._is_owning and now < self._owned_until

    def actions(self) -> list[Action]:
        """What to do, in this order; each is returned once."""
        actions, self._actions = self._actions, []
        return actions

    def next_timeout(self) -> float | None:
        """When to call `handle_timeout`, perhaps past; None: not before something happens."""
        due = [self._owned_until] if self._is_owning else []
        if self._asking.pending is not None:
            due.append(self._asking.patience_ends_at)
        elif (plan := self._plan()) is not None and plan[0] < math.inf:
            due.append(plan[0])
        return min(due, default=None)

    # What happens.

    def handle_timeout(self, now: float) -> None:
        """Time has passed."""
        self._proceed(now)

    def set_health(self, now: float, is_healthy: bool) -> None:
        """Whether this node can serve the address: its data path works, and reaches others."""
        if is_healthy != (self._rival.healthy_since is not None):
            self._rival.healthy_since = now if is_healthy else None
            if not is_healthy:
                self._withdraw()
            elif self._phase is Phase.OUT and not self._is_stopped:
                self._wait()
        self._proceed(now)

    def set_doubt(self, now: float, fence: int | None, *, is_in_touch: bool = False) -> None:
        """The holder whose claim was made at `fence` does not answer on the data path; None: nobody is doubted.

        `is_in_touch`: of the others that were asked at least half do.
        """
        self._rival.doubt(now, fence, is_in_touch=is_in_touch)
        self._proceed(now)

    def looked_around(self, now: float, number: int, is_in_touch: bool | None) -> None:
        """What came of the `LookAround` of that number: whether at least half have answered; None: there was nobody to ask."""
        self._defence.tell(now, number, is_in_touch)
        self._proceed(now)

    def stop(self, now: float) -> None:
        """Give the address up, and remove what is ours in the store, until `is_finished`. There is no way back."""
        self._is_stopped = True
        self._withdraw()
        self._proceed(now)

    def saw(self, now: float, key: Key, revision: int, seen: Seen | None) -> None:
        """A watch told that a key has changed at `revision`; None: it is absent."""
        self._view.note(now, key, revision, seen)
        self._proceed(now)

    def looked(self, now: float, number: int, revision: int, claim: Seen | None, challenge: Seen | None) -> None:
        """The operation `number`, a look, was answered: what stands under the two keys at `revision`."""
        if self._asking.take(number) is not None:
            self._look_at = now + self._timers.look_s if self._phase is Phase.WAITING else math.inf
            self._view.look(now, revision, claim, challenge)
        self._proceed(now)

    def done(self, now: float, number: int, revision: int, lease: FloatingLease | None = None) -> None:
        """The operation `number` was done, at `revision`. `lease`: the one that was granted for it, if it asked for one.

        Raises `LocalError` for a claim without a lease.
        """
        pending = self._asking.pending
        if lease is None and pending is not None and pending.number == number and pending.kind is Kind.CLAIM:
            raise LocalError(
                "a claim without a lease", "it would outlive its holder", "give the lease it was put under"
            )
        self._lapse(now)
        operation = self._asking.take(number)
        if operation is not None:
            self._asking.note_done()
            for key, value in operation.puts:
                self._view.note(now, key, revision, Seen(value, revision, revision))
            for key in operation.deletes:
                self._view.note(now, key, revision, None)
            if operation.kind is Kind.CLAIM and lease is not None:
                self._revision, self._lease = revision, lease
                self._move(Phase.HOLDING if self._phase is Phase.WAITING else Phase.LEAVING)
            if operation.kind in (Kind.CLAIM, Kind.KEEP, Kind.ANSWER) and self._phase is Phase.HOLDING:
                self._confirm()
            elif operation.kind is Kind.RELEASE:
                self._be_gone()
        self._proceed(now)

    def refused(self, now: float, number: int) -> None:
        """The operation `number` was not done: a compare did not hold, or the lease is lost."""
        operation = self._asking.take(number)
        if operation is not None:
            self._asking.note_refused(now)
            if operation.kind is Kind.RELEASE:
                self._be_gone()
            if operation.kind is not Kind.KEEP or self._view.challenge is None:
                self._look_at = -math.inf
        self._proceed(now)

    def unanswered(self, now: float, number: int) -> None:
        """Nobody knows whether the operation `number` was done."""
        if (operation := self._asking.pending) is not None and operation.number == number:
            self._miss(now)
        self._proceed(now)

    # What follows.

    def _proceed(self, now: float) -> None:
        if now >= self._asking.patience_ends_at:
            self._miss(now)
        self._lapse(now)
        match self._phase:
            case Phase.HOLDING if self._view.claim_revision != self._revision:
                self._give_up()
                self._asking.overtake()
                self._wait()
            case Phase.HOLDING if self._rival.is_bidden():
                self._leave(self._revision)
            case Phase.HOLDING if self._is_convinced(now):
                self._rival.yield_to_challenger(now)
                self._leave(self._revision)
            case Phase.WAITING if self._has_looked and self._asking.pending is None and self._rival.is_stray():
                self._leave(self._view.claim_revision)
            case Phase.HOLDING:
                self._take_locally(now)
            case _:
                pass
        plan = self._plan() if self._asking.pending is None else None
        if plan is not None and plan[0] <= now:
            self._actions.append(self._asking.ask(now, plan[1], self._revision, self._lease))

    def _is_convinced(self, now: float) -> bool:
        """Whether it is true that nobody hears us, as somebody says, if anybody does."""
        accusation = self._rival.accusation()
        if accusation is None:
            return False
        answer, question = self._defence.consider(now, self._view.challenge_revision, accusation)
        if question is not None:
            self._actions.append(question)
        return answer is Answer.YIELD

    def _move(self, phase: Phase) -> None:
        assert phase in TRANSITIONS[self._phase], (self._phase, phase)
        self._phase = phase

    def _wait(self) -> None:
        self._move(Phase.WAITING)
        self._look_at = -math.inf

    @property
    def _has_looked(self) -> bool:
        """Whether we have read the keys since what we knew of them turned out to be old."""
        return self._look_at > -math.inf

    def _lapse(self, now: float) -> None:
        if now >= self._owned_until:
            self._give_up()

    def _give_up(self) -> None:
        self._owned_until = -math.inf
        if self._is_owning:
            self._is_owning = False
            self._actions.append(GiveUpLocally())

    def _leave(self, revision: int) -> None:
        """Our claim at `revision` is to go. Whatever is under way is overtaken."""
        self._give_up()
        self._asking.overtake()
        self._revision = revision
        self._move(Phase.LEAVING)

    def _withdraw(self) -> None:
        """We are no candidate any more. A claim that is under way is waited for, and removed."""
        if self._phase is Phase.HOLDING:
            self._leave(self._revision)
        elif self._phase is Phase.WAITING:
            self._move(Phase.OUT)
            if (operation := self._asking.pending) is not None and operation.kind is not Kind.CLAIM:
                self._asking.overtake()

    def _be_gone(self) -> None:
        """Our claim is removed."""
        if self._is_stopped or self._rival.healthy_since is None:
            self._move(Phase.OUT)
        else:
            self._wait()

    def _confirm(self) -> None:
        """Our claim stood, without a challenge, at some time after what was asked last was sent.

        Whether it is still there is looked at before anything is taken: a watch may have been faster with news of its end.
        """
        sent_at, timers = self._asking.sent_at, self._timers
        self._keep_at, self._look_at = sent_at + timers.keep_s, math.inf
        self._owned_until = sent_at + min(self._lease.ttl_s, self._us.answer_ms / 1000) - timers.margin_s

    def _take_locally(self, now: float) -> None:
        if not self._is_owning and now < self._owned_until:
            self._is_owning = True
            self._actions.append(TakeLocally(self._revision))

    def _miss(self, now: float) -> None:
        """The operation under way gets no answer."""
        operation = self._asking.pending
        assert operation is not None
        self._asking.miss(now, is_urgent=self._is_owning)
        if operation.kind in (Kind.CLAIM, Kind.CHALLENGE, Kind.EVICT):
            self._look_at = -math.inf

    # Asking the store: one thing at a time.

    def _plan(self) -> tuple[float, Kind] | None:
        """What to ask next, and when."""
        match self._phase:
            case Phase.OUT:
                return None
            case Phase.LEAVING:
                due, kind = -math.inf, Kind.RELEASE
            case Phase.HOLDING if self._view.challenge is not None:
                due, kind = -math.inf if self._rival.accusation() is None else self._defence.answer_at, Kind.ANSWER
            case Phase.HOLDING:
                due, kind = self._keep_at, Kind.KEEP
            case Phase.WAITING:
                due, kind = self._rival.plan()
            case _:
                assert_never(self._phase)
        if self._phase in (Phase.HOLDING, Phase.WAITING) and self._look_at <= due:
            due, kind = self._look_at, Kind.LOOK
        return max(due, self._asking.pause_until), kind
