"""One run: nodes, links, programs and faults of a plan on one timeline, with every promise asked about on the way.

The world is an ordinary object without tasks, threads or I/O: `run` calls what is due until the time is over, and raises
`PropertyViolated` at the first promise that is broken. Not responsible for what the faults of nodes do (`mishaps`), for
what the programs send (`programs`), nor for what becomes of a datagram on a link (`links`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace

from holloway.protocols.addresses import Address
from holloway.protocols.session import Session
from holloway.protocols.suites import SUITES, Aead, Suite
from holloway.protocols.timers import Timers
from holloway.simulations.heap import Timeline
from holloway.simulations.ledger import Delivered, Ledger
from holloway.simulations.links import ActiveFaults, Link, Listener, Overheard
from holloway.simulations.machine import Identity, Machine, Seat, identity
from holloway.simulations.milestones import Reached
from holloway.simulations.mishaps import Mishaps
from holloway.simulations.oracles import (
    EVENTUALLY,
    MARKER,
    Calm,
    hold,
    no_nonce_used_twice,
    no_plaintext_on_the_wire,
)
from holloway.simulations.plan import Plan
from holloway.simulations.programs import Programs
from holloway.simulations.trace import Trace

SECOND_NS = 10**9
EVENTS_PER_SECOND = 2_000_000
"""Of virtual time, beyond which something keeps itself busy."""


class World:
    """The world of one plan. `trace` takes what happens; without it nothing is recorded, and a run is quicker."""

    def __init__(self, plan: Plan, trace: Trace | None = None) -> None:
        self.plan = plan
        self.trace = trace
        self.timeline = Timeline()
        self.ledger = Ledger()
        self.reached = Reached()
        self.faults = ActiveFaults(plan.faults)
        self.listeners = [Listener(fault, plan.seed) for fault in plan.faults if fault.kind == "replay"]
        self.machines: dict[str, Machine] = {}
        self.addresses: dict[Address, Machine] = {}
        self.deliveries: list[Callable[[Machine, str, Delivered], None]] = []
        """Programs that hear of every packet that comes out: (receiver, sender, packet)."""
        self._links: dict[tuple[str, str], Link] = {}
        self._unheard: dict[tuple[str, str], None] | None = None
        self._first_after_healing = 0
        self._populate()
        self.mishaps = Mishaps(self)
        self.programs = Programs(self)
        self.timeline.at(plan.healed_ns, self._healed)

    def run(self, progress: Callable[[int], None] | None = None) -> None:
        """Let the whole time of the plan pass. `progress` is told the virtual time now and then.

        Raises `PropertyViolated`, and whatever the system under test raises by mistake.
        """
        try:
            while self.timeline.now_ns < self.plan.duration_ns:
                until_ns = min(self.timeline.now_ns + SECOND_NS, self.plan.duration_ns)
                self.timeline.run(until_ns, EVENTS_PER_SECOND)
                if progress is not None:
                    progress(until_ns)
        finally:
            for machine in self.machines.values():
                machine.settle_accounts()

    def _populate(self) -> None:
        plan = self.plan
        suite = _watched(SUITES[plan.suite])
        timers = Timers(**plan.timers)
        identities = {name: identity(plan.seed, number, name) for number, name in enumerate(plan.nodes)}
        peers: dict[str, list[Identity]] = {name: [] for name in plan.nodes}
        for first, second in plan.pairs:
            peers[first].append(identities[second])
            peers[second].append(identities[first])
        for name, own in identities.items():
            machine = Machine(
                self, plan.seed, own, peers[name], suite=suite, timers=timers, keepalive_s=plan.keepalive_s
            )
            self.machines[name] = self.addresses[machine.public] = machine
        for machine in self.machines.values():
            machine.boot(0)

    # What machines ask.

    def transmit(self, sender: Machine, datagram: bytes, destination: Address, cause: int) -> None:
        """Put a datagram on the wire, where the faults of the moment befall it."""
        if MARKER in datagram:
            hold(no_plaintext_on_the_wire, datagram)
        receiver = self.addresses.get(destination)
        name = receiver.name if receiver is not None else "nobody"
        line = self._note("send", sender.name, name, datagram, cause)
        if receiver is None:
            self._note("lost", sender.name, name, datagram, line, "unreachable")
            return
        ends = (sender.name, name)
        for listener in self.listeners:
            listener.hear(*ends, Overheard(datagram, sender.public, destination))
        link = self._links.get(ends)
        if link is None:
            plan = self.plan
            link = self._links[ends] = Link(plan.seed, *ends, plan.latency_low_ns, plan.latency_high_ns)
        now_ns = self.timeline.now_ns
        fate = link.carry(datagram, now_ns, self.faults)
        if fate.lost:
            self._note("lost", sender.name, name, datagram, line, fate.lost)
            return
        at_ns = now_ns + fate.delay_ns
        source = sender.public
        self.timeline.at(at_ns, self.arrive, fate.data, source, destination, fate.is_forged, line)
        for later_ns in fate.copies:
            self.timeline.at(at_ns + later_ns, self.arrive, fate.data, source, destination, fate.is_forged, line)

    def arrive(self, datagram: bytes, source: Address, destination: Address, is_forged: bool, cause: int) -> None:
        """A datagram reaches whoever has the address now."""
        receiver = self.addresses.get(destination)
        if receiver is None or receiver.down:
            self._note("lost", "nobody" if receiver is None else receiver.name, "", datagram, cause, "nobody there")
            return
        sender = self.addresses.get(source)
        line = self._note("arrive", receiver.name, sender.name if sender else "stranger", datagram, cause)
        receiver.receive(datagram, source, self.timeline.now_ns, is_forged=is_forged, cause=line)

    def deliver(self, machine: Machine, peer: str, packet: bytes, cause: int) -> None:
        """An inner packet came out of the tunnel."""
        delivered = self.ledger.deliver(
            packet,
            sender=peer,
            sender_address=self.machines[peer].inner,
            receiver=machine.name,
            receiver_address=machine.inner,
        )
        if self.trace is not None:
            self.trace.add(
                self.timeline.now_ns, machine.name, "deliver", peer, len(packet), cause, f"packet {delivered.serial}"
            )
        if self._unheard and delivered.serial >= self._first_after_healing:
            self._unheard.pop((peer, machine.name), None)
        for tell in self.deliveries:
            tell(machine, peer, delivered)

    def wake(self, machine: Machine, seat: Seat, at_ns: int) -> None:
        """Plan a look at the deadlines of a session."""
        self.timeline.at(at_ns, self._wake, machine, seat, at_ns)

    def _wake(self, machine: Machine, seat: Seat, at_ns: int) -> None:
        if seat.due_ns == at_ns:  # else it was planned again for another time
            machine.wake(seat, seat.life, at_ns)

    def record(self, machine: Machine, kind: str, peer: str, what: str, cause: int) -> int:
        """A line of the trace that is about a node."""
        if self.trace is None:
            return 0
        return self.trace.add(self.timeline.now_ns, machine.name, kind, peer, 0, cause, what)

    def _note(self, kind: str, node: str, peer: str, datagram: bytes, cause: int, why: str = "") -> int:
        if self.trace is None:
            return 0
        word = int.from_bytes(datagram[:4], "little")
        name = _NAMES.get(word) or ("keepalive" if len(datagram) == 32 else "data")
        what = f"{name} {zlib.crc32(datagram):08x}{' ' if why else ''}{why}"
        return self.trace.add(self.timeline.now_ns, node, kind, peer, len(datagram), cause, what)

    # The calm after the faults.

    def _healed(self) -> None:
        plan = self.plan
        self._first_after_healing = self.ledger.count
        pairs = list(plan.pairs) + [(second, first) for first, second in plan.pairs]
        self._unheard = dict.fromkeys(pairs)
        self._probe()
        for name, within_ns in plan.eventually.items():
            self.timeline.at(plan.healed_ns + within_ns, self._judge, name)

    def _probe(self) -> None:
        """Programs on both sides try until they have heard each other."""
        for first, second in list(self._unheard or ()):
            self.programs.send_one(first, second)
        if self._unheard:
            self.timeline.at(self.timeline.now_ns + SECOND_NS // 2, self._probe)

    def _judge(self, name: str) -> None:
        sessions = {
            (machine.name, peer): seat.session
            for machine in self.machines.values()
            for peer, seat in machine.seats.items()
        }
        calm = Calm(
            unheard=tuple(self._unheard or ()),
            waiting={pair: session.staged for pair, session in sessions.items()},
            endpoints={pair: self._endpoint(pair[1], session) for pair, session in sessions.items()},
        )
        hold(EVENTUALLY[name], calm)

    def _endpoint(self, peer: str, session: Session) -> tuple[Address | None, Address]:
        return session.endpoint, self.machines[peer].public


_NAMES = {
    1: "initiation",
    2: "response",
    3: "cookie",
    0x21: "initiation",
    0x22: "response",
    0x23: "cookie",
    0x24: "reset",
}


def _watched(suite: Suite) -> Suite:
    """`suite` with a cipher that remembers, for the whole world, which nonces each key has sealed with."""
    used: dict[bytes, dict[bytes, None]] = {}

    def make(key: bytes) -> Aead:
        return _Watched(suite.aead(key), used.setdefault(key, {}))

    return replace(suite, aead=make)


class _Watched:
    """A cipher that keeps the promise about its nonces under watch."""

    __slots__ = ("_cipher", "_used", "decrypt")

    def __init__(self, cipher: Aead, used: dict[bytes, None]) -> None:
        self._cipher, self._used = cipher, used
        self.decrypt = cipher.decrypt

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        hold(no_nonce_used_twice, self._used, nonce)
        return self._cipher.encrypt(nonce, data, associated_data)
