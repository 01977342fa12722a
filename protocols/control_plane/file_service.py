"""The broker's side of files: who may put and get what, how many at once, and which message is for which transfer.

A file that is put has its name only when it is whole; until then it is known by who puts it, its name and its SHA-256, so that he who
begins again goes on. Of two that put the same name the first one may, unless it is the same person, who then has begun again.
Nodes put nothing, and get what somebody else may answer for: `may_read` says whether a job that runs on a node tells it to
read that. Not responsible for one transfer (`file_receiver`, `file_sender`), nor for opening files: that a name leads through no symbolic link is
for who carries out `Prepare` and `Measure`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from holloway.protocols.control_plane.access import AccessTable, Place
from holloway.protocols.control_plane.effects import Audit, Moment, Principal, Send
from holloway.protocols.control_plane.file_messages import (
    MAX_FILE_BYTES,
    TRY_LATER,
    Abort,
    Chunk,
    Fetch,
    Finish,
    Offer,
    Reading,
    Want,
)
from holloway.protocols.control_plane.file_names import NameProblem, confined
from holloway.protocols.control_plane.file_receiver import Outcome, Receiver, ReceiverEffect
from holloway.protocols.control_plane.file_sender import Sender, SenderEffect
from holloway.protocols.control_plane.messages import Frames, Refusal, Role
from holloway.protocols.control_plane.refusals import NO_END, Refusals
from holloway.protocols.control_plane.wire import decode, encode, kind_of

REMEMBERED = 256
"""Transfers that are over and whose end may be asked for once more."""
PUT, GET, TREE = "file-put", "file-get", "download"
WRONG_MESSAGE = "control_wrong_sender"
NO_KEY = "control_no_key"
TOO_MANY = "file_too_many"
TOO_LARGE = "file_too_large"
BUSY = "file_busy"


@dataclass(frozen=True, slots=True)
class FileLimits:
    """How large a file may be, how many are under way at once in all and of one person, and how long each may take."""

    max_bytes: int = 1 << 36
    max_transfers: int = 64
    max_each: int = 8
    deadline_s: float = 86_400.0


@dataclass(frozen=True, slots=True)
class Prepare:
    """Open what is there of a file that is put, by `owner`, `parts` and the SHA-256 of `offer`; tell `primed` of each piece of it,
    from the beginning, and then `prepared`, also when it cannot be opened or the transfer has gone meanwhile.
    """

    key: str
    owner: str
    parts: tuple[str, ...]
    offer: Offer


@dataclass(frozen=True, slots=True)
class Measure:
    """Open a file that is wanted, or make the list of a folder's files, and tell `measured` its size, SHA-256 and mode."""

    key: str
    parts: tuple[str, ...]
    is_tree: bool = False


@dataclass(frozen=True, slots=True)
class Close:
    """Nothing more is read of a file that was wanted."""

    key: str


ServiceEffect: TypeAlias = ReceiverEffect | SenderEffect | Prepare | Measure | Close | Audit


@dataclass(slots=True)
class _Transfer:
    """One transfer. `work` is None until the file has been looked at."""

    who: Principal
    route: bytes
    parts: tuple[str, ...]
    asked: Offer | Want
    command: str
    work: Receiver | Sender | None = None


class FileService:
    """All transfers of one broker. `may_read`: whether a node may read that file or list that folder now; None when nobody can tell yet."""

    def __init__(
        self,
        access: AccessTable,
        limits: FileLimits,
        may_read: Callable[[str, tuple[str, ...]], bool | None] = lambda node, parts: False,
    ) -> None:
        self._access, self._limits, self._may_read = access, limits, may_read
        self._refusals = Refusals()
        self._at = 0.0
        """When something last happened, as far as is known."""
        self._transfers: dict[str, _Transfer] = {}
        self._over: OrderedDict[str, Outcome] = OrderedDict()
        self._opening: set[str] = set()

    @property
    def counts(self) -> Counter[str]:
        """What was refused, by reason."""
        return self._refusals.counts

    def __len__(self) -> int:
        return len(self._transfers)

    def has(self, key: str) -> bool:
        """Whether that transfer is under way."""
        return key in self._transfers

    def denied(self, now: Moment, address: str, reason: str, why: str) -> list[ServiceEffect]:
        """Somebody was not let in."""
        return [*self._refusals.note(now.at, address, f"handshake: {why}", reason, is_stranger=True)]

    def flooded(self, now: Moment, who: str, what: str) -> list[ServiceEffect]:
        """A connection was cut off."""
        return [*self._refusals.note(now.at, who, what, NO_END, is_stranger=True)]

    def receive(
        self, now: Moment, who: Principal | None, route: bytes, frames: Frames, stranger: str = ""
    ) -> list[ServiceEffect]:
        """A message of `who`, None when the key of the connection is not in the list (any more), came on `route`. `stranger`:
        what is known of that connection then.
        """
        self._at = now.at
        if who is None:
            return [*self._refusals.note(now.at, stranger, "a message", NO_KEY, is_stranger=True)]
        message = decode(frames)
        match message:
            case Refusal():
                return [*self._refusals.note(now.at, who.name, "malformed frames", message.value)]
            case Offer() | Want():
                return self._begin(now, who, route, message)
            case Fetch() | Reading() | Finish() | Chunk() | Abort():
                return self._go_on(now, who, message)
            case _:
                return [*self._refusals.note(now.at, who.name, kind_of(message), WRONG_MESSAGE)]

    def primed(self, key: str, data: bytes) -> None:
        """The next bytes of what is there of a file that is put. Raises LocalError when that is longer than the file."""
        work = self._work(key)
        if isinstance(work, Receiver):
            work.prime(data)

    def prepared(self, now: Moment, key: str) -> list[ServiceEffect]:
        """All of what is there has been told, or the transfer has failed before: now its token may be used again."""
        self._opening.discard(key)
        work = self._work(key)
        return self._after(key, work.begin(now)) if isinstance(work, Receiver) else []

    def measured(self, now: Moment, key: str, size: int, sha256: str, mode: int) -> list[ServiceEffect]:
        """A file that is wanted is there."""
        transfer = self._transfers.get(key)
        if transfer is None or not isinstance(transfer.asked, Want) or transfer.work is not None:
            return []
        if size > MAX_FILE_BYTES:
            return self.failed(key, "the file is too large to be sent")
        offer = Offer(transfer.asked.transfer, transfer.asked.name, size, sha256, mode & 0o777)
        transfer.work = sender = Sender(key, transfer.route, offer, self._limits.deadline_s)
        return self._after(key, sender.begin(now))

    def failed(self, key: str, why: str) -> list[ServiceEffect]:
        """The disk refused: a file is not there, or cannot be read or written."""
        transfer = self._transfers.get(key)
        if transfer is None:
            return []
        if transfer.work is not None:
            return self._after(key, transfer.work.failed(why))
        del self._transfers[key]
        return [
            Send(transfer.route, encode(Abort(transfer.asked.transfer, why[:2000]))),
            *self._told(transfer, why, is_done=False),
        ]

    def read(self, key: str, offset: int, data: bytes) -> list[ServiceEffect]:
        """What was to be read."""
        work = self._work(key)
        return self._after(key, work.read(offset, data)) if isinstance(work, Sender) else []

    def stored(self, key: str) -> list[ServiceEffect]:
        """A file that was put is durable under its name."""
        work = self._work(key)
        return self._after(key, work.stored()) if isinstance(work, Receiver) else []

    def gone(self, name: str) -> list[ServiceEffect]:
        """The key of `name` may do less than before: its transfers end."""
        keys = [key for key, transfer in self._transfers.items() if transfer.who.name == name]
        return [effect for key in keys for effect in self.failed(key, "the key may not any more")]

    def tick(self, now: Moment) -> list[ServiceEffect]:
        """Do what is due."""
        self._at = now.at
        out: list[ServiceEffect] = [*self._refusals.due(now.at)]
        for key, transfer in list(self._transfers.items()):
            if transfer.work is not None:
                out += self._after(key, transfer.work.tick(now))
        return out

    def next_tick(self) -> float | None:
        """When `tick` has something to do next."""
        times = [each.work.next_tick() for each in self._transfers.values() if each.work is not None]
        times.append(self._refusals.next_due())
        return min((at for at in times if at is not None), default=None)

    def _begin(self, now: Moment, who: Principal, route: bytes, message: Offer | Want) -> list[ServiceEffect]:
        """A file is offered or wanted, perhaps again."""
        key = f"{who.name}/{message.transfer}"
        is_tree = isinstance(message, Want) and message.name.endswith("/")
        command = PUT if isinstance(message, Offer) else TREE if is_tree else GET
        known = self._transfers.get(key)
        if known is not None and known.asked == message:
            known.route = route
            if known.work is not None:
                return self._after(key, known.work.connected(now, route))
            return [Send(route, encode(Reading(message.transfer)))]
        if self._over.get(key) is Outcome.DONE and isinstance(message, Offer):
            return [Send(route, encode(Finish(message.transfer)))]
        parts = confined(message.name[:-1] if is_tree else message.name)
        problem = self._access.problem(who.role, command, Place.BROKER)
        if who.role is Role.NODE and isinstance(message, Want) and not isinstance(parts, NameProblem):
            may = self._may_read(who.name, parts)
            if may is None:
                return []  # he asks again
            if may:
                problem = None
        if problem is not None:
            why = f"the role {who.role.value} may not call {command}"
            return self._refuse(now, who, route, message, problem.value, why)
        if isinstance(parts, NameProblem):
            why = "the name does not lead to a file below the root: no .., no /, no backslash"
            return self._refuse(now, who, route, message, parts.value, why)
        if isinstance(message, Offer) and message.size > self._limits.max_bytes:
            why = f"it has {message.size} bytes, {self._limits.max_bytes} are the most"
            return self._refuse(now, who, route, message, TOO_LARGE, why)
        if key in self._opening and known is None:
            why = "an earlier transfer of that name is still being closed"
            return self._refuse(now, who, route, message, BUSY, why)
        out: list[ServiceEffect] = []
        if isinstance(message, Offer):
            for other, transfer in list(self._transfers.items()):
                if isinstance(transfer.asked, Offer) and transfer.parts == parts:
                    if transfer.who.name != who.name:
                        return self._refuse(now, who, route, message, BUSY, "somebody else is putting this file")
                    out += self.failed(other, "it was begun again")
        own = sum(transfer.who.name == who.name for transfer in self._transfers.values())
        if known is not None or own >= self._limits.max_each or len(self._transfers) >= self._limits.max_transfers:
            return out + self._refuse(now, who, route, message, TOO_MANY, TRY_LATER)
        self._transfers[key] = transfer = _Transfer(who, route, parts, message, command)
        if isinstance(message, Offer):
            transfer.work = Receiver(key, route, message, self._limits.deadline_s)
            self._opening.add(key)
            return [*out, Prepare(key, who.name, parts, message)]
        return [*out, Measure(key, parts, is_tree)]

    def _go_on(
        self, now: Moment, who: Principal, message: Fetch | Reading | Finish | Chunk | Abort
    ) -> list[ServiceEffect]:
        key = f"{who.name}/{message.transfer}"
        work = self._work(key)
        if isinstance(work, Receiver) and isinstance(message, Chunk | Reading | Abort):
            return self._after(key, work.receive(now, message))
        if isinstance(work, Sender) and not isinstance(message, Chunk):
            return self._after(key, work.receive(now, message))
        self.counts["file_no_transfer"] += 1  # of an earlier life: the client begins again by itself
        return []

    def _after(self, key: str, effects: Sequence[ReceiverEffect | SenderEffect]) -> list[ServiceEffect]:
        """The effects of a transfer, and what there is to do when it is over."""
        out: list[ServiceEffect] = [*effects]
        transfer = self._transfers[key]
        work = transfer.work
        if work is not None and work.outcome is not None:
            del self._transfers[key]
            self._over[key] = work.outcome
            while len(self._over) > REMEMBERED:
                self._over.popitem(last=False)
            if isinstance(work, Sender):
                out.append(Close(key))
            told = work.outcome.value + (f": {work.why}" if work.why else "")
            out += self._told(transfer, told, is_done=work.outcome is Outcome.DONE)
        return out

    def _told(self, transfer: _Transfer, outcome: str, *, is_done: bool) -> list[Audit]:
        """What is written down of a transfer that is over: everything that was done; of what came to nothing, as of refusals."""
        entry = Audit(transfer.command, transfer.who.name, transfer.asked.name, outcome)
        return [entry] if is_done else self._refusals.tell(self._at, entry, "came to nothing")

    def _work(self, key: str) -> Receiver | Sender | None:
        transfer = self._transfers.get(key)
        return transfer.work if transfer is not None else None

    def _refuse(
        self, now: Moment, who: Principal, route: bytes, message: Offer | Want, reason: str, why: str
    ) -> list[ServiceEffect]:
        what = f"{kind_of(message)} {message.name}"
        refused = self._refusals.note(now.at, who.name, what, reason)
        return [*refused, Send(route, encode(Abort(message.transfer, why)))]
