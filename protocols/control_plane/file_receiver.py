"""Pulling one file: asks for chunks, at most a window of them at once, and writes what comes in order, so that what is written is
always the beginning of the file and a transfer that was cut goes on from there.

    prime* ─► begin ─► Fetch… ─► chunk… ─► Write… ─► SHA-256? ─► Store ─► stored ─► Finish
                                                     └► Discard, Abort

Chunks that come out of order wait, at most a window of them. What does not come is asked for again. Not responsible for
files: `Write`, `Store`, `Discard` and `Leave` are done by the owner.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
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
    Want,
)
from holloway.protocols.control_plane.wire import encode
from holloway.protocols.errors import LocalError

RETRY_S = 5.0
STALLED_AFTER_S = 60.0
WRONG_DIGEST = "what arrived has another SHA-256 than what was offered: it changed while it was sent"


class Outcome(Enum):
    """How a transfer ended."""

    DONE = "done"
    FAILED = "failed"
    STALLED = "stalled"
    """Nothing came any more; what has come is kept, and it can go on from there."""


@dataclass(frozen=True, slots=True)
class Write:
    """Write these bytes of the file, which follow those before."""

    key: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Store:
    """The file is whole: make it durable under its name, then say `stored`."""

    key: str


@dataclass(frozen=True, slots=True)
class Discard:
    """What was written is wrong: remove it."""

    key: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Close it, and keep what was written for another attempt."""

    key: str


ReceiverEffect: TypeAlias = Send | Write | Store | Discard | Leave


class Receiver:
    """One file that is pulled. `key` is how its effects call it; `route` where its messages go; `deadline_s` how long it may
    take in all. `want`: what led to the offer, and is said again when nothing comes: a sender that began another life has to
    be told.
    """

    def __init__(self, key: str, route: bytes, offer: Offer, deadline_s: float, want: Want | None = None) -> None:
        self.key, self.route, self.offer, self._want = key, route, offer, want
        self.outcome: Outcome | None = None
        self.why = ""
        self.have = 0
        """How much of the file, from its beginning, is there."""
        self._deadline_s, self._deadline_at = deadline_s, float("inf")
        self._hash = hashlib.sha256()
        self._asked: dict[int, float] = {}
        self._early: dict[int, bytes] = {}
        self._next = 0
        self._moved_at = 0.0
        self._has_begun = self._is_whole = False

    def prime(self, data: bytes) -> None:
        """The beginning of the file is there from an earlier attempt. Raises LocalError when it is longer than the file, or too
        late.
        """
        if self._has_begun or self.have + len(data) > self.offer.size:
            raise LocalError("what is there is not the beginning of the file", "it is too long, or comes too late")
        self._hash.update(data)
        self.have += len(data)

    def begin(self, now: Moment) -> list[ReceiverEffect]:
        """Ask for what is missing."""
        out: list[ReceiverEffect] = []
        self._has_begun = True
        self._next, self._moved_at, self._deadline_at = self.have, now.at, now.at + self._deadline_s
        self._go_on(now, out)
        return out

    def receive(self, now: Moment, message: Chunk | Reading | Abort) -> list[ReceiverEffect]:
        """Something came. What was not asked for is not looked at."""
        out: list[ReceiverEffect] = []
        if self.outcome is not None or not self._has_begun or message.transfer != self.offer.transfer:
            return out
        if isinstance(message, Abort):
            self._end(Outcome.FAILED, message.why, out)
            out.append(Leave(self.key))
            return out
        if isinstance(message, Reading):
            self._moved_at = now.at
            return out
        at = message.offset
        if at not in self._asked or len(message.body) != self._size_at(at):
            return out
        del self._asked[at]
        self._early[at] = message.body
        self._moved_at = now.at
        while self.have in self._early:
            data = self._early.pop(self.have)
            out.append(Write(self.key, self.have, data))
            self._hash.update(data)
            self.have += len(data)
        self._go_on(now, out)
        return out

    def stored(self) -> list[ReceiverEffect]:
        """The file is durable under its name."""
        out: list[ReceiverEffect] = []
        if self.outcome is None and self._is_whole:
            self._end(Outcome.DONE, "", out)
            self._send(Finish(self.offer.transfer), out)
        return out

    def failed(self, why: str) -> list[ReceiverEffect]:
        """The disk refused, or who asked does not want it any more: tell the sender."""
        out: list[ReceiverEffect] = []
        if self.outcome is None:
            self._end(Outcome.FAILED, why, out)
            self._send(Abort(self.offer.transfer, why[:2000]), out)
            out.append(Leave(self.key))
        return out

    def connected(self, now: Moment, route: bytes) -> list[ReceiverEffect]:
        """There is another connection, or the file is offered again: ask once more for what has not come, or say what is done with
        what has.
        """
        self.route = route
        out: list[ReceiverEffect] = []
        if self.outcome is Outcome.DONE:
            self._send(Finish(self.offer.transfer), out)
        elif self.outcome is None and self._has_begun and not self._is_whole:
            for at in self._asked:
                self._ask(now, at, out)
        elif self.outcome is None:
            self._send(Reading(self.offer.transfer), out)
        return out

    def tick(self, now: Moment) -> list[ReceiverEffect]:
        """Do what is due."""
        out: list[ReceiverEffect] = []
        if self.outcome is not None or not self._has_begun or self._is_whole:
            return out
        if now.at >= self._deadline_at:
            return self.failed(f"it took longer than {self._deadline_s:.0f} s")
        if now.at >= self._moved_at + STALLED_AFTER_S:
            self._end(Outcome.STALLED, f"nothing came for {STALLED_AFTER_S:.0f} s", out)
            out.append(Leave(self.key))
            return out
        late = [at for at, asked_at in self._asked.items() if now.at >= asked_at + RETRY_S]
        if late and self._want is not None:
            self._send(self._want, out)
        for at in late:
            self._ask(now, at, out)
        return out

    def next_tick(self) -> float | None:
        """When `tick` has something to do next."""
        if self.outcome is not None or not self._has_begun or self._is_whole:
            return None
        oldest = min(self._asked.values(), default=float("inf")) + RETRY_S
        return min(self._deadline_at, self._moved_at + STALLED_AFTER_S, oldest)

    def _go_on(self, now: Moment, out: list[ReceiverEffect]) -> None:
        while self._next < self.offer.size and len(self._asked) + len(self._early) < WINDOW:
            at = self._next
            self._next += self._size_at(at)
            self._ask(now, at, out)
        if self.have == self.offer.size and not self._is_whole:
            if self._hash.hexdigest() == self.offer.sha256:
                self._is_whole = True
                out.append(Store(self.key))
            else:
                self._end(Outcome.FAILED, WRONG_DIGEST, out)
                self._send(Abort(self.offer.transfer, WRONG_DIGEST, "send it again"), out)
                out.append(Discard(self.key))

    def _size_at(self, at: int) -> int:
        return min(CHUNK_BYTES, self.offer.size - at)

    def _ask(self, now: Moment, at: int, out: list[ReceiverEffect]) -> None:
        self._asked[at] = now.at
        self._send(Fetch(self.offer.transfer, at, self._size_at(at)), out)

    def _end(self, outcome: Outcome, why: str, out: list[ReceiverEffect]) -> None:
        self.outcome, self.why = outcome, why
        self._asked.clear()
        self._early.clear()

    def _send(self, message: FileMessage, out: list[ReceiverEffect]) -> None:
        out.append(Send(self.route, encode(message)))
