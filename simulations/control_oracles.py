"""The promises of the control plane: what runs, runs once; what is said of it is true, and is said once.

Each is a small function as those in `oracles`. They look into broker and agents where what they send cannot tell. Not
responsible for when they are asked (`control_world` and `control_hosts`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from holloway.protocols.control_plane.audit_chain import verify
from holloway.protocols.control_plane.broker import Broker
from holloway.protocols.control_plane.effects import Audit, BrokerEffect, Moment, Send
from holloway.protocols.control_plane.job_log import HELD_BYTES, MAX_VIEWERS, WINDOW
from holloway.protocols.control_plane.jobs import End, Phase
from holloway.protocols.control_plane.messages import State
from holloway.protocols.control_plane.output_flow import FULL_BYTES, OutputFlow
from holloway.protocols.control_plane.output_flow import WINDOW as AGENT_WINDOW
from holloway.simulations.control_file_oracles import FILES_ALWAYS, transfers_are_over

LATE_S = 0.1
"""How late a deadline may be looked at."""


class Fate(Enum):
    """What really became of a step."""

    RUNS = auto()
    ENDED = auto()
    DIED = auto()
    """With the agent."""


@dataclass(slots=True)
class Execution:
    """One step on one node, as it really was. `rc` is None when it could not be started; `is_killed`: the agent stopped it."""

    fate: Fate = Fate.RUNS
    rc: int | None = None
    is_killed: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """How the control plane stands after the faults."""

    unfinished: tuple[str, ...]
    """Jobs that the broker takes for running."""
    unheard: tuple[str, ...]
    """Jobs whose end somebody who watches them has not seen."""
    untold: Mapping[str, int]
    """Ends that the broker has not noted, by node."""
    refused: int
    audited: int
    """What the broker has refused in this life, and how much of that is written down."""


def nothing_runs_twice(is_known: bool, node: str, job: str, step: int) -> str | None:
    """A step of a job begins at most once on a node, in all lives of the agent and the broker together."""
    return f"step {step} of job {job} began twice on {node}" if is_known else None


def what_is_over_does_not_begin(end: End | None, node: str, job: str) -> str | None:
    """What was said never to have run on a node does not begin there afterwards."""
    if end is None or end.state not in (State.UNREACHABLE, State.REFUSED):
        return None
    return f"job {job} begins on {node}, of which it was said that it is {end.state.value}"


def only_operators_command(owner: str | None, operators: Sequence[str], node: str) -> str | None:
    """Whatever begins on a node was asked for by an operator."""
    return f"{node} begins what {owner or 'nobody'} asked for" if owner not in operators else None


def a_job_is_booked_to_who_runs_it(booked: str, node: str, job: str) -> str | None:
    """What leaves for a node is booked to that node, whoever has named its key."""
    return f"job {job} of node {booked} is sent to {node}" if booked != node else None


def a_request_is_one_job(known: str | None, job: str, request: str) -> str | None:
    """However often a request comes, it is one job."""
    return f"request {request} is job {known} and job {job}" if known not in (None, job) else None


def states_tell_the_truth(end: End, steps: Sequence[Execution], asked: int, node: str) -> str | None:
    """How a job is said to have ended on a node is how it ended there; what nobody can know is `unknown`."""
    last = steps[-1] if steps else None
    match end.state:
        case State.OK:
            is_true = len(steps) == asked and all(step.fate is Fate.ENDED and step.rc == 0 for step in steps)
        case State.FAILED:
            is_true = last is not None and last.fate is Fate.ENDED and last.rc != 0 and last.rc == end.rc
        case State.REFUSED | State.UNREACHABLE:
            is_true = not steps
        case State.TIMED_OUT:
            is_true = last is not None and last.is_killed
        case State.CANCELLED:
            is_true = last is None or last.is_killed
        case State.UNKNOWN:
            is_true = True
    return None if is_true else f"{node} is said to be {end.state.value}, and what ran there is {steps}"


def what_is_barred_is_not_sent(is_barred: bool, node: str, job: str) -> str | None:
    """Nothing is sent, or sent again, that somebody asked for whose key was revoked afterwards: nor when he has another one."""
    return f"job {job} is sent to {node}, and who asked for it was revoked" if is_barred else None


def who_comes_back_hears_what_was_cancelled(running: Sequence[str], told: Sequence[str], node: str) -> str | None:
    """A node that registers is told of every job that runs there and was cancelled, however long ago it was given up."""
    forgotten = next((job for job in running if job not in told), None)
    return None if forgotten is None else f"{node} runs job {forgotten}, which was cancelled, and was not told"


def an_end_stays(before: State | None, state: State, node: str, job: str) -> str | None:
    """Once it is said how a job ended on a node, nothing else is said: not by another life of the broker either."""
    return f"job {job} on {node} was {before.value}, and now is {state.value}" if before not in (None, state) else None


def no_result_is_shown_twice(is_known: bool, node: str, job: str) -> str | None:
    """Whoever watches a job sees one result of each node in each life of the broker."""
    return f"a result of {node} in job {job} was shown twice" if is_known else None


def nothing_noted_is_lost(is_kept: bool, node: str, job: str) -> str | None:
    """Before an agent is told that the end of a job is safe, it is."""
    return f"{node} may forget how job {job} ended, and the broker has not kept it" if not is_kept else None


def hostile_nodes_gain_nothing(effects: Sequence[BrokerEffect], route: bytes, counted: int) -> str | None:
    """What a node may not do is refused, and changes nothing: nothing is kept, nobody else hears of it, and it is counted."""
    if counted < 1:
        return "what a hostile node sent was not refused"
    for effect in effects:
        if not isinstance(effect, Audit) and not (isinstance(effect, Send) and effect.route == route):
            return f"what a hostile node sent had an effect: {type(effect).__name__}"
    return None


def brokers_are_bounded(broker: Broker, max_jobs: int, max_running: int, held_bytes: int) -> str | None:
    """Jobs, viewers and what waits for them stay below their bounds, whoever floods and whoever does not read."""
    table = broker.jobs
    if len(table.jobs) > max_jobs or len(table.running) > max_running:
        return f"{len(table.jobs)} jobs, {len(table.running)} of them running"
    for log in table.logs.values():
        if log.held_bytes > HELD_BYTES or len(log.viewers) > MAX_VIEWERS:
            return f"a job holds {log.held_bytes} bytes in {log.held_outputs} pieces for {len(log.viewers)} viewers"
        if any(len(viewer.under_way) > WINDOW for viewer in log.viewers.values()):
            return "more is under way to a viewer than may be"
    held = sum(log.held_bytes for log in table.logs.values())
    return f"{held} bytes of output are held" if held > held_bytes else None


def agents_are_bounded(flows: Sequence[OutputFlow], piece: int) -> str | None:
    """What an agent holds of the output of a job stays below its bound when processes that it does not read wait. `piece`:
    the most that a process writes at once.
    """
    for flow in flows:
        if flow._bytes > FULL_BYTES + piece:
            return f"{flow._bytes} bytes of output wait at an agent"
        if len(flow._under_way) > AGENT_WINDOW:
            return f"{len(flow._under_way)} pieces of output are under way from an agent"
    return None


def jobs_end_by_their_deadline(broker: Broker, now: Moment) -> str | None:
    """A job that nobody answers for is given up when its time is over."""
    for name, job in broker.jobs.running.items():
        for part in job.parts.values():
            if part.phase in (Phase.SENT, Phase.TAKEN) and part.due < now.at - LATE_S:
                return f"job {name} on {part.node} is {now.at - part.due:.1f} s behind its deadline"
    return None


def jobs_are_over(settled: Settled) -> str | None:
    """Every job has ended, and who watched it knows."""
    if settled.unfinished:
        return f"job {settled.unfinished[0]} has not ended"
    return f"nobody was told that job {settled.unheard[0]} has ended" if settled.unheard else None


def ends_are_noted(settled: Settled) -> str | None:
    """No agent has an end that the broker does not have."""
    return next((f"{node} still tells of {count} ends" for node, count in settled.untold.items() if count), None)


def refusals_are_audited(settled: Settled) -> str | None:
    """Everything that was refused is in the audit trail, one by one or as a number."""
    if settled.refused == settled.audited:
        return None
    return f"{settled.refused} messages were refused, {settled.audited} are written down"


def the_audit_trail_is_a_chain(lines: Sequence[bytes]) -> str | None:
    """The audit trail verifies, over all lives of the broker."""
    verdict = verify(lines)
    return None if verdict.flaw is None else f"line {verdict.line} of {len(lines)}: {verdict.flaw.value}"


CONTROL_ALWAYS: tuple[Callable[..., str | None], ...] = (
    nothing_runs_twice,
    what_is_over_does_not_begin,
    only_operators_command,
    a_job_is_booked_to_who_runs_it,
    a_request_is_one_job,
    states_tell_the_truth,
    what_is_barred_is_not_sent,
    who_comes_back_hears_what_was_cancelled,
    an_end_stays,
    no_result_is_shown_twice,
    nothing_noted_is_lost,
    hostile_nodes_gain_nothing,
    brokers_are_bounded,
    agents_are_bounded,
    jobs_end_by_their_deadline,
    the_audit_trail_is_a_chain,
    *FILES_ALWAYS,
)
CONTROL_EVENTUALLY: tuple[Callable[..., str | None], ...] = (
    jobs_are_over,
    ends_are_noted,
    refusals_are_audited,
    transfers_are_over,
)
