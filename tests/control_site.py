"""A broker, agents and an operator side by side: their effects carried out at once, in the order in which they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from holloway.protocols.control_plane import messages as m
from holloway.protocols.control_plane.agent import Agent, AgentPolicy
from holloway.protocols.control_plane.broker import Broker
from holloway.protocols.control_plane.broker_policy import BrokerPolicy
from holloway.protocols.control_plane.effects import (
    AgentEffect,
    Audit,
    BrokerEffect,
    Forget,
    Keep,
    Kill,
    Moment,
    Pause,
    Principal,
    Resume,
    Send,
    Serve,
    Start,
)
from holloway.protocols.control_plane.messages import Refusal, Role
from holloway.protocols.control_plane.targets import AgentRecord
from holloway.protocols.control_plane.wire import Message, decode, encode

WALL = 1_700_000_000.0
JOURNAL = "ab" * 16
ANN = Principal("ann", Role.OPERATOR)
BOB = Principal("bob", Role.OPERATOR)
ROOT = Principal("root", Role.ADMIN)


def read(frames: list[bytes]) -> Message:
    message = decode(frames)
    assert not isinstance(message, Refusal)
    return message


def request(number: int) -> str:
    return f"{number:032x}"


def ask(number: int, *words: str, target: str = "all", deadline_s: float = 30.0, **more: object) -> m.Ask:
    """A request for one command."""
    steps = (m.Step(words[0], words[1:]),) if words else ()
    return m.Ask(request(number), steps, target, deadline_s, **more)  # type: ignore[arg-type]


@dataclass
class Node:
    """An agent and what it did. `disk` outlives it."""

    name: str
    agent: Agent
    disk: dict[str, bytes] = field(default_factory=dict)
    started: list[Start] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    paused: list[str] = field(default_factory=list)
    audit: list[Audit] = field(default_factory=list)
    is_cut: bool = False

    @property
    def route(self) -> bytes:
        return b"route of " + self.name.encode()


class Site:
    """All of them. What is sent arrives at once, unless an end is cut off."""

    def __init__(self, *names: str, policy: BrokerPolicy | None = None, agents: AgentPolicy | None = None) -> None:
        self.now = 100.0
        self.policy = policy or BrokerPolicy()
        self.agent_policy = agents or AgentPolicy()
        self.disk: dict[str, bytes] = {}
        self.audit: list[Audit] = []
        self.served: list[Serve] = []
        self.shown: dict[bytes, list[Message]] = {}
        self._lives = 0
        self._is_pumping = False
        self._queue: deque[tuple[str, bytes, list[bytes]]] = deque()
        self.nodes: dict[str, Node] = {}
        self.broker = self._new_broker()
        for name in names:
            self.add(name)

    @property
    def moment(self) -> Moment:
        return Moment(self.now, WALL + self.now)

    def _entropy(self, size: int) -> bytes:
        self._lives += 1
        return self._lives.to_bytes(size, "big")

    def _new_broker(self) -> Broker:
        return Broker(self.policy, self._entropy)

    def add(self, name: str, application: str = "", environment: str = "", roles: tuple[str, ...] = ()) -> Node:
        record = AgentRecord(name, application, environment, roles)
        node = Node(name, Agent(self.agent_policy, record, self._entropy(16).hex(), JOURNAL, "1"))
        self.nodes[name] = node
        self.of_agent(node, node.agent.connected(self.moment))
        return node

    def restart_agent(self, name: str, *, journal: str = JOURNAL, is_wiped: bool = False) -> Node:
        """The process died; its disk is there, unless it `is_wiped`."""
        node = self.nodes[name]
        if is_wiped:
            node.disk.clear()
        record = node.agent._me
        node.agent = Agent(self.agent_policy, record, self._entropy(16).hex(), journal, "1")
        self.of_agent(node, node.agent.restore(self.moment, list(node.disk.items())))
        self.of_agent(node, node.agent.connected(self.moment))
        return node

    def restart_broker(self) -> None:
        """The process died; its disk is there. Nobody knows it yet."""
        self.broker = self._new_broker()
        self.of_broker(self.broker.restore(self.moment, list(self.disk.items())))

    def of_broker(self, effects: Iterable[BrokerEffect]) -> None:
        for effect in effects:
            match effect:
                case Send(route, frames):
                    self._queue.append(("", route, frames))
                case Keep(key, record):
                    self.disk[key] = record
                case Forget(key):
                    del self.disk[key]
                case Audit():
                    self.audit.append(effect)
                case Serve():
                    self.served.append(effect)
        self._pump()

    def of_agent(self, node: Node, effects: Iterable[AgentEffect]) -> None:
        for effect in effects:
            match effect:
                case Send(_, frames):
                    if not node.is_cut:
                        self._queue.append((node.name, node.route, frames))
                case Keep(key, record):
                    node.disk[key] = record
                case Forget(key):
                    del node.disk[key]
                case Start():
                    node.started.append(effect)
                case Kill(job):
                    node.killed.append(job)
                case Pause(job):
                    node.paused.append(job)
                case Resume(job):
                    node.paused.remove(job)
                case Audit():
                    node.audit.append(effect)
        self._pump()

    def _pump(self) -> None:
        if self._is_pumping:  # the one who began carries all that follows
            return
        self._is_pumping = True
        try:
            self._carry()
        finally:
            self._is_pumping = False

    def _carry(self) -> None:
        while self._queue:
            sender, route, frames = self._queue.popleft()
            if sender:
                self.of_broker(self.broker.receive(self.moment, Principal(sender, Role.NODE), route, frames))
                continue
            node = next((node for node in self.nodes.values() if node.route == route), None)
            if node is None:
                self.shown.setdefault(route, []).append(read(frames))
            elif not node.is_cut:
                self.of_agent(node, node.agent.receive(self.moment, frames))

    def say(self, message: Message, who: Principal | None = ANN, route: bytes | None = None) -> list[Message]:
        """Somebody sends a message; what he was shown then."""
        return self.say_frames(encode(message), who, route)

    def say_frames(self, frames: list[bytes], who: Principal | None = ANN, route: bytes | None = None) -> list[Message]:
        route = route or (who.name.encode() if who is not None else b"nobody")
        before = len(self.shown.get(route, []))
        self.of_broker(self.broker.receive(self.moment, who, route, frames))
        return self.shown.get(route, [])[before:]

    def run(self, message: m.Ask, who: Principal = ANN) -> str:
        """Ask for something that is allowed; the job."""
        expect = self.say(message, who)[0]
        assert isinstance(expect, m.Expect), expect
        return expect.job

    def end(self, name: str, job: str, rc: int | None = 0, error: str = "", output: bytes = b"") -> None:
        """The step that runs on a node ends."""
        node = self.nodes[name]
        if output:
            self.of_agent(node, node.agent.output(self.moment, job, m.Stream.STDOUT, output))
        self.of_agent(node, node.agent.ended(self.moment, job, rc, error))

    def wait(self, seconds: float) -> None:
        """Let time pass, with all that is due in it."""
        until = self.now + seconds
        while True:
            due = [self.broker.next_tick(), *(node.agent.next_tick() for node in self.nodes.values())]
            at = max(min((at for at in due if at is not None), default=until), self.now)
            self.now = min(at, until)
            if at > until:
                return
            self.of_broker(self.broker.tick(self.moment))
            for node in self.nodes.values():
                self.of_agent(node, node.agent.tick(self.moment))

    def results(self, who: Principal = ANN) -> dict[str, str]:
        """How the nodes ended, of everything that somebody was shown."""
        found: dict[str, str] = {}
        for message in self.shown.get(who.name.encode(), []):
            if isinstance(message, m.Result):
                assert message.node not in found, "two results of one node"
                found[message.node] = message.state.value
        return found

    def finished(self, who: Principal = ANN) -> dict[str, int] | None:
        for message in self.shown.get(who.name.encode(), []):
            if isinstance(message, m.Finished):
                return {state.value: count for state, count in message.counts.items()}
        return None
