"""One floating address on one node, driven by hand: what it is told, and what it then wants done.

Not responsible for what a test expects.
"""

from __future__ import annotations

from holloway.protocols.floating import FloatingAddress
from holloway.protocols.floating_claims import FloatingChallenge, FloatingClaim, encode_floating
from holloway.protocols.floating_operations import (
    Action,
    FloatingLease,
    FloatingTimers,
    Kind,
    Operation,
    Seen,
    TakeLocally,
)


def fingerprint(digit: str) -> str:
    return digit * 64


def run_of(digit: str) -> str:
    return digit * 16


def claim_of(digit: str, revision: int, priority: int = 5, answer_ms: int = 800) -> Seen:
    value = encode_floating(FloatingClaim(digit, fingerprint(digit), run_of(digit), priority, answer_ms))
    return Seen(value, revision, revision)


def challenge_of(
    digit: str, revision: int, fence: int, priority: int = 5, *, preempts: bool = False, in_touch: bool = False
) -> Seen:
    made = FloatingChallenge(digit, fingerprint(digit), run_of(digit), priority, fence, preempts, in_touch)
    return Seen(encode_floating(made), revision, revision)


class Script:
    """One machine `a` and its actions."""

    def __init__(self, priority: int = 5, **timers: float) -> None:
        self.machine = FloatingAddress(
            "a", fingerprint("a"), run_of("a"), priority=priority, timers=FloatingTimers(**timers)
        )
        self.last: Operation | None = None

    def take(self) -> list[Action | Kind]:
        """What it wants done; operations by their kinds."""
        actions = self.machine.actions()
        for each in actions:
            if isinstance(each, Operation):
                self.last = each
        return [each.kind if isinstance(each, Operation) else each for each in actions]

    @property
    def number(self) -> int:
        assert self.last is not None
        return self.last.number

    def wait(self, claim: Seen | None, now: float = 0.0, challenge: Seen | None = None, revision: int = 9) -> None:
        """Healthy, and having looked."""
        self.machine.set_health(now, True)
        assert self.take() == [Kind.LOOK]
        self.machine.looked(now, self.number, revision, claim, challenge)

    def hold(self, now: float = 0.0, revision: int = 10) -> None:
        """Holding since `now`."""
        self.wait(None, now)
        assert self.take() == [Kind.CLAIM]
        self.machine.done(now, self.number, revision, FloatingLease(77, 2.0))
        assert self.take() == [TakeLocally(revision)]
