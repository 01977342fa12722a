"""The agent as an actor: the pure `Agent` behind a DEALER, with its journal, its audit trail and the programs that it runs.

    DEALER ─► messages ─► Agent ─► effects ─► journal (in a thread) ─► DEALER, programs
    programs ─► output, ends ─► Agent

What a program writes and how it ends is told to the pure object at once; what that wants done is carried out by one loop, in
order, after everything that is to be kept is durable. While there is no connection nothing is sent, and nothing waits for it: the
pure object tells again what may have been lost. Not responsible for what messages mean (`holloway.protocols.control_plane.agent`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import trio
import zmq

from holloway.actors.bounded_log import BoundedLog
from holloway.actors.control_plane.audit_file import AuditFile
from holloway.actors.control_plane.broker_follower import Network, broker_of, follow_brokers
from holloway.actors.control_plane.leftovers import end_leftovers
from holloway.actors.control_plane.link import Broker, Link, explained
from holloway.actors.control_plane.met import note_meeting
from holloway.actors.control_plane.monitor import Change
from holloway.actors.control_plane.processes import Reins, run_program
from holloway.actors.control_plane.programs import ProgramMaker, ProgramPolicy
from holloway.actors.control_plane.record_store import RecordStore
from holloway.actors.control_plane.sync import SyncPlace, sync_folder
from holloway.actors.control_plane.world import World
from holloway.actors.state_directory import StateDirectory
from holloway.protocols.control_plane.agent import Agent, AgentPolicy
from holloway.protocols.control_plane.agent_journal import begun_in
from holloway.protocols.control_plane.effects import (
    AgentEffect,
    Audit,
    Forget,
    Keep,
    Kill,
    Pause,
    Resume,
    Send,
    Start,
)
from holloway.protocols.control_plane.messages import Denied, Registered, Replaced, Stream
from holloway.protocols.control_plane.network_view import KnownBroker
from holloway.protocols.control_plane.null_security import WARNING
from holloway.protocols.control_plane.targets import AgentRecord
from holloway.protocols.control_plane.wire import decode
from holloway.protocols.errors import LocalError

if TYPE_CHECKING:
    from holloway.supervisor import Context

JOURNAL = "journal.db"
FILES = Path("files")
"""What was synced, below the root."""
FOLDER = Path("agent")
TOKEN_BYTES = 16
BATCH = 64
_JOURNAL_NAME = "journal"
"""Key of the record that names the journal; the others are the pure agent's, and have a slash or are called otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """What an agent is told. `root`: where its journal, its audit trail and what it syncs are. `max_sync_bytes`: of one folder."""

    root: Path
    me: AgentRecord
    broker: Broker
    version: str
    policy: AgentPolicy
    programs: ProgramPolicy
    max_sync_bytes: int = 4 << 30
    network: Network | None = None
    """Where to hear who the broker is: then `broker` is not known to begin with."""

    @property
    def files(self) -> Path:
        """Below it folders are synced."""
        return self.root / FILES


async def run_jobs(ctx: Context, *, settings: AgentSettings, world: World, task_status: trio.TaskStatus[Agent]) -> None:
    """Actor: the agent. Ready when it can run jobs, whether there is a broker or not. Told to stop, it ends what it runs, and
    says so to the broker. Raises HollowayError for a journal that cannot be used.
    """
    folder = StateDirectory(settings.root / FOLDER)
    await trio.to_thread.run_sync(folder.create)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        with (
            await trio.to_thread.run_sync(RecordStore, folder.file(JOURNAL)) as store,
            await trio.to_thread.run_sync(AuditFile, folder.path, ctx.log) as audit,
        ):
            records = await trio.to_thread.run_sync(store.load)
            name = records.pop(_JOURNAL_NAME, b"").decode("ascii", "replace")
            if len(name) != 2 * TOKEN_BYTES:
                name = world.entropy(TOKEN_BYTES).hex()
                await trio.to_thread.run_sync(store.commit, [Keep(_JOURNAL_NAME, name.encode())])
            left = await trio.to_thread.run_sync(end_leftovers, settings.programs.node, begun_in(records.items()))
            agent = Agent(settings.policy, settings.me, world.entropy(TOKEN_BYTES).hex(), name, settings.version)
            with Link(context, settings.broker) as link:
                hands = _Hands(settings, world, ctx, agent, link, store, audit, context)
                for job, count in left.items():
                    ctx.log.warning(
                        "ended %d processes of job %s, which was begun before the agent was killed", count, job
                    )
                    hands.take(
                        [Audit("leftover", "", f"{count} processes of an earlier life", "ended", job, settings.me.name)]
                    )
                hands.take(agent.restore(world.moment(), records.items()))
                if settings.broker.pair is None:
                    ctx.log.warning("%s", WARNING)
                    hands.take([Audit("security", settings.me.name, "null", "whoever answers is taken for the broker")])
                async with trio.open_nursery() as nursery:
                    hands.nursery = nursery
                    nursery.start_soon(link.watch, hands.heed_link)
                    if settings.network is not None and settings.broker.pair is not None:
                        nursery.start_soon(
                            follow_brokers, settings.network, settings.broker.pair, hands.redirect, ctx.log
                        )
                    nursery.start_soon(hands.run)
                    task_status.started(agent)
                    await ctx.stopping.wait()
                    await hands.stop()
                    nursery.cancel_scope.cancel()
    finally:
        context.term()


class _Hands:
    """The pure agent, and what it needs of the world."""

    nursery: trio.Nursery

    def __init__(
        self,
        settings: AgentSettings,
        world: World,
        ctx: Context,
        agent: Agent,
        link: Link,
        store: RecordStore,
        audit: AuditFile,
        context: zmq.Context[zmq.Socket[bytes]],
    ) -> None:
        self._context = context
        self._settings, self._world, self._log = settings, world, BoundedLog(ctx.log)
        self._agent, self._link, self._store, self._audit = agent, link, store, audit
        self._maker = ProgramMaker(settings.programs)
        self._reins: dict[str, Reins] = {}
        self._effects: list[AgentEffect] = []
        self._waiting = trio.CancelScope()
        self._told = ""
        self._is_stopping = False
        self._rested = trio.Event()

    def take(self, effects: list[AgentEffect]) -> None:
        """What the pure agent wants done. Whether a program is read is decided at once, the rest is carried out in order."""
        for effect in effects:
            match effect:
                case Pause(job) if job in self._reins:
                    self._reins[job].pause()
                case Resume(job) if job in self._reins:
                    self._reins[job].resume()
                case Pause() | Resume():
                    pass  # it has ended meanwhile
                case _:
                    self._effects.append(effect)
        if self._effects:
            self._waiting.cancel()

    def redirect(self, found: KnownBroker | None) -> None:
        """The network has another broker, or none that is to be obeyed."""
        nowhere = self._settings.broker
        assert nowhere.pair is not None, "a network's brokers have keys"
        self._link.redirect(nowhere if found is None else broker_of(found, nowhere.pair, nowhere.keys))
        who, what = ("", "none") if found is None else (found.node, f"{found.place.where} {found.place.curve_key}")
        self.take([Audit("broker", who, what, "obeyed from now on")])

    def heed_link(self, change: Change) -> None:
        """The connection has changed."""
        if change is Change.CONNECTED:
            self._log.info("connected to the broker at %s", self._link.broker.place)
            if self._link.broker.pair is not None:
                self.nursery.start_soon(self._note_meeting)
            self.take(self._agent.connected(self._world.moment()))
        elif change is Change.DISCONNECTED:
            self._log.warning("the broker at %s has gone", self._link.broker.place)
        elif change is Change.UNKNOWN_KEY and self._settings.network is not None:
            self._log.warning(
                "the broker at %s does not know our key: the record of this node has not come to it yet, or the node was revoked",
                self._link.broker.place,
            )
        else:
            why = explained(change, self._link.broker)
            self._log.warning("%s: %s; %s", why.what, why.why, why.fix)

    async def _note_meeting(self) -> None:
        broker, wall = self._link.broker, self._world.wall()
        await trio.to_thread.run_sync(note_meeting, Path(broker.keys), broker.place, broker.public, wall)

    async def stop(self) -> None:
        """End every program, and say so. Bounded by what the programs are given to end."""
        self._is_stopping = True
        for reins in self._reins.values():
            reins.stop()
        self._waiting.cancel()
        await self._rested.wait()

    # The loop.

    async def run(self) -> None:
        """Take what comes, until told to stop and nothing runs any more."""
        while True:
            while self._effects:
                effects, self._effects = self._effects, []
                await self._make_durable(effects)
                for effect in effects:
                    self._carry_out(effect)
            if self._is_stopping and not self._reins:
                break
            for frames in await self._arrivals():
                self._heed_broker(frames)
                self.take(self._agent.receive(self._world.moment(), frames))
            now, due = self._world.moment(), self._agent.next_tick()
            if due is not None and now.at >= due:
                self.take(self._agent.tick(now))
        self._rested.set()

    async def _arrivals(self) -> list[list[bytes]]:
        due = self._agent.next_tick()
        first: list[bytes] | None = None
        with trio.CancelScope(deadline=float("inf") if due is None else due) as self._waiting:
            first = await self._link.receive()
        return [] if first is None else [first, *self._burst()]

    def _burst(self) -> Iterator[list[bytes]]:
        for _ in range(BATCH):
            frames = self._link.receive_nowait()
            if frames is None:
                return
            yield frames

    def _heed_broker(self, frames: list[bytes]) -> None:
        """What a person should know of what the broker says."""
        match decode(frames):
            case Registered(name) if name != self._settings.me.name:
                own = self._settings.me.name
                if self._settings.network is not None:
                    self._tell_once(
                        f"the broker takes our key for that of node {name}, and this is {own}: no jobs are run; does the record of {name} name our key?"
                    )
                else:
                    self._tell_once(
                        f"our key is called {name} at the broker, and this agent {own}: no jobs are run; --name {name}"
                    )
            case Denied(_, why, fix):
                self._tell_once(f"not let in: {why}; {fix}")
            case Registered(name) if not self._agent.is_registered:
                self._log.info("registered as %s", name)
                self._told = ""
            case Replaced():
                self._log.error("another agent uses the same key: this one keeps still for a while")
            case _:
                pass

    def _tell_once(self, text: str) -> None:
        """An error that the broker repeats."""
        if text != self._told:
            self._log.error("%s", text)
        self._told = text

    async def _make_durable(self, effects: list[AgentEffect]) -> None:
        changes = [each for each in effects if isinstance(each, Keep | Forget)]
        entries = [each for each in effects if isinstance(each, Audit)]
        if not changes and not entries:
            return

        def work() -> None:
            if changes:
                self._store.commit(changes)
            if entries:
                self._audit.write(self._world.wall(), entries)

        await trio.to_thread.run_sync(work)

    def _carry_out(self, effect: AgentEffect) -> None:
        match effect:
            case Send(_, frames):
                self._link.send_nowait(frames)  # what is lost is told again
            case Start(job):
                self._reins[job] = reins = Reins()
                if self._is_stopping:
                    reins.stop()
                self.nursery.start_soon(self._run_step, effect, reins)
            case Kill(job):
                if job in self._reins:
                    self._reins[job].stop()
            case Keep() | Forget() | Audit() | Pause() | Resume():
                pass
            case _:
                assert_never(effect)

    # Steps.

    async def _run_step(self, start: Start, reins: Reins) -> None:
        def write(stream: Stream, data: bytes) -> None:
            self.take(self._agent.output(self._world.moment(), start.job, stream, data))

        code: int | None
        error: str
        if start.step.command == "echo":
            write(Stream.STDOUT, (" ".join(start.step.arguments) + "\n").encode(errors="surrogateescape"))
            code, error = 0, ""
        elif start.step.command == "sync":
            place = SyncPlace(self._settings.files, self._link.broker.of_files, self._settings.max_sync_bytes)
            code, error = await sync_folder(self._context, place, self._world, start, reins, write)
        else:
            code, error = await self._run_program(start, reins, write)
        if self._reins.get(start.job) is reins:
            del self._reins[start.job]
        self.take(self._agent.ended(self._world.moment(), start.job, code, error))
        self._waiting.cancel()

    async def _run_program(
        self, start: Start, reins: Reins, write: Callable[[Stream, bytes], None]
    ) -> tuple[int | None, str]:
        try:
            program = await self._maker.make(start, reins)
        except LocalError as error:
            return None, "the agent was stopped" if self._is_stopping else str(error)
        ended = await run_program(program, reins, write)
        if ended.code is None and self._is_stopping:
            return None, "the agent was stopped"
        return ended.code, ended.error
