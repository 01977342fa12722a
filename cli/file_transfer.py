"""Putting a file to the broker and getting one from it, from the first word to the last, over a connection that may be lost.

Not responsible for options, nor for when what is asked for again (`holloway.protocols.control_plane.file_sender`, `file_getter`).
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

import trio
import zmq

from holloway.actors.control_plane.file_store import Measured, Unfinished, measured
from holloway.actors.control_plane.link import Link, explained
from holloway.actors.control_plane.monitor import Change
from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError
from holloway.cli.operator_session import new_token
from holloway.cli.plain_text import one_line
from holloway.cli.printing import say, size
from holloway.protocols.control_plane.effects import Moment, Send
from holloway.protocols.control_plane.file_getter import Found, Getter, GetterEffect
from holloway.protocols.control_plane.file_messages import Abort, Chunk, Fetch, Finish, Offer, Want
from holloway.protocols.control_plane.file_receiver import Discard, Leave, Outcome, Store, Write
from holloway.protocols.control_plane.file_sender import Read, Sender, SenderEffect
from holloway.protocols.control_plane.wire import decode
from holloway.protocols.errors import LocalError

if TYPE_CHECKING:
    from holloway.actors.control_plane.link import Broker

PARTS: Final = ".holloway-unfinished"
"""The folder beside a file that is got, while it is not whole."""
PROGRESS_S: Final = 0.2
LINGER_MS: Final = 1000
"""For the last word to leave."""
_KEY: Final = "file"
_NOWHERE: Final = b""

Effect: TypeAlias = SenderEffect | GetterEffect
Wall: TypeAlias = Callable[[], float]


def put_file(broker: Broker, source: Path, name: str, deadline_s: float, wall: Wall) -> Offer:
    """Put the file under that name; what it was. Raises BrokerError, CommandFailedError, OSError."""
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found: Measured = measured(descriptor)
        offer = Offer(new_token(), name, found.size, found.sha256, found.mode)
        sender = Sender(_KEY, _NOWHERE, offer, deadline_s)

        def on_disk(_: Moment, effect: Effect) -> Sequence[Effect]:
            assert isinstance(effect, Read)
            return sender.read(effect.offset, os.pread(descriptor, effect.size, effect.offset))

        trio.run(_Drive(broker, sender, on_disk, lambda: (sender.sent, offer.size), wall).run)
        return offer
    finally:
        os.close(descriptor)


def get_file(broker: Broker, name: str, target: Path, deadline_s: float, wall: Wall) -> Offer:
    """Get the file of that name; what it was. It has its name when it is whole. Raises as `put_file` does."""
    getter = Getter(_KEY, _NOWHERE, Want(new_token(), name), deadline_s)
    unfinished: list[Unfinished] = []
    folder = target.parent / PARTS

    def on_disk(now: Moment, effect: Effect) -> Sequence[Effect]:
        match effect:
            case Found(_, offer):
                file = Unfinished(folder, str(target), (target.name,), offer)
                unfinished.append(file)
                offset = 0
                while piece := file.read(offset):
                    getter.prime(piece)
                    offset += len(piece)
                return getter.opened(now)
            case Write(_, offset, data):
                unfinished[-1].write(offset, data)
            case Store():
                unfinished[-1].store(target.parent)
                return getter.stored()
            case Discard():
                unfinished[-1].discard()
            case Leave() | Read() | Send():
                pass  # what is there stays, for another attempt
        return []

    def far() -> tuple[int, int]:
        receiver = getter.receiver
        return (0, 0) if receiver is None else (receiver.have, receiver.offer.size)

    try:
        trio.run(_Drive(broker, getter, on_disk, far, wall).run)
    finally:
        for each in unfinished:
            each.close()
        if unfinished:
            with suppress(OSError):  # others are still unfinished, or have just put it away
                folder.rmdir()
    assert getter.receiver is not None, "it is done"
    return getter.receiver.offer


def _heard(machine: Sender | Getter, now: Moment, frames: list[bytes]) -> Sequence[Effect]:
    """What a message leads to; one that is not for us, to nothing."""
    message = decode(frames)
    match machine:
        case Sender():
            return machine.receive(now, message) if isinstance(message, Fetch | Finish | Abort) else []
        case Getter():
            return machine.receive(now, message) if isinstance(message, Offer | Chunk | Abort) else []
        case _:
            assert_never(machine)


class _Drive:
    """One transfer over one connection. `on_disk` carries out what is no `Send`, in a thread, and says what that leads to; `far`:
    how many bytes of how many.
    """

    def __init__(
        self,
        broker: Broker,
        machine: Sender | Getter,
        on_disk: Callable[[Moment, Effect], Sequence[Effect]],
        far: Callable[[], tuple[int, int]],
        wall: Wall,
    ) -> None:
        self._broker, self._machine, self._on_disk, self._far, self._wall = broker, machine, on_disk, far, wall
        self._waiting = trio.CancelScope()
        self._changes: list[Change] = []
        self._shown_at = -math.inf

    async def run(self) -> None:
        """Run it to its end. Raises CommandFailedError when that is none to be glad of."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            with Link(context, self._broker, linger_ms=LINGER_MS) as link:
                await link.connected()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(link.watch, self._hear)
                    await self._carry_out(link, self._machine.begin(self._now()))
                    while self._machine.outcome is None:
                        await self._carry_out(link, await self._next(link))
                    nursery.cancel_scope.cancel()
        finally:
            self._show(is_last=True)
            context.term()
        if self._machine.outcome is not Outcome.DONE:
            code = ExitCode.TIMEOUT if self._machine.outcome is Outcome.STALLED else ExitCode.FAILED
            why = one_line(self._machine.why) or "the broker does not say"
            raise CommandFailedError("the file was not transferred", why, "the same command goes on where it was", code)

    async def _next(self, link: Link) -> Sequence[Effect]:
        """What the next thing that happens leads to."""
        frames: list[bytes] | None = None
        due = self._machine.next_tick()
        if not self._changes:
            with trio.CancelScope(deadline=math.inf if due is None else due) as self._waiting:
                frames = await link.receive()
        now, machine = self._now(), self._machine
        effects: list[Effect] = []
        changes, self._changes = self._changes, []
        for change in changes:
            if change is Change.CONNECTED and isinstance(machine, Sender):
                effects += machine.connected(now, _NOWHERE)
            elif change is Change.DISCONNECTED:
                say("the broker has gone; waiting for it")
            elif change not in (Change.ABSENT, Change.CONNECTED):
                raise explained(change, self._broker)
        if frames is not None:
            effects += _heard(machine, now, frames)
        if due is not None and now.at >= due:
            effects += machine.tick(now)
        return effects

    async def _carry_out(self, link: Link, effects: Sequence[Effect]) -> None:
        todo = [*effects]
        while todo:
            effect = todo.pop(0)
            if isinstance(effect, Send):
                await link.send(effect.frames)
                continue
            try:
                todo += await trio.to_thread.run_sync(self._on_disk, self._now(), effect)
            except (OSError, LocalError) as error:
                why = error.strerror if isinstance(error, OSError) else str(error)
                todo += self._machine.failed(f"the disk of the client refused: {why}")
        self._show()

    def _hear(self, change: Change) -> None:
        self._changes.append(change)
        self._waiting.cancel()

    def _now(self) -> Moment:
        return Moment(trio.current_time(), self._wall())

    def _show(self, *, is_last: bool = False) -> None:
        if not sys.stderr.isatty():
            return
        if is_last:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            return
        now = trio.current_time()
        done, total = self._far()
        if total and now - self._shown_at >= PROGRESS_S:
            self._shown_at = now
            filled = 30 * done // total
            bar = "#" * filled + "." * (30 - filled)
            print(f"\r[{bar}] {size(done)} of {size(total)}", end="\x1b[K", file=sys.stderr, flush=True)
