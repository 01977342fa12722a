"""The world at heap speed: the pure protocols of each node, and time that is a heap. No tasks, no threads, no I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from holloway.protocols.suites import SUITES
from holloway.protocols.timers import Timers
from holloway.simulations.heap import Timeline
from holloway.simulations.identities import Identity
from holloway.simulations.machine import Machine, Seat
from holloway.simulations.oracles import hold
from holloway.simulations.plan import Plan
from holloway.simulations.trace import Trace
from holloway.simulations.watched import watched_suite
from holloway.simulations.world import EVENTS_PER_SECOND, SECOND_NS, World, has_forgers

if TYPE_CHECKING:
    from holloway.simulations.capture import Capture


class HeapWorld(World):
    """See `World`."""

    def __init__(self, plan: Plan, trace: Trace | None = None, capture: Capture | None = None) -> None:
        self._suite = watched_suite(SUITES[plan.suite], hold, self._note_sealed if has_forgers(plan) else None)
        self._timers = Timers(**plan.timers)
        self._time = Timeline()
        super().__init__(plan, self._time, trace, capture)
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

    def wake(self, machine: Machine, seat: Seat, at_ns: int) -> None:
        """Plan a look at the deadlines of a session."""
        self.timeline.at(at_ns, self._wake, machine, seat, at_ns)

    def _wake(self, machine: Machine, seat: Seat, at_ns: int) -> None:
        if seat.due_ns == at_ns:  # else it was planned again for another time
            machine.wake(seat, seat.life, at_ns)
