"""The messages between broker, agents and operators: frozen values, and the frames that carry them.

A message is three frames, `[b"HW1", header, body]`: the header is a JSON object of at most 64 KiB in ASCII, with the kind
under "kind" and exactly the fields of that kind; the body is bytes. The exact bytes are in docs/control_plane.md. Who may send
what is not decided here, and nothing that a message says of its sender is believed. `node` of `Register` only keeps out those whose key is
called otherwise.

    agent → broker      Register Heartbeat Taken Output Done
    broker → agent      Registered Who Replaced Run Cancel Seen Noted
    operator → broker   Ask Attach CancelJob Seen Query Admin
    broker → operator   Expect NodeOutput Result Finished Answer Denied

Times on the wire are wall seconds since 1970 for `issued_at` and `expires_at`, and durations in seconds otherwise.
Not responsible for the order of messages (`broker`, `agent`) nor for files (`files`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

Options: TypeAlias = Mapping[str, str | int | float | bool]
"""Options of a command: short names, plain values."""
Document: TypeAlias = Mapping[str, object]
"""A JSON object that the command line shows: answers, records."""

NO_JOB = ""
"""In `Expect`: what was asked for is a dry run, and nothing follows."""


class State(Enum):
    """How a job ended on one node."""

    OK = "ok"
    FAILED = "failed"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed-out"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class Stream(Enum):
    """Where a process wrote to."""

    STDOUT = "stdout"
    STDERR = "stderr"


class Role(Enum):
    """What a key may be used for, as the broker's list of keys says."""

    NODE = "node"
    OPERATOR = "operator"
    ADMIN = "admin"


class Refusal(Enum):
    """Why frames are no message; the value is the name under which it is counted."""

    FRAME_COUNT = "control_frame_count"
    VERSION = "control_version"
    TOO_BIG = "control_too_big"
    NOT_JSON = "control_not_json"
    KIND = "control_unknown_kind"
    FIELD = "control_bad_field"
    BODY = "control_unexpected_body"


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a job; a job has one, or several that run in order until one fails."""

    command: str
    arguments: tuple[str, ...] = ()
    options: Options = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepEnd:
    """How one step ended."""

    state: State
    rc: int | None = None
    duration_s: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Rollout:
    """Not everybody at once. All zero means everybody at once.

    `batch`: so many nodes at a time, or so many of a hundred when `is_percent`. `canary`: so many nodes first, and the rest
    only if all of them were ok. `max_fail`: stop when more than so many nodes were not ok; -1 never stops.
    """

    batch: int = 0
    is_percent: bool = False
    canary: int = 0
    max_fail: int = -1


# From an agent.


@dataclass(frozen=True, slots=True)
class Register:
    """The agent is there. `node`: what it is called there, which counts only where its key is called the same. `boot`: this life of
    it; `journal`: the journal on its disk, which outlives it."""

    node: str
    application: str
    environment: str
    roles: tuple[str, ...]
    boot: str
    journal: str
    version: str
    commands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The agent is still there."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The agent has the job in its journal and begins it."""

    job: str


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes that a step wrote. `sequence` counts the outputs of the job from 1."""

    job: str
    step: int
    stream: Stream
    sequence: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """How the job ended; repeated until `Noted`. `steps`: those that began. `outputs`: how many `Output` there were in all.
    `is_truncated`: the agent threw output away; `digest`: SHA-256 of the bodies of all outputs, in order.
    """

    job: str
    state: State
    rc: int | None
    duration_s: float
    error: str
    steps: tuple[StepEnd, ...]
    outputs: int
    is_truncated: bool
    digest: str


# To an agent.


@dataclass(frozen=True, slots=True)
class Registered:
    """The broker knows the agent and expects a sign of life every `heartbeat_s`. `name`: what the broker calls it; an agent that is called
    otherwise is not registered by it."""

    name: str
    heartbeat_s: float


@dataclass(frozen=True, slots=True)
class Who:
    """The broker does not know this connection: register."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """A younger connection has registered with the same key; this one gets no more jobs."""


@dataclass(frozen=True, slots=True)
class Run:
    """Run the steps, once. `caller` and `role`: who asked. Begin before `expires_at`; end within `deadline_s` of beginning.
    `body`: what the first step reads, if it reads anything.
    """

    job: str
    steps: tuple[Step, ...]
    caller: str
    role: Role
    target: str
    issued_at: float
    expires_at: float
    deadline_s: float
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop the job, or never begin it."""

    job: str


@dataclass(frozen=True, slots=True)
class Noted:
    """The broker has the end safe: it need not be repeated."""

    job: str


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything up to `position` has arrived: outputs of an agent (their `sequence`), or what an operator was shown of a
    job. So many may be under way beyond it as the window allows.
    """

    job: str
    position: int


# From an operator.


@dataclass(frozen=True, slots=True)
class Ask:
    """Run the steps on all nodes of `target`. `request`: a random name; the same again is the same job, not another one.

    `retry`: only the nodes of that job that were not ok, and its steps if there are none here.
    """

    request: str
    steps: tuple[Step, ...]
    target: str
    deadline_s: float
    rollout: Rollout = field(default_factory=Rollout)
    is_dry_run: bool = False
    retry: str = NO_JOB
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Attach:
    """Show the job from the first thing after `position` in the broker's life `life`; of another life, from the start."""

    request: str
    job: str
    life: str = ""
    position: int = 0


@dataclass(frozen=True, slots=True)
class CancelJob:
    """Cancel the job everywhere."""

    request: str
    job: str


@dataclass(frozen=True, slots=True)
class Query:
    """What the broker knows: `what` is `clients`, `jobs` or `job`, with options of its own."""

    request: str
    what: str
    options: Options = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Admin:
    """A command that runs on the broker itself, with its disk: keys, configuration of applications, plugins."""

    request: str
    command: str
    arguments: tuple[str, ...] = ()
    options: Options = field(default_factory=dict)
    body: bytes = b""


# To an operator.


@dataclass(frozen=True, slots=True)
class Expect:
    """The job, and the nodes it concerns. First of what is shown of a job. `life`: this life of the broker."""

    request: str
    job: str
    life: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeOutput:
    """Bytes that a node wrote. `position` counts what is shown of the job from 1; a gap is output that was thrown away."""

    job: str
    position: int
    node: str
    step: int
    stream: Stream
    body: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """How the job ended on one node. `is_truncated`: not all output reached the broker, or the agent threw some away."""

    job: str
    position: int
    node: str
    state: State
    rc: int | None
    duration_s: float
    error: str
    steps: tuple[StepEnd, ...]
    is_truncated: bool
    digest: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The last that is shown of a job: how many nodes ended how; the states that are missing have none."""

    job: str
    position: int
    counts: Mapping[State, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a `Query` or an `Admin`. Long ones come in parts, numbered from 1; `document` has the rows of the part."""

    request: str
    part: int
    is_last: bool
    document: Document
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Denied:
    """The request is refused; `fix` is what to do about it."""

    request: str
    why: str
    fix: str = ""


FromAgent: TypeAlias = Register | Heartbeat | Taken | Output | Done
ToAgent: TypeAlias = Registered | Who | Replaced | Run | Cancel | Seen | Noted
FromOperator: TypeAlias = Ask | Attach | CancelJob | Seen | Query | Admin
ToOperator: TypeAlias = Expect | NodeOutput | Result | Finished | Answer | Denied
Message: TypeAlias = FromAgent | ToAgent | FromOperator | ToOperator
Frames: TypeAlias = Sequence[bytes]
