"""The agents that a broker knows: by the name that their key has, never by what they say.

An agent is `live` while signs of life come, stale after three that did not, and forgotten after a day. Of two connections
with one key the youngest counts. Registrations are durable, so that a broker that comes back knows whom to expect: an agent that
it has not heard of since then is live for as long as a live one may be silent.

Not responsible for what agents run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from holloway.protocols.control_plane.effects import Moment
from holloway.protocols.control_plane.fields import COMMANDS, LABEL, MAX_NODES, NAME, ROLES, TOKEN, VERSION, WALL
from holloway.protocols.control_plane.jobs import read_record, write_record
from holloway.protocols.control_plane.messages import Register
from holloway.protocols.control_plane.targets import AgentRecord, Target

MISSED_HEARTBEATS = 3
REAPED_AFTER_S = 86_400.0
_FORMS = {
    "application": LABEL,
    "environment": LABEL,
    "roles": ROLES,
    "boot": TOKEN,
    "journal": TOKEN,
    "version": VERSION,
    "commands": COMMANDS,
    "heard_at": WALL,
}


@dataclass(slots=True)
class Agent:
    """One agent. `route` is None until it has registered in this life of the broker; `older`: a connection that a younger one
    has replaced. `heard_at` is monotonic, `heard_wall` is not.
    """

    record: AgentRecord
    register: Register
    route: bytes | None
    heard_at: float
    heard_wall: float
    older: bytes | None = None


class Agents:
    """All of them. `heartbeat_s`: how often they say that they are there."""

    def __init__(self, heartbeat_s: float) -> None:
        self.heartbeat_s = heartbeat_s
        self._agents: dict[str, Agent] = {}
        self._by_route: dict[bytes, Agent] = {}

    def __len__(self) -> int:
        return len(self._agents)

    def __iter__(self) -> Iterator[Agent]:
        return iter(self._agents.values())

    def get(self, name: str) -> Agent | None:
        """The agent of that name."""
        return self._agents.get(name)

    def is_live(self, agent: Agent, now: Moment) -> bool:
        """Whether it may be expected to answer."""
        return now.at - agent.heard_at < MISSED_HEARTBEATS * self.heartbeat_s

    def chosen(self, target: Target) -> list[Agent]:
        """Those that are meant, in the order of their names."""
        return sorted(
            (agent for agent in self._agents.values() if target.fits(agent.record)), key=lambda each: each.record.name
        )

    def register(self, now: Moment, name: str, route: bytes, message: Register) -> tuple[Agent, bytes | None] | None:
        """An agent registers. Gives the agent, and the connection of another process that this one replaces; None when there
        are too many agents.
        """
        known = self._agents.get(name)
        if known is None and len(self._agents) >= MAX_NODES:
            return None
        replaced = known.route if known is not None and known.route != route else None
        if known is not None and known.register.boot == message.boot:
            replaced = None  # the same process has connected again, so nobody is at the other end
        record = AgentRecord(name, message.application, message.environment, message.roles)
        agent = Agent(record, message, route, now.at, now.wall, replaced or (known.older if known else None))
        if known is not None and known.route is not None:
            self._by_route.pop(known.route, None)
        self._agents[name] = self._by_route[route] = agent
        return agent, replaced

    def lost(self, route: bytes) -> Agent | None:
        """A connection is gone. Whose it was."""
        agent = self._by_route.pop(route, None)
        if agent is not None:
            agent.route = None
        return agent

    def hear(self, now: Moment, agent: Agent) -> None:
        """A sign of life."""
        agent.heard_at, agent.heard_wall = now.at, now.wall

    def remove(self, name: str) -> bool:
        """Forget an agent; whether there was one."""
        agent = self._agents.pop(name, None)
        if agent is not None and agent.route is not None:
            self._by_route.pop(agent.route, None)
        return agent is not None

    def too_old(self, now: Moment) -> list[str]:
        """Those that are to be forgotten."""
        return [name for name, agent in self._agents.items() if now.at - agent.heard_at >= REAPED_AFTER_S]

    def to_record(self, agent: Agent) -> tuple[str, bytes]:
        """Key and record of an agent."""
        message = agent.register
        fields: dict[str, object] = {name: getattr(message, name) for name in _FORMS if name != "heard_at"}
        return f"agent/{agent.record.name}", write_record(fields | {"heard_at": agent.heard_wall})

    def restore(self, now: Moment, name: str, record: bytes) -> bool:
        """Know an agent of an earlier life again; False when the record is none. It has the time of a live one to come back."""
        read = read_record(record, _FORMS)
        if read is None or not NAME.match(name) or len(self._agents) >= MAX_NODES:
            return False
        fields = dict(read[0])
        heard_wall = fields.pop("heard_at")
        assert isinstance(heard_wall, float)
        message = Register(name, **fields)  # type: ignore[arg-type]  # each was read by the form of its field
        known = AgentRecord(name, message.application, message.environment, message.roles)
        self._agents[name] = Agent(known, message, None, now.at, heard_wall)
        return True
