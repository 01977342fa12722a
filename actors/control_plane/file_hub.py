"""The broker's files as an actor: the pure `FileService` behind a ROUTER of its own, and the files below the broker's root.

Responsible for carrying out what the service wants of the disk, in threads, and telling it how that went. Not responsible for who
may, nor for one transfer (`holloway.protocols.control_plane.file_service`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import trio
import zmq

from holloway.actors.control_plane.audit_file import AuditFile
from holloway.actors.control_plane.curve import CurvePair
from holloway.actors.control_plane.digests import Digests, Hashing
from holloway.actors.control_plane.enrolled_agents import EnrolledAgents
from holloway.actors.control_plane.file_store import Measured, Unfinished, open_wanted, require_replaceable
from holloway.actors.control_plane.file_trees import measure_folder
from holloway.actors.control_plane.flood_guard import FloodGuard
from holloway.actors.control_plane.key_files import ServerKeys
from holloway.actors.control_plane.key_watch import KeyWatch
from holloway.actors.control_plane.roster import Roster
from holloway.actors.control_plane.sync_rights import SyncRights
from holloway.actors.control_plane.world import World
from holloway.actors.control_plane.zap import Gate, sender_key, sender_words
from holloway.actors.control_plane.zmq_socket import ZmqSocket
from holloway.actors.state_directory import StateDirectory
from holloway.protocols.control_plane.access import DEFAULT_ACCESS
from holloway.protocols.control_plane.effects import Audit, Send
from holloway.protocols.control_plane.file_messages import BEHIND_A_LINK, NO_SUCH_FILE
from holloway.protocols.control_plane.file_receiver import Discard, Leave, Store, Write
from holloway.protocols.control_plane.file_sender import Read
from holloway.protocols.control_plane.file_service import (
    Close,
    FileLimits,
    FileService,
    Measure,
    Prepare,
    ServiceEffect,
)
from holloway.protocols.control_plane.null_security import Security, principal_of
from holloway.protocols.errors import LocalError

if TYPE_CHECKING:
    from holloway.supervisor import Context

FILE_PORT = 23003
FILES = Path("files")
FOLDER = Path("broker/files")
PARTS = "unfinished"
HIGH_WATER = 128
"""Messages of a quarter of a megabyte that wait for one peer: its transfers have fewer under way."""
BATCH = 16
READERS = 4
"""Threads that read whole files; the others, and what is small, wait for none of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSettings:
    """`root`: that of the broker; files lie below `files` in it."""

    root: Path
    endpoint: str
    limits: FileLimits
    security: Security = Security.CURVE
    rights: SyncRights = field(default_factory=SyncRights)
    enrolled: EnrolledAgents | None = None


@dataclass(frozen=True, slots=True)
class FilesListening:
    """Handle of the running actor."""

    endpoint: str
    service: FileService
    reload: Callable[[], None]


async def serve_files(
    ctx: Context, *, settings: FileSettings, world: World, task_status: trio.TaskStatus[FilesListening]
) -> None:
    """Actor: files. Raises HollowayError for keys or a port that cannot be used."""
    folder = StateDirectory(settings.root / FOLDER)
    server_keys = ServerKeys(settings.root)

    def prepare() -> Roster:
        folder.create()
        (settings.root / FILES).mkdir(mode=0o755, parents=True, exist_ok=True)
        return Roster(server_keys.ensure())

    roster = await trio.to_thread.run_sync(prepare)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        with await trio.to_thread.run_sync(AuditFile, folder.path, ctx.log) as audit:
            hub = _Files(settings, world, folder.file(PARTS), audit)
            keys = KeyWatch(server_keys, roster, ctx.log, hub.hear_gone, enrolled=settings.enrolled)
            hub.roster = roster
            with Gate(context, keys.judge, ctx.log, hub.note_denied) as gate:
                is_null = settings.security is Security.NULL
                pair = None if is_null else CurvePair(roster.keys.public_key, roster.keys.private_key)
                hub.router, endpoint = gate.open_router(settings.endpoint, pair, high_water=HIGH_WATER)
                if not is_null:
                    hub.guard = FloodGuard(endpoint, ctx.log, hub.note_flood)
                try:
                    async with trio.open_nursery() as nursery:
                        hub.nursery = nursery
                        nursery.start_soon(gate.serve)
                        nursery.start_soon(keys.run)
                        nursery.start_soon(hub.run)
                        if hub.guard is not None:
                            nursery.start_soon(hub.guard.run)
                        ctx.log.info("files on %s", endpoint)
                        task_status.started(FilesListening(endpoint, hub.service, keys.look))
                finally:
                    hub.close()
    finally:
        context.term()


class _Files:
    """The pure service, and its open files."""

    router: ZmqSocket
    nursery: trio.Nursery
    roster: Roster

    def __init__(self, settings: FileSettings, world: World, parts: Path, audit: AuditFile) -> None:
        self.service = FileService(DEFAULT_ACCESS, settings.limits, settings.rights.may_read)
        self._root, self._parts = settings.root / FILES, parts
        self._world, self._audit = world, audit
        self._is_null = settings.security is Security.NULL
        self._digests = Digests()
        self._readers = trio.CapacityLimiter(READERS)
        self.guard: FloodGuard | None = None
        self._put: dict[str, Unfinished] = {}
        self._got: dict[str, Measured] = {}
        self._effects: list[ServiceEffect] = []
        self._waiting = trio.CancelScope()

    def hear_gone(self, names: list[str]) -> None:
        """Keys count no more, or may do less."""
        for name in names:
            self._take(self.service.gone(name))

    def note_denied(self, address: str, reason: str, why: str) -> None:
        """Somebody was not let in."""
        self._take(self.service.denied(self._world.moment(), address, reason, why))

    def note_flood(self, who: str, what: str) -> None:
        """A connection was cut off."""
        self._take(self.service.flooded(self._world.moment(), who, what))

    def close(self) -> None:
        """Close every file."""
        for unfinished in self._put.values():
            unfinished.close()
        for measured in self._got.values():
            os.close(measured.descriptor)

    async def run(self) -> None:
        """Take what comes, for ever."""
        while True:
            while self._effects:
                effects, self._effects = self._effects, []
                await self._write_down([each for each in effects if isinstance(each, Audit)])
                for effect in effects:
                    await self._carry_out(effect)
            for frames in await self._arrivals():
                route, *rest = frames
                if self.guard is not None:
                    self.guard.took(frames)
                key = sender_key(frames[-1])
                who = principal_of(route.bytes) if self._is_null else self.roster.principal(key)
                stranger = "" if who else sender_words(frames[-1])
                moment = self._world.moment()
                self._take(self.service.receive(moment, who, route.bytes, [each.bytes for each in rest], stranger))
            due = self.service.next_tick()
            if due is not None and trio.current_time() >= due:
                self._take(self.service.tick(self._world.moment()))

    async def _arrivals(self) -> list[list[zmq.Frame]]:
        due = self.service.next_tick()
        found: list[list[zmq.Frame]] = []
        with trio.CancelScope(deadline=float("inf") if due is None else due) as self._waiting:
            found.append(await self.router.receive_frames())
        while found and len(found) < BATCH and (more := self.router.receive_frames_nowait()) is not None:
            found.append(more)
        return found

    def _take(self, effects: list[ServiceEffect]) -> None:
        self._effects += effects
        if effects:
            self._waiting.cancel()

    async def _write_down(self, entries: list[Audit]) -> None:
        if entries:
            await trio.to_thread.run_sync(self._audit.write, self._world.wall(), entries)

    async def _carry_out(self, effect: ServiceEffect) -> None:
        match effect:
            case Send(route, frames):
                self._send(route, frames)
            case Prepare():
                self.nursery.start_soon(self._prepare, effect)
            case Measure():
                self.nursery.start_soon(self._measure, effect)
            case Read(key, offset, size):
                await self._read(key, offset, size)
            case Write(key, offset, data) if key in self._put:
                await self._on_disk(key, partial(self._put[key].write, offset, data))
            case Store(key) if key in self._put:
                self.nursery.start_soon(self._store, key, self._put.pop(key))
            case Discard(key) if key in self._put:
                await trio.to_thread.run_sync(self._put.pop(key).discard)
            case Leave(key) if key in self._put:
                self._put.pop(key).close()
            case Close(key):
                measured = self._got.pop(key, None)
                if measured is not None:
                    os.close(measured.descriptor)
            case Write() | Store() | Discard() | Leave() | Audit():
                pass  # that transfer has failed meanwhile, or it is written down already
            case _:
                assert_never(effect)

    def _send(self, route: bytes, frames: list[bytes]) -> None:
        """Send at once, or not at all: what is lost is asked for again."""
        try:
            self.router.send_nowait([route, *frames])
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise

    async def _on_disk(self, key: str, work: Callable[[], None]) -> bool:
        """Do it in a thread; whether the disk let us."""
        try:
            await trio.to_thread.run_sync(work)
        except OSError as error:
            self._take(self.service.failed(key, _words(error)))
            return False
        return True

    async def _store(self, key: str, unfinished: Unfinished) -> None:
        """Have a file that is whole under its name; the others do not wait for that."""
        try:
            if await self._on_disk(key, partial(unfinished.store, self._root)):
                self._take(self.service.stored(key))
        finally:
            unfinished.close()

    async def _read(self, key: str, offset: int, size: int) -> None:
        measured = self._got.get(key)
        if measured is None:
            return
        try:
            data = await trio.to_thread.run_sync(os.pread, measured.descriptor, size, offset)
        except OSError as error:
            self._take(self.service.failed(key, _words(error)))
        else:
            self._take(self.service.read(key, offset, data))

    async def _prepare(self, effect: Prepare) -> None:
        """Open what is there of a file that is put, and tell it to the service."""
        key = effect.key
        try:
            await self._prime(effect)
        except OSError as error:
            self._take(self.service.failed(key, _words(error)))
        except LocalError:
            self._take(self.service.failed(key, "what is there of it is something else"))
        self._take(self.service.prepared(self._world.moment(), key))

    async def _prime(self, effect: Prepare) -> None:
        """Have it among the open files once all of it has been read: until then nobody else closes it."""
        key, offset = effect.key, 0
        await trio.to_thread.run_sync(require_replaceable, self._root, effect.parts)
        unfinished = await trio.to_thread.run_sync(Unfinished, self._parts, effect.owner, effect.parts, effect.offer)
        try:

            def read_on() -> int:
                piece = unfinished.read(offset)
                self.service.primed(key, piece)  # nobody else touches what that changes until it is `prepared`
                return len(piece)

            while self.service.has(key) and (size := await trio.to_thread.run_sync(read_on, limiter=self._readers)):
                offset += size
            if self.service.has(key):
                self._put[key] = unfinished
        finally:
            if self._put.get(key) is not unfinished:
                unfinished.close()

    async def _measure(self, effect: Measure) -> None:
        """Open a file that is wanted, and tell the service what it is."""
        try:
            measured = await self._read_whole(effect)
        except OSError as error:
            self._take(self.service.failed(effect.key, _words(error)))
            return
        except LocalError as error:
            self._take(self.service.failed(effect.key, str(error)))
            return
        effects = self.service.measured(self._world.moment(), effect.key, measured.size, measured.sha256, measured.mode)
        if effects:
            self._got[effect.key] = measured
        else:
            os.close(measured.descriptor)
        self._take(effects)

    async def _read_whole(self, effect: Measure) -> Measured:
        if effect.is_tree:
            work = partial(measure_folder, self._root, effect.parts, self._digests, self._parts.parent)
            return await trio.to_thread.run_sync(work, limiter=self._readers)
        descriptor = await trio.to_thread.run_sync(open_wanted, self._root, effect.parts)
        try:
            hashing = Hashing(self._digests, descriptor)
            while not await trio.to_thread.run_sync(hashing.go_on, limiter=self._readers):
                if not self.service.has(effect.key):
                    raise OSError(errno.ECANCELED, "nobody wants it any more")
        except BaseException:
            os.close(descriptor)
            raise
        return Measured(descriptor, hashing.size, hashing.digest, hashing.mode)


def _words(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NO_SUCH_FILE
    if error.errno == errno.ELOOP:
        return BEHIND_A_LINK
    return error.strerror or str(error)
