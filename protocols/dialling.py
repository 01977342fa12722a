"""When to call the peer: begins handshakes, repeats those that nobody answers, and gives up. WireGuard's pacing.

Initiations keep `rekey_timeout_s` apart from one another and from our responses (wireguard-go, send.go); one that is wanted
too early, or before there is anywhere to call, is kept. Pure: it says what to send, and its owner sends it. Not responsible
for the messages (`handshakes`), for the deadlines themselves (`timers`), nor for where to call.
"""

from __future__ import annotations

from holloway.protocols.events import DropReason, HandshakeGaveUp, HandshakeStarted
from holloway.protocols.handshakes import Handshakes, Message
from holloway.protocols.journal import Journal
from holloway.protocols.timers import SessionTimers, Timers


class Dialling:
    """The calls of one session. `attempt` numbers the initiations of one dialling, 0 when none was needed."""

    def __init__(self, handshakes: Handshakes, timers: SessionTimers, durations: Timers, journal: Journal) -> None:
        self._handshakes, self._timers, self._durations, self._journal = handshakes, timers, durations, journal
        self.attempt = 0
        self._since = 0.0
        self._wanted_at: float | None = None
        self._reset_at = float("-inf")
        self._called_back_at = float("-inf")

    @property
    def is_repeated(self) -> bool:
        """Whether an initiation is under way that is not the first of its dialling."""
        return self._handshakes.is_under_way and self.attempt > 1

    def begin(self, now: float, *, has_endpoint: bool, at_once: bool = False) -> Message | None:
        """The initiation of a new dialling. `None` while one is under way, and when it comes later: too early now, or
        without an endpoint. `at_once`: it is not too early.
        """
        if self._handshakes.is_under_way:
            return None
        if not has_endpoint:
            self._wanted_at = now
            return None
        earliest = now if at_once else self._earliest()
        if now < earliest:
            self._timers.handshake_wanted(earliest)
            return None
        self._since = now
        self.attempt = 0
        return self._initiate(now)

    def endpoint_found(self) -> None:
        """A dialling that waited for an endpoint is due at once."""
        if self._wanted_at is not None:
            self._timers.handshake_wanted(self._wanted_at)
            self._wanted_at = None

    def is_exhausted(self, now: float) -> bool:
        """Whether it is time to give up instead of calling once more."""
        return now - self._since >= self._durations.rekey_attempt_s

    def give_up(self) -> None:
        """Nobody answers."""
        self._handshakes.abandon()
        self._timers.handshake_given_up()
        self._journal.tell(HandshakeGaveUp(self.attempt))

    def repeat(self, now: float) -> Message | None:
        """The next initiation of this dialling; `None` while the confirmation of our own answer may be on the way."""
        if now < self._earliest():
            self._timers.retransmit_at(self._earliest())
            return None
        return self._initiate(now)

    def is_reset(self, now: float) -> bool:
        """The peer asks for a new handshake. False when it asked so shortly before that it is not listened to."""
        if now < self._reset_at + self._durations.rekey_timeout_s:
            return False
        self._reset_at = now
        return True

    def is_call_back_due(self, now: float) -> bool:
        """Whether a stale initiation may be answered with a call of our own now."""
        if now < self._called_back_at + self._durations.rekey_timeout_s:
            return False
        return self._handshakes.is_under_way or now >= self._earliest()

    def call_back(self, now: float) -> Message | None:
        """The initiation under way once more, for where a stale one came from."""
        self._called_back_at = now
        return self._handshakes.repeat(now)

    def completed(self) -> None:
        """There is a new key: whatever was wanted, here it is."""
        self.attempt = 0
        self._wanted_at = None

    def close(self) -> None:
        """Nobody is called any more."""
        self._handshakes.abandon()
        self._wanted_at = None

    def _earliest(self) -> float:
        return max(self._handshakes.initiated_at, self._handshakes.answered_at) + self._durations.rekey_timeout_s

    def _initiate(self, now: float) -> Message | None:
        message = self._handshakes.initiate(now)
        self._timers.initiation_sent(now)
        self.attempt += 1
        if message is None:
            self._journal.drop(DropReason.NO_INDEX, None)
        else:
            self._journal.tell(HandshakeStarted(self.attempt))
        return message
