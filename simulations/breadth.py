"""The world at heap speed: the pure protocols of each node, and time that is a heap. No tasks, no threads, no I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from holloway.protocols.suites import SUITES
from holloway.protocols.timers import Timers
from holloway.simulations.faults import Fault
from holloway.simulations.heap import Timeline
from holloway.simulations.heap_store import HeapStore
from holloway.simulations.identities import Identity
from holloway.simulations.machine import Machine, Seat
from holloway.simulations.oracles import hold
from holloway.simulations.plan import Plan
from holloway.simulations.trace import Trace
from holloway.simulations.watched import watched_suite
from holloway.simulations.world import EVENTS_PER_SECOND, SECOND_NS, Host, World, needs_records

if TYPE_CHECKING:
    from holloway.simulations.capture import Capture

LOOK_NS = SECOND_NS
PING = bytes(96)
"""What a ping takes on the wire; it is none of a session."""


class HeapWorld(World):
    """See `World`."""

    def __init__(self, plan: Plan, trace: Trace | None = None, capture: Capture | None = None) -> None:
        self._suite = watched_suite(SUITES[plan.suite], hold, self._note_sealed if needs_records(plan) else None)
        self._timers = Timers(**plan.timers)
        self._time = Timeline()
        super().__init__(plan, self._time, trace, capture)
        self.store: HeapStore | None = None
        if plan.registry is not None:
            latency_ns = plan.registry.latency_low_ns, plan.registry.latency_high_ns
            self.store = HeapStore(plan.seed, self._time, latency_ns, plan.nodes)
            self._time.at(LOOK_NS, self._look_around)
        self.populate()

    def _note_sealed(self, counter: int, plaintext: bytes) -> None:
        self.foretold.note_sealed(counter, plaintext)

    def make_host(self, own: Identity, peers: list[Identity]) -> Machine:
        """See `World`."""
        plan = self.plan
        return Machine(
            self, plan.seed, own, peers, suite=self._suite, timers=self._timers, keepalive_s=plan.keepalive_s
        )

    def run(self, progress: Callable[[int], None] | None = None) -> None:
        """See `World`."""
        try:
            while self.timeline.now_ns < self.plan.duration_ns:
                until_ns = min(self.timeline.now_ns + SECOND_NS, self.plan.duration_ns)
                self._time.run(until_ns, EVENTS_PER_SECOND)
                if progress is not None:
                    progress(until_ns)
        finally:
            for host in self.hosts.values():
                host.settle_accounts()

    def _look_around(self) -> None:
        self._time.at(self._time.now_ns + LOOK_NS, self._look_around)
        self.floating.look(self._time.now_ns)

    def ping(self, host: Host, peer: str, patience_ns: int, tell: Callable[[bool], None]) -> None:
        """Whether a datagram gets from `host` to `peer`, who stands, and another one back, is told within `patience_ns`."""
        now_ns, other = self._time.now_ns, self.hosts[peer]
        there = self.link(host.name, peer).carry(PING, now_ns, self.faults)
        back = self.link(peer, host.name).carry(PING, now_ns + there.delay_ns, self.faults)
        takes_ns = there.delay_ns + back.delay_ns
        is_lost = bool(there.lost or back.lost) or takes_ns > patience_ns

        def answer() -> None:
            tell(not (is_lost or other.down or other.paused))

        self._time.at(now_ns + (patience_ns if is_lost else takes_ns), answer)

    def store_fails(self, fault: Fault) -> None:
        """See `World`."""
        assert self.store is not None, "a plan without a registry has no such fault"
        self.store.begin(fault)

    def store_recovers(self, fault: Fault) -> None:
        """See `World`."""
        assert self.store is not None, "a plan without a registry has no such fault"
        self.store.end(fault)

    def wake(self, machine: Machine, seat: Seat, at_ns: int) -> None:
        """Plan a look at the deadlines of a session."""
        self.timeline.at(at_ns, self._wake, machine, seat, at_ns)

    def _wake(self, machine: Machine, seat: Seat, at_ns: int) -> None:
        if seat.due_ns == at_ns:  # else it was planned again for another time
            machine.wake(seat, seat.life, at_ns)
