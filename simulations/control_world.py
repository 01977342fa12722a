"""The world of a control plane at heap speed: a broker, operators who ask, agents who run, and messages that come late, twice, in
another order, or not at all.

It is harder than ZeroMQ, which loses and turns round nothing within a connection, because what protects a job from running
twice is not to depend on that. What it takes from ZeroMQ is that a connection has a sender, who is known by his key. Not
responsible for the machines (`control_hosts`, `control_operators`), nor for those who have taken one over (`control_hostile`).
"""

from __future__ import annotations

from collections.abc import Callable

from holloway.protocols.control_plane.effects import Principal
from holloway.protocols.control_plane.messages import Refusal
from holloway.protocols.control_plane.wire import decode, kind_of
from holloway.simulations.control_file_oracles import Transfers, transfers_are_over
from holloway.simulations.control_hostile import HostileNode
from holloway.simulations.control_hosts import SECOND_NS, AgentHost, BrokerHost, Host
from holloway.simulations.control_operators import OperatorHost
from holloway.simulations.control_oracles import Settled, the_audit_trail_is_a_chain
from holloway.simulations.control_truth import Truth
from holloway.simulations.faults import KINDS, Fault, Scope
from holloway.simulations.heap import Timeline
from holloway.simulations.links import ActiveFaults, Link
from holloway.simulations.milestones import Reached
from holloway.simulations.oracles import EVENTUALLY, hold
from holloway.simulations.plan import Plan, Workload
from holloway.simulations.streams import below, stream
from holloway.simulations.trace import Trace

EVENTS_PER_SECOND = 200_000
"""Of virtual time, beyond which something keeps itself busy."""
RECONNECTED_AFTER_NS = 300 * 10**6
"""How long a socket takes to be connected again to a broker that has come back."""
_ROLES = (("web",), ("db",), ("web", "db"))


class ControlWorld:
    """The world of one plan. `trace` takes what happens."""

    def __init__(self, plan: Plan, trace: Trace | None = None) -> None:
        assert plan.control is not None
        self.plan, self.trace = plan, trace
        self.timeline = Timeline()
        self.reached = Reached()
        self.truth = Truth(plan.control.operators, self.reached)
        self.faults = ActiveFaults(plan.faults)
        self._links: dict[tuple[str, str], Link] = {}
        self._dice = stream(plan.seed, "connections")
        broker, *others = plan.nodes
        self.broker = BrokerHost(self, broker)
        self.operators = {name: OperatorHost(self, name) for name in plan.control.operators}
        names = [name for name in others if name not in self.operators]
        self.agents = {name: AgentHost(self, name, _ROLES[number % 3]) for number, name in enumerate(names)}
        self.thieves: dict[str, str] = {}
        """By node, who has named its key."""
        self.hosts: dict[str, Host] = {broker: self.broker, **self.operators, **self.agents}
        for host in self.hosts.values():
            host.boot()
        for fault in plan.faults:
            self.timeline.at(fault.at_ns, self._begin, fault)
            if KINDS[fault.kind].has_end:
                self.timeline.at(fault.until_ns, self._end, fault)
        for number, workload in enumerate(plan.workloads):
            dice = stream(plan.seed, "workload", str(number))
            self.timeline.at(below(dice.getrandbits(64), workload.every_ns), self._ask, workload)
        for name, within_ns in plan.eventually.items():
            self.timeline.at(plan.healed_ns + within_ns, self._judge, name)

    def run(self, progress: Callable[[int], None] | None = None) -> None:
        """Let the whole time of the plan pass. `progress` is told the virtual time now and then.

        Raises `PropertyViolated`, and whatever the system under test raises by mistake.
        """
        while self.timeline.now_ns < self.plan.duration_ns:
            until_ns = min(self.timeline.now_ns + SECOND_NS, self.plan.duration_ns)
            self.timeline.run(until_ns, EVENTS_PER_SECOND)
            if progress is not None:
                progress(until_ns)
        hold(the_audit_trail_is_a_chain, self.broker.trail)

    def note(self, node: str, kind: str, peer: str, cause: int, what: str) -> int:
        """A line of the trace."""
        if self.trace is None:
            return 0
        return self.trace.add(self.timeline.now_ns, node, kind, peer, 0, cause, what)

    def _note_frames(self, node: str, kind: str, peer: str, frames: list[bytes], cause: int, why: str = "") -> int:
        """A line of the trace about a message."""
        if self.trace is None:
            return 0
        message = decode(frames)
        what = message.value if isinstance(message, Refusal) else kind_of(message)
        size = sum(map(len, frames))
        return self.trace.add(self.timeline.now_ns, node, kind, peer, size, cause, f"{what} {why}".strip())

    # Messages on their way.

    def to_broker(
        self, sender: AgentHost | OperatorHost, who: Principal, frames: list[bytes], *, is_file: bool = False
    ) -> None:
        """A machine sends something to the broker, on its connection of now."""
        route = sender.route

        def receive() -> None:
            known = None if self.broker.revoked[who.name] else who
            if is_file:
                self.broker.shelf.receive(known, route, frames)
            else:
                self.broker.receive(known, route, frames)

        def arrive(line: int) -> None:
            self._arrived(self.broker, sender.name, frames, line)
            self.broker.do(receive)

        self._carry(sender.name, self.broker.name, frames, arrive)

    def to_route(self, route: bytes, frames: list[bytes], *, is_file: bool = False) -> None:
        """The broker sends something to a connection, which may be gone; sometimes it is told."""
        name = route.decode().partition("/")[0]
        host = self.hosts[name]
        bits = self._dice.getrandbits(64)
        if host.route != route or not host.is_up():
            self._note_frames(self.broker.name, "lost", name, frames, 0, "connection gone")
            if bits & 1 and not is_file:
                life = self.broker.life
                self.timeline.at(self.timeline.now_ns, self._undelivered, life, route, frames)
            return
        life = self.broker.life

        def receive() -> None:
            if is_file and isinstance(host, AgentHost | OperatorHost):
                if life == self.broker.life:  # what a dead broker wrote died with it
                    host.files.receive(frames)
            elif isinstance(host, AgentHost) or (isinstance(host, OperatorHost) and life == self.broker.life):
                host.receive(frames)

        def arrive(line: int) -> None:
            self._arrived(host, self.broker.name, frames, line)
            host.do(receive)

        self._carry(self.broker.name, name, frames, arrive)

    def _undelivered(self, life: int, route: bytes, frames: list[bytes]) -> None:
        if self.broker.life == life and self.broker.is_up():
            self.reached.reach("connection_was_gone")
            self.broker.do(lambda: self.broker.undelivered(route, frames))

    def _carry(self, source: str, destination: str, frames: list[bytes], arrive: Callable[[int], None]) -> None:
        now_ns = self.timeline.now_ns
        ends = (source, destination)
        line = self._note_frames(source, "send", destination, frames, 0)
        link = self._links.get(ends)
        if link is None:
            plan = self.plan
            link = self._links[ends] = Link(plan.seed, *ends, plan.latency_low_ns, plan.latency_high_ns)
        fate = link.carry(frames[-1], now_ns, self.faults)
        if fate.lost:
            self._note_frames(source, "lost", destination, frames, line, fate.lost)
            return
        at_ns = now_ns + fate.delay_ns
        for later_ns in (0, *fate.copies):
            self.timeline.at(at_ns + later_ns, arrive, line)

    def _arrived(self, host: Host, peer: str, frames: list[bytes], line: int) -> None:
        self._note_frames(host.name, "arrive" if host.is_up() else "lost", peer, frames, line)

    # Faults.

    def _begin(self, fault: Fault) -> None:
        self.note(fault.name, "fault", " ".join(fault.nodes + fault.between), 0, fault.kind)
        if KINDS[fault.kind].scope is Scope.LINKS:
            self.faults.begin(fault)
        for name in fault.nodes if KINDS[fault.kind].scope is Scope.NODES else ():
            host = self.hosts[name]
            match fault.kind:
                case "crash":
                    host.down += 1
                    if host.down == 1:
                        host.doom()
                case "restart" if not host.down:
                    host.die()
                    self._boot(host)
                case "pause":
                    host.paused += 1
                case "clock_jump":
                    host.clocks.offset_ns += int(fault.values["by"])
                case "clock_skew":
                    host.clocks.offset_ns += int(fault.values["offset"])
                case "slow_reader" if isinstance(host, OperatorHost):
                    host.is_reading = False
                case "job_flood" if isinstance(host, OperatorHost):
                    self._flood(fault, host)
                case "operator_revoked":
                    self.broker.revoke(name)
                case "hostile_node" if isinstance(host, AgentHost):
                    hostile = HostileNode(self, fault, host)
                    hostile.steal()
                    hostile.act()
                case _:
                    pass

    def _end(self, fault: Fault) -> None:
        self.note(fault.name, "heal", " ".join(fault.nodes + fault.between), 0, fault.kind)
        if KINDS[fault.kind].scope is Scope.LINKS:
            self.faults.end(fault)
            if fault.kind == "partition":
                self._reconnect(fault)
        for name in fault.nodes if KINDS[fault.kind].scope is Scope.NODES else ():
            host = self.hosts[name]
            match fault.kind:
                case "crash":
                    host.down -= 1
                    if not host.down:
                        if host._dies_after is not None:  # it has not died yet, so it does now
                            host._dies_after = None
                            host.die()
                        self._boot(host)
                case "pause":
                    host.paused -= 1
                    if not host.paused:
                        host.resume()
                case "clock_skew":
                    host.clocks.offset_ns -= int(fault.values["offset"])
                case "slow_reader" if isinstance(host, OperatorHost):
                    host.is_reading = True
                case "operator_revoked":
                    self.broker.revoked[name] -= 1
                case _:
                    pass

    def _boot(self, host: Host) -> None:
        host.boot()
        if host is self.broker:
            at_ns = self.timeline.now_ns + RECONNECTED_AFTER_NS
            for agent in self.agents.values():
                if below(self._dice.getrandbits(64), 4):  # the others find out when the broker asks who they are
                    self.timeline.at(at_ns, agent.reconnect)

    def _reconnect(self, fault: Fault) -> None:
        """Connections that a partition has cut are made again."""
        for agent in self.agents.values():
            if fault.touches(agent.name, self.broker.name) or fault.touches(self.broker.name, agent.name):
                agent.reconnect()

    def _flood(self, fault: Fault, host: OperatorHost) -> None:
        if self.timeline.now_ns < fault.until_ns:
            host.ask(is_flood=True)
            self.timeline.at(self.timeline.now_ns + int(fault.values["every"]), self._flood, fault, host)

    # What is asked for, and what must have come of it.

    def _ask(self, workload: Workload) -> None:
        for host in self.operators.values():
            if workload.kind == "files":
                host.files.begin()
            else:
                host.ask()
        at_ns = self.timeline.now_ns + workload.every_ns
        if at_ns < self.plan.healed_ns:
            self.timeline.at(at_ns, self._ask, workload)

    def _judge(self, name: str) -> None:
        if name == transfers_are_over.__name__:
            clients: list[OperatorHost | AgentHost] = [*self.operators.values(), *self.agents.values()]
            waiting = [f"{host.name} {key}" for host in clients for key in host.files.unfinished()]
            hold(transfers_are_over, Transfers(tuple(waiting), len(self.broker.shelf.service)))
            return
        settled = Settled(
            unfinished=tuple(self.broker.broker.jobs.running),
            unheard=tuple(job for host in self.operators.values() for job in host.unheard()),
            untold={name: len(host.agent._journal.ended()) for name, host in self.agents.items()},
            refused=self.broker.refused,
            audited=self.broker.audited,
        )
        hold(EVENTUALLY[name], settled)
