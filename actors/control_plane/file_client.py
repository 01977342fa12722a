"""A client's connection for files: puts and gets, one after another, over a connection that may be lost meanwhile.

Drives a pure `Sender` or `Getter`, and carries out what that wants of the disk, in threads. Not responsible for when what is asked for
again (`holloway.protocols.control_plane.file_sender`, `file_getter`), nor for folders (`folders`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, TypeVar, assert_never

import trio

from holloway.actors.control_plane.file_store import Measured, Unfinished, require_replaceable
from holloway.actors.control_plane.link import Link, explained
from holloway.actors.control_plane.monitor import Change
from holloway.actors.control_plane.world import World
from holloway.protocols.control_plane.effects import Moment, Send
from holloway.protocols.control_plane.file_getter import Found, Getter, GetterEffect
from holloway.protocols.control_plane.file_messages import TRY_LATER, Abort, Chunk, Fetch, Finish, Offer, Reading, Want
from holloway.protocols.control_plane.file_receiver import RETRY_S, Discard, Leave, Outcome, Store, Write
from holloway.protocols.control_plane.file_sender import Read, Sender, SenderEffect
from holloway.protocols.control_plane.file_trees import MAX_TREE_BYTES, TreeFile, read_tree
from holloway.protocols.control_plane.wire import decode
from holloway.protocols.errors import LocalError, PortError

LATER_S = 1.0
"""How long a broker that has too much to do is left alone, and up to twice that."""
PLAIN_MODE = 0o644
TOKEN_BYTES = 16
_KEY = "file"
_NOWHERE = b""

Result = TypeVar("Result")
Effect: TypeAlias = SenderEffect | GetterEffect
OnDisk: TypeAlias = Callable[[Moment, Effect], Sequence[Effect]]


class FileClient:
    """Transfers over `link`, which is connected. Somebody must run `keep`. `say` hears words for people; `show` how many bytes of how many
    are over, while that changes.
    """

    def __init__(
        self,
        link: Link,
        world: World,
        *,
        say: Callable[[str], None] = lambda words: None,
        show: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._link, self._world, self._say, self._show = link, world, say, show
        self._waiting = trio.CancelScope()
        self._changes: list[Change] = []

    async def keep(self) -> None:
        """Keep the connection, for ever."""
        await self._link.watch(self._hear)

    async def put(self, descriptor: int, found: Measured, name: str, deadline_s: float) -> Offer:
        """Put an open file under that name. Raises BrokerError, PortError."""

        async def once() -> Offer:
            offer = Offer(self._token(), name, found.size, found.sha256, found.mode)
            sender = Sender(_KEY, _NOWHERE, offer, deadline_s)

            def on_disk(_: Moment, effect: Effect) -> Sequence[Effect]:
                assert isinstance(effect, Read)
                return sender.read(effect.offset, os.pread(descriptor, effect.size, effect.offset))

            await self._drive(f"the file {name!r}", sender, on_disk, lambda: (sender.sent, offer.size))
            return offer

        return await self._patiently(once, deadline_s)

    async def get(
        self,
        name: str,
        root: Path,
        parts: tuple[str, ...],
        scratch: Path,
        deadline_s: float,
        *,
        modes: bool = True,
        listed: TreeFile | None = None,
    ) -> Offer:
        """Get the file of that name, to where `parts` lead below `root`. Its beginning grows in `scratch`, and stays there when it is cut.
        `listed`: what has to be offered; nothing is taken of a file of another size or SHA-256.

        Raises BrokerError, PortError.
        """

        async def once() -> Offer:
            getter = Getter(_KEY, _NOWHERE, Want(self._token(), name), deadline_s, listed)
            unfinished: list[Unfinished] = []

            def on_disk(now: Moment, effect: Effect) -> Sequence[Effect]:
                match effect:
                    case Found(_, offer):
                        require_replaceable(root, parts)
                        wanted = offer if modes else replace(offer, mode=PLAIN_MODE)
                        file = Unfinished(scratch, str(root), parts, wanted)
                        unfinished.append(file)
                        offset = 0
                        while piece := file.read(offset):
                            getter.prime(piece)
                            offset += len(piece)
                        return getter.opened(now)
                    case Write(_, offset, data):
                        unfinished[-1].write(offset, data)
                    case Store():
                        unfinished[-1].store(root)
                        return getter.stored()
                    case Discard():
                        unfinished[-1].discard()
                    case Leave() | Read() | Send():
                        pass  # what is there stays, for another attempt
                return []

            try:
                await self._drive(f"the file {name!r}", getter, on_disk, lambda: _far(getter))
            finally:
                _put_away(unfinished, scratch)
            assert getter.receiver is not None, "it is done"
            return getter.receiver.offer

        return await self._patiently(once, deadline_s)

    async def tree(self, name: str, deadline_s: float) -> tuple[TreeFile, ...] | None:
        """The files of a folder at the broker; None when there is none. Raises BrokerError, PortError."""

        async def once() -> bytes:
            getter = Getter(_KEY, _NOWHERE, Want(self._token(), f"{name}/"), deadline_s)
            data = bytearray()

            def in_memory(now: Moment, effect: Effect) -> Sequence[Effect]:
                match effect:
                    case Found(_, offer):
                        if offer.size > MAX_TREE_BYTES:
                            return getter.failed(f"the list of {name} is too long")
                        return getter.opened(now)
                    case Write(_, _, piece):
                        data.extend(piece)
                    case Store():
                        return getter.stored()
                    case _:
                        data.clear()
                return []

            await self._drive(f"the list of {name}", getter, in_memory, lambda: (0, 0))
            return bytes(data)

        try:
            return read_tree(await self._patiently(once, deadline_s))
        except ValueError as error:
            raise PortError(f"what the broker says of {name} is no list of files", str(error)) from error

    async def _patiently(self, once: Callable[[], Awaitable[Result]], deadline_s: float) -> Result:
        """Do it; again, while the broker says that it has too much to do."""
        with_end = trio.current_time() + deadline_s
        while True:
            try:
                return await once()
            except PortError as error:
                if error.why != TRY_LATER or trio.current_time() >= with_end:
                    raise
            await trio.sleep(LATER_S * (1 + self._world.entropy(1)[0] / 256))

    async def _drive(
        self, what: str, machine: Sender | Getter, on_disk: OnDisk, far: Callable[[], tuple[int, int]]
    ) -> None:
        """One transfer to its end. Raises PortError, which names `what`, when that is none to be glad of."""
        await self._carry_out(machine, on_disk, machine.begin(self._now()))
        while machine.outcome is None:
            await self._carry_out(machine, on_disk, await self._next(machine))
            self._show(*far())
        if machine.outcome is Outcome.DONE:
            return
        why = machine.why or "the broker does not say"
        error = PortError(f"{what} was not transferred", why, "the same command goes on where it was")
        raise error from (TimeoutError(why) if machine.outcome is Outcome.STALLED else None)

    async def _next(self, machine: Sender | Getter) -> Sequence[Effect]:
        """What the next thing that happens leads to."""
        frames: list[bytes] | None = None
        due = machine.next_tick()
        if not self._changes:
            with trio.CancelScope(deadline=math.inf if due is None else due) as self._waiting:
                frames = await self._link.receive()
        now = self._now()
        effects: list[Effect] = []
        changes, self._changes = self._changes, []
        for change in changes:
            if change is Change.CONNECTED and isinstance(machine, Sender):
                effects += machine.connected(now, _NOWHERE)
            elif change is Change.DISCONNECTED:
                self._say("the broker has gone; waiting for it")
            elif change not in (Change.ABSENT, Change.CONNECTED):
                raise explained(change, self._link.broker)
        if frames is not None:
            effects += _heard(machine, now, frames)
        if due is not None and now.at >= due:
            effects += machine.tick(now)
        return effects

    async def _carry_out(self, machine: Sender | Getter, on_disk: OnDisk, effects: Sequence[Effect]) -> None:
        todo = [*effects]
        while todo:
            effect = todo.pop(0)
            if isinstance(effect, Send):
                await self._link.send(effect.frames)
                continue
            try:
                todo += await self._work(machine, on_disk, effect)
            except (OSError, LocalError) as error:
                why = error.strerror if isinstance(error, OSError) else str(error)
                todo += machine.failed(f"the disk of the client refused: {why}")

    async def _work(self, machine: Sender | Getter, on_disk: OnDisk, effect: Effect) -> Sequence[Effect]:
        """Something on disk; while what is there of a large file is read the broker hears that it is."""
        if not isinstance(machine, Getter) or not isinstance(effect, Found):
            return await trio.to_thread.run_sync(on_disk, self._now(), effect)
        done: Sequence[Effect] = ()
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._say_reading, machine)
            try:
                done = await trio.to_thread.run_sync(on_disk, self._now(), effect)
            except (OSError, LocalError) as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return done

    async def _say_reading(self, getter: Getter) -> None:
        while True:
            await trio.sleep(RETRY_S)
            for effect in getter.reading():
                if isinstance(effect, Send):
                    self._link.send_nowait(effect.frames)

    def _hear(self, change: Change) -> None:
        self._changes.append(change)
        self._waiting.cancel()

    def _now(self) -> Moment:
        return self._world.moment()

    def _token(self) -> str:
        return self._world.entropy(TOKEN_BYTES).hex()


def _put_away(unfinished: Sequence[Unfinished], scratch: Path) -> None:
    for each in unfinished:
        each.close()
    with suppress(OSError):  # others are still unfinished
        scratch.rmdir()


def _far(getter: Getter) -> tuple[int, int]:
    receiver = getter.receiver
    return (0, 0) if receiver is None else (receiver.have, receiver.offer.size)


def _heard(machine: Sender | Getter, now: Moment, frames: list[bytes]) -> Sequence[Effect]:
    """What a message leads to; one that is not for us, to nothing."""
    message = decode(frames)
    match machine:
        case Sender():
            return machine.receive(now, message) if isinstance(message, Fetch | Reading | Finish | Abort) else []
        case Getter():
            return machine.receive(now, message) if isinstance(message, Offer | Chunk | Reading | Abort) else []
        case _:
            assert_never(machine)
