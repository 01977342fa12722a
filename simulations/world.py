"""One run: nodes, links, programs and faults of a plan on one timeline, with every promise asked about on the way.

What is the same at both depths: what becomes of a datagram on its way, what came out of the tunnels, and the judgement
after the last fault. What a node is, and how time passes, is the business of `breadth` (the pure protocols, on a heap) and
of `actor_world` (whole nodes, on Trio). Not responsible for what the faults of nodes do (`mishaps`), for what the programs
send (`programs`), nor for what becomes of a datagram on a link (`links`).
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Protocol

from holloway.protocols.addresses import Address
from holloway.protocols.events import DropReason, EndpointMoved
from holloway.protocols.floating_table import FloatingHolder
from holloway.protocols.packets import Packet
from holloway.protocols.packets import destination as inner_destination
from holloway.protocols.session import Session
from holloway.simulations.clocks import Clocks
from holloway.simulations.faults import KINDS, Fault, Scope
from holloway.simulations.floating_watch import FloatingWatch
from holloway.simulations.forgers import Foretold, Forger
from holloway.simulations.heap import Agenda
from holloway.simulations.identities import Identity, identity
from holloway.simulations.inner_packets import is_too_big
from holloway.simulations.lane_oracles import LANES_EVENTUALLY
from holloway.simulations.lane_watch import LaneWatch
from holloway.simulations.ledger import Delivered, Ledger
from holloway.simulations.links import ActiveFaults, Link, Listener, Overheard
from holloway.simulations.milestones import Reached
from holloway.simulations.mishaps import Mishaps
from holloway.simulations.oracles import (
    EVENTUALLY,
    MARKER,
    MEET_NS,
    NARROW_NS,
    Calm,
    hold,
    inner_destination_is_ours,
    no_plaintext_on_the_wire,
    nothing_is_lost,
    strangers_gain_nothing,
)
from holloway.simulations.plan import Plan
from holloway.simulations.programs import Programs
from holloway.simulations.record_oracles import path_of, size_by_reports
from holloway.simulations.trace import Trace

if TYPE_CHECKING:
    from holloway.simulations.capture import Capture
    from holloway.simulations.liars import Liar

SECOND_NS = 10**9
SOCKET_DATAGRAMS = 4096
"""Datagrams that wait in the socket of a node that lags, or stands still; later ones are lost."""
ON_THE_WAY_NS = 2 * SECOND_NS
"""How long a packet may be on its way in the calm."""
NOBODY_THERE = "nobody there"
"""Why a datagram that has come through is lost all the same."""
EVENTS_PER_SECOND = 2_000_000
"""Of virtual time, beyond which something keeps itself busy."""


class Host(Protocol):
    """A node, at either depth. `public`: where it is seen on the wire; `down` and `paused` count the faults that keep it
    so; `key` is its public key, `inside` its addresses inside by version of IP, `inner` the one of version 4,
    which is empty while it has none.
    """

    name: str
    inner: bytes
    inside: Mapping[int, bytes]
    key: bytes
    public: Address
    clocks: Clocks
    down: int
    paused: int

    def boot(self, now_ns: int) -> None:
        """Begin a life with nothing but the configuration."""

    def die(self) -> None:
        """All state is gone, and nothing is said to anybody."""

    def leave(self) -> None:
        """Stop in order."""

    def pause(self) -> None:
        """Stand still: datagrams wait in the socket."""

    def resume(self, now_ns: int) -> None:
        """Go on after standing still."""

    def receive(self, datagram: bytes, source: Address, now_ns: int, *, is_forged: bool, cause: int) -> None:
        """A datagram arrives. `is_forged`: it is not as a peer made it."""

    def send(
        self, peer: str, packets: list[Packet], now_ns: int, *, is_rogue: bool = False, is_sparse: bool = False
    ) -> None:
        """Programs on this node hand in packets for `peer`. `is_rogue`: past everything that a node does to them first. `is_sparse`:
        by the sparse lane.
        """

    def rekey(self, peer: str, now_ns: int) -> None:
        """Ask for new keys."""

    def lie(self, liar: Liar | None) -> None:
        """From now on sessions report what `liar` makes them, or the truth."""

    def break_port(self, bits: int) -> None:
        """Something of the kernel's fails under the node; `bits`, a draw, say what."""

    def break_socket(self, bits: int) -> None:
        """One of its sockets fails; `bits`, a draw, say which."""

    def owns(self, address: IPv4Address) -> bool:
        """Whether it would answer for a floating address at this moment."""

    def believes(self, address: IPv4Address) -> FloatingHolder | None:
        """Whom it takes for the holder of a floating address."""

    def has_on_device(self, address: IPv4Address) -> bool:
        """Whether its kernel would answer for a floating address."""

    def sessions(self) -> Mapping[str, Session]:
        """The sessions of this life, by peer."""

    def known(self) -> tuple[str, ...]:
        """Whom the node takes for its peers."""

    def clock_changed(self, now_ns: int) -> None:
        """The monotonic clock runs at another rate from now on."""

    def settle_accounts(self) -> None:
        """Tell what this life has gone through."""


class World(ABC):
    """The world of one plan. `trace` takes what happens, `capture` the packets; without them a run is quicker."""

    def __init__(
        self, plan: Plan, timeline: Agenda, trace: Trace | None = None, capture: Capture | None = None
    ) -> None:
        self.plan = plan
        self.timeline = timeline
        self.trace = trace
        self.capture = capture
        self.ledger = Ledger()
        self.reached = Reached()
        self.faults = ActiveFaults(plan.faults)
        self.listeners = [Listener(fault, plan.seed) for fault in plan.faults if fault.kind == "replay"]
        self.foretold = Foretold()
        self.forgers = [
            Forger(fault, plan.seed, self._foretell) for fault in plan.faults if fault.kind == "forge_pieces"
        ]
        self.lanes = LaneWatch(plan, self.reached.reach)
        self.deliveries: list[Callable[[Host, str, Delivered], None]] = []
        """Programs that hear of every packet that comes out: (receiver, sender, packet)."""
        self._links: dict[tuple[str, str], Link] = {}
        self._strangers: dict[Address, int] = {}
        """By address, how many bytes more a stranger has sent than he was sent."""
        self._narrow: list[tuple[int, int]] = []
        self._without_store: list[tuple[int, int]] = []
        self.outcasts: dict[str, None] = {}
        """Nodes that the authority has revoked: nobody is to reach them."""
        self._unheard: dict[tuple[str, str], None] | None = None
        self._first_after_healing = 0
        self._first_expected = 0
        self._expected = range(0)
        identities = {name: identity(plan.seed, number, name) for number, name in enumerate(plan.nodes)}
        peers: dict[str, list[Identity]] = {name: [] for name in plan.nodes}
        for first, second in plan.pairs:
            peers[first].append(identities[second])
            peers[second].append(identities[first])
        self.hosts: dict[str, Host] = {name: self.make_host(own, peers[name]) for name, own in identities.items()}
        self._inside = {name: tuple(host.inside.values()) for name, host in self.hosts.items()}
        self.floating = FloatingWatch(plan, self.hosts, timeline, self.check, self.reached.reach)
        for address, floating in self.floating.plans.items():
            for name in floating.nodes:
                self._inside[name] += (address.packed,)
        self.addresses: dict[Address, Host] = {host.public: host for host in self.hosts.values()}

    def populate(self) -> None:
        """Let every node boot, and plan everything that will befall them."""
        for host in self.hosts.values():
            host.boot(0)
        self.mishaps = Mishaps(self)
        self.programs = Programs(self)
        self.timeline.at(self.plan.healed_ns, self._healed)
        if self.lanes.is_on:
            self.timeline.at(SECOND_NS, lambda: self.lanes.begin(self.ledger.count))
        for fault in self.plan.faults:
            if fault.kind == "mtu_drop" and fault.until_ns > fault.at_ns + NARROW_NS + ON_THE_WAY_NS:
                self._expect_between(fault.at_ns + NARROW_NS, fault.until_ns - ON_THE_WAY_NS, self._narrow)
        for begin_ns, end_ns in _quiet_outages(self.plan):
            self._expect_between(begin_ns, end_ns, self._without_store)

    # What each depth does its own way.

    @abstractmethod
    def make_host(self, own: Identity, peers: list[Identity]) -> Host:
        """A node that has not booted yet."""

    @abstractmethod
    def run(self, progress: Callable[[int], None] | None = None) -> None:
        """Let the whole time of the plan pass. `progress` is told the virtual time now and then.

        Raises `PropertyViolated`, and whatever the system under test raises by mistake.
        """

    def revoke(self, host: Host) -> None:
        """The authority revokes a node. Only networks of whole nodes have one: elsewhere no plan has such a fault."""
        raise NotImplementedError

    def store_fails(self, fault: Fault) -> None:
        """A fault of the registry begins. Only whole nodes have one: elsewhere no plan has such faults."""
        raise NotImplementedError

    def store_recovers(self, fault: Fault) -> None:
        """It ends."""
        raise NotImplementedError

    def certificate_fails(self, host: Host, kind: str) -> None:
        """The node shows a bad certificate. Only whole nodes that speak DTLS have one: elsewhere no plan has such faults."""
        raise NotImplementedError

    def certificate_recovers(self, host: Host, kind: str) -> None:
        """It shows its own again."""
        raise NotImplementedError

    def check(self, promise: Callable[..., str | None], *facts: object) -> None:
        """Hold a promise, wherever it is looked at. Raises `PropertyViolated`."""
        hold(promise, *facts)

    # What nodes ask.

    def transmit(self, sender: Host, datagram: bytes, destination: Address, cause: int) -> None:
        """Put a datagram on the wire, where the faults of the moment befall it."""
        receiver = self.addresses.get(destination)
        if MARKER in datagram:
            names = (sender.name, "" if receiver is None else receiver.name)
            if all(each in self.plan.in_clear for each in names):
                self.reached.reach("sent_in_clear")
            else:
                hold(no_plaintext_on_the_wire, datagram)
        name = receiver.name if receiver is not None else "nobody"
        now_ns = self.timeline.now_ns
        line = self._note("send", sender.name, name, datagram, cause)
        if self.capture is not None:
            self.capture.wire(now_ns, sender.public, destination, datagram)
        self.lanes.sent(sender, datagram)
        if receiver is None:
            self.lanes.lost(datagram)
            self._note("lost", sender.name, name, datagram, line, "unreachable")
            if destination in self._strangers:
                self._strangers[destination] -= len(datagram)
                hold(strangers_gain_nothing, self._strangers[destination], sender.name)
            return
        ends = (sender.name, name)
        overheard = Overheard(datagram, sender.public, destination)
        for forger in self.forgers:
            forger.hear(*ends, overheard)
        fate = self.link(*ends).carry(datagram, now_ns, self.faults)
        for listener in self.listeners:
            if fate.held_ns or self.lanes.is_on:  # to send it at once would be to help it past the others
                self.timeline.at(now_ns + fate.delay_ns + 1, listener.hear, *ends, overheard)
            else:
                listener.hear(*ends, overheard)
        if fate.lost:
            self.lanes.lost(datagram)
            self._note("lost", sender.name, name, datagram, line, fate.lost)
            return
        if fate.has_overtaken:
            self.reached.reach("sparse_overtook")
        at_ns = now_ns + fate.delay_ns
        source = sender.public
        self.timeline.at(at_ns, self.arrive, fate.data, source, destination, fate.is_forged, line)
        for later_ns in fate.copies:
            self.timeline.at(at_ns + later_ns, self.arrive, fate.data, source, destination, fate.is_forged, line)

    def link(self, source: str, destination: str) -> Link:
        """One way between two nodes."""
        link = self._links.get((source, destination))
        if link is None:
            low_ns, high_ns = self.plan.latency_low_ns, self.plan.latency_high_ns
            link = self._links[source, destination] = Link(self.plan.seed, source, destination, low_ns, high_ns)
        return link

    def flood(self, datagram: bytes, source: Address, destination: Address) -> None:
        """A stranger sends a datagram of his own making."""
        self._strangers[source] = self._strangers.get(source, 0) + len(datagram)
        self.inject(datagram, source, destination, is_forged=True)

    def inject(self, datagram: bytes, source: Address, destination: Address, *, is_forged: bool) -> None:
        """Somebody who is no node, or is not where he says, sends a datagram, which arrives at once."""
        if self.capture is not None:
            self.capture.wire(self.timeline.now_ns, source, destination, datagram)
        self.arrive(datagram, source, destination, is_forged, 0)

    def arrive(self, datagram: bytes, source: Address, destination: Address, is_forged: bool, cause: int) -> None:
        """A datagram reaches whoever has the address now."""
        receiver = self.addresses.get(destination)
        if receiver is None or receiver.down:
            self.lanes.lost(datagram)
            self._note("lost", "nobody" if receiver is None else receiver.name, "", datagram, cause, NOBODY_THERE)
            return
        sender = self.addresses.get(source)
        self.lanes.arrived(receiver, datagram, source, is_forged=is_forged)
        line = self._note("arrive", receiver.name, sender.name if sender else "stranger", datagram, cause)
        receiver.receive(datagram, source, self.timeline.now_ns, is_forged=is_forged, cause=line)

    def deliver(self, host: Host, packet: bytes, cause: int, session: str | None = None) -> None:
        """An inner packet came out of the tunnel; through the session with the peer `session`, where that is known."""
        if is_too_big(packet):  # the node's own answer to a program of the host
            hold(inner_destination_is_ours, inner_destination(packet), self._inside[host.name], host.name)
            self.reached.reach("told_too_big")
            return
        delivered = self.ledger.deliver(
            packet,
            receiver=host.name,
            addresses=self._inside,
            session=session,
        )
        now_ns, maker = self.timeline.now_ns, delivered.maker
        if self.capture is not None:
            self.capture.inside(now_ns, host.name, packet)
        if self.trace is not None:
            self.trace.add(now_ns, host.name, "deliver", maker, len(packet), cause, f"packet {delivered.serial}")
        self.floating.heard(host, maker, delivered, now_ns)
        if self._unheard and delivered.serial >= self._first_after_healing:
            self._unheard.pop((maker, host.name), None)
        for tell in self.deliveries:
            tell(host, maker, delivered)

    def moved(self, host: Host, peer_key: bytes, event: EndpointMoved) -> None:
        """A session of a node has another endpoint, by a record."""
        for peer in self.hosts.values():
            if peer.key == peer_key:
                self.lanes.moved(host.name, peer, event)

    def _foretell(self, number: int) -> None:
        self.foretold.foretell(number)
        self.lanes.foretold(number)

    def record(self, host: Host, kind: str, peer: str, what: str, cause: int) -> int:
        """A line of the trace that is about a node."""
        if self.trace is None:
            return 0
        return self.trace.add(self.timeline.now_ns, host.name, kind, peer, 0, cause, what)

    def _note(self, kind: str, node: str, peer: str, datagram: bytes, cause: int, why: str = "") -> int:
        if self.trace is None:
            return 0
        what = f"{self.words(datagram)}{' ' if why else ''}{why}"
        return self.trace.add(self.timeline.now_ns, node, kind, peer, len(datagram), cause, what)

    def words(self, datagram: bytes) -> str:
        """What the trace calls a datagram."""
        word = int.from_bytes(datagram[:4], "little")
        name = _NAMES.get(word) or ("keepalive" if len(datagram) == 32 else "data")
        return f"{name} {zlib.crc32(datagram):08x}"

    # The calm after the faults.

    def _healed(self) -> None:
        plan = self.plan
        self.programs.calm_down()
        self._first_after_healing = self.ledger.count
        self._unheard = dict.fromkeys(self._both_ways())
        self._probe()
        for name, within_ns in plan.eventually.items():
            at_ns = plan.healed_ns + within_ns
            if name == nothing_is_lost.__name__:
                self.timeline.at(at_ns, self._expect_everything)
                self.timeline.at(max(at_ns, plan.duration_ns - ON_THE_WAY_NS), self._expect_no_more)
                at_ns = plan.duration_ns
            self.timeline.at(at_ns, self._judge, name)

    def _both_ways(self) -> list[tuple[str, str]]:
        pairs = [pair for pair in self.plan.pairs if not self._has_outcast(pair)]
        return pairs + [(second, first) for first, second in pairs]

    def _has_outcast(self, pair: tuple[str, str]) -> bool:
        return pair[0] in self.outcasts or pair[1] in self.outcasts

    def _expect_between(self, begin_ns: int, end_ns: int, found: list[tuple[int, int]]) -> None:
        """What is made in that time goes into `found`, as the first packet and the one after the last."""
        self.timeline.at(begin_ns, self._expect_until, end_ns, found)

    def _expect_until(self, end_ns: int, found: list[tuple[int, int]]) -> None:
        first = self.ledger.count
        self.timeline.at(end_ns, lambda: found.append((first, self.ledger.count)))

    def _missing(self, serials: Iterable[int]) -> list[int]:
        """Those that should have come out, and have not; between whoever was revoked and others none should."""
        return [each for each in self.ledger.missing(serials) if not self._has_outcast(self.ledger.ends(each))]

    def _expect_everything(self) -> None:
        """From now on every packet must come out."""
        self._first_expected = self.ledger.count

    def _expect_no_more(self) -> None:
        """Those that are made now need not come out before the end."""
        self._expected = range(self._first_expected, self.ledger.count)

    def _probe(self) -> None:
        """Programs on both sides try until they have heard each other."""
        for first, second in list(self._unheard or ()):
            self.programs.send_one(first, second)
        if self._unheard:
            self.timeline.at(self.timeline.now_ns + SECOND_NS // 2, self._probe)

    def _judge(self, name: str) -> None:
        hold(EVENTUALLY[name], self.calm())

    def calm(self) -> Calm:
        """How things stand."""
        sessions = {
            (host.name, peer): session for host in self.hosts.values() for peer, session in host.sessions().items()
        }
        before = self._missing(range(self._first_after_healing))
        unforetold = self.foretold.unforetold(before)
        return Calm(
            unheard=tuple(self._unheard or ()),
            waiting={pair: session.staged for pair, session in sessions.items() if not self._has_outcast(pair)},
            endpoints={
                pair: (sessions[pair].endpoint if pair in sessions else None, self.hosts[pair[1]].public)
                for pair in self._both_ways()
            },
            lost=tuple(self._missing(self._expected)),
            lost_by_bystanders=tuple(serial for serial in before if not self._is_touched(*self.ledger.ends(serial))),
            lost_unforetold=unforetold,
            lost_on_narrow_paths=self._missing_in(self._narrow),
            lost_in_outages=self._missing_in(self._without_store),
            paths={pair: path_of(session) for pair, session in sessions.items()},
            floating=tuple(self.floating.afloat()),
            lanes=self.lanes.judge(
                unforetold, self.foretold.records, self.reached.drops[DropReason.REPLAYED.value], sessions.values()
            ),
            record_sizes={pair: size_by_reports(session)[2] for pair, session in sessions.items()},
        )

    def _missing_in(self, spans: Iterable[tuple[int, int]]) -> tuple[int, ...]:
        return tuple(serial for first, last in spans for serial in self._missing(range(first, last)))

    def _is_touched(self, first: str, second: str) -> bool:
        """Whether a fault has befallen the link between two nodes, or one of them."""
        for fault in self.plan.faults:
            if KINDS[fault.kind].scope is Scope.LINKS:
                if fault.touches(first, second) or fault.touches(second, first):
                    return True
            elif first in fault.nodes or second in fault.nodes:
                return True
        return False


_NAMES = {
    1: "initiation",
    2: "response",
    3: "cookie",
    0x21: "initiation",
    0x22: "response",
    0x23: "cookie",
    0x24: "reset",
}


def _quiet_outages(plan: Plan) -> Iterator[tuple[int, int]]:
    """The times in which the registry was away for everybody, and nothing else had befallen anybody for `MEET_NS`; each without
    its last moments, in which packets are still on their way.
    """
    for outage in plan.faults:
        if outage.kind != "store_down" or outage.nodes:
            continue
        begin_ns = outage.at_ns
        for other in sorted((each for each in plan.faults if each.kind != "store_down"), key=lambda each: each.at_ns):
            if other.at_ns < outage.until_ns and begin_ns < other.until_ns + MEET_NS:
                if begin_ns + ON_THE_WAY_NS < other.at_ns:
                    yield begin_ns, other.at_ns - ON_THE_WAY_NS
                begin_ns = other.until_ns + MEET_NS
        if begin_ns + ON_THE_WAY_NS < outage.until_ns:
            yield begin_ns, outage.until_ns - ON_THE_WAY_NS


def needs_records(plan: Plan) -> bool:
    """Whether anybody forges pieces, or a promise is about the lanes, so that what is sealed has to be known."""
    return any(fault.kind == "forge_pieces" for fault in plan.faults) or any(
        name in LANES_EVENTUALLY for name in plan.eventually
    )
