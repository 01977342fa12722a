"""The broker as an actor: the pure `Broker` behind a ROUTER, with its keys, its records and its audit trail.

    ROUTER ─► messages, each with the key it came with ─► Broker ─► effects ─► disk (in a thread) ─► ROUTER

One loop takes what has come, asks the pure object, makes everything that is to be kept durable at once, and then sends. The gate,
the watch over the key file and the loop live and die together: when one of them crashes every socket is closed first, and
the supervisor begins again from what is on disk. Not responsible for what messages mean (`holloway.protocols.control_plane`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import trio
import zmq

from holloway.actors.bounded_log import BoundedLog
from holloway.actors.control_plane.audit_file import AuditFile
from holloway.actors.control_plane.broker_commands import BrokerCommands
from holloway.actors.control_plane.curve import CurvePair
from holloway.actors.control_plane.enrolled_agents import EnrolledAgents
from holloway.actors.control_plane.file_hub import FILES
from holloway.actors.control_plane.first_client import WINDOW_S, FirstClient
from holloway.actors.control_plane.flood_guard import FloodGuard
from holloway.actors.control_plane.key_files import ServerKeys
from holloway.actors.control_plane.key_watch import KeyWatch
from holloway.actors.control_plane.plugins import NO_PLUGINS, Plugins
from holloway.actors.control_plane.record_store import RecordStore
from holloway.actors.control_plane.roster import Roster
from holloway.actors.control_plane.sync_rights import SyncRights
from holloway.actors.control_plane.world import World
from holloway.actors.control_plane.zap import Gate, sender_key, sender_words
from holloway.actors.control_plane.zmq_socket import ZmqSocket
from holloway.actors.state_directory import StateDirectory
from holloway.protocols.control_plane.broker import Broker
from holloway.protocols.control_plane.broker_policy import BrokerPolicy
from holloway.protocols.control_plane.effects import (
    Audit,
    BrokerEffect,
    Claimed,
    Forget,
    Keep,
    Principal,
    Send,
    Serve,
)
from holloway.protocols.control_plane.key_owners import owner_changes, take_owners
from holloway.protocols.control_plane.messages import Admin, Ask, Attach, CancelJob, Denied, Query, Register, Who
from holloway.protocols.control_plane.null_security import WARNING, Security, principal_of
from holloway.protocols.control_plane.refusals import NO_END, Refusals
from holloway.protocols.control_plane.wire import decode, encode
from holloway.protocols.errors import HollowayError
from holloway.protocols.z85 import encode_z85

if TYPE_CHECKING:
    from logging import Logger

    from holloway.supervisor import Context

COMMAND_PORT = 23002
BATCH = 256
"""Messages that are taken at once, and so made durable at once."""
RECORDS = "records.db"
NAMED_AT_ONCE = 16
"""Of agents whom the network lets in, or no more: of more there is one line in the trail."""
NAMES_SHOWN = 20
LOG_LINES = 60
FOLDER = Path("broker")
DEFAULT_POLICY = BrokerPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """What a broker is told. `root`: where its keys, records and audit trail are; `bind`: the address it listens on. Whether that
    may be any address without CURVE is for who makes these.
    """

    root: Path
    bind: str = "127.0.0.1"
    command_port: int = COMMAND_PORT
    first_client_s: float = WINDOW_S
    policy: BrokerPolicy = DEFAULT_POLICY
    security: Security = Security.CURVE
    plugins: Plugins = NO_PLUGINS
    rights: SyncRights = field(default_factory=SyncRights)
    enrolled: EnrolledAgents | None = None
    """Whom the network of this machine lets in, where it is in one. Every node of that learns the broker's key, so that knowing it makes nobody
    the first client who does not come from this machine."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Handle of a running broker: where it listens, and the public key that clients have to be told; empty without CURVE."""

    endpoint: str
    public_key: str
    broker: Broker
    reload: Callable[[], None]
    """Look at the key file at once."""


async def serve_commands(
    ctx: Context, *, settings: BrokerSettings, world: World, task_status: trio.TaskStatus[Listening]
) -> None:
    """Actor: the broker. Raises HollowayError for keys, records or a port that cannot be used."""
    folder = StateDirectory(settings.root / FOLDER)
    server_keys = ServerKeys(settings.root)
    first = FirstClient(server_keys, settings.first_client_s)
    is_null = settings.security is Security.NULL

    def prepare() -> tuple[Roster, float]:
        keys = server_keys.ensure()
        folder.create()
        return Roster(keys), 0.0 if is_null else first.begin(keys, world.wall())

    roster, open_s = await trio.to_thread.run_sync(prepare)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        with (
            await trio.to_thread.run_sync(RecordStore, folder.file(RECORDS)) as store,
            await trio.to_thread.run_sync(AuditFile, folder.path, ctx.log) as audit,
        ):
            hub = _Hub(settings, world, ctx.log, server_keys, roster, first, store, audit)
            with Gate(context, hub.keys.judge, ctx.log, hub.note_denied) as gate:
                await hub.restore()
                settings.rights.ask = hub.broker.may_read
                pair = None if is_null else CurvePair(roster.keys.public_key, roster.keys.private_key)
                public = "" if pair is None else pair.public
                hub.router, endpoint = gate.open_router(endpoint_of(settings.bind, settings.command_port), pair)
                if is_null:
                    hub.note_null(endpoint)
                else:
                    hub.guard = FloodGuard(endpoint, ctx.log, hub.note_flood)
                for problem in settings.plugins.problems:
                    ctx.log.error("%s", problem)
                async with trio.open_nursery() as nursery:
                    hub.nursery = nursery
                    nursery.start_soon(gate.serve)
                    nursery.start_soon(hub.keys.run)
                    nursery.start_soon(hub.run)
                    if hub.guard is not None:
                        nursery.start_soon(hub.guard.run)
                    ctx.log.info("listening on %s; public key %s", endpoint, public or "none")
                    if open_s:
                        whence = "has this key" if settings.enrolled is None else "comes from this machine"
                        ctx.log.warning(
                            "no client is known: the first that %s is let in as admin, within %d s", whence, open_s
                        )
                    task_status.started(Listening(endpoint, public, hub.broker, hub.keys.look))
    finally:
        settings.rights.ask = None
        context.term()  # every socket is closed: it does not wait


def endpoint_of(bind: str, port: int) -> str:
    """Where to listen; port 0 is any that is free."""
    host = f"[{bind}]" if ":" in bind else bind
    return f"tcp://{host}:{port or '*'}"


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A message, and the key that it came with; `stranger`: what is known of who sent it when that is nobody."""

    route: bytes
    key: str | None
    frames: list[bytes]
    stranger: str = ""


class _Hub:
    """The pure broker, and what it needs of the world."""

    router: ZmqSocket
    nursery: trio.Nursery
    guard: FloodGuard | None = None

    def __init__(
        self,
        settings: BrokerSettings,
        world: World,
        log: Logger,
        server_keys: ServerKeys,
        roster: Roster,
        first: FirstClient,
        store: RecordStore,
        audit: AuditFile,
    ) -> None:
        self.broker = Broker(
            replace(settings.policy, access=settings.plugins.access(settings.policy.access)), world.entropy
        )
        self._settings, self._world, self._log = settings, world, log
        self.keys = KeyWatch(server_keys, roster, log, self._hear_gone, self.may_come_first, settings.enrolled)
        self._commands = BrokerCommands(settings.root / FILES, world, self.keys, settings.security, settings.plugins)
        self._later: list[BrokerEffect] = []
        self._first = first
        self._store, self._audit = store, audit
        self._waiting = trio.CancelScope()
        self._gone: list[str] = []
        self._notes: list[Audit] = []
        self._denied = Refusals()
        self._enrolled: set[tuple[str, str]] = set()
        self._kept_out: set[tuple[str, str]] = set()
        self._owners: Mapping[str, str] = {}
        self._enrolled_log = BoundedLog(log, lines=LOG_LINES)

    # Keys.

    async def may_come_first(self, key: str, address: str) -> bool:
        """Whether an unknown key may come so far as to say what it wants: the first client can be anybody; in a network, who comes from
        here and is no agent's."""
        if not self._first.may_admit(self.keys.roster.keys, self._world.wall()):
            return False
        enrolled = self._settings.enrolled
        return enrolled is None or await self._is_ours_and_no_agents(enrolled, key, address)

    async def _is_ours_and_no_agents(self, enrolled: EnrolledAgents, key: str, address: str) -> bool:
        if not enrolled.is_of_this_machine(address):
            return False
        try:
            await enrolled.refresh()  # it may have been enrolled just now
        except HollowayError as error:
            self._log.warning("nobody becomes the first client: %s", error)
            return False
        return key not in enrolled.names

    async def _heed_unknown(self, route: bytes, key: str, frames: list[bytes]) -> list[BrokerEffect]:
        """Who is nobody yet says something: the first who asks for something, as only people do, becomes an admin. An agent never does."""
        wall = self._world.wall()
        if not self._first.may_admit(self.keys.roster.keys, wall):
            return []
        match decode(frames):
            case Ask() | Attach() | CancelJob() | Query() | Admin():
                keys = await self.keys.change(partial(self._first.admit, key, wall, self._world.stamp()))
                if keys is not None:
                    self._log.warning("the first client is let in, as admin: %s", key)
                    self._note(Audit("first-client", "admin", key, "ok"))
            case Register(node):
                why = f"the broker does not know the key of this agent, {key}"
                fix = f"where an admin is: holloway client create --role node --name {node} --public-key '{key}'"
                return [Send(route, encode(Denied("", why, fix)))]
            case _:
                pass
        return []

    def _note_enrolled(self, enrolled: EnrolledAgents) -> None:
        """The network lets in others than before, or the list of keys keeps out others."""
        roster = self.keys.roster
        before, self._enrolled = (
            self._enrolled,
            {(each.name, encode_z85(each.public_key)) for each in roster.enrolled()},
        )
        kept_before, self._kept_out = self._kept_out, {(name, key) for key, name in roster.kept_out().items()}
        for changed, outcome in (
            (before - self._enrolled, "let in no more"),
            (self._enrolled - before, "let in"),
            (self._kept_out - kept_before, "kept out"),
        ):
            if changed:
                self._tell_enrolled(sorted(changed), outcome)
        owners, self._owners = self._owners, enrolled.owners
        self._later += owner_changes(owners, self._owners)

    def _tell_enrolled(self, changed: list[tuple[str, str]], outcome: str) -> None:
        shown = ", ".join(name for name, _ in changed[:NAMES_SHOWN]) + ", …" * (len(changed) > NAMES_SHOWN)
        if outcome == "kept out":
            self._enrolled_log.warning(
                "kept out, though the network would let it in: %s: the list of keys has that name, or that key; to let in one whose name was revoked: holloway client create --role node --name NAME --public-key KEY",
                shown,
            )
        else:
            self._enrolled_log.info("%s by the network: %s", outcome, shown)
        if len(changed) > NAMED_AT_ONCE:
            self._note(Audit("network", "", f"agents of {len(changed)} nodes", outcome))
            return
        for name, key in changed:  # whoever changes his key all the time gets no more lines than others
            self._notes += self._denied.tell(trio.current_time(), Audit("network", name, key, outcome), outcome)

    def _hear_claim(self, claimed: Claimed) -> list[BrokerEffect]:
        """Whoever holds a key says whose it is: where that node says so as well, it is settled, and he may register. Of two who hold
        it the one who is registered with it keeps it."""
        enrolled, key = self._settings.enrolled, encode_z85(claimed.public_key)
        owner = None if enrolled is None else self.broker.agents.get(enrolled.names.get(key, ""))
        if enrolled is None or (owner is not None and owner.route is not None) or not enrolled.said(key, claimed.node):
            return []
        self._enrolled_log.warning(
            "the key %s is of the agent of node %s, as that has shown; who else names it is not heard",
            key,
            claimed.node,
        )
        return [Send(claimed.route, encode(Who()))]

    def _hear_gone(self, names: list[str]) -> None:
        """The list of keys has changed, or whom the network lets in; these may do less than before."""
        self._gone += names
        if self._settings.enrolled is not None:
            self._note_enrolled(self._settings.enrolled)
        self._waiting.cancel()

    def note_denied(self, address: str, reason: str, why: str) -> None:
        """Somebody was not let in. Nobody can flood the trail so."""
        now = trio.current_time()
        self._notes += self._denied.note(now, address, f"handshake: {why}", reason, is_stranger=True)
        self._waiting.cancel()

    def note_flood(self, who: str, what: str) -> None:
        """A connection was cut off."""
        self._notes += self._denied.note(trio.current_time(), who, what, NO_END, is_stranger=True)
        self._waiting.cancel()

    def note_null(self, endpoint: str) -> None:
        """Nobody's key is looked at."""
        self._log.warning("%s", WARNING)
        self._note(Audit("security", "", f"null on {endpoint}", "whoever comes is whom he says"))

    def _note(self, entry: Audit) -> None:
        self._notes.append(entry)
        self._waiting.cancel()

    # The loop.

    async def restore(self) -> None:
        """Go on where an earlier life was."""
        records = await trio.to_thread.run_sync(self._store.load)
        now = self._world.moment()
        owners, bad = take_owners(records)
        self._owners = owners
        if self._settings.enrolled is not None:
            self._settings.enrolled.remember(owners)
        effects = self.broker.restore(now, records.items())
        if bad:
            effects.append(Audit("damaged", "", f"{bad} records of whose keys are", "left out"))
        if self._settings.security is Security.CURVE:  # without, names are nobody's
            effects += self.broker.only(now, self.keys.roster.owners())
        await self._make_durable(effects)
        assert not any(isinstance(each, Send | Serve) for each in effects), "nobody is connected yet"

    async def run(self) -> None:
        """Take what comes, for ever."""
        while True:
            arrivals = await self._arrivals()
            now = self._world.moment()
            effects, self._later = self._later, []
            gone, self._gone = self._gone, []
            for name in gone:  # before what has come since: it is judged by the new list
                effects += self.broker.gone(now, name)
            for arrival in arrivals:
                who = self._who(arrival)
                if who is None and arrival.key is not None:
                    effects += await self._heed_unknown(arrival.route, arrival.key, arrival.frames)
                    who = self._who(arrival)
                effects += self.broker.receive(now, who, arrival.route, arrival.frames, arrival.stranger)
            due = self.broker.next_tick()
            if due is not None and now.at >= due:
                effects += self.broker.tick(now)
            self._notes += self._denied.due(now.at)
            await self._carry_out(effects)

    async def _arrivals(self) -> list[_Arrival]:
        """What has come: at least one message, unless something else is to be done now."""
        due = self.broker.next_tick()
        first: list[zmq.Frame] | None = None
        with trio.CancelScope(deadline=float("inf") if due is None else due) as self._waiting:
            if not self._gone and not self._notes and not self._later:
                first = await self.router.receive_frames()
        return [self._read(frames) for frames in self._burst(first)]

    def _burst(self, first: list[zmq.Frame] | None) -> Iterator[list[zmq.Frame]]:
        if first is not None:
            yield first
        for _ in range(BATCH):
            frames = self.router.receive_frames_nowait()
            if frames is None:
                return
            yield frames

    def _read(self, frames: list[zmq.Frame]) -> _Arrival:
        route, *rest = frames
        if self.guard is not None:
            self.guard.took(frames)
        # Every frame of a message has the properties of its connection.
        key = None if self._settings.security is Security.NULL else sender_key(frames[-1])
        arrival = _Arrival(route.bytes, key, [each.bytes for each in rest])
        return arrival if self._who(arrival) else replace(arrival, stranger=sender_words(frames[-1]))

    def _who(self, arrival: _Arrival) -> Principal | None:
        """Who sent that, as far as is known now."""
        is_null = self._settings.security is Security.NULL
        return principal_of(arrival.route) if is_null else self.keys.roster.principal(arrival.key)

    async def _carry_out(self, effects: list[BrokerEffect]) -> None:
        while effects or self._notes:
            notes, self._notes = self._notes, []
            await self._make_durable([*notes, *effects])
            later: list[BrokerEffect] = []
            for effect in effects:
                match effect:
                    case Send(route, frames):
                        later += self._send(route, frames)
                    case Serve():
                        later += await self._serve(effect)
                    case Claimed():
                        later += self._hear_claim(effect)
                    case Keep() | Forget() | Audit():
                        pass
                    case _:
                        assert_never(effect)
            effects = later

    async def _make_durable(self, effects: Sequence[BrokerEffect]) -> None:
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

    def _send(self, route: bytes, frames: list[bytes]) -> list[BrokerEffect]:
        """Send at once, or not at all: a peer that does not read must not make the others wait."""
        try:
            if self.router.send_nowait([route, *frames]):
                return []
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
        return self.broker.undelivered(self._world.moment(), route, frames)

    async def _serve(self, serve: Serve) -> list[BrokerEffect]:
        """A command that runs here; what is answered. For one that may take a while nobody waits."""
        if self._commands.is_slow(serve.request):
            self.nursery.start_soon(self._serve_later, serve)
            return []
        served = await self._commands.serve(serve)
        self._note(served.entry)
        return [Send(serve.route, frames) for frames in served.messages]

    async def _serve_later(self, serve: Serve) -> None:
        served = await self._commands.serve(serve)
        self._later.append(served.entry)
        if self._settings.security is Security.NULL or self.keys.roster.has(serve.principal):
            self._later += [Send(serve.route, frames) for frames in served.messages]
        self._waiting.cancel()
