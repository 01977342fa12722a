"""The agent: runs what the broker sends, once, and repeats how it ended until the broker has that safe. A pure object; what it
wants done are effects (`effects`).

    Run ─► known? answer what is known of it ─► allowed? ─► Keep begun ─► Taken, Start ─► output… ─► ended ─► next step
        └► otherwise: an end, `refused`                                                              └► Keep ended ─► Done ─► Noted

An agent believes its broker, whose key it knows, but looks again: whether the role of who asked may call the command on nodes,
whether the broker calls it as it is called, whether the target means this node, whether it is in time by its own clock, and whether its own policy has the command. A refusal
is an end as any other, and as such remembered: what was refused is not begun when it is sent again.

Not responsible for processes: those that `Start` begins are told of with `output` and `ended`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import assert_never

from holloway.protocols.control_plane.access import DEFAULT_ACCESS, AccessTable, Place
from holloway.protocols.control_plane.agent_journal import Entry, Journal, Stage
from holloway.protocols.control_plane.effects import AgentEffect, Audit, Kill, Moment, Pause, Resume, Send, Start
from holloway.protocols.control_plane.fields import MAX_ERROR_CHARS
from holloway.protocols.control_plane.messages import (
    Cancel,
    Denied,
    Done,
    Frames,
    Heartbeat,
    Message,
    Noted,
    Refusal,
    Register,
    Registered,
    Replaced,
    Run,
    Seen,
    State,
    StepEnd,
    Stream,
    Taken,
    Who,
)
from holloway.protocols.control_plane.output_flow import OutputFlow
from holloway.protocols.control_plane.targets import AgentRecord, read_target
from holloway.protocols.control_plane.wire import decode, encode
from holloway.protocols.errors import LocalError

REGISTER_EVERY_S = 5.0
"""How often an agent that the broker has not answered registers again."""
REPLACED_FOR_S = 60.0
"""How long an agent keeps away whose key another one uses."""
REPEAT_DONE_S = (5.0, 10.0, 20.0, 40.0, 60.0)
"""How long the broker may take to note an end before it is told again; the last counts for all later times."""
BUSY = "the node runs as many jobs as it may"


@dataclass(frozen=True, slots=True)
class AgentPolicy:
    """What an agent runs. `commands`: those that it has; `programs`: globs of the programs that `exec` may start, None for any.
    `clock_tolerance_s`: by how much its clock and that of the broker may differ.
    """

    commands: tuple[str, ...] = ("echo", "exec", "sync")
    programs: tuple[str, ...] | None = None
    access: AccessTable = DEFAULT_ACCESS
    max_parallel: int = 16
    max_deadline_s: float = 86_400.0
    max_output_bytes: int = 256 * 1024 * 1024
    clock_tolerance_s: float = 60.0

    def allows(self, program: str) -> bool:
        """Whether `exec` may start it: part by part, so that no `*` leads across a slash, and nothing leads upwards."""
        if self.programs is None:
            return bool(program)
        parts = program.removeprefix("/").split("/")
        if any(part in ("", ".", "..") for part in parts):
            return False
        return any(
            glob.startswith("/") == program.startswith("/")
            and len(wanted := glob.removeprefix("/").split("/")) == len(parts)
            and all(map(fnmatchcase, parts, wanted))
            for glob in self.programs
        )


@dataclass(slots=True)
class _Job:
    """A job that runs, or whose output has not all arrived. `began_at`: of the step that runs."""

    run: Run
    flow: OutputFlow
    began_at: float
    step_began_at: float
    deadline_at: float
    ends: list[StepEnd] = field(default_factory=list)
    killed_for: State | None = None
    done: Done | None = None


class Agent:
    """One agent. `boot` names this life of it, `journal` the journal on its disk: 32 hexadecimal digits each."""

    def __init__(self, policy: AgentPolicy, me: AgentRecord, boot: str, journal: str, version: str) -> None:
        self.counts: Counter[str] = Counter()
        self._policy, self._me = policy, me
        self._register = Register(
            me.name, me.application, me.environment, me.roles, boot, journal, version, policy.commands
        )
        self._journal = Journal()
        self._jobs: dict[str, _Job] = {}
        self._repeats: dict[str, tuple[float, int]] = {}
        self._heartbeat_s: float | None = None
        self._called = me.name
        """By the broker, when it last said so."""
        self._speak_at: float | None = None

    @property
    def is_registered(self) -> bool:
        """Whether the broker has answered."""
        return self._heartbeat_s is not None

    @property
    def running(self) -> list[str]:
        """The jobs that run."""
        return [name for name, job in self._jobs.items() if job.done is None]

    def restore(self, now: Moment, records: Iterable[tuple[str, bytes]]) -> list[AgentEffect]:
        """Remember what an earlier life has kept, before anything else. Damaged records are counted and left out."""
        out: list[AgentEffect] = []
        bad = self._journal.restore(records, out)
        if bad:
            self.counts["control_bad_record"] += bad
            out.append(Audit("damaged", self._me.name, f"{bad} records of the journal", "left out"))
        return out

    def connected(self, now: Moment) -> list[AgentEffect]:
        """There is a connection, perhaps again: register, and tell everything that may have been lost."""
        out: list[AgentEffect] = []
        self._heartbeat_s, self._speak_at = None, now.at + REGISTER_EVERY_S
        self._send(self._register, out)
        for name, job in self._jobs.items():
            if job.done is None:
                self._send(Taken(name), out)
            for output in job.flow.repeated(now.at):
                self._send(output, out)
        for done in self._journal.ended():
            self._tell(now, done, 0, out)
        return out

    def receive(self, now: Moment, frames: Frames) -> list[AgentEffect]:
        """A message of the broker."""
        out: list[AgentEffect] = []
        message = decode(frames)
        match message:
            case Refusal():
                self.counts[message.value] += 1
            case Registered(name) if (
                name != self._me.name
            ):  # our key is called so there, and what is for that name is not for us
                self._called, self._heartbeat_s, self._speak_at = name, None, now.at + REGISTER_EVERY_S
            case Registered():
                self._called = message.name
                self._heartbeat_s, self._speak_at = message.heartbeat_s, now.at + message.heartbeat_s
            case Who():
                return self.connected(now)
            case Denied():
                self._heartbeat_s = None  # it is told to people; we go on asking
            case Replaced():
                self._heartbeat_s, self._speak_at = None, now.at + REPLACED_FOR_S
                out.append(Audit("replaced", self._me.name, "another agent has the same key", "silent for a while"))
            case Run():
                self._run(now, message, out)
            case Cancel():
                self._cancel(now, message.job, out)
            case Seen():
                self._seen(now, message, out)
            case Noted():
                if self._journal.note(message.job, out):
                    self._repeats.pop(message.job, None)
            case _:
                self.counts["control_wrong_sender"] += 1
        return out

    def output(self, now: Moment, job: str, stream: Stream, data: bytes) -> list[AgentEffect]:
        """The step that runs has written something. Raises LocalError when none runs."""
        out: list[AgentEffect] = []
        running = self._running(job)
        if running.flow.write(len(running.ends), stream, data):
            out.append(Pause(job))
        self._pump(now, running, out)
        return out

    def ended(self, now: Moment, job: str, rc: int | None, error: str = "") -> list[AgentEffect]:
        """The step that runs has ended with code `rc` (below 0 the signal), or could not be started: None, and `error` says why.
        Raises LocalError when none runs, and for what is no code.
        """
        out: list[AgentEffect] = []
        if rc is not None and not -255 <= rc <= 255:
            raise LocalError(f"{rc} is no code with which a process ends", f"job {job}")
        running = self._running(job)
        run, error = running.run, error[:MAX_ERROR_CHARS]
        state = running.killed_for or (State.OK if rc == 0 else State.FAILED)
        if running.killed_for is State.TIMED_OUT:
            error = error or f"it had not ended after {run.deadline_s:g} s, and was stopped"
        running.ends.append(StepEnd(state, rc, max(now.at - running.step_began_at, 0.0), error))
        if state is State.OK and len(running.ends) < len(run.steps):
            running.step_began_at = now.at
            self._start(now, running, out)
            return out
        flow = running.flow
        running.done = Done(
            job,
            state,
            rc,
            max(now.at - running.began_at, 0.0),
            error,
            tuple(running.ends),
            flow.count,
            flow.is_truncated,
            flow.digest if flow.count else "",
        )
        self._journal.end(running.done, run.issued_at, out)
        out.append(self._audit("ended", run, state.value if rc is None else f"{state.value} rc={rc}"))
        self._drain(now, running, out)
        return out

    def tick(self, now: Moment) -> list[AgentEffect]:
        """Do what is due."""
        out: list[AgentEffect] = []
        if self._speak_at is not None and self._speak_at <= now.at:
            if self._heartbeat_s is None:
                out += self.connected(now)
            else:
                self._speak_at = now.at + self._heartbeat_s
                self._send(Heartbeat(), out)
        for job in self._jobs.values():
            if job.done is None and job.killed_for is None and job.deadline_at <= now.at:
                job.killed_for = State.TIMED_OUT
                out.append(Kill(job.run.job))
            if job.flow.repeat_at <= now.at:
                for output in job.flow.repeated(now.at):
                    self._send(output, out)
        for name, (at, times) in list(self._repeats.items()):
            entry = self._journal.entries.get(name)
            if entry is None or entry.done is None:  # the journal had no room for it any more
                del self._repeats[name]
            elif at <= now.at:
                self._tell(now, entry.done, times, out)
        return out

    def next_tick(self) -> float | None:
        """When `tick` has something to do next, on the monotonic clock."""
        times = [at for at, _ in self._repeats.values()]
        times += [] if self._speak_at is None else [self._speak_at]
        for job in self._jobs.values():
            times.append(job.flow.repeat_at)
            if job.done is None and job.killed_for is None:
                times.append(job.deadline_at)
        at = min(times, default=None)
        return None if at == float("inf") else at

    # Jobs.

    def _run(self, now: Moment, run: Run, out: list[AgentEffect]) -> None:
        known = self._journal.entries.get(run.job)
        if known is None:
            why = self._problem(now, run)
            if why is None:
                self._begin(now, run, out)
            else:
                self._never(now, run.job, run.issued_at, State.REFUSED, why, out)
                out.append(self._audit("refused", run, why))
            return
        self._tell_known(now, run.job, known, out)

    def _tell_known(self, now: Moment, name: str, known: Entry, out: list[AgentEffect]) -> None:
        match known.stage:
            case Stage.BEGUN:
                self._send(Taken(name), out)
            case Stage.ENDED:
                if known.done is not None:
                    self._tell(now, known.done, 0, out)
            case Stage.NOTED:
                why = "it was sent to this node before, and the broker knew how it ended"
                self._send(Done(name, State.UNKNOWN, None, 0.0, why, (), 0, False, ""), out)
            case _:
                assert_never(known.stage)

    def _problem(self, now: Moment, run: Run) -> str | None:
        """Why this agent does not run a job that it does not know, or None."""
        policy = self._policy
        if self._called != self._me.name:
            return f"the broker calls this node {self._called}, and it is {self._me.name}"
        if run.issued_at <= self._journal.floor:
            return "it is so old that nobody knows whether it ran"
        if not run.issued_at - policy.clock_tolerance_s <= now.wall <= run.expires_at + policy.clock_tolerance_s:
            late_s = now.wall - run.issued_at
            return f"not in time: by the clock of the node it was issued {late_s:.0f} s ago; is the clock right?"
        for step in run.steps:
            if policy.access.problem(run.role, step.command, Place.NODES) is not None:
                return f"the role {run.role.value} may not call {step.command} on this node"
            if step.command not in policy.commands:
                return f"this node has no command {step.command}"
            if step.command == "exec":
                program = step.arguments[0] if step.arguments else ""
                if not policy.allows(program):
                    return f"the policy of this node does not allow {program[:80]!r}"
        try:
            if not read_target(run.target).fits(self._me):
                return "the target does not mean this node"
        except LocalError as error:
            return str(error)
        if run.deadline_s > policy.max_deadline_s:
            return f"the policy of this node allows {policy.max_deadline_s:g} s"
        return BUSY if len(self.running) >= policy.max_parallel else None

    def _begin(self, now: Moment, run: Run, out: list[AgentEffect]) -> None:
        flow = OutputFlow(run.job, self._policy.max_output_bytes)
        self._jobs[run.job] = job = _Job(run, flow, now.at, now.at, now.at + run.deadline_s)
        self._journal.begin(run.job, run.issued_at, out)
        out.append(self._audit("begun", run, "ok"))
        self._send(Taken(run.job), out)
        self._start(now, job, out)

    def _start(self, now: Moment, job: _Job, out: list[AgentEffect]) -> None:
        run, number = job.run, len(job.ends)
        left_s = max(job.deadline_at - now.at, 0.0)
        body = run.body if number == 0 else b""
        out.append(Start(run.job, number, run.steps[number], run.caller, left_s, body))

    def _cancel(self, now: Moment, name: str, out: list[AgentEffect]) -> None:
        job, known = self._jobs.get(name), self._journal.entries.get(name)
        if known is None:  # whatever comes later, it will not begin
            self._never(now, name, 0.0, State.CANCELLED, "cancelled before it began", out)
        elif job is None:
            self._tell_known(now, name, known, out)
        elif job.done is None and job.killed_for is None:
            job.killed_for = State.CANCELLED
            out += [self._audit("cancelled", job.run, "ok"), Kill(name)]

    def _never(self, now: Moment, job: str, issued_at: float, state: State, why: str, out: list[AgentEffect]) -> None:
        """A job that does not begin has ended, all the same."""
        self.counts[f"control_{state.value}"] += 1
        done = Done(job, state, None, 0.0, why[:MAX_ERROR_CHARS], (), 0, False, "")
        self._journal.end(done, issued_at, out)
        self._tell(now, done, 0, out)

    # Output and ends.

    def _seen(self, now: Moment, message: Seen, out: list[AgentEffect]) -> None:
        job = self._jobs.get(message.job)
        if job is not None:
            if job.flow.confirm(now.at, message.position) and job.done is None:
                out.append(Resume(message.job))
            self._pump(now, job, out)
            self._drain(now, job, out)

    def _pump(self, now: Moment, job: _Job, out: list[AgentEffect]) -> None:
        for output in job.flow.due(now.at):
            self._send(output, out)

    def _drain(self, now: Moment, job: _Job, out: list[AgentEffect]) -> None:
        """The end is told when all output has arrived, so that the broker knows whether it has all."""
        if job.done is not None and job.flow.is_drained:
            del self._jobs[job.run.job]
            self._tell(now, job.done, 0, out)

    def _tell(self, now: Moment, done: Done, times: int, out: list[AgentEffect]) -> None:
        if done.job in self._jobs:  # its output is still on its way
            return
        self._repeats[done.job] = now.at + REPEAT_DONE_S[min(times, len(REPEAT_DONE_S) - 1)], times + 1
        self._send(done, out)

    def _running(self, name: str) -> _Job:
        job = self._jobs.get(name)
        if job is None or job.done is not None:
            raise LocalError("no step of this job runs", f"job {name}")
        return job

    def _send(self, message: Message, out: list[AgentEffect]) -> None:
        out.append(Send(b"", encode(message)))

    def _audit(self, event: str, run: Run, outcome: str) -> Audit:
        what = " ; ".join(" ".join((step.command, *step.arguments)) for step in run.steps)
        return Audit(event, run.caller, what, outcome, run.job, self._me.name)
