"""The words between a floating address (`floating`) and whoever runs it: what is asked of the registry, and what is told.

Not responsible for when anything of it is done.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TypeAlias

from holloway.protocols.errors import LocalError
from holloway.protocols.floating_claims import MAX_ANSWER_MS, MIN_ANSWER_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatingTimers:
    """Durations in seconds. Raises `LocalError` if unusable.

    How the standard follows. etcd grants no lease under 1.5 election timeouts, rounded up to seconds: 2 s with its standard
    settings. It looks for dead leases every 0.5 s, so the keys of a node that was killed vanish 1.8 to 2.6 s later, and no
    `ttl_s` makes that less. Therefore a node that finds the holder silent on the data path does not wait for the lease: it
    challenges, and the holder has promised to have answered, or given up by itself, within `answer_s`. A holder that was
    killed is replaced after (time to find it silent) + `answer_s` + three calls to the store: with 0.6 s for the first and
    50 ms for the last, after 1.5 s. Without anybody who doubts, after the 1.8 to 2.6 s of the lease.

    A holder owns the address for `answer_s` - `margin_s` from when it sent the last confirmation that was answered; the
    standard lets it lose one confirmation and have the next in time (`keep_s` + 2 * `patience_s` + `retry_s`).

    `ttl_s`: the leases to ask for. `keep_s`: from one confirmation to the next. `patience_s`: for one confirmation, a read.
    `calm_patience_s`: for anything else, since a store on a busy disk takes half a second for a write, and what is given up
    too soon has to be undone. `retry_s`: the first pause after a call that was not answered, which doubles up to
    `retry_max_s`. `look_s`: how often a node that waits reads the keys itself, whatever its watch says. `hold_off_s`: how
    long an address that has become free is left to the challenger that freed it. `preempt_after_s`: how long a better node
    must have been healthy, and a claim must have stood, before it asks the holder to hand over. `doubt_again_s`: from a
    challenge that was answered to the next. `look_around_s`: how long a holder that is told that it does not answer asks others
    whether they hear it, before it answers the challenge.
    """

    ttl_s: float = 2.0
    keep_s: float = 0.2
    answer_s: float = 0.8
    margin_s: float = 0.1
    patience_s: float = 0.2
    calm_patience_s: float = 1.0
    retry_s: float = 0.05
    retry_max_s: float = 1.0
    look_s: float = 1.0
    hold_off_s: float = 0.5
    preempt_after_s: float = 30.0
    doubt_again_s: float = 2.0
    look_around_s: float = 0.3

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not (value > 0 and math.isfinite(value)):
                raise LocalError(
                    f"{each.name} is {value!r}", "it must be a positive number of seconds", f"change {each.name}"
                )
        if not MIN_ANSWER_MS <= self.answer_s * 1000 <= MAX_ANSWER_MS:
            raise LocalError(
                f"answer_s is {self.answer_s!r}",
                f"others accept promises of {MIN_ANSWER_MS} to {MAX_ANSWER_MS} ms",
                "change answer_s",
            )
        if self.keep_s + self.patience_s + self.margin_s >= min(self.ttl_s, self.answer_s):
            raise LocalError(
                "a holder would lose its address between two confirmations",
                "keep_s + patience_s + margin_s is not less than ttl_s and answer_s",
                "make keep_s smaller, or ttl_s and answer_s greater",
            )


class Key(Enum):
    """The two keys of one floating address."""

    CLAIM = "floating"
    CHALLENGE = "challenges"


class Kind(Enum):
    """What an operation is for."""

    LOOK = "read both keys"
    CLAIM = "make our claim"
    KEEP = "confirm our claim"
    ANSWER = "remove a challenge to our claim"
    CHALLENGE = "challenge the holder"
    EVICT = "remove the claim of a holder that has not answered"
    RELEASE = "remove our claim"


class LeaseUse(Enum):
    """What an operation does with leases."""

    NONE = "nothing"
    NEW = "grant one of `ttl_s`, put under it, and revoke it if the compares do not hold"
    KEEP = "keep `kept_lease`, that of our claim, alive, before or besides the transaction; both must succeed"


@dataclass(frozen=True, slots=True)
class FloatingLease:
    """A lease as the store granted it. `id` is whatever names it there."""

    id: int
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Seen:
    """What stands under a key."""

    value: bytes = field(repr=False)
    create_revision: int
    mod_revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Ask the registry. It takes the place of the operation before, which is to be cancelled if it still runs.

    One transaction: if each key of `compares` was last put at that revision (0: is absent), do all `puts` and `deletes`.
    `Kind.LOOK` is a snapshot of both keys instead. Answer with `looked`, `done`, `refused` (a compare did not hold, or the
    lease is lost) or `unanswered` (everything else, or nothing within `patience_s`).
    """

    number: int
    kind: Kind
    patience_s: float
    compares: tuple[tuple[Key, int], ...] = ()
    puts: tuple[tuple[Key, bytes], ...] = ()
    deletes: tuple[Key, ...] = ()
    lease: LeaseUse = LeaseUse.NONE
    ttl_s: float = 0.0
    kept_lease: int | None = None


@dataclass(frozen=True, slots=True)
class TakeLocally:
    """The address is ours: have it on the interface, and answer for it. `fence`: the revision at which we claimed it."""

    fence: int


@dataclass(frozen=True, slots=True)
class GiveUpLocally:
    """The address is no longer ours: it must be gone from the interface before any later action is carried out."""


@dataclass(frozen=True, slots=True)
class LookAround:
    """Somebody whose data path works says that ours does not: ask the others, him left out. Answer with `looked_around`.

    `number` names the question; `name` and `key` are his, as in a claim.
    """

    number: int
    name: str
    key: str


Action: TypeAlias = TakeLocally | GiveUpLocally | LookAround | Operation
