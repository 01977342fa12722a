"""Getting one file: wants it until it is offered, then pulls it (`file_receiver`).

When the broker begins another life while the file is pulled, it is wanted again, and goes on if it is still the same file. A file that
stands in a list is taken only if it is the one that was listed. Not responsible for files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from holloway.protocols.control_plane.effects import Moment, Send
from holloway.protocols.control_plane.file_messages import Abort, Chunk, Offer, Reading, Want
from holloway.protocols.control_plane.file_receiver import (
    RETRY_S,
    STALLED_AFTER_S,
    Outcome,
    Receiver,
    ReceiverEffect,
)
from holloway.protocols.control_plane.file_trees import TreeFile
from holloway.protocols.control_plane.wire import encode

ANOTHER_FILE = "the file is another one now"


@dataclass(frozen=True, slots=True)
class Found:
    """The file is there. Open what is there of it from an earlier attempt, by name and SHA-256; tell `prime` of that, from the
    beginning, and then `opened`.
    """

    key: str
    offer: Offer


GetterEffect: TypeAlias = ReceiverEffect | Found


class Getter:
    """One file that a client wants. Arguments as for `Receiver`; `listed`: what was said of the file before, and has to be true of the offer."""

    def __init__(self, key: str, route: bytes, want: Want, deadline_s: float, listed: TreeFile | None = None) -> None:
        self.receiver: Receiver | None = None
        self._listed = listed
        self._key, self._route, self._want, self._deadline_s = key, route, want, deadline_s
        self._outcome: Outcome | None = None
        self._why = ""
        self._began_at = self._heard_at = self._ask_at = 0.0

    @property
    def outcome(self) -> Outcome | None:
        """How it ended."""
        return self._outcome if self.receiver is None else self.receiver.outcome

    @property
    def why(self) -> str:
        """Why it ended, where it did not end well."""
        return self._why if self.receiver is None else self.receiver.why

    def begin(self, now: Moment) -> list[GetterEffect]:
        """Want the file."""
        self._began_at = self._heard_at = now.at
        return self._ask(now)

    def receive(self, now: Moment, message: Offer | Chunk | Reading | Abort) -> list[GetterEffect]:
        """Something came."""
        if message.transfer != self._want.transfer or self.outcome is not None:
            return []
        if isinstance(message, Offer):
            return self._offered(now, message)
        if self.receiver is not None:
            return [*self.receiver.receive(now, message)]
        self._heard_at = now.at
        if isinstance(message, Abort):
            self._outcome, self._why = Outcome.FAILED, message.why
        return []

    def reading(self) -> list[GetterEffect]:
        """What there is of the file is still being told to `prime`: say so."""
        return [] if self.outcome is not None else [Send(self._route, encode(Reading(self._want.transfer)))]

    def prime(self, data: bytes) -> None:
        """See `Receiver.prime`."""
        if self.receiver is not None:
            self.receiver.prime(data)

    def opened(self, now: Moment) -> list[GetterEffect]:
        """All of what is there has been told: pull the rest."""
        return [*self.receiver.begin(now)] if self.receiver is not None else []

    def stored(self) -> list[GetterEffect]:
        """See `Receiver.stored`."""
        return [*self.receiver.stored()] if self.receiver is not None else []

    def failed(self, why: str) -> list[GetterEffect]:
        """See `Receiver.failed`."""
        if self.receiver is not None:
            return [*self.receiver.failed(why)]
        self._outcome, self._why = self._outcome or Outcome.FAILED, self._why or why
        return [Send(self._route, encode(Abort(self._want.transfer, why[:2000])))]

    def tick(self, now: Moment) -> list[GetterEffect]:
        """Do what is due."""
        if self.receiver is not None:
            return [*self.receiver.tick(now)]
        if self._outcome is None and now.at >= self._began_at + self._deadline_s:
            self._outcome, self._why = Outcome.STALLED, f"it was not even offered within {self._deadline_s:.0f} s"
        elif self._outcome is None and now.at >= self._heard_at + STALLED_AFTER_S:
            self._outcome, self._why = Outcome.STALLED, f"nobody answered for {STALLED_AFTER_S:.0f} s"
        elif self._outcome is None and now.at >= self._ask_at:
            return self._ask(now)
        return []

    def next_tick(self) -> float | None:
        """When `tick` has something to do next."""
        if self.receiver is not None:
            return self.receiver.next_tick()
        if self._outcome is not None:
            return None
        return min(self._ask_at, self._heard_at + STALLED_AFTER_S, self._began_at + self._deadline_s)

    def _offered(self, now: Moment, offer: Offer) -> list[GetterEffect]:
        if self.receiver is None:
            listed = self._listed
            if listed is not None and (offer.size, offer.sha256) != (listed.size, listed.sha256):
                return self.failed(ANOTHER_FILE)
            self.receiver = Receiver(self._key, self._route, offer, self._deadline_s, self._want)
            return [Found(self._key, offer)]
        if offer == self.receiver.offer:
            return [*self.receiver.connected(now, self._route)]
        return [*self.receiver.failed(ANOTHER_FILE)]

    def _ask(self, now: Moment) -> list[GetterEffect]:
        self._ask_at = now.at + RETRY_S
        return [Send(self._route, encode(self._want))]
