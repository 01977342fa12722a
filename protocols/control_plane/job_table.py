"""The jobs of a broker: how they are sent, in waves, what agents say of them, and when they are given up.

Every job ends. A node that did not answer in time has ended `unreachable` when the job surely never left for it, and `unknown`
otherwise: it may have run. What an agent says later is written beside that and changes nothing else. An end is durable before
anybody hears of it. A job is sent again only to an agent that has the journal it had, so the agent knows what it has run.

Not responsible for who may ask for what (`broker`), nor for which agents there are (`agents`).
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace

from holloway.protocols.control_plane.agents import Agent, Agents
from holloway.protocols.control_plane.broker_policy import BrokerPolicy
from holloway.protocols.control_plane.effects import Audit, BrokerEffect, Forget, Keep, Moment, Send
from holloway.protocols.control_plane.job_log import MAX_VIEWERS, JobLog
from holloway.protocols.control_plane.jobs import (
    Asked,
    End,
    Job,
    Part,
    Phase,
    end_record,
    job_record,
    new_job,
    read_end,
    read_job,
    read_sent,
    sent_record,
    words_of,
)
from holloway.protocols.control_plane.messages import (
    Cancel,
    Denied,
    Done,
    Expect,
    Finished,
    NodeOutput,
    Noted,
    Output,
    Result,
    Run,
    Seen,
    State,
)
from holloway.protocols.control_plane.wire import encode

RESUME_WITHIN_S = 600.0
"""A job whose next batch is due goes on after the broker was away for no longer than this."""
ENCODED_RUNS = 4
"""Messages to agents that are kept as they leave: everybody in a wave is sent the same."""
MAX_ERROR_CHARS = 1000
MAX_STEP_ERROR_CHARS = 200
"""What is kept of the errors that an agent tells, so that a result fits its message whatever they are made of."""


class JobTable:
    """All jobs. Methods put what is to be done into `out`."""

    def __init__(self, policy: BrokerPolicy, agents: Agents, life: str) -> None:
        self._policy, self._agents, self._life = policy, agents, life
        self.jobs: OrderedDict[str, Job] = OrderedDict()
        """Every job that is known, the oldest first."""
        self.running: dict[str, Job] = {}
        self.logs: dict[str, JobLog] = {}
        self._requests: dict[tuple[str, str], str] = {}
        self._due: list[tuple[float, str]] = []
        self._touched: dict[str, None] = {}
        self._silent: dict[str, dict[str, None]] = {}
        """By node, the jobs that were given up there without a word."""
        self._encoded: OrderedDict[tuple[str, float], list[bytes]] = OrderedDict()
        self._kept: dict[str, dict[str, None]] = {}
        self._held_bytes = 0

    # What is asked for.

    def by_request(self, owner: str, request: str) -> Job | None:
        """The job that came of a request, so that the same one again is no other job."""
        job = self._requests.get((owner, request))
        return self.jobs.get(job) if job is not None else None

    def running_of(self, owner: str) -> int:
        """How many jobs of somebody are not finished."""
        return sum(job.asked.owner == owner for job in self.running.values())

    def run_message(self, asked: Asked, issued_at: float) -> Run:
        """What agents are told."""
        return Run(
            asked.job,
            asked.steps,
            asked.owner,
            asked.role,
            asked.target,
            issued_at,
            issued_at + self._policy.start_within_s,
            asked.deadline_s,
            asked.body,
        )

    def begin(self, now: Moment, asked: Asked, route: bytes, out: list[BrokerEffect]) -> None:
        """A new job, that was allowed: it is durable, shown on `route`, and sent."""
        job = new_job(asked)
        self._know(job)
        self._keep(job, *job_record(job), out)
        out.append(Audit("asked", asked.owner, words_of(asked), f"{len(asked.nodes)} nodes", asked.job, asked.target))
        self.show(job, asked.request, route, asked.owner, 0, out)
        self._advance(now, job, out)

    def show(self, job: Job, request: str, route: bytes, name: str, after: int, out: list[BrokerEffect]) -> None:
        """Show a job on `route`, from the first thing after a position. Its log has room for one more to watch."""
        out.append(Send(route, encode(Expect(request, job.asked.job, self._life, job.asked.nodes))))
        displaced = self.logs[job.asked.job].watch(route, name, request, after)
        if displaced is not None:
            older, viewer = displaced
            why = f"{MAX_VIEWERS} watch this job, all with the key of {name} or older than yours: a later one has your place"
            out.append(Send(older, encode(Denied(viewer.request, why, f"holloway jobs wait {job.asked.job}"))))
        self._touched[job.asked.job] = None

    def cancel(self, now: Moment, job: Job, who: str, out: list[BrokerEffect]) -> bool:
        """Nobody begins it any more, and who may have begun is told to stop; who is away now, when he is back. Whether anybody is
        still told, or to be told.
        """
        silent = [part for part in job.parts.values() if part.is_silent]
        if not job.is_cancelled and (silent or job.finished_at is None):
            job.is_cancelled, job.stopped = True, job.stopped or "the job was cancelled"
            self._keep(job, *job_record(job), out)
            out.append(Audit("cancelled", who, job.summary, "", job.asked.job))
            due = now.at + self._policy.cancel_within_s
            for part in list(job.parts.values()):
                if part.phase is Phase.SENT and not part.sends:
                    self._end(job, part, End(State.CANCELLED, error="cancelled before it was sent"), out)
                elif part.phase in (Phase.SENT, Phase.TAKEN):
                    part.due = min(part.due, due)
                    self._tell_cancel(part, job, out)
            heapq.heappush(self._due, (due, job.asked.job))
            self._advance(now, job, out)
        for part in silent:
            self._tell_cancel(part, job, out)
        return bool(silent) or job.finished_at is None

    def stop(self, now: Moment, owner: str, why: str, out: list[BrokerEffect]) -> None:
        """No job of somebody goes on to more nodes, nor to one that it has not left for; and none is sent a second time."""
        for job in list(self.running.values()):
            if job.asked.owner == owner:
                job.is_barred, job.stopped = True, job.stopped or why
                self._keep(job, *job_record(job), out)
                for part in list(job.parts.values()):
                    if part.phase is Phase.SENT and not part.sends:
                        self._end(job, part, End(State.CANCELLED, error=why), out)
                self._advance(now, job, out)

    # What agents say.

    def registered(self, now: Moment, agent: Agent, out: list[BrokerEffect]) -> None:
        """An agent has come, perhaps again: it gets what is for it."""
        name = agent.record.name
        for job in list(self.running.values()):
            part = job.parts.get(name)
            if part is None or part.phase not in (Phase.SENT, Phase.TAKEN):
                continue
            if part.journal != agent.register.journal:
                state = State.UNKNOWN if part.sends else State.UNREACHABLE
                self._end(job, part, End(state, error="the agent came back without its journal"), out)
                self._advance(now, job, out)
            elif job.is_cancelled:
                self._tell_cancel(part, job, out)
            elif not job.is_barred:  # else the agent tells by itself what it knows of it
                self._send_run(job, part, agent, out)
        for known in self._silent.get(name, ()):
            job = self.jobs[known]
            if job.is_cancelled and job.parts[name].journal == agent.register.journal:
                self._tell_cancel(job.parts[name], job, out)

    def taken(self, part: Part) -> None:
        """An agent has begun."""
        if part.phase is Phase.SENT:
            part.phase = Phase.TAKEN

    def output(self, job: Job, part: Part, route: bytes, message: Output, out: list[BrokerEffect]) -> None:
        """An agent's job has written something. What comes out of order comes again in order."""
        if part.phase is Phase.ENDED:
            part.received = max(part.received or 0, message.sequence)
        elif part.received is None:  # of an earlier life of the broker some may have come
            part.received, part.missed = message.sequence - 1, message.sequence > 1
        if part.phase is not Phase.ENDED and message.sequence == (part.received or 0) + 1:
            part.received = message.sequence
            log = self.logs[job.asked.job]
            before = log.held_bytes
            log.add(NodeOutput(message.job, 0, part.node, message.step, message.stream, message.body))
            self._held_bytes += log.held_bytes - before
            self._touched[job.asked.job] = None
            self._drop_oldest()
        out.append(Send(route, encode(Seen(message.job, part.received or 0))))

    def done(self, now: Moment, job: Job, part: Part, route: bytes, message: Done, out: list[BrokerEffect]) -> None:
        """An agent's job has ended."""
        self._heard(job, part)
        if part.end is None:
            is_truncated = message.is_truncated or part.missed or (part.received or 0) != message.outputs
            end = End(
                message.state,
                message.rc,
                message.duration_s,
                message.error[:MAX_ERROR_CHARS],
                tuple(replace(step, error=step.error[:MAX_STEP_ERROR_CHARS]) for step in message.steps),
                is_truncated,
                message.digest,
            )
            self._end(job, part, end, out)
        elif message.state not in (part.end.state, State.UNKNOWN) and not part.end.late:
            part.end = replace(part.end, late=message.state.value)
            self._keep(job, *end_record(job.asked.job, part), out)
            out.append(Audit("late", job.asked.owner, job.summary, message.state.value, job.asked.job, part.node))
        out.append(Send(route, encode(Noted(message.job))))
        self._advance(now, job, out)

    def not_sent(self, now: Moment, job: Job, part: Part, out: list[BrokerEffect]) -> None:
        """What was to be sent to an agent did not leave after all."""
        if part.phase is Phase.SENT and part.sends == 1:
            part.sends = 0
            self._end(job, part, End(State.UNREACHABLE, error="its connection is gone"), out)
            self._advance(now, job, out)

    # Time.

    def next_due(self) -> float | None:
        """When something is given up next."""
        return self._due[0][0] if self._due else None

    def tick(self, now: Moment, out: list[BrokerEffect]) -> None:
        """Give up what has not been answered, and forget what is old."""
        while self._due and self._due[0][0] <= now.at:
            job = self.running.get(heapq.heappop(self._due)[1])
            if job is None:
                continue
            for part in job.parts.values():
                if part.phase in (Phase.SENT, Phase.TAKEN) and part.due <= now.at:
                    self._end(job, part, self._given_up(job, part), out)
                    self._fall_silent(job, part)
            self._advance(now, job, out)
        for name, job in list(self.jobs.items()):
            if job.finished_at is None or now.at - job.finished_at < self._policy.keep_s:
                break
            self._forget(name, out)

    def flush(self, out: list[BrokerEffect]) -> None:
        """Show what there is to show."""
        for name in self._touched:
            log = self.logs.get(name)
            if log is not None:
                out += [Send(route, encode(item)) for route, item in log.due()]
        self._touched.clear()

    def confirmed(self, name: str, route: bytes, position: int) -> None:
        """Somebody has seen what he was shown."""
        log = self.logs.get(name)
        if log is not None:
            log.confirm(route, position)
            self._touched[name] = None

    def make_room(self, out: list[BrokerEffect]) -> bool:
        """Whether there may be one more job; the oldest finished ones make room."""
        while len(self.jobs) >= self._policy.max_jobs:
            oldest = next((name for name, job in self.jobs.items() if job.finished_at is not None), None)
            if oldest is None:
                return False
            self._forget(oldest, out)
        return True

    # What an earlier life has left.

    def restore(self, now: Moment, records: Iterable[tuple[str, bytes]], out: list[BrokerEffect]) -> int:
        """Know the jobs of an earlier life; how many records were damaged. Agents are restored before."""
        by_key = dict(records)
        bad = 0
        jobs = []
        for key in [key for key in by_key if key.startswith("job/")]:
            job = read_job(by_key[key])
            if job is None or f"job/{job.asked.job}" != key:
                bad += 1
            else:
                jobs.append(job)
        for job in sorted(jobs, key=lambda each: (each.asked.asked_at, each.asked.job)):
            self._know(job)
            self._kept[job.asked.job][f"job/{job.asked.job}"] = None
        bad += self._restore_sent(now, by_key) + self._restore_ends(by_key)
        for job in self.jobs.values():
            waiting = job.waiting()
            latest = max((part.issued_at for part in job.parts.values()), default=0.0) or job.asked.asked_at
            if waiting and not job.stopped and now.wall - latest > self._whole_s(job) + RESUME_WITHIN_S:
                job.stopped = "the broker was away too long"
            for part in job.parts.values():
                if part.end is not None:
                    self.logs[job.asked.job].add(_result(job.asked.job, part, part.end))
            if job.ended == len(job.parts):
                self._finish(now, job)
            else:
                self._advance(now, job, out)
        return bad

    def _restore_sent(self, now: Moment, by_key: dict[str, bytes]) -> int:
        bad = 0
        for key in [key for key in by_key if key.startswith("sent/")]:
            _, name, wave = [*key.split("/"), "", ""][:3]
            job, sent = self.jobs.get(name), read_sent(by_key[key])
            if job is None or sent is None or not wave.isdecimal():
                bad += 1
                continue
            self._kept[name][key] = None
            issued_at, journals = sent
            job.waves = max(job.waves, int(wave))
            whole_s = self._whole_s(job)
            due = now.at + min(max(issued_at + whole_s - now.wall, 0.0), whole_s)
            for node, journal in journals.items():
                part = job.parts.get(node)
                if part is not None and part.phase is Phase.WAITING:
                    job.send(part, journal, issued_at, due)
                    part.sends, part.received = 2, None  # it may have left, and may leave again
            heapq.heappush(self._due, (due, name))
        return bad

    def _restore_ends(self, by_key: dict[str, bytes]) -> int:
        bad = 0
        for key in [key for key in by_key if key.startswith("end/")]:
            _, name, node = [*key.split("/"), "", ""][:3]
            job, end = self.jobs.get(name), read_end(by_key[key])
            part = job.parts.get(node) if job is not None else None
            if job is None or part is None or end is None:
                bad += 1
                continue
            self._kept[name][key] = None
            job.finish(part, end)
            if not end.late:
                self._fall_silent(job, part)
        return bad

    # How a job goes on.

    def _whole_s(self, job: Job) -> float:
        """How long a wave may take from its sending to the last answer."""
        return self._policy.start_within_s + job.asked.deadline_s + self._policy.grace_s

    def _know(self, job: Job) -> None:
        name = job.asked.job
        self.jobs[name] = self.running[name] = job
        self.logs[name] = JobLog()
        self._requests[job.asked.owner, job.asked.request] = name
        self._kept[name] = {}

    def _keep(self, job: Job, key: str, record: bytes, out: list[BrokerEffect]) -> None:
        self._kept[job.asked.job][key] = None
        out.append(Keep(key, record))

    def _advance(self, now: Moment, job: Job, out: list[BrokerEffect]) -> None:
        """Send the next wave when the last one is over, and finish when there is none."""
        if job.finished_at is not None:
            return
        while not job.under_way and job.ended < len(job.parts):
            parts = job.next_wave()
            if parts:
                self._send_wave(now, job, parts, out)
            else:
                for part in job.waiting():
                    self._end(job, part, End(State.CANCELLED, error=f"not begun: {job.stopped}"), out)
        if job.stopped and job.under_way and job.under_way + job.ended < len(job.parts):
            for part in job.waiting():
                self._end(job, part, End(State.CANCELLED, error=f"not begun: {job.stopped}"), out)
        if job.ended == len(job.parts):
            self._finish(now, job)
            told = " ".join(f"{state.value}={count}" for state, count in job.counts().items())
            out.append(Audit("finished", job.asked.owner, job.summary, told, job.asked.job))

    def _finish(self, now: Moment, job: Job) -> None:
        job.finished_at = now.at
        del self.running[job.asked.job]
        self.logs[job.asked.job].add(Finished(job.asked.job, 0, job.counts()))
        self._touched[job.asked.job] = None

    def _send_wave(self, now: Moment, job: Job, parts: list[Part], out: list[BrokerEffect]) -> None:
        job.waves += 1
        due = now.at + self._whole_s(job)
        chosen = []
        for part in parts:
            agent = self._agents.get(part.node)
            if agent is None or not self._agents.is_live(agent, now):
                self._end(job, part, End(State.UNREACHABLE, error="the agent gives no sign of life"), out)
            else:
                job.send(part, agent.register.journal, now.wall, due)
                chosen.append((part, agent))
        self._keep(job, *sent_record(job, now.wall, [part for part, _ in chosen]), out)
        for part, agent in chosen:
            self._send_run(job, part, agent, out)
        heapq.heappush(self._due, (due, job.asked.job))

    def _send_run(self, job: Job, part: Part, agent: Agent, out: list[BrokerEffect]) -> None:
        if agent.route is not None:  # else it is sent when the agent has come back
            part.sends += 1
            out.append(Send(agent.route, self._run_frames(job.asked, part.issued_at)))

    def _run_frames(self, asked: Asked, issued_at: float) -> list[bytes]:
        key = asked.job, issued_at
        frames = self._encoded.get(key)
        if frames is None:
            frames = self._encoded[key] = encode(self.run_message(asked, issued_at))
            while len(self._encoded) > ENCODED_RUNS:
                self._encoded.popitem(last=False)
        return frames

    def _tell_cancel(self, part: Part, job: Job, out: list[BrokerEffect]) -> None:
        agent = self._agents.get(part.node)
        if agent is not None and agent.route is not None:
            out.append(Send(agent.route, encode(Cancel(job.asked.job))))

    def _given_up(self, job: Job, part: Part) -> End:
        if not part.sends:
            return End(State.UNREACHABLE, error="the agent did not come back in time")
        if job.is_cancelled:
            why = f"it did not say within {self._policy.cancel_within_s:.0f} s that it stopped: when it is back it is told again"
            return End(State.UNKNOWN, error=why)
        return End(State.UNKNOWN, error=f"no answer in {self._whole_s(job):.0f} s: it may have run, or may be running")

    def _fall_silent(self, job: Job, part: Part) -> None:
        """It may be running there, so that who cancels it means that node, too."""
        if part.end is not None and part.end.state is State.UNKNOWN:
            part.is_silent = True
            self._silent.setdefault(part.node, {})[job.asked.job] = None

    def _heard(self, job: Job, part: Part) -> None:
        """The node has said how it ended."""
        if part.is_silent:
            part.is_silent = False
            jobs = self._silent[part.node]
            del jobs[job.asked.job]
            if not jobs:
                del self._silent[part.node]

    def _end(self, job: Job, part: Part, end: End, out: list[BrokerEffect]) -> None:
        job.finish(part, end)
        self._keep(job, *end_record(job.asked.job, part), out)
        self.logs[job.asked.job].add(_result(job.asked.job, part, end))
        self._touched[job.asked.job] = None
        told = end.state.value if end.rc is None else f"{end.state.value} rc={end.rc}"
        out.append(Audit("ended", job.asked.owner, job.summary, told, job.asked.job, part.node))

    def _drop_oldest(self) -> None:
        """Output of all jobs together stays below its bound: that of the oldest job goes first."""
        if self._held_bytes <= self._policy.held_bytes:
            return
        for log in self.logs.values():
            while log.held_outputs:
                before = log.held_bytes
                log.drop_oldest()
                self._held_bytes -= before - log.held_bytes
                if self._held_bytes <= self._policy.held_bytes:
                    return

    def _forget(self, name: str, out: list[BrokerEffect]) -> None:
        job = self.jobs.pop(name)
        for part in job.parts.values():
            self._heard(job, part)
        self._held_bytes -= self.logs.pop(name).held_bytes
        self._requests.pop((job.asked.owner, job.asked.request), None)
        out += [Forget(key) for key in self._kept.pop(name)]


def _result(job: str, part: Part, end: End) -> Result:
    return Result(
        job,
        0,
        part.node,
        end.state,
        end.rc,
        end.duration_s,
        end.error,
        end.steps,
        end.is_truncated,
        end.digest,
    )
