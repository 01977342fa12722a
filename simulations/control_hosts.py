"""The machines of a simulated control plane: one with the broker, those with agents and what they run, those of operators.

Each carries out the effects of its pure object, on a disk that outlives it, and may die between any two of them. Not
responsible for the way of messages between machines (`control_world`), nor for who asks for what (`control_operators`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from holloway.protocols.control_plane.agent import Agent, AgentPolicy
from holloway.protocols.control_plane.audit_chain import Head, next_line
from holloway.protocols.control_plane.broker import Broker
from holloway.protocols.control_plane.broker_policy import BrokerPolicy
from holloway.protocols.control_plane.effects import (
    AgentEffect,
    Audit,
    BrokerEffect,
    Claimed,
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
from holloway.protocols.control_plane.jobs import read_job, read_sent
from holloway.protocols.control_plane.messages import Answer, Cancel, Noted, Register, Role, Run, Stream
from holloway.protocols.control_plane.refusals import lines_of
from holloway.protocols.control_plane.targets import AgentRecord
from holloway.protocols.control_plane.wire import decode, encode
from holloway.simulations.clocks import Clocks
from holloway.simulations.control_files import FileClient, FileShelf
from holloway.simulations.control_oracles import (
    Execution,
    Fate,
    a_job_is_booked_to_who_runs_it,
    agents_are_bounded,
    brokers_are_bounded,
    jobs_end_by_their_deadline,
    nothing_noted_is_lost,
)
from holloway.simulations.control_refusals import NO_REFUSALS, PLACES
from holloway.simulations.heap import Agenda
from holloway.simulations.oracles import hold
from holloway.simulations.streams import below, stream

if TYPE_CHECKING:
    from holloway.simulations.control_world import ControlWorld

MS = 10**6
SECOND_NS = 10**9
POLICY = BrokerPolicy(
    heartbeat_s=2.0,
    start_within_s=5.0,
    grace_s=3.0,
    cancel_within_s=0.2,
    max_deadline_s=30.0,
    max_jobs=400,
    max_running=48,
    max_running_each=24,
    held_bytes=256 * 1024,
)
"""Everything quicker and smaller than in life, so that a short run reaches its bounds."""
AGENT_POLICY = AgentPolicy(max_parallel=6, clock_tolerance_s=5.0, max_output_bytes=1024 * 1024)
QUEUED = 4096
"""Messages that wait for a machine that stands still; later ones are lost."""
PIECE_BYTES = 48 * 1024
"""The most that a simulated process writes at once."""
_DIES_WITHIN_NS = 300 * MS
_LOOKS_EVERY = 16
_RUN, _NOTED, _REGISTER = b'"kind":"run"', b'"kind":"noted"', b'"kind":"register"'


class Host:
    """A machine. `down` and `paused` count the faults that keep it so; `connection` changes with every reconnection."""

    def __init__(self, world: ControlWorld, name: str) -> None:
        self.world, self.name = world, name
        self.clocks = Clocks()
        self.down = self.paused = 0
        self.connection = 0
        self.life = 0
        self._booted_ns = 0
        self._due_ns: int | None = None
        self._waiting: list[Callable[[], None]] = []
        self._dies_after: int | None = None
        self._dice = stream(world.plan.seed, "host", name)

    @property
    def route(self) -> bytes:
        """The routing id of its connection to the broker."""
        return f"{self.name}/{self.connection}".encode()

    @property
    def moment(self) -> Moment:
        """The time, by its own clocks: the monotonic one begins with each life."""
        now_ns = self.world.timeline.now_ns
        return Moment((now_ns - self._booted_ns) / 1e9, self.clocks.wall_ns(now_ns) / 1e9)

    def boot(self) -> None:
        """Begin a life with what is on the disk."""
        self.life += 1
        self._booted_ns, self._due_ns, self._dies_after = self.world.timeline.now_ns, None, None
        self.world.note(self.name, "node", "", 0, "up")
        self.begin()

    def die(self) -> None:
        """All that is not on the disk is gone."""
        self._waiting.clear()
        self._due_ns = None
        self.world.note(self.name, "node", "", 0, "killed")
        self.lose()

    def doom(self) -> None:
        """Die soon: after some of the effects that come next have been carried out, and at any rate before long."""
        self._dies_after = below(self._dice.getrandbits(64), 4)
        self.world.timeline.at(self.world.timeline.now_ns + _DIES_WITHIN_NS, self._die_if_doomed, self.life)

    def _die_if_doomed(self, life: int) -> None:
        if self._dies_after is not None and self.life == life:
            self._dies_after = None
            self.die()

    def is_up(self) -> bool:
        """Whether it lives; it may stand still."""
        return not self.down or self._dies_after is not None

    def do(self, action: Callable[[], None]) -> None:
        """Something happens to the process; it waits while that stands still."""
        if not self.is_up():
            return
        if self.paused:
            if len(self._waiting) < QUEUED:
                self._waiting.append(action)
        else:
            action()

    def resume(self) -> None:
        """Go on after standing still."""
        waiting, self._waiting = self._waiting, []
        for action in waiting:
            self.do(action)
        self.do(self.wake)

    def dies_now(self) -> bool:
        """Asked before each effect: whether the process dies instead."""
        if self._dies_after is None:
            return False
        self._dies_after -= 1
        if self._dies_after >= 0:
            return False
        self._dies_after = None
        self.die()
        return True

    def plan_wake(self, at_s: float | None) -> None:
        """Look at the deadlines when the next one has come."""
        if at_s is None or not self.is_up():
            return
        at_ns = max(self._booted_ns + int(at_s * 1e9) + 1, self.world.timeline.now_ns)
        if self._due_ns is None or at_ns < self._due_ns:
            self._due_ns = at_ns
            self.world.timeline.at(at_ns, self._wake_at, at_ns, self.life)

    def _wake_at(self, at_ns: int, life: int) -> None:
        if self._due_ns == at_ns and self.life == life:
            self._due_ns = None
            self.do(self.wake)

    # What each kind of machine does its own way.

    def begin(self) -> None:
        """A life begins."""
        raise NotImplementedError

    def lose(self) -> None:
        """A life ends."""

    def wake(self) -> None:
        """A deadline may have come."""


class BrokerHost(Host):
    """The machine with the broker."""

    def __init__(self, world: ControlWorld, name: str) -> None:
        super().__init__(world, name)
        self.disk: dict[str, bytes] = {}
        self.trail: list[bytes] = []
        self.revoked: Counter[str] = Counter()
        """Operators whose key does not count now, with how many faults say so."""
        self.audited = self._looked = 0
        self._head = Head()
        self.broker = self._new()
        self.shelf = FileShelf(self)

    def _new(self) -> Broker:
        return Broker(POLICY, stream(self.world.plan.seed, "entropy", str(self.life)).randbytes)

    def begin(self) -> None:
        """See `Host`."""
        self.broker, self.audited = self._new(), 0
        self.shelf.begin()
        self.carry_out(self.broker.restore(self.moment, list(self.disk.items())))
        control = self.world.plan.control
        names = () if control is None else control.operators
        counted = {name: Role.OPERATOR for name in names if not self.revoked[name]}
        self.carry_out(self.broker.only(self.moment, counted))
        for name in set(names).difference(counted):
            self.world.truth.revoked(name)
        if self.broker.jobs.running and self.life > 1:
            self.world.reached.reach("broker_returned_to_jobs")

    def wake(self) -> None:
        """See `Host`."""
        self.carry_out(self.broker.tick(self.moment))
        hold(jobs_end_by_their_deadline, self.broker, self.moment)
        self.shelf.wake()

    def receive(self, principal: Principal | None, route: bytes, frames: list[bytes]) -> list[BrokerEffect]:
        """A message comes; its effects, which are carried out."""
        effects = self.broker.receive(self.moment, principal, route, frames)
        message = decode(frames) if principal is not None and len(frames) > 1 and _REGISTER in frames[1] else None
        if principal is not None and isinstance(message, Register) and message.node == principal.name:
            self._check_told(principal.name, effects)
        self.carry_out(effects)
        return effects

    def revoke(self, name: str) -> None:
        """The key of an operator counts no more, until it is admitted again."""
        self.revoked[name] += 1

        def take_out() -> None:
            life = self.life
            self._take_out((name,))
            if self.is_up() and self.life == life:
                self.world.truth.revoked(name)

        self.do(take_out)

    def _take_out(self, names: Sequence[str]) -> None:
        for name in names:
            self.carry_out(self.broker.gone(self.moment, name))
            self.shelf.carry_out(self.shelf.service.gone(name))

    def renamed(self, *names: str) -> None:
        """The keys of these nodes are called otherwise from now on."""
        self.do(partial(self._take_out, names))

    def undelivered(self, route: bytes, frames: list[bytes]) -> None:
        """Nobody is at the other end any more."""
        self.carry_out(self.broker.undelivered(self.moment, route, frames))

    @property
    def refused(self) -> int:
        """How much this life has refused."""
        counts = self.broker.counts + self.shelf.service.counts
        return counts.total() - sum(counts[name] for name in NO_REFUSALS)

    def carry_out(self, effects: Sequence[BrokerEffect]) -> None:
        """Do what the broker wants, in order."""
        truth = self.world.truth
        for effect in effects:
            if self.dies_now():
                return
            match effect:
                case Send(route, frames):
                    self._check_noted(route, frames)
                    self._check_sent(route, frames)
                    self.world.to_route(route, frames)
                case Keep(key, record):
                    self.disk[key] = record
                    kind, name, node = [*key.split("/"), "", ""][:3]
                    if kind == "job":
                        truth.asked(self.broker.jobs.jobs[name].asked)
                        if (job := read_job(record)) is not None and job.is_cancelled:
                            truth.cancelled(name)
                    elif kind == "sent":
                        sent = read_sent(record)
                        assert sent is not None
                        truth.sent(name, sent[1])
                    elif kind == "end":
                        end = self.broker.jobs.jobs[name].parts[node].end
                        assert end is not None
                        truth.ended(node, name, end)
                case Forget(key):
                    del self.disk[key]
                case Audit():
                    self.write(effect)
                case Claimed():
                    pass  # the record that names the key says otherwise until the fault is over
                case Serve(route, _, request):
                    self.world.to_route(route, encode(Answer(request.request, 1, True, {"is": "done"})))
        self._looked += 1
        if self._looked % _LOOKS_EVERY == 0:
            hold(brokers_are_bounded, self.broker, POLICY.max_jobs, POLICY.max_running, POLICY.held_bytes)
            if any(log.has_gaps for log in self.broker.jobs.logs.values()):
                self.world.reached.reach("output_thrown_away")
        self.plan_wake(self.broker.next_tick())

    def _check_told(self, node: str, effects: Sequence[BrokerEffect]) -> None:
        """Whoever has registered hears what was cancelled."""
        heard = [decode(each.frames) for each in effects if isinstance(each, Send)]
        told = [each.job for each in heard if isinstance(each, Cancel)]
        jobs = self.broker.jobs.jobs
        if any(job not in self.broker.jobs.running for job in told):
            self.world.reached.reach("cancel_told_late")
        self.world.truth.registered(node, {name for name, job in jobs.items() if job.is_cancelled}, told)

    def _check_sent(self, route: bytes, frames: list[bytes]) -> None:
        message = decode(frames) if _RUN in frames[1] else None
        if isinstance(message, Run):
            booked = next((each.record.name for each in self.broker.agents if each.route == route), _node(route))
            hold(a_job_is_booked_to_who_runs_it, booked, _node(route), message.job)
            self.world.truth.leaves(_node(route), message.job)

    def _check_noted(self, route: bytes, frames: list[bytes]) -> None:
        message = decode(frames) if _NOTED in frames[1] else None
        if isinstance(message, Noted) and message.job in self.broker.jobs.jobs:
            hold(nothing_noted_is_lost, f"end/{message.job}/{_node(route)}" in self.disk, _node(route), message.job)

    def write(self, entry: Audit) -> None:
        """A line of the audit trail."""
        line, self._head = next_line(self._head, self.moment.wall, entry)
        self.trail.append(line)
        if entry.event == "refused":
            self.audited += lines_of(entry.what)
            self.world.reached.reach(PLACES.get(entry.outcome, "malformed_refused"))


def _node(route: bytes) -> str:
    return route.decode().partition("/")[0]


class AgentHost(Host):
    """A machine with an agent, and the processes that this one has started."""

    def __init__(self, world: ControlWorld, name: str, roles: tuple[str, ...]) -> None:
        super().__init__(world, name)
        self.disk: dict[str, bytes] = {}
        self._record = AgentRecord(name, "shop", "test", roles)
        self._journal = stream(world.plan.seed, "journal", name).randbytes(16).hex()
        self._processes: dict[str, _Process] = {}
        self.files = FileClient(self)
        self.agent = self._new()

    def _new(self) -> Agent:
        boot = stream(self.world.plan.seed, "boot", self.name, str(self.life)).randbytes(16).hex()
        return Agent(AGENT_POLICY, self._record, boot, self._journal, "1")

    @property
    def principal(self) -> Principal:
        """Who it is, as the broker takes its key to say: another one while that has named it."""
        return Principal(self.world.thieves.get(self.name, self.name), Role.NODE)

    def begin(self) -> None:
        """See `Host`."""
        self.agent = self._new()
        self.connection += 1
        self.carry_out(self.agent.restore(self.moment, list(self.disk.items())))
        self.do(self._connected)

    def lose(self) -> None:
        """See `Host`. Its processes die with it."""
        self._processes.clear()
        self.files.lose()
        self.world.truth.died(self.name)

    def reconnect(self) -> None:
        """The connection was cut, and there is another one."""
        self.connection += 1
        self.do(self._connected)

    def _connected(self) -> None:
        self.carry_out(self.agent.connected(self.moment))

    def wake(self) -> None:
        """See `Host`."""
        self.carry_out(self.agent.tick(self.moment))
        self.files.wake()

    def receive(self, frames: list[bytes]) -> None:
        """A message of the broker comes."""
        message = decode(frames) if _RUN in frames[1] else None
        if isinstance(message, Run) and message.job in self.agent._journal.entries:
            self.world.reached.reach("job_sent_again")
        self.carry_out(self.agent.receive(self.moment, frames))

    def carry_out(self, effects: Sequence[AgentEffect]) -> None:
        """Do what the agent wants, in order."""
        for effect in effects:
            if self.dies_now():
                return
            match effect:
                case Send(_, frames):
                    self.world.to_broker(self, self.principal, frames)
                case Keep(key, record):
                    self.disk[key] = record
                case Forget(key):
                    del self.disk[key]
                case Start():
                    truth = self.world.truth.begins(self.name, effect.job, effect.number)
                    self._processes[effect.job] = _Process(self, effect, truth)
                    if effect.step.command == "sync":  # what it is about to read; how it ends is drawn as for any other
                        name = "/".join((effect.step.arguments[0], "f0"))
                        self.files.get(effect.job, name)
                case Kill(job):
                    self._processes[job].kill()
                case Pause(job):
                    self._processes[job].is_read = False
                    self.world.reached.reach("process_waited")
                case Resume(job):
                    if job in self._processes:
                        self._processes[job].go_on()
                case Audit():
                    pass
        hold(agents_are_bounded, [job.flow for job in self.agent._jobs.values()], PIECE_BYTES)
        self.plan_wake(self.agent.next_tick())

    def wrote(self, process: _Process, data: bytes) -> None:
        """A process has written something."""
        self.carry_out(self.agent.output(self.moment, process.start.job, Stream.STDOUT, data))

    def ended(self, process: _Process, rc: int | None, error: str) -> None:
        """A process has ended."""
        del self._processes[process.start.job]
        self.carry_out(self.agent.ended(self.moment, process.start.job, rc, error))

    def has(self, process: _Process) -> bool:
        """Whether the process is still there."""
        return self._processes.get(process.start.job) is process


class _Process:
    """What a step does: it writes now and then, for a while, and ends with a code; some cannot be started."""

    def __init__(self, host: AgentHost, start: Start, truth: Execution) -> None:
        self.start, self.is_read = start, True
        self._host, self._truth = host, truth
        self._timeline: Agenda = host.world.timeline
        self._dice = stream(host.world.plan.seed, "process", host.name, start.job, str(start.number))
        kind = below(self._dice.getrandbits(64), 16)
        self._rc: int | None = None if kind == 0 else kind if kind < 4 else 0
        self._writes = 40 if kind == 15 else 3 if kind > 10 else 0
        self._size = PIECE_BYTES if kind == 15 else 20
        most_ns = (
            20 * MS if kind == 15 else 8 * SECOND_NS if kind > 10 else 2 * SECOND_NS
        )  # the middle ones outlast outages
        self._every_ns = self._draw(most_ns)
        self._timeline.at(self._timeline.now_ns + self._every_ns, self._go_on)

    def _draw(self, most_ns: int) -> int:
        return 1 + below(self._dice.getrandbits(64), most_ns)

    def go_on(self) -> None:
        """Somebody reads again."""
        self.is_read = True
        self._timeline.at(self._timeline.now_ns, self._go_on)

    def kill(self) -> None:
        """It is told to end, and does so soon."""
        self._truth.is_killed = True
        self._writes, self._rc, self.is_read = 0, -15, True
        self._timeline.at(self._timeline.now_ns + self._draw(SECOND_NS), self._go_on)

    def _go_on(self) -> None:
        if not self._host.has(self) or not self.is_read:
            return
        if self._host.paused:
            self._host.do(self._go_on)
        elif self._writes:
            self._writes -= 1
            self._host.wrote(self, bytes([self._writes]) * self._size)
            self._timeline.at(self._timeline.now_ns + self._every_ns, self._go_on)
        else:
            self._truth.fate, self._truth.rc = Fate.ENDED, self._rc
            self._host.ended(self, self._rc, "there is no such program" if self._rc is None else "")
