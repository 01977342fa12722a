"""What broker and agent want done: they return lists of effects, which their owner carries out in order.

`Keep` and `Forget` are durable before any `Send` or `Start` that follows them in the list. An owner may join the lists of
several calls, make all that is to be kept durable at once, and then do the rest in order. Not responsible for doing any of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from holloway.protocols.control_plane.messages import Admin, Role, Step


@dataclass(frozen=True, slots=True)
class Moment:
    """The time: `at` on a monotonic clock, `wall` in seconds since 1970. Only `wall` outlives a process."""

    at: float
    wall: float


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sent something, as the list of keys says: never what the message says."""

    name: str
    role: Role
    public_key: bytes = field(repr=False, default=b"")


@dataclass(frozen=True, slots=True)
class Send:
    """Send frames; `route` is the routing id at the broker, and empty at an agent."""

    route: bytes
    frames: list[bytes]


@dataclass(frozen=True, slots=True)
class Keep:
    """Have `record` under `key` when the next life begins."""

    key: str
    record: bytes


@dataclass(frozen=True, slots=True)
class Forget:
    """Have nothing under `key` any more."""

    key: str


@dataclass(frozen=True, slots=True)
class Audit:
    """Something to write down: what `event` was, by whom, about what, and how it went. Empty where there is nothing to say."""

    event: str
    who: str
    what: str
    outcome: str
    job: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True)
class Serve:
    """Run a command on the broker: whoever asked may. Answer on `route` with `Answer` or `Denied`."""

    route: bytes
    principal: Principal
    request: Admin


@dataclass(frozen=True, slots=True)
class Start:
    """Start a step of a job, and tell the agent of its outputs and its end. `body`: what it is given to read."""

    job: str
    number: int
    step: Step
    caller: str
    deadline_s: float
    body: bytes


@dataclass(frozen=True, slots=True)
class Kill:
    """End the step of a job that runs now, with every process of it, and tell the agent when it has ended."""

    job: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Read nothing more from the step that runs now, until `Resume`."""

    job: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Read again."""

    job: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """Whoever holds that key says, on `route`, that he is the agent of that node, and his key is called otherwise."""

    route: bytes
    public_key: bytes
    node: str


BrokerEffect: TypeAlias = Send | Keep | Forget | Audit | Serve | Claimed
AgentEffect: TypeAlias = Send | Keep | Forget | Audit | Start | Kill | Pause | Resume
