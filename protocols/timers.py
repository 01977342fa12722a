"""The deadlines of a session, what arms and disarms them, and the durations they use.

Not responsible for what a deadline causes: that is `session`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from enum import Enum

from holloway.protocols.errors import LocalError

RETRY_JITTER_S = 0.334  # wireguard-go, RekeyTimeoutJitterMaxMs
INITIATION_INTERVAL_S = 0.02  # wireguard-go, HandshakeInitationRate: at most 50 accepted initiations a second a peer


@dataclass(frozen=True, slots=True, kw_only=True)
class Timers:
    """Durations of the session protocol in seconds (WireGuard paper, section 6.1). Raises `LocalError` if unusable."""

    rekey_after_s: float = 120.0
    reject_after_s: float = 180.0
    rekey_attempt_s: float = 90.0
    rekey_timeout_s: float = 5.0
    keepalive_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (value > 0 and math.isfinite(value)):
                raise LocalError(f"{field.name} is {value!r}", "it must be a positive number of seconds")
        if self.reject_after_s <= self.rekey_after_s + self.rekey_timeout_s:
            raise LocalError(
                "reject_after_s is too short",
                "a key would be refused before its successor can be agreed",
                "make reject_after_s greater than rekey_after_s + rekey_timeout_s",
            )

    @property
    def rekey_on_receive_s(self) -> float:
        """Age at which the initiator rekeys on received data alone (WireGuard paper, section 6.2)."""
        return max(self.rekey_after_s, self.reject_after_s - self.keepalive_timeout_s - self.rekey_timeout_s)

    @property
    def rekey_as_responder_s(self) -> float:
        """Age at which the responder, having data to send, no longer relies on the initiator to rekey.

        WireGuard lets the responder's key run out, which makes its packets wait. One handshake fits into what is left.
        """
        return self.reject_after_s - self.rekey_timeout_s

    @property
    def silence_s(self) -> float:
        """How long sent data may stay unanswered before a new handshake (WireGuard paper, section 6.5)."""
        return self.keepalive_timeout_s + self.rekey_timeout_s


class Deadline(Enum):
    """What a session may be waiting for. Deadlines due together fire in this order."""

    __hash__ = object.__hash__  # several look-ups a batch, and an enum's own hash is a call of Python

    KEY_EXPIRY = "a key reached the end of its life"
    RETRANSMIT_HANDSHAKE = "an initiation was not answered"
    DEFERRED_HANDSHAKE = "a handshake was wanted too soon after the one before"
    NEW_HANDSHAKE = "data was sent and nothing came back"
    SEND_KEEPALIVE = "data was received and nothing was sent back"
    PERSISTENT_KEEPALIVE = "nothing was sent or received for the configured interval"
    DISCARD_STAGED = "packets waited for a session in vain"
    REPORT = "the peer is to hear how its records arrive"
    PATH = "a probe of the path is due, or is lost"
    PIECES_EXPIRY = "pieces waited for the rest of their record in vain"


_DEADLINES = tuple(Deadline)  # to go through the enum itself costs as much again
_NEW_HANDSHAKE, _SEND_KEEPALIVE = Deadline.NEW_HANDSHAKE, Deadline.SEND_KEEPALIVE  # for each packet


class SessionTimers:
    """The deadlines of one session: at most one time for each `Deadline`, in monotonic seconds.

    Its methods say what happened, and it knows what that arms and disarms (wireguard-go, device/timers.go).
    """

    __slots__ = (
        "_entropy",
        "_jitter_s",
        "_keepalive_s",
        "_silence_s",
        "_timers",
        "_times",
        "is_unanswered",
        "owes_keepalive",
        "soonest_s",
    )

    def __init__(self, timers: Timers, keepalive_s: float, entropy: Callable[[int], bytes], now: float) -> None:
        """`keepalive_s`: the interval of unasked keepalives, 0 for none."""
        self._timers, self._keepalive_s, self._entropy = timers, keepalive_s, entropy
        self._silence_s = timers.silence_s
        self.soonest_s = min(timers.silence_s, timers.keepalive_timeout_s, keepalive_s or math.inf)
        """No deadline that `packets_sent` or `packets_received` arms is nearer."""
        self._jitter_s = self._draw_jitter()
        self._times: dict[Deadline, float] = {}
        self.owes_keepalive = False
        """Whether data arrived while a keepalive was due already: one more is to follow."""
        self.is_unanswered = False
        """Whether our data or our initiations have met with silence for too long, and nothing was heard since."""
        self._any_traffic(now)

    def __repr__(self) -> str:
        return f"<SessionTimers {', '.join(f'{deadline.name} {at}' for deadline, at in self._times.items())}>"

    def earliest(self) -> float | None:
        """The nearest deadline, perhaps past; `None` when there is none."""
        return min(self._times.values(), default=None)

    def take_due(self, now: float) -> Iterator[Deadline]:
        """Remove and yield what is due, each at most once, in the order of the enum.

        What is disarmed meanwhile is not yielded any more.
        """
        for deadline in _DEADLINES:
            at = self._times.get(deadline)
            if at is not None and at <= now:
                del self._times[deadline]
                yield deadline

    def disarm_all(self) -> None:
        self._times.clear()

    def data_sent(self, now: float) -> None:
        """Inner packets left: the peer has to answer them, if only with a keepalive."""
        if Deadline.NEW_HANDSHAKE not in self._times:
            self._times[Deadline.NEW_HANDSHAKE] = now + self._silence_s + self._jitter_s

    def data_received(self, now: float) -> None:
        """Inner packets arrived: the peer will want to hear that we live."""
        if Deadline.SEND_KEEPALIVE in self._times:
            self.owes_keepalive = True
        else:
            self._times[Deadline.SEND_KEEPALIVE] = now + self._timers.keepalive_timeout_s

    def any_sent(self, now: float) -> None:
        """A datagram left that the peer can authenticate."""
        self._disarm(Deadline.SEND_KEEPALIVE)
        self.owes_keepalive = False
        self._any_traffic(now)

    def packets_sent(self, now: float) -> None:
        """`any_sent` and `data_sent` in one."""
        times = self._times
        times.pop(_SEND_KEEPALIVE, None)
        self.owes_keepalive = False
        if self._keepalive_s:
            times[Deadline.PERSISTENT_KEEPALIVE] = now + self._keepalive_s
        if _NEW_HANDSHAKE not in times:
            times[_NEW_HANDSHAKE] = now + self._silence_s + self._jitter_s

    def packets_received(self, now: float) -> None:
        """`any_received` and `data_received` in one."""
        times = self._times
        times.pop(_NEW_HANDSHAKE, None)
        self.is_unanswered = False
        if self._keepalive_s:
            times[Deadline.PERSISTENT_KEEPALIVE] = now + self._keepalive_s
        if _SEND_KEEPALIVE in times:
            self.owes_keepalive = True
        else:
            times[_SEND_KEEPALIVE] = now + self._timers.keepalive_timeout_s

    def any_received(self, now: float) -> None:
        """An authentic datagram arrived."""
        self._disarm(Deadline.NEW_HANDSHAKE)
        self.is_unanswered = False
        self._any_traffic(now)

    def initiation_sent(self, now: float) -> None:
        self._disarm(Deadline.DEFERRED_HANDSHAKE)
        self._jitter_s = self._draw_jitter()
        self.retransmit_at(now + self._timers.rekey_timeout_s + self._jitter_s)

    def retransmit_at(self, at: float) -> None:
        self._times[Deadline.RETRANSMIT_HANDSHAKE] = at

    def handshake_wanted(self, at: float) -> None:
        """A handshake is wanted, and may begin at `at`."""
        self._times.setdefault(Deadline.DEFERRED_HANDSHAKE, at)

    def handshake_completed(self) -> None:
        self._disarm(Deadline.RETRANSMIT_HANDSHAKE)
        self._disarm(Deadline.DEFERRED_HANDSHAKE)

    def handshake_given_up(self) -> None:
        self._disarm(Deadline.SEND_KEEPALIVE)
        self.owes_keepalive = False
        self.is_unanswered = True

    def interval_elapsed(self, now: float) -> None:
        """`Deadline.PERSISTENT_KEEPALIVE` was due: it comes again, whether or not the keepalive can be sent."""
        self._any_traffic(now)

    def silence_noticed(self) -> None:
        """`Deadline.NEW_HANDSHAKE` was due."""
        self.is_unanswered = True

    def key_expires(self, at: float) -> None:
        """A key expires at `at`, perhaps after others."""
        self._times[Deadline.KEY_EXPIRY] = min(at, self._times.get(Deadline.KEY_EXPIRY, math.inf))

    def packets_staged(self, now: float) -> None:
        self._times.setdefault(Deadline.DISCARD_STAGED, now + self._timers.rekey_attempt_s)

    def nothing_staged(self) -> None:
        self._disarm(Deadline.DISCARD_STAGED)

    def report_due(self, at: float | None) -> None:
        """The next report is due at `at`; None: there is nothing to report."""
        self._set(Deadline.REPORT, at)

    def path_due(self, at: float | None) -> None:
        """The path is to be looked at at `at`; None: nothing is awaited of it."""
        self._set(Deadline.PATH, at)

    def pieces_expire(self, at: float | None) -> None:
        """Pieces of records expire at `at`; None: there are none."""
        self._set(Deadline.PIECES_EXPIRY, at)

    def _set(self, deadline: Deadline, at: float | None) -> None:
        if at is None:
            self._times.pop(deadline, None)
        else:
            self._times[deadline] = at

    def _any_traffic(self, now: float) -> None:
        if self._keepalive_s:
            self._times[Deadline.PERSISTENT_KEEPALIVE] = now + self._keepalive_s

    def _disarm(self, deadline: Deadline) -> None:
        self._times.pop(deadline, None)

    def _draw_jitter(self) -> float:
        """Once for each initiation: drawing it for every batch that is sent would cost a system call."""
        return int.from_bytes(self._entropy(2), "little") / 0x10000 * RETRY_JITTER_S
