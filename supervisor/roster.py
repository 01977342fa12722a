"""The children of one supervisor and every decision about them, as a pure object: no Trio, no clock, no randomness.

`Roster` knows the children of one supervisor in start order and the state of each. It is told what happened
(`started`, `exited`, `ended`, ...) and answers what follows: whom to stop and to start again, in which order and when,
whether the restart budget is spent, whether the supervisor is done. Not responsible for doing any of it: `life` and
`pool` own the tasks.

States of a child; every move passes through one method that holds this table:

    STOPPED  ─► STARTING                       start, restart
    STARTING ─► RUNNING                        it became ready
             ─► WAITING | STOPPED | ZOMBIE     it did not
    RUNNING  ─► WAITING | STOPPED              it ended by itself
             ─► STOPPING                       it is being stopped, for its own sake or a sibling's
    STOPPING ─► WAITING | STOPPED | ZOMBIE
    WAITING  ─► STARTING | STOPPED             its time came, or it is not wanted any more
    ZOMBIE   ─► WAITING | STOPPED              it ended at last

Where this differs from OTP, on purpose: an explicit stop holds (OTP starts a stopped child again when a sibling takes
the whole group down); restarts are spaced by a backoff, which a quiet time or a start by hand forgives; when one member
of a group fails to come back, those already up are stopped at once and not at the next attempt; and giving up is a
failure, so a transient supervisor is started again after it (OTP's ends with `shutdown`, which counts as normal).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, assert_never

from holloway.supervisor.errors import SpecError, brief
from holloway.supervisor.events import ChildInfo, State
from holloway.supervisor.policy import Budget, Decision, GiveUp, Leave, Regroup, ShutDown, next_delay, wants_restart
from holloway.supervisor.spec import AutoShutdown, Child, Intensity, Restart, Strategy

_MOVES: dict[State, frozenset[State]] = {
    State.STOPPED: frozenset({State.STARTING}),
    State.STARTING: frozenset({State.RUNNING, State.WAITING, State.STOPPED, State.ZOMBIE}),
    State.RUNNING: frozenset({State.STOPPING, State.WAITING, State.STOPPED}),
    State.STOPPING: frozenset({State.WAITING, State.STOPPED, State.ZOMBIE}),
    State.WAITING: frozenset({State.STARTING, State.STOPPED}),
    State.ZOMBIE: frozenset({State.WAITING, State.STOPPED}),
}


@dataclass(slots=True, eq=False)
class Member:
    """One child as the policy sees it."""

    child: Child[Any]
    order: int  # position among all that were ever added
    forget: bool  # leaves the roster when it is down for good
    state: State = State.STOPPED
    incarnation: int = 0
    restarts: int = 0
    error: str | None = None
    comes_back: bool = False  # while STOPPING or ZOMBIE: start it again once its task has ended
    due: float = 0.0  # when it may be started again
    delay: float | None = None  # last wait before a restart; None after a quiet time
    up_since: float | None = None


class Roster:
    """The children of one supervisor.

    Names that are unknown raise `SpecError`; a move that the table forbids is a bug of the caller and fails an
    assertion. Times are seconds of one monotonic clock.
    """

    def __init__(
        self,
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        intensity: Intensity,
        auto_shutdown: AutoShutdown = AutoShutdown.NEVER,
    ) -> None:
        self._strategy = strategy
        self._auto_shutdown = auto_shutdown
        self._budget = Budget(intensity)
        self._members: dict[str, Member] = {}  # in start order
        self._waiting: dict[str, Member] = {}
        self._added_total = 0

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __getitem__(self, name: str) -> Member:
        member = self._members.get(name)
        if member is None:
            raise SpecError(f"there is no child called {name}")
        return member

    # What the supervisor is asked to hold

    def add(self, child: Child[Any], *, forget: bool = False) -> None:
        """Hold `child`, stopped, as the last in start order. `forget`: drop it once it is down for good."""
        if child.name in self._members:
            raise SpecError(f"there is a child called {child.name} already")
        forget = forget or child.restart is Restart.TEMPORARY
        self._members[child.name] = Member(child, self._added_total, forget)
        self._added_total += 1

    def remove(self, name: str) -> None:
        """Drop a stopped child. Raises `SpecError` for one that is not."""
        member = self[name]
        if member.state is not State.STOPPED:
            raise SpecError(f"{name} is {member.state.value}: only a stopped child can be removed")
        del self._members[name]

    def children(self) -> tuple[ChildInfo, ...]:
        """Every child, in start order."""
        return tuple(
            ChildInfo(m.child.name, m.state, m.incarnation, m.restarts, m.error) for m in self._members.values()
        )

    # What happened

    def starting(self, name: str, *, automatic: bool = False) -> int:
        """A start of the child begins. Returns the number of its new incarnation. One asked for by hand forgives it."""
        member = self[name]
        self._move(member, State.STARTING)
        member.incarnation += 1
        member.restarts += automatic
        member.due = 0.0
        if not automatic:
            member.delay = None
        member.up_since = None
        return member.incarnation

    def started(self, name: str, now: float) -> None:
        """The child is ready."""
        member = self[name]
        self._move(member, State.RUNNING)
        member.up_since = now

    def start_failed(self, name: str, error: Exception, *, forget: bool) -> None:
        """A start that somebody asked for failed, and they have been told. The child stays down."""
        member = self[name]
        member.error = brief(error)
        member.forget = member.forget or forget
        self._down(member, comes_back=False)

    def exited(self, name: str, *, error: Exception | None, now: float, spread: float) -> Decision:
        """The child ended by itself (`error` is None if it returned), or its automatic restart failed.

        `spread`, from 0 to 1, is the random part of the backoff. A failed restart counts as a failure like any other.
        """
        member = self[name]
        if error is not None:
            member.error = brief(error)
        if not wants_restart(member.child.restart, failed=error is not None):
            self._down(member, comes_back=False)
            return ShutDown() if self._is_finished_by(member) else Leave()
        if not self._budget.spend(now, name, error):
            self._down(member, comes_back=False)
            return GiveUp(self._budget.spent())

        delay = self._delay(member, now, spread)
        siblings = [m for m in self._touched_by(member) if m is not member and m.state is State.RUNNING]
        returning = [m for m in siblings if m.child.restart is not Restart.TEMPORARY]
        for each in (member, *returning):
            each.due = now + delay
        self._down(member, comes_back=True)
        return Regroup(
            stop=_names(reversed(siblings)),
            restart=_names(sorted((member, *returning), key=lambda m: m.order)),
            delay_s=delay,
        )

    def stopping(self, name: str, *, comes_back: bool) -> None:
        """A running child is being stopped; `comes_back`: to be started again when it is due."""
        member = self[name]
        self._move(member, State.STOPPING)
        member.comes_back = comes_back

    def overran(self, name: str) -> None:
        """The task of a child being stopped, or cancelled in its start, runs on. `exited` and the like may follow."""
        member = self[name]
        if member.state is State.STARTING:
            member.comes_back = False
        self._move(member, State.ZOMBIE)

    def ended(self, name: str, *, error: Exception | None) -> None:
        """The task of a child that was being stopped, or was a zombie, has ended; `error` if its cleanup failed."""
        member = self[name]
        if error is not None:
            member.error = brief(error)
        assert member.state in {State.STOPPING, State.ZOMBIE}, member.state
        if member.comes_back:
            self._move(member, State.WAITING)
        else:
            self._stay_down(member)

    def withdraw(self, name: str) -> None:
        """The child is not to come back: it was waiting for its restart, or is a zombie."""
        member = self[name]
        member.comes_back = False
        member.delay = None
        if member.state is State.WAITING:
            self._stay_down(member)

    # What follows

    def stop_order(self) -> tuple[str, ...]:
        """Whom to stop, in this order, when the supervisor ends; those that are waiting are withdrawn."""
        for name in tuple(self._members):
            self.withdraw(name)
        return _names(m for m in reversed(self._members.values()) if m.state is State.RUNNING)

    def wake_at(self) -> float:
        """When `next_start` will first have a name to give; `math.inf` if nothing waits."""
        head = self._head()
        return math.inf if head is None else head.due

    def next_start(self, now: float) -> str | None:
        """Which waiting child to start at `now`, if one may start."""
        head = self._head()
        return head.child.name if head is not None and head.due <= now else None

    def _head(self) -> Member | None:
        """The child to be started next.

        Alone, each child minds its own time. In a group, start order comes first, and nothing is started while a task
        of the old group is still alive: the new members would meet it.
        """
        if not self._waiting:
            return None
        if self._strategy is Strategy.ONE_FOR_ONE:
            return min(self._waiting.values(), key=lambda m: (m.due, m.order))
        if any(m.state is State.ZOMBIE and m.comes_back for m in self._members.values()):
            return None
        return min(self._waiting.values(), key=lambda m: m.order)

    def _touched_by(self, member: Member) -> list[Member]:
        """Those that share the fate of `member`, itself included, in start order."""
        match self._strategy:
            case Strategy.ONE_FOR_ONE:
                return [member]
            case Strategy.ONE_FOR_ALL:
                return list(self._members.values())
            case Strategy.REST_FOR_ONE:
                return [m for m in self._members.values() if m.order >= member.order]
            case _:
                assert_never(self._strategy)

    def _delay(self, member: Member, now: float, spread: float) -> float:
        backoff = member.child.backoff
        if member.up_since is not None and now - member.up_since >= backoff.reset_after:
            member.delay = None
        member.delay = next_delay(backoff, member.delay)
        return member.delay * (1 - backoff.jitter * spread)

    def _is_finished_by(self, member: Member) -> bool:
        """Whether the end of `member`, for good and by itself, ends the supervisor."""
        if not member.child.significant:
            return False
        match self._auto_shutdown:
            case AutoShutdown.NEVER | AutoShutdown.ANY_SIGNIFICANT:
                return self._auto_shutdown is AutoShutdown.ANY_SIGNIFICANT
            case AutoShutdown.ALL_SIGNIFICANT:
                # One that waits for its restart is as good as running; one that was stopped is not.
                return not any(m.child.significant and m.state is not State.STOPPED for m in self._members.values())
            case _:
                assert_never(self._auto_shutdown)

    def _down(self, member: Member, *, comes_back: bool) -> None:
        """The child has ended, unless its task overran; then this takes effect when the task does end."""
        if member.state is State.ZOMBIE:
            member.comes_back = comes_back
        elif comes_back:
            self._move(member, State.WAITING)
        else:
            self._stay_down(member)

    def _stay_down(self, member: Member) -> None:
        self._move(member, State.STOPPED)
        member.delay = None
        if member.forget:
            del self._members[member.child.name]

    def _move(self, member: Member, state: State) -> None:
        assert state in _MOVES[member.state], f"{member.child.name}: {member.state} to {state}"
        member.state = state
        if state is State.WAITING:
            self._waiting[member.child.name] = member
        else:
            self._waiting.pop(member.child.name, None)


def _names(members: Iterable[Member]) -> tuple[str, ...]:
    return tuple(m.child.name for m in members)
