"""The broker: between operators, who ask, and agents, who run. A pure object; what it wants done are effects (`effects`).

Who a sender is comes with every message, from the list of keys of that moment. Nodes may register, say how their jobs go, and
nothing else; operators and admins may ask for what the access table lets their role call. Whatever else comes is refused,
counted and written down, and changes nothing.

    operator   Ask ─► allowed? ─► Keep job ─► Expect ─► wave: Keep sent ─► Run ─► agents
    agent      Taken, Output* ─► Seen, NodeOutput to who watches; Done ─► Keep end ─► Result, Noted ─► next wave, or Finished

Not responsible for jobs once they are allowed (`job_table`), for keys, disks or sockets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice
from typing import assert_never

from holloway.protocols.control_plane.access import Place
from holloway.protocols.control_plane.agents import Agents
from holloway.protocols.control_plane.broker_policy import BrokerPolicy
from holloway.protocols.control_plane.broker_queries import answer_parts, client_rows, job_rows, part_rows
from holloway.protocols.control_plane.effects import (
    Audit,
    BrokerEffect,
    Claimed,
    Forget,
    Keep,
    Moment,
    Principal,
    Send,
    Serve,
)
from holloway.protocols.control_plane.file_names import confined
from holloway.protocols.control_plane.job_table import JobTable
from holloway.protocols.control_plane.jobs import Asked, Job, Phase
from holloway.protocols.control_plane.messages import (
    NO_JOB,
    Admin,
    Answer,
    Ask,
    Attach,
    CancelJob,
    Denied,
    Done,
    Expect,
    Frames,
    Heartbeat,
    Noted,
    Output,
    Query,
    Refusal,
    Register,
    Registered,
    Replaced,
    Role,
    Run,
    Seen,
    State,
    Taken,
    Who,
)
from holloway.protocols.control_plane.refusals import Refusals
from holloway.protocols.control_plane.targets import read_target
from holloway.protocols.control_plane.wire import MAX_HEADER_BYTES, decode, encode, kind_of
from holloway.protocols.errors import LocalError

TOKEN_BYTES = 16
REAP_EVERY_S = 60.0
TIMES_ROOM_BYTES = 64
"""By how much the header of a job may become longer when it is sent at another time."""

OWNER_GONE = "the key of who asked may not any more"
NO_KEY = "control_no_key"
WRONG_SENDER = "control_wrong_sender"
FOREIGN_JOB = "control_foreign_job"
TOO_MANY = "control_too_many"
NOT_POSSIBLE = "control_not_possible"
OTHER_NAME = "control_other_name"
NOT_REGISTERED = "control_not_registered"


class Broker:
    """One broker. `entropy` gives random bytes: names of jobs cannot be guessed."""

    def __init__(self, policy: BrokerPolicy, entropy: Callable[[int], bytes]) -> None:
        self.life = entropy(TOKEN_BYTES).hex()
        self.agents = Agents(policy.heartbeat_s)
        self.jobs = JobTable(policy, self.agents, self.life)
        self._policy, self._entropy = policy, entropy
        self._refusals = Refusals()
        self._reap_at: float | None = None

    @property
    def counts(self) -> Counter[str]:
        """What was refused, by reason."""
        return self._refusals.counts

    def restore(self, now: Moment, records: Iterable[tuple[str, bytes]]) -> list[BrokerEffect]:
        """Go on where an earlier life was: before anything else, with everything that it kept. Damaged records are counted."""
        out: list[BrokerEffect] = []
        kept = list(records)
        bad = 0
        for key, record in kept:
            if key.startswith("agent/"):
                bad += not self.agents.restore(now, key.removeprefix("agent/"), record)
        bad += self.jobs.restore(now, [pair for pair in kept if not pair[0].startswith("agent/")], out)
        if bad:
            self.counts["control_bad_record"] += bad
            out.append(Audit("damaged", "", f"{bad} records of an earlier life", "left out"))
        self._reap_at = now.at + REAP_EVERY_S
        return out

    def receive(
        self, now: Moment, principal: Principal | None, route: bytes, frames: Frames, stranger: str = ""
    ) -> list[BrokerEffect]:
        """A message of `principal`, None when the key of the connection is not in the list (any more), came on `route`. `stranger`:
        what is known of that connection then.
        """
        out: list[BrokerEffect] = []
        if principal is None:
            out += self._refusals.note(now.at, stranger, "a message", NO_KEY, is_stranger=True)
            return out
        message = decode(frames)
        match message:
            case Refusal():
                self._refuse(now, principal.name, "malformed frames", message.value, out)
            case Register() | Heartbeat() | Taken() | Output() | Done() if principal.role is Role.NODE:
                self._from_agent(now, principal, route, message, out)
            case Ask() | Attach() | CancelJob() | Seen() | Query() | Admin() if principal.role is not Role.NODE:
                self._from_operator(now, principal, route, message, out)
            case _:
                self._refuse(now, principal.name, kind_of(message), WRONG_SENDER, out)
                if principal.role is Role.NODE and isinstance(message, Ask | Query | Admin | Attach | CancelJob):
                    why = "this key is one of a node, and a node commands nobody"
                    out.append(Send(route, encode(Denied(message.request, why, "use the key of an operator"))))
        self.jobs.flush(out)
        return out

    def undelivered(self, now: Moment, route: bytes, frames: Frames) -> list[BrokerEffect]:
        """Something for `route` could not leave: nobody is there, or he does not read."""
        out: list[BrokerEffect] = []
        message = decode(frames)
        agent = self.agents.lost(route)
        job = self.jobs.jobs.get(message.job) if agent is not None and isinstance(message, Run) else None
        if agent is not None and job is not None and agent.record.name in job.parts:
            self.jobs.not_sent(now, job, job.parts[agent.record.name], out)
        for log in self.jobs.logs.values():
            log.viewers.pop(route, None)
        self.jobs.flush(out)
        return out

    def gone(self, now: Moment, name: str) -> list[BrokerEffect]:
        """The key of `name` was revoked, or may do less than before. Nothing is shown to it any more, no job of it goes on to
        more nodes, and an agent of that name gets no more jobs.
        """
        out: list[BrokerEffect] = []
        for log in self.jobs.logs.values():
            for route in [route for route, viewer in log.viewers.items() if viewer.name == name]:
                del log.viewers[route]
        if self.agents.remove(name):
            out.append(Forget(f"agent/{name}"))
        self.jobs.stop(now, name, OWNER_GONE, out)
        self.jobs.flush(out)
        return out

    def only(self, now: Moment, owners: Mapping[str, Role]) -> list[BrokerEffect]:
        """After `restore`: whoever is not among `owners`, or may do less than when he asked, was taken out while no broker ran, and
        no job of his goes on.
        """
        out: list[BrokerEffect] = []
        asked = {(job.asked.owner, job.asked.role) for job in self.jobs.running.values()}
        gone = {name for name, role in asked if owners.get(name) not in (role, Role.ADMIN)}
        for name in sorted(gone):
            self.jobs.stop(now, name, OWNER_GONE, out)
        self.jobs.flush(out)
        return out

    def may_read(self, node: str, parts: tuple[str, ...]) -> bool:
        """Whether a job that runs on the node now tells it to sync that file, or a folder that it is in."""
        for job in self.jobs.running.values():
            part = job.parts.get(node)
            if part is None or job.is_cancelled or part.phase not in (Phase.SENT, Phase.TAKEN):
                continue
            for step in job.asked.steps:
                folder = confined(step.arguments[0]) if step.command == "sync" and step.arguments else None
                if isinstance(folder, tuple) and parts[: len(folder)] == folder:
                    return True
        return False

    def tick(self, now: Moment) -> list[BrokerEffect]:
        """Do what is due."""
        out: list[BrokerEffect] = []
        self.jobs.tick(now, out)
        out += self._refusals.due(now.at)
        if self._reap_at is None or now.at >= self._reap_at:
            self._reap_at = now.at + REAP_EVERY_S
            for name in self.agents.too_old(now):
                self.agents.remove(name)
                out += [Forget(f"agent/{name}"), Audit("reaped", name, "", "no sign of life for a day")]
        self.jobs.flush(out)
        return out

    def next_tick(self) -> float | None:
        """When `tick` has something to do next, on the monotonic clock."""
        times = (self.jobs.next_due(), self._refusals.next_due(), self._reap_at)
        return min((at for at in times if at is not None), default=None)

    # Agents.

    def _from_agent(
        self,
        now: Moment,
        who: Principal,
        route: bytes,
        message: Register | Heartbeat | Taken | Output | Done,
        out: list[BrokerEffect],
    ) -> None:
        name = who.name
        if isinstance(message, Register):
            if message.node == name:
                self._register(now, name, route, message, out)
            else:  # somebody has named a key that another one holds
                self._refuse(now, name, f"register as {message.node}", OTHER_NAME, out)
                out.append(Send(route, encode(Registered(name, self._policy.heartbeat_s))))
                out.append(Claimed(route, who.public_key, message.node))
            return
        agent = self.agents.get(name)
        if agent is not None and agent.route == route:
            self.agents.hear(now, agent)
        elif isinstance(message, Heartbeat):
            is_older = agent is not None and agent.older == route
            out.append(Send(route, encode(Replaced() if is_older else Who())))
        if not isinstance(message, Heartbeat):
            self._about_a_job(now, name, route, message, out)

    def _register(self, now: Moment, name: str, route: bytes, message: Register, out: list[BrokerEffect]) -> None:
        before = self.agents.get(name)
        registered = self.agents.register(now, name, route, message)
        if registered is None:
            self._refuse(now, name, "register", TOO_MANY, out)
            return
        agent, replaced = registered
        out.append(Keep(*self.agents.to_record(agent)))
        if replaced is not None:
            entry = Audit("replaced", name, "a younger connection has the same key", "")
            out += self._refusals.tell(now.at, entry, "")
            out.append(Send(replaced, encode(Replaced())))
        if before is None or before.register.boot != message.boot:
            out += self._refusals.tell(now.at, Audit("registered", name, f"version {message.version}"[:80], "ok"), "ok")
        out.append(Send(route, encode(Registered(name, self._policy.heartbeat_s))))
        self.jobs.registered(now, agent, out)

    def _about_a_job(
        self, now: Moment, name: str, route: bytes, message: Taken | Output | Done, out: list[BrokerEffect]
    ) -> None:
        job = self.jobs.jobs.get(message.job)
        part = job.parts.get(name) if job is not None else None
        if job is None:  # forgotten: the agent may forget it, too
            self.counts["control_forgotten_job"] += 1
            if isinstance(message, Done):
                out.append(Send(route, encode(Noted(message.job))))
            elif isinstance(message, Output):
                out.append(Send(route, encode(Seen(message.job, message.sequence))))
        elif (
            part is None
            or part.phase is Phase.WAITING
            or (isinstance(message, Done) and message.state is State.UNREACHABLE)  # which only a broker can say
        ):
            self._refuse(now, name, kind_of(message), FOREIGN_JOB, out, message.job)
        elif (agent := self.agents.get(name)) is None or route not in (agent.route, agent.older):
            self.counts[NOT_REGISTERED] += 1  # it has not said whose it is: it says all this again when it has
        else:
            match message:
                case Taken():
                    self.jobs.taken(part)
                case Output():
                    self.jobs.output(job, part, route, message, out)
                case Done():
                    self.jobs.done(now, job, part, route, message, out)
                case _:
                    assert_never(message)

    # Operators.

    def _from_operator(
        self,
        now: Moment,
        who: Principal,
        route: bytes,
        message: Ask | Attach | CancelJob | Seen | Query | Admin,
        out: list[BrokerEffect],
    ) -> None:
        match message:
            case Ask():
                self._ask(now, who, route, message, out)
            case Seen():
                self.jobs.confirmed(message.job, route, message.position)
            case Attach():
                job = self._own_job(now, who, route, message, out)
                if job is not None:
                    after = message.position if message.life == self.life else 0
                    self._show(now, who, route, message.request, job, after, out)
            case CancelJob():
                job = self._own_job(now, who, route, message, out)
                if job is not None:
                    is_told = self.jobs.cancel(now, job, who.name, out)
                    state = "cancelling" if is_told else "finished"
                    out.append(Send(route, encode(Answer(message.request, 1, True, {"job": message.job, "is": state}))))
            case Query():
                self._query(now, who, route, message, out)
            case Admin():
                problem = self._policy.access.problem(who.role, message.command, Place.BROKER)
                if problem is not None:
                    self._deny(now, who, route, message.request, message.command, problem.value, out)
                else:
                    out.append(Audit("called", who.name, message.command, "allowed"))
                    out.append(Serve(route, who, message))
            case _:
                assert_never(message)

    def _ask(self, now: Moment, who: Principal, route: bytes, message: Ask, out: list[BrokerEffect]) -> None:
        known = self.jobs.by_request(who.name, message.request)
        if known is not None:
            self._show(now, who, route, message.request, known, 0, out)
            return
        if message.retry != NO_JOB:
            retried = self._retried(now, who, route, message, out)
            if retried is None:
                return
            message, nodes = retried
        else:
            nodes = ()
        what = " ; ".join(step.command for step in message.steps)
        for step in message.steps:
            problem = self._policy.access.problem(who.role, step.command, Place.NODES)
            if problem is not None:
                self._deny(now, who, route, message.request, step.command, problem.value, out)
                return
        try:
            asked = self._asked(now, who, message, nodes)
            if len(encode(self.jobs.run_message(asked, now.wall))[1]) > MAX_HEADER_BYTES - TIMES_ROOM_BYTES:
                raise LocalError("the job cannot be sent to agents", "its commands are too long", "send a file instead")
        except LocalError as error:
            self._deny(now, who, route, message.request, what, NOT_POSSIBLE, out, str(error), error.fix)
            return
        if message.is_dry_run:
            out.append(Send(route, encode(Expect(message.request, NO_JOB, self.life, asked.nodes))))
            return
        if (
            len(self.jobs.running) >= self._policy.max_running
            or self.jobs.running_of(who.name) >= self._policy.max_running_each
            or not self.jobs.make_room(out)
        ):
            fix = "wait until some are finished, or cancel them: holloway jobs list"
            self._deny(now, who, route, message.request, what, TOO_MANY, out, "too many jobs are running", fix)
            return
        self.jobs.begin(now, asked, route, out)

    def _show(
        self, now: Moment, who: Principal, route: bytes, request: str, job: Job, after: int, out: list[BrokerEffect]
    ) -> None:
        """Show him a job, unless too many others watch it."""
        log = self.jobs.logs[job.asked.job]
        if log.room_for(route, who.name):
            self.jobs.show(job, request, route, who.name, after, out)
        else:
            names = ", ".join(sorted({viewer.name for viewer in log.viewers.values()}))
            why, fix = f"{len(log.viewers)} watch this job already: {names}", f"holloway jobs show {job.asked.job}"
            self._deny(now, who, route, request, "attach", TOO_MANY, out, why, fix)

    def _asked(self, now: Moment, who: Principal, message: Ask, nodes: tuple[str, ...]) -> Asked:
        """The job that is asked for. Raises LocalError when it cannot be one."""
        if not message.steps:
            raise LocalError("there is nothing to run", "the request has no command")
        if message.deadline_s > self._policy.max_deadline_s:
            raise LocalError("the deadline is too far", f"{self._policy.max_deadline_s:.0f} s are the most")
        if not nodes:
            target = read_target(message.target)
            nodes = tuple(agent.record.name for agent in self.agents.chosen(target))
        if not nodes:
            raise LocalError(
                f"no agent fits {message.target[:80]}", f"of {len(self.agents)} that are known", "holloway clients"
            )
        return Asked(
            self._entropy(TOKEN_BYTES).hex(),
            message.request,
            who.name,
            who.role,
            message.steps,
            message.target,
            message.deadline_s,
            message.rollout,
            now.wall,
            nodes,
            message.body,
        )

    def _retried(
        self, now: Moment, who: Principal, route: bytes, message: Ask, out: list[BrokerEffect]
    ) -> tuple[Ask, tuple[str, ...]] | None:
        """What is asked for again, and the nodes that were not ok."""
        job = self._own_job(now, who, route, Attach(message.request, message.retry), out)
        if job is None:
            return None
        nodes = tuple(part.node for part in job.parts.values() if part.end and part.end.state is not State.OK)
        why = "it is not finished yet" if job.finished_at is None else "" if nodes else "no node of it failed"
        if message.target or why:
            why = why or "the nodes of a retry are those that failed, so it has no target"
            self._deny(now, who, route, message.request, "retry", NOT_POSSIBLE, out, why, "holloway jobs show")
            return None
        again = replace(message, target=job.asked.target)
        return (again if message.steps else replace(again, steps=job.asked.steps, body=job.asked.body)), nodes

    def _own_job(
        self, now: Moment, who: Principal, route: bytes, message: Attach | CancelJob, out: list[BrokerEffect]
    ) -> Job | None:
        """The job, if there is one and he may see it. Otherwise both look the same to him."""
        job = self.jobs.jobs.get(message.job)
        if job is not None and who.role is not Role.ADMIN and job.asked.owner != who.name:
            self._refuse(now, who.name, kind_of(message), FOREIGN_JOB, out, message.job)
            job = None
        if job is None:
            why = "there is no such job, or it is not yours"
            out.append(Send(route, encode(Denied(message.request, why, "holloway jobs list"))))
        return job

    def _query(self, now: Moment, who: Principal, route: bytes, message: Query, out: list[BrokerEffect]) -> None:
        problem = self._policy.access.problem(who.role, message.what, Place.BROKER)
        if problem is not None:
            self._deny(now, who, route, message.request, message.what, problem.value, out)
            return
        target = message.options.get("target", "all")
        try:
            match message.what:
                case "clients":
                    rows = client_rows(now, self.agents, self.agents.chosen(read_target(str(target))))
                case "select":
                    rows = [{"node": agent.record.name} for agent in self.agents.chosen(read_target(str(target)))]
                case "jobs":
                    own = (
                        job
                        for job in reversed(self.jobs.jobs.values())
                        if who.role is Role.ADMIN or job.asked.owner == who.name
                    )
                    rows = job_rows(now, islice(own, 100))
                case "job":
                    name = str(message.options.get("job", ""))
                    job = self._own_job(now, who, route, Attach(message.request, name), out)
                    if job is None:
                        return
                    rows = [*job_rows(now, [job]), *part_rows(job)]
                case _:
                    why = f"{message.what} is no question, but a command"
                    self._deny(now, who, route, message.request, message.what, NOT_POSSIBLE, out, why)
                    return
        except LocalError as error:
            self._deny(now, who, route, message.request, message.what, NOT_POSSIBLE, out, str(error), error.fix)
            return
        out += [Send(route, encode(part)) for part in answer_parts(message.request, rows)]

    # Refusals.

    def _deny(
        self,
        now: Moment,
        who: Principal,
        route: bytes,
        request: str,
        what: str,
        reason: str,
        out: list[BrokerEffect],
        why: str = "",
        fix: str = "",
    ) -> None:
        self._refuse(now, who.name, what, reason, out)
        why = why or f"the role {who.role.value} may not call {what[:80]} here, or there is no such command"
        out.append(Send(route, encode(Denied(request, why[:2000], fix[:2000] or "holloway --help"))))

    def _refuse(
        self, now: Moment, who: str, what: str, reason: str, out: list[BrokerEffect], job: str = NO_JOB
    ) -> None:
        out += self._refusals.note(now.at, who, what, reason, job)
