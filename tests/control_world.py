"""A broker, agents and operators in one process, over real ZeroMQ sockets with real CURVE on loopback, for tests.

Not responsible for what a test expects of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio
import zmq

from holloway.actors.control_plane.agent import AgentSettings, run_jobs
from holloway.actors.control_plane.broker import BrokerSettings, Listening, endpoint_of, serve_commands
from holloway.actors.control_plane.broker_follower import Network
from holloway.actors.control_plane.curve import CurvePair, new_pair
from holloway.actors.control_plane.enrolled_agents import EnrolledAgents
from holloway.actors.control_plane.file_hub import FileSettings, FilesListening, serve_files
from holloway.actors.control_plane.key_files import ServerKeys, with_client
from holloway.actors.control_plane.link import Broker, Link
from holloway.actors.control_plane.plugins import NO_PLUGINS, Plugins
from holloway.actors.control_plane.programs import ProgramPolicy
from holloway.actors.control_plane.sync_rights import SyncRights
from holloway.actors.control_plane.world import World
from holloway.protocols.control_plane.agent import Agent, AgentPolicy
from holloway.protocols.control_plane.broker_policy import BrokerPolicy
from holloway.protocols.control_plane.file_service import FileLimits
from holloway.protocols.control_plane.messages import (
    Ask,
    Denied,
    Finished,
    Message,
    NodeOutput,
    Refusal,
    Result,
    Role,
    Seen,
    Step,
    Stream,
)
from holloway.protocols.control_plane.targets import AgentRecord
from holloway.protocols.control_plane.wire import decode, encode
from holloway.supervisor import Child, Intensity, Supervisor, Tree, open_tree

NOW = "2026-11-22T12:00:00Z"
WORLD = World(time.time, os.urandom)
REAL = 15.0
"""Seconds of real time after which something has gone wrong."""


def token() -> str:
    return os.urandom(16).hex()


def alone(name: str, run: Any) -> Supervisor:
    """A tree of one actor that may fail as often as it likes."""
    return Supervisor(
        [Child(name=name, run=run, stop_grace=8.0, start_timeout=60.0)], name="root", intensity=Intensity(restarts=100)
    )


@dataclass
class Answers:
    """What a job came to, as an operator saw it."""

    job: str = ""
    nodes: tuple[str, ...] = ()
    results: dict[str, Result] = field(default_factory=dict)
    outputs: dict[tuple[str, Stream], bytes] = field(default_factory=dict)
    denied: Denied | None = None
    finished: Finished | None = None


class Operator:
    """One connection with one key."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def send(self, message: Message) -> None:
        await self.link.send(encode(message))

    async def receive(self) -> Message:
        with trio.fail_after(REAL):
            message = decode(await self.link.receive())
        assert not isinstance(message, Refusal)
        return message

    async def run(self, *steps: Step, target: str = "all", deadline_s: float = 10.0, request: str = "") -> Answers:
        """Ask, and everything that comes of it."""
        answers = Answers()
        await self.send(Ask(request or token(), steps, target, deadline_s))
        while answers.finished is None and answers.denied is None:
            message = await self.receive()
            match message:
                case Denied():
                    answers.denied = message
                case Finished():
                    answers.finished = message
                case Result():
                    assert message.node not in answers.results, "a result came twice"
                    answers.results[message.node] = message
                case NodeOutput():
                    key = message.node, message.stream
                    answers.outputs[key] = answers.outputs.get(key, b"") + message.body
                case _:
                    answers.job, answers.nodes = message.job, message.nodes  # type: ignore[union-attr]
            if isinstance(message, NodeOutput | Result | Finished):
                await self.send(Seen(message.job, message.position))
        return answers


@dataclass
class ControlWorld:
    """The broker's files, and what runs."""

    root: Path
    server: CurvePair
    keys: ServerKeys
    port: int = 0
    file_port: int = 0
    policy: BrokerPolicy = field(default_factory=BrokerPolicy)
    plugins: Plugins = NO_PLUGINS
    rights: SyncRights = field(default_factory=SyncRights)
    max_sync_bytes: int = 1 << 30
    enrolled: EnrolledAgents | None = None
    clients: zmq.Context[zmq.Socket[bytes]] = field(default_factory=zmq.Context)
    closing: ExitStack = field(default_factory=ExitStack)

    def admit(self, name: str, role: Role) -> CurvePair:
        """A key of that role in the broker's list."""
        pair = new_pair()
        self.keys.change(lambda keys: with_client(keys, name, role, pair.public, NOW))
        return pair

    def broker_for(self, pair: CurvePair) -> Broker:
        return Broker("127.0.0.1", self.port, pair, self.server.public, "me.yml", file_port=self.file_port or 23003)

    @asynccontextmanager
    async def broker(self, *, first_client_s: float = 0.0) -> AsyncIterator[Tree]:
        """The broker, running; on the same port each time."""
        settings = BrokerSettings(
            root=self.root,
            command_port=self.port,
            policy=self.policy,
            first_client_s=first_client_s,
            plugins=self.plugins,
            rights=self.rights,
            enrolled=self.enrolled,
        )
        async with open_tree(alone("broker", partial(serve_commands, settings=settings, world=WORLD))) as tree:
            self.port = int(self.listening(tree).endpoint.rpartition(":")[2])
            yield tree

    @asynccontextmanager
    async def files(self, limits: FileLimits | None = None) -> AsyncIterator[FilesListening]:
        """The broker's files, running; on the same port each time."""
        endpoint = endpoint_of("127.0.0.1", self.file_port)
        settings = FileSettings(
            root=self.root, endpoint=endpoint, limits=limits or FileLimits(), rights=self.rights, enrolled=self.enrolled
        )
        async with open_tree(alone("files", partial(serve_files, settings=settings, world=WORLD))) as tree:
            listening = tree.ref("files").get()
            assert isinstance(listening, FilesListening)
            self.file_port = int(listening.endpoint.rpartition(":")[2])
            yield listening

    def listening(self, tree: Tree) -> Listening:
        listening = tree.ref("broker").get()
        assert isinstance(listening, Listening)
        return listening

    @asynccontextmanager
    async def agent(
        self,
        name: str,
        pair: CurvePair | None = None,
        policy: AgentPolicy | None = None,
        network: Network | None = None,
        **record: Any,
    ) -> AsyncIterator[Tree]:
        """An agent, registered unless `pair` is given; with a network it does not know where the broker is."""
        key = pair or self.admit(name, Role.NODE)
        root = self.root.parent / f"agent-{name}"
        commands = (*AgentPolicy().commands, *self.plugins.on_nodes)
        settings = AgentSettings(
            root=root,
            me=AgentRecord(name, **record),
            broker=self.broker_for(key) if network is None else Broker("", 0, key, "", "me.yml"),
            network=network,
            version="1",
            policy=policy or AgentPolicy(commands=commands, access=self.plugins.access()),
            programs=ProgramPolicy(name, files=root / "files", commands=self.plugins.on_nodes),
            max_sync_bytes=self.max_sync_bytes,
        )
        async with open_tree(alone("agent", partial(run_jobs, settings=settings, world=WORLD))) as tree:
            if pair is None:
                agent = tree.ref("agent").get()
                assert isinstance(agent, Agent)
                await until(lambda: agent.is_registered)
            yield tree

    def operator(self, pair: CurvePair) -> Operator:
        """A connection with that key, which is closed with the world."""
        return Operator(self.closing.enter_context(Link(self.clients, self.broker_for(pair))))


async def until(holds: Callable[[], bool], seconds: float = REAL) -> None:
    """Wait for something that tells nobody."""
    with trio.fail_after(seconds):
        while not holds():  # noqa: ASYNC110
            await trio.sleep(0.01)


@asynccontextmanager
async def control_world(folder: Path, **more: Any) -> AsyncIterator[ControlWorld]:
    """A world with its keys, and nothing that runs yet."""
    keys = ServerKeys(folder / "broker")
    made = keys.ensure()
    world = ControlWorld(folder / "broker", CurvePair(made.public_key, made.private_key), keys, **more)
    try:
        async with AsyncExitStack() as stack:
            stack.callback(world.closing.close)
            yield world
    finally:
        world.clients.term()
