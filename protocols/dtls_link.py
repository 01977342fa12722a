"""The link to one peer over DTLS: when to dial, which association to use, when to try and when to give it up. Timers alone.

An association is one DTLS connection. New ones are made before old ones are let go: of those that are up one is *current*, under
which packets leave, and all of them are listened to.

* We dial when there is none, when the current one is old, and when it is silent: something was sent, and for `SILENT_S` nothing came
  back, neither data nor an answer to the probes that are sent meanwhile. It is used on until another one is up.
* Whoever dialled uses an association as soon as it is up and says so with a probe. Whoever was dialled waits for that before he leaves
  one that works, because the last flight of the handshake may have been lost.
* When both dial at once, both associations come up, and both sides use the one dialled by the smaller name.
* One of a foreign program, which knows no probes, is used only while none of a node is heard.
* One that is not current any more is listened to for `RETIRED_S` after the last word.
* Of a foreign program, which knows no probes, there is one association at a time, because its two addresses are all that it is known
  by. The next one that we dial begins with the end of the old one, and packets wait meanwhile.

The object is pure: `now` is monotonic seconds, associations are known by their numbers, and what is to be done comes out of
`next_action`. Not responsible for handshakes, records, nor for who the peer is.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from holloway.protocols.timers import Timers

PROBE_AFTER_S = 1.0
"""After so long without an answer to what was sent, and then each time again, an answer is asked for."""
SILENT_S = 2.5
IDLE_PROBE_S = 10.0
"""With nothing to say, an answer is asked for after this long: so that who has lost us is found out, and mappings of NATs hold."""
RETIRED_S = 30.0
CROSSING_S = 3.0
"""Two associations that came up within so long of one another were dialled at once."""
ACCEPTED_GRACE_S = 10.0
"""Whoever was dialled leaves it to the other side for so long to replace an old association."""
REKEY_AFTER_RECORDS = 1 << 24  # RFC 8446, section 5.5: full-size records under one key of AES-GCM
MAX_ASSOCIATIONS = 4
REDIAL_S = 1.0
"""Between two attempts at least, and after the peer has ended the association by itself."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Begin a handshake: attempt number `attempt` of this dialling, from 1."""

    attempt: int


@dataclass(frozen=True, slots=True)
class SendProbe:
    """Ask for an answer under an association."""

    association: int
    number: int


@dataclass(frozen=True, slots=True)
class Retire:
    """Close an association."""

    association: int


@dataclass(frozen=True, slots=True)
class GaveUp:
    """Nobody answered for `rekey_attempt_s`. The next packet begins again."""

    attempts: int


Action: TypeAlias = Dial | SendProbe | Retire | GaveUp


class Ended(Enum):
    """Why an attempt did not give an association."""

    UNANSWERED = "unanswered"
    REFUSED = "refused"


@dataclass(slots=True)
class _Association:
    number: int
    is_ours: bool
    """We dialled it."""
    born_at: float
    heard_at: float
    is_confirmed: bool
    waiting_since: float = math.inf
    """When the first of what is unanswered was sent."""
    probed_at: float = -math.inf
    is_foreign: bool = False
    """Of a program that knows no probes: it is never silent; and if it dialled, then it does so again by itself."""
    records: int = 0


@dataclass(slots=True)
class _Dialling:
    began_at: float
    at: float
    """When the next attempt is due; infinite while one is under way."""
    tried_at: float = -math.inf
    attempts: int = 0


class Link:
    """See the head of this module."""

    def __init__(self, timers: Timers, *, is_preferred: bool, keepalive_s: float = 0.0) -> None:
        """`is_preferred`: whether our name is the smaller one. `keepalive_s`: ask for an answer after so long at the latest; 0: as
        usual.
        """
        self._timers, self._is_preferred = timers, is_preferred
        self._idle_s = min(keepalive_s or IDLE_PROBE_S, IDLE_PROBE_S)
        self._known: dict[int, _Association] = {}
        self._current: _Association | None = None
        self._dialling: _Dialling | None = None
        self._is_given_up = False
        self._actions: deque[Action] = deque()
        self._probes = 0
        self._probe_sent: tuple[int, float] | None = None
        self.epoch = 0
        """How many associations have been current."""
        self.handshakes_total = 0
        self.last_handshake_at: float | None = None
        self.last_heard_at: float | None = None
        self.round_trip_s: float | None = None

    def __repr__(self) -> str:
        return f"<Link epoch {self.epoch}, {len(self._known)} associations>"

    # What it knows.

    @property
    def current(self) -> int | None:
        """The association under which packets leave."""
        return None if self._current is None else self._current.number

    @property
    def is_dialling(self) -> bool:
        return self._dialling is not None

    @property
    def attempts(self) -> int:
        """How often the peer was called in this dialling."""
        return self._dialling.attempts if self._dialling else 0

    def is_silent(self, now: float) -> bool:
        """Whether the peer owes us an answer."""
        return self._current is not None and now - self._current.waiting_since >= SILENT_S

    # What happens.

    def connect(self, now: float) -> None:
        """An association is wanted: dial, unless one works or is on its way."""
        self._is_given_up = False
        if (self._current is None or self.is_silent(now)) and self._dialling is None:
            self._dial(now)

    def rekey(self, now: float) -> None:
        """A new association is wanted, whatever the age of the present one."""
        if self._dialling is None:
            self._dial(now)

    def retry(self, now: float) -> None:
        """The peer may be found elsewhere now: do not wait for the next attempt."""
        if self._dialling is not None and self._dialling.at < math.inf:
            self._dialling.at = now

    def failed(self, ended: Ended, now: float) -> None:
        """The attempt that was under way has ended."""
        dialling = self._dialling
        if dialling is None:
            return
        if self._current is not None and not self._is_wanted(self._current, now):
            self._dialling = None
        elif now - dialling.began_at >= self._timers.rekey_attempt_s:
            self._dialling = None
            self._is_given_up = True
            self._actions.append(GaveUp(dialling.attempts))
        else:
            pause_s = REDIAL_S if ended is Ended.UNANSWERED else self._timers.rekey_timeout_s
            dialling.at = max(now, dialling.tried_at + pause_s)

    def established(self, number: int, now: float, *, is_ours: bool, is_foreign: bool = False) -> None:
        """A handshake is complete. `is_ours`: we dialled. `is_foreign`: the other side is a program that knows no probes."""
        new = _Association(number, is_ours, now, now, is_confirmed=is_ours, is_foreign=is_foreign)
        self._known[number] = new
        self.handshakes_total += 1
        self.last_handshake_at = self.last_heard_at = now
        if is_ours or self._current is None:
            self._promote(new, now)
            if is_ours and not is_foreign:
                self._probe(new, now)
        for old in sorted(self._known.values(), key=lambda each: each.heard_at):
            if len(self._known) <= MAX_ASSOCIATIONS:
                break
            if old is not self._current and old is not new:
                self._drop(old)

    def sent(self, count: int, now: float) -> None:
        """So many packets left under the current association."""
        current = self._current
        if current is None:
            return
        current.records += count
        self._is_given_up = False
        if current.waiting_since == math.inf and not current.is_foreign:
            current.waiting_since = now

    def heard(self, number: int, now: float) -> None:
        """Something authentic came under an association."""
        self.last_heard_at = now
        association = self._known.get(number)
        if association is None:
            return
        is_better = association is not self._current and self._is_better(association, now)
        association.is_confirmed = True
        association.heard_at = now
        association.waiting_since = math.inf
        if is_better:
            self._promote(association, now)

    def answered(self, probe: int, now: float) -> None:
        """A probe was answered."""
        if self._probe_sent is not None and self._probe_sent[0] == probe:
            self.round_trip_s = now - self._probe_sent[1]
            self._probe_sent = None

    def closed(self, number: int, now: float) -> None:
        """An association has ended, and not by us."""
        association = self._known.pop(number, None)
        if association is None or association is not self._current:
            return
        self._current = None
        others = [each for each in self._known.values() if each.is_confirmed]
        if others:
            self._promote(max(others, key=lambda each: each.heard_at), now)
        elif self._dialling is None:
            self._dialling = _Dialling(now, now + REDIAL_S)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        for association in list(self._known.values()):
            if now >= self._ends_at(association):
                if association is self._current:
                    self._current = None
                self._drop(association)
        current = self._current
        if current is not None and now >= self._probe_at(current):
            self._probe(current, now)
        if now >= self._dial_at():
            if self._dialling is None:
                self._dialling = _Dialling(now, now)
            self._dialling.attempts += 1
            self._dialling.at, self._dialling.tried_at = math.inf, now
            if (current := self._current) is not None and current.is_foreign and current.is_ours:
                self._current = None
                self._drop(current)
            self._actions.append(Dial(self._dialling.attempts))

    def next_timeout(self) -> float:
        """When to call `handle_timeout`; infinite for never."""
        at = self._dial_at()
        if self._current is not None:
            at = min(at, self._probe_at(self._current))
        for association in self._known.values():
            at = min(at, self._ends_at(association))
        return at

    def next_action(self) -> Action | None:
        """What is to be done, oldest first."""
        return self._actions.popleft() if self._actions else None

    # Inside.

    def _dial(self, now: float) -> None:
        self._dialling = _Dialling(now, now)

    def _promote(self, new: _Association, now: float) -> None:
        if new.is_ours:
            self._dialling = None
        old = self._current
        if old is not None and old is not new and self._is_crossing(old, new, now):
            return
        self._current = new
        if old is not new:
            self.epoch += 1
        if self._dialling is not None and self._dialling.at < math.inf:
            self._dialling = None  # one that is under way goes on: the other side may have it already

    def _is_better(self, heard: _Association, now: float) -> bool:
        """Whether an association under which something came is to be used instead of the current one."""
        current = self._current
        if current is None or (current.is_foreign and not heard.is_foreign) or self.is_silent(now):
            return True
        if heard.is_foreign and not current.is_foreign:
            return not current.is_confirmed
        return not heard.is_confirmed

    def _is_crossing(self, old: _Association, new: _Association, now: float) -> bool:
        """Whether both were dialled at once, and the old one is to stay."""
        if old.is_ours == new.is_ours or new.born_at - old.born_at >= CROSSING_S or self.is_silent(now):
            return False
        if old.is_foreign or new.is_foreign:  # a foreign program knows nothing of names
            return False
        return old.is_ours == self._is_preferred

    def _probe(self, association: _Association, now: float) -> None:
        self._probes += 1
        association.probed_at = now
        if association.waiting_since == math.inf:
            association.waiting_since = now
        if self._probe_sent is None or now - self._probe_sent[1] > SILENT_S:
            self._probe_sent = self._probes, now
        self._actions.append(SendProbe(association.number, self._probes))

    def _drop(self, association: _Association) -> None:
        del self._known[association.number]
        self._actions.append(Retire(association.number))

    def _probe_at(self, current: _Association) -> float:
        if current.is_foreign:
            return math.inf
        if current.waiting_since < math.inf:
            return max(current.waiting_since, current.probed_at) + PROBE_AFTER_S
        return max(current.heard_at, current.probed_at) + self._idle_s

    def _dial_at(self) -> float:
        if self._dialling is not None:
            return self._dialling.at
        if self._current is None or self._is_given_up:
            return math.inf
        return self._wanted_at(self._current)

    def _wanted_at(self, current: _Association) -> float:
        """When an association is to have a successor."""
        if current.is_foreign and not current.is_ours:
            return math.inf
        if current.records >= REKEY_AFTER_RECORDS:
            return -math.inf
        grace = 0.0 if current.is_ours else ACCEPTED_GRACE_S
        return min(current.waiting_since + SILENT_S, current.born_at + self._timers.rekey_after_s + grace)

    def _is_wanted(self, current: _Association, now: float) -> bool:
        return now >= self._wanted_at(current)

    def _ends_at(self, association: _Association) -> float:
        end = association.born_at + self._timers.reject_after_s
        return end if association is self._current else min(end, association.heard_at + RETIRED_S)
