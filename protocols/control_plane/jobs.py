"""Jobs as the broker keeps them: what was asked, of which nodes, and how each of them ended; and their durable form.

    job/ID          what was asked, by whom, of which nodes; written again when the job is cancelled, or barred
    sent/ID/WAVE    that the job was about to be sent to these nodes, and the journal of each
    end/ID/NODE     how it ended on one node

A record is a line of JSON; after that of a job come the bytes for its first step. Records are read as strictly as messages:
what is damaged is None, and the broker counts it. Not responsible for what is shown of a job (`job_log`), nor for when it
goes on (`broker`).
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from holloway.protocols.control_plane.fields import (
    DEADLINE,
    DIGEST,
    DURATION,
    ENDS,
    ERROR,
    FLAG,
    MAX_NODES,
    MAX_STEPS,
    NAME_FORM,
    RC,
    ROLLOUT,
    STATE,
    STEP,
    TARGET,
    TOKEN,
    WALL,
    Form,
    choice,
    many,
    row,
    text,
)
from holloway.protocols.control_plane.messages import Role, Rollout, State, Step, StepEnd
from holloway.protocols.hostile_json import compact, read_object

MAX_SUMMARY_CHARS = 200
RECORD_VERSION = 1
MAX_RECORD_BYTES = 1024 * 1024


class Phase(Enum):
    """How far a job is on one node."""

    WAITING = auto()
    """Not sent yet: another batch comes first."""
    SENT = auto()
    TAKEN = auto()
    """In the journal of the agent."""
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class End:
    """How the job ended on one node. `late`: what the agent said after the broker had given it up."""

    state: State
    rc: int | None = None
    duration_s: float = 0.0
    error: str = ""
    steps: tuple[StepEnd, ...] = ()
    is_truncated: bool = False
    digest: str = ""
    late: str = ""


@dataclass(slots=True)
class Part:
    """A job on one node. `journal`: that of the agent it was sent to. `sends`: how often it may have left; 0 means that it
    surely did not. `due`: when (monotonic) the broker gives it up. `received`: outputs so far, None until the first one of
    this life of the broker. `missed`: some never came. `is_silent`: it was given up and has not said since then how it ended.
    """

    node: str
    phase: Phase = Phase.WAITING
    journal: str = ""
    issued_at: float = 0.0
    sends: int = 0
    due: float = math.inf
    received: int | None = 0
    missed: bool = False
    is_silent: bool = False
    end: End | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked, and by whom."""

    job: str
    request: str
    owner: str
    role: Role
    steps: tuple[Step, ...]
    target: str
    deadline_s: float
    rollout: Rollout
    asked_at: float
    nodes: tuple[str, ...]
    body: bytes = field(repr=False, default=b"")


@dataclass(slots=True)
class Job:
    """A job. `summary`: the beginning of its commands; `waves`: how many times it was sent to some nodes; `is_cancelled`: somebody
    wants it to end; `is_barred`: whoever asked may not any more, so that it is never sent again; `stopped`: why no more nodes get it;
    `finished_at`: monotonic. `under_way`, `ended` and `failures` count its parts.
    """

    asked: Asked
    parts: dict[str, Part]
    summary: str
    waves: int = 0
    is_cancelled: bool = False
    is_barred: bool = False
    stopped: str = ""
    finished_at: float | None = None
    under_way: int = 0
    ended: int = 0
    failures: int = 0

    def send(self, part: Part, journal: str, issued_at: float, due: float) -> None:
        """The job is under way to a node."""
        part.phase, part.journal, part.issued_at, part.due = Phase.SENT, journal, issued_at, due
        self.under_way += 1

    def finish(self, part: Part, end: End) -> None:
        """It has ended there."""
        if part.phase in (Phase.SENT, Phase.TAKEN):
            self.under_way -= 1
        part.phase, part.end = Phase.ENDED, end
        self.ended += 1
        self.failures += end.state is not State.OK

    def waiting(self) -> list[Part]:
        """Those whose batch has not come yet, in order."""
        return [part for part in self.parts.values() if part.phase is Phase.WAITING]

    def counts(self) -> dict[State, int]:
        """How many nodes ended how."""
        counts: dict[State, int] = {}
        for part in self.parts.values():
            if part.end is not None:
                counts[part.end.state] = counts.get(part.end.state, 0) + 1
        return counts

    def next_wave(self) -> list[Part]:
        """Whom the job is sent to next; nobody when it has to stop, and then `stopped` says why."""
        waiting, rollout, failures = self.waiting(), self.asked.rollout, self.failures
        if not self.stopped and rollout.canary and self.waves == 1 and failures:
            self.stopped = f"{failures} of the first {rollout.canary} were not ok"
        if not self.stopped and rollout.max_fail >= 0 and failures > rollout.max_fail:
            self.stopped = f"{failures} were not ok, {rollout.max_fail} may"
        if self.stopped:
            return []
        if rollout.canary and not self.waves:
            return waiting[: rollout.canary]
        size = rollout.batch
        if rollout.is_percent:
            size = math.ceil(len(self.parts) * min(size, 100) / 100)
        return waiting[:size] if size else waiting


def new_job(asked: Asked) -> Job:
    """A job of which nothing has been sent."""
    words = words_of(asked)
    summary = words if len(words) <= MAX_SUMMARY_CHARS else words[: MAX_SUMMARY_CHARS - 1] + "…"
    return Job(asked, {node: Part(node) for node in asked.nodes}, summary)


def words_of(asked: Asked) -> str:
    """The commands of a job as one would type them."""
    return " ; ".join(shlex.join((step.command, *step.arguments)) for step in asked.steps)


_ASKED = row(
    Asked,
    job=TOKEN,
    request=TOKEN,
    owner=NAME_FORM,
    role=choice(Role),
    steps=many(STEP, 1, MAX_STEPS),
    target=TARGET,
    deadline_s=DEADLINE,
    rollout=ROLLOUT,
    asked_at=WALL,
    nodes=many(NAME_FORM, 1, MAX_NODES),
)
_END = row(
    End,
    state=STATE,
    rc=RC,
    duration_s=DURATION,
    error=ERROR,
    steps=ENDS,
    is_truncated=FLAG,
    digest=DIGEST,
    late=text(MAX_NODES),
)


def write_record(fields: Mapping[str, object], body: bytes = b"") -> bytes:
    """A record of these fields."""
    return compact({"v": RECORD_VERSION, **fields}).encode("ascii") + b"\n" + body


def read_record(record: bytes, forms: Mapping[str, Form]) -> tuple[dict[str, object], bytes] | None:
    """The fields of a record, and the bytes after them; None when it is none. Takes any bytes."""
    head, _, body = record.partition(b"\n")
    try:
        fields = read_object(head.decode("ascii"), MAX_RECORD_BYTES)
        if fields.pop("v", None) != RECORD_VERSION or fields.keys() != forms.keys():
            return None
        return {name: form.read(fields[name]) for name, form in forms.items()}, body
    except (ValueError, RecursionError):
        return None


_JOB = {"asked": _ASKED, "is_cancelled": FLAG, "is_barred": FLAG, "stopped": text(200)}
_SENT = {"issued_at": WALL, "nodes": many(NAME_FORM, 0, MAX_NODES), "journals": many(TOKEN, 0, MAX_NODES)}
_ENDED = {"end": _END}


def job_record(job: Job) -> tuple[str, bytes]:
    """Key and record of what was asked."""
    fields = {
        "asked": _ASKED.write(job.asked),
        "is_cancelled": job.is_cancelled,
        "is_barred": job.is_barred,
        "stopped": job.stopped,
    }
    return f"job/{job.asked.job}", write_record(fields, job.asked.body)


def read_job(record: bytes) -> Job | None:
    """The job of a record, of which nothing is known to be sent."""
    read = read_record(record, _JOB)
    if read is None:
        return None
    fields, body = read
    asked = fields["asked"]
    assert isinstance(asked, Asked)
    job = new_job(replace(asked, body=body))
    job.is_cancelled, job.is_barred = bool(fields["is_cancelled"]), bool(fields["is_barred"])
    job.stopped = str(fields["stopped"])
    return job


def sent_record(job: Job, issued_at: float, parts: list[Part]) -> tuple[str, bytes]:
    """Key and record of the latest wave, which is about to leave."""
    fields = {
        "issued_at": issued_at,
        "nodes": [part.node for part in parts],
        "journals": [part.journal for part in parts],
    }
    return f"sent/{job.asked.job}/{job.waves}", write_record(fields)


def read_sent(record: bytes) -> tuple[float, dict[str, str]] | None:
    """When a wave left, and the journal of each node in it."""
    read = read_record(record, _SENT)
    if read is None:
        return None
    issued_at, nodes, journals = (read[0][name] for name in _SENT)
    assert isinstance(issued_at, float)
    assert isinstance(nodes, tuple)
    assert isinstance(journals, tuple)
    return (issued_at, dict(zip(nodes, journals, strict=True))) if len(nodes) == len(journals) else None


def end_record(job: str, part: Part) -> tuple[str, bytes]:
    """Key and record of an end."""
    assert part.end is not None
    return f"end/{job}/{part.node}", write_record({"end": _END.write(part.end)})


def read_end(record: bytes) -> End | None:
    """The end of a record."""
    read = read_record(record, _ENDED)
    if read is None:
        return None
    end = read[0]["end"]
    assert isinstance(end, End)
    return end
