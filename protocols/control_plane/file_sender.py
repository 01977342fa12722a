"""Letting one file be pulled: says what there is, reads what is asked for, and hears how it ended.

Not responsible for files: `Read` is done by the owner, who says `read`, or `failed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from holloway.protocols.control_plane.effects import Moment, Send
from holloway.protocols.control_plane.file_messages import (
    CHUNK_BYTES,
    WINDOW,
    Abort,
    Chunk,
    Fetch,
    FileMessage,
    Finish,
    Offer,
    Reading,
)
from holloway.protocols.control_plane.file_receiver import RETRY_S, STALLED_AFTER_S, Outcome
from holloway.protocols.control_plane.wire import encode

CHANGED = "the file became shorter while it was sent"


@dataclass(frozen=True, slots=True)
class Read:
    """Read these bytes of the file, then say `read`."""

    key: str
    offset: int
    size: int


SenderEffect: TypeAlias = Send | Read


class Sender:
    """One file that is pulled. `key` is how its effects call it; `route` where its messages go."""

    def __init__(self, key: str, route: bytes, offer: Offer, deadline_s: float) -> None:
        self.key, self.route, self.offer = key, route, offer
        self.outcome: Outcome | None = None
        self.why = ""
        self.fix = ""
        self.sent = 0
        """The end of what has been asked for, as far as it goes: for people who wait."""
        self._deadline_s, self._deadline_at = deadline_s, float("inf")
        self._reading: dict[int, int] = {}
        self._heard_at = 0.0
        self._offer_at = float("inf")

    def begin(self, now: Moment) -> list[SenderEffect]:
        """Offer the file. It is offered again whenever nobody has asked for anything for a while: a receiver that began another
        life goes on where it was.
        """
        self._deadline_at, self._heard_at = now.at + self._deadline_s, now.at
        return self._offered(now)

    def receive(self, now: Moment, message: Fetch | Reading | Finish | Abort) -> list[SenderEffect]:
        """Something came. What is asked for beyond the file, or beyond the window, is not looked at: it is asked for again."""
        if self.outcome is not None or message.transfer != self.offer.transfer:
            return []
        self._heard_at, self._offer_at = now.at, now.at + RETRY_S
        match message:
            case Reading():
                pass  # he is there: that is all
            case Finish():
                self.outcome = Outcome.DONE
            case Abort():
                self.outcome, self.why, self.fix = Outcome.FAILED, message.why, message.fix
            case Fetch(_, offset, size):
                is_inside = 0 < size <= CHUNK_BYTES and offset + size <= self.offer.size
                if is_inside and offset not in self._reading and len(self._reading) < WINDOW:
                    self._reading[offset] = size
                    return [Read(self.key, offset, size)]
        return []

    def read(self, offset: int, data: bytes) -> list[SenderEffect]:
        """What was to be read; shorter than that when the file ends there."""
        size = self._reading.pop(offset, None)
        if self.outcome is not None or size is None:
            return []
        if len(data) != size:
            return self.failed(CHANGED)
        self.sent = max(self.sent, offset + size)
        return [self._send(Chunk(self.offer.transfer, offset, data))]

    def failed(self, why: str) -> list[SenderEffect]:
        """The file cannot be read, or nobody wants to send it any more: tell the receiver."""
        if self.outcome is not None:
            return []
        self.outcome, self.why = Outcome.FAILED, why
        return [self._send(Abort(self.offer.transfer, why[:2000]))]

    def connected(self, now: Moment, route: bytes) -> list[SenderEffect]:
        """There is another connection: offer the file again, so that the receiver goes on where he was."""
        self.route = route
        return [] if self.outcome is not None else self._offered(now)

    def tick(self, now: Moment) -> list[SenderEffect]:
        """Do what is due."""
        if self.outcome is not None:
            return []
        if now.at >= self._deadline_at:
            return self.failed(f"it took longer than {self._deadline_s:.0f} s")
        if now.at >= self._heard_at + STALLED_AFTER_S:
            self.outcome, self.why = Outcome.STALLED, f"nobody asked for more for {STALLED_AFTER_S:.0f} s"
        elif now.at >= self._offer_at:
            return self._offered(now)
        return []

    def next_tick(self) -> float | None:
        """When `tick` has something to do next."""
        if self.outcome is not None:
            return None
        return min(self._deadline_at, self._heard_at + STALLED_AFTER_S, self._offer_at)

    def _offered(self, now: Moment) -> list[SenderEffect]:
        self._offer_at = now.at + RETRY_S
        return [self._send(self.offer)]

    def _send(self, message: FileMessage) -> Send:
        return Send(self.route, encode(message))
