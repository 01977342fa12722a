"""A simulated node: the real `Demux`, `Session`s and `Inspector`s, driven as the actors drive them, with its own clocks.

Responsible for one process: booting, dying, standing still, what goes into the protocol objects, what comes out of them,
and asking the promises about them after each turn. Not responsible for time passing or for the network: the world is.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.demux import Demux
from holloway.protocols.events import EndpointMoved, Event, HandshakeCompleted, HandshakeStarted
from holloway.protocols.floating_table import FloatingHolder
from holloway.protocols.inspection import Inspector, LocalPrefixes
from holloway.protocols.packets import Packet, whole_packets
from holloway.protocols.packets import destination as inner_destination
from holloway.protocols.routes import RouteTable
from holloway.protocols.runs import flatten
from holloway.protocols.session import Session, SessionConfig, State
from holloway.protocols.suites import Suite
from holloway.protocols.timers import Timers
from holloway.simulations.clocks import Clocks
from holloway.simulations.deflate import Deflate
from holloway.simulations.floating_seats import FloatingSeats
from holloway.simulations.identities import Identity, preshared
from holloway.simulations.liars import Liar, reform
from holloway.simulations.oracles import (
    answers_are_no_longer_than_questions,
    expired_keys_are_forgotten,
    forgery_changes_nothing,
    hold,
    initiation_answered_once,
    keys_are_few,
    queues_are_bounded,
    tables_are_bounded,
    transitions_are_legal,
    unconfirmed_key_is_not_used,
    waiting_ends,
)
from holloway.simulations.record_oracles import old_pieces_are_forgotten
from holloway.simulations.record_watch import RecordWatch
from holloway.simulations.runs import Heard, joined, lone_arrival
from holloway.simulations.snapshots import answered_at, has_just_been_answered, is_dialling, snapshot
from holloway.simulations.streams import stream
from holloway.simulations.terms import allowed, willing_alone
from holloway.simulations.terms_oracles import terms_are_what_both_ask_for, unpacking_is_bounded
from holloway.simulations.world import SOCKET_DATAGRAMS, Host

if TYPE_CHECKING:
    from holloway.simulations.breadth import HeapWorld

_NEVER = 1 << 62


@dataclass(slots=True)
class Seat:
    """A machine's side of one session in one life."""

    peer: Identity
    session: Session
    life: int
    watch: RecordWatch
    state: State = State.IDLE
    epoch: int = 0
    proven: Address | None = None
    """Where the peer was last heard."""
    due_ns: int = _NEVER
    """When `wake` is to come next; a later call that was asked for before is stale."""
    due_s: float = math.inf
    """The deadline it is to come for, on the node's monotonic clock."""


class Machine(Host):
    """See `Host`."""

    def __init__(
        self,
        world: HeapWorld,
        seed: int,
        own: Identity,
        peers: list[Identity],
        *,
        suite: Suite,
        timers: Timers,
        keepalive_s: float,
    ) -> None:
        self._world, self._seed, self._own, self._peers = world, seed, own, peers
        self._suite, self._timers, self._keepalive_s = suite, timers, keepalive_s
        self.name = own.name
        self.inner = own.inner
        self.inside = own.inside
        self.key = own.static.public
        self.public = own.configured
        self.clocks = Clocks()
        self.down = 0
        self.paused = 0
        self.life = 0
        self.seats: dict[str, Seat] = {}
        self._socket: deque[Heard] = deque()
        self._has_offloads = world.plan.offloads
        self._answered: dict[bytes, None] = {}
        self._demux: Demux[str] | None = None
        self._routes: RouteTable[str] = RouteTable()
        self._floats: FloatingSeats | None = None
        self._leaving: list[FloatingSeats] = []
        self._liar: Liar | None = None
        self._world_ns = 0

    # Lives.

    def boot(self, now_ns: int) -> None:
        """See `Host`."""
        self.life += 1
        self._world.record(self, "node", "", "up", 0)
        dice = stream(self._seed, self.name, "entropy", str(self.life))
        demux: Demux[str] = Demux(self._own.static, secret=self._own.secret, entropy=dice.randbytes)
        routes: RouteTable[str] = RouteTable()
        local = LocalPrefixes([IPv4Network((self.inner, 32)), IPv6Network((self._own.inner6, 128))])
        self._demux, self._routes = demux, routes
        for peer in self._peers:
            routes.add(IPv4Network((peer.inner, 32)), peer.name)
            routes.add(IPv6Network((peer.inner6, 128)), peer.name)
        for peer in self._peers:
            config = SessionConfig(
                suite=self._suite,
                static=self._own.static,
                peer_public=peer.static.public,
                preshared=preshared(self.key, peer.static.public),
                timers=self._timers,
                keepalive_s=self._keepalive_s,
                inspect=Inspector(routes, peer.name, local),
                terms=willing_alone(self._world.plan, self.name),
                codec=Deflate(self._look_at_packed),
            )
            session = self._session(config, demux, peer, dice, now_ns)
            watch = RecordWatch(session, self._world.reached.reach, hold, self._now(now_ns))
            self.seats[peer.name] = Seat(peer, session, self.life, watch)
        for seat in self.seats.values():
            self._schedule(seat, now_ns)
        self._leaving.clear()
        if self._world.store is not None:
            self._floats = FloatingSeats(self._world, self._world.store, self, routes, local)

    def _session(
        self, config: SessionConfig, demux: Demux[str], peer: Identity, dice: random.Random, now_ns: int
    ) -> Session:
        return Session(
            config,
            links=demux.register(peer.static.public, peer.name),
            entropy=dice.randbytes,
            wall_ns=lambda: self.clocks.wall_ns(self._world_ns),
            now=self._now(now_ns),
            endpoint=peer.configured,
        )

    def _look_at_packed(self, packed: int, length: int) -> None:
        hold(unpacking_is_bounded, packed, length)

    def leave(self) -> None:
        """See `Host`. A session that ends says nothing to anybody."""
        self._world.record(self, "node", "", "left", 0)
        if self._floats is not None:
            self._floats.stop()
            self._leaving.append(self._floats)
            self._floats = None
        self._end()

    def die(self) -> None:
        """See `Host`."""
        self._world.record(self, "node", "", "killed", 0)
        self._end()

    def _end(self) -> None:
        if self._floats is not None:
            self._floats.die()
            self._floats = None
        self.settle_accounts()
        self.seats.clear()
        self._socket.clear()
        self._answered.clear()
        self._demux = None

    def settle_accounts(self) -> None:
        """See `Host`."""
        reached = self._world.reached
        for seat in self.seats.values():
            reached.note_drops(seat.session.drops)
            if seat.session.packing.received_plain:
                reached.reach("record_compressed")
            for (before, after), count in seat.session.transitions.items():
                reached.transitions[f"{before.name}>{after.name}"] += count
        if self._demux is not None:
            reached.note_drops(self._demux.drops)

    def owns(self, address: IPv4Address) -> bool:
        """See `Host`. A process that is told to stop may still answer."""
        return any(floats.owns(address) for floats in self._processes())

    def believes(self, address: IPv4Address) -> FloatingHolder | None:
        """See `Host`."""
        return None if self._floats is None else self._floats.table.holder(address)

    def has_on_device(self, address: IPv4Address) -> bool:
        """See `Host`."""
        return any(floats.has_locally(address) for floats in self._processes())

    def _processes(self) -> list[FloatingSeats]:
        return self._leaving if self._floats is None else [*self._leaving, self._floats]

    def sessions(self) -> dict[str, Session]:
        """See `Host`."""
        return {name: seat.session for name, seat in self.seats.items()}

    def known(self) -> tuple[str, ...]:
        """See `Host`: those of the configuration."""
        return tuple(self.seats)

    def lie(self, liar: Liar | None) -> None:
        """See `Host`."""
        self._liar = liar
        for seat in self.seats.values():
            if liar is not None:
                liar.corrupt(seat.session)
            else:
                reform(seat.session)

    def break_port(self, bits: int) -> None:
        """See `Host`. There are no ports here, and no plan with this fault."""
        raise NotImplementedError

    def break_socket(self, bits: int) -> None:
        """See `Host`. Neither are there sockets."""
        raise NotImplementedError

    def pause(self) -> None:
        """See `Host`. `paused` is looked at wherever something would happen."""

    def resume(self, now_ns: int) -> None:
        """See `Host`: deadlines first, then what waits in the socket."""
        for seat in list(self.seats.values()):
            self.wake(seat, seat.life, now_ns)
        self._read(self.life)
        if self._floats is not None:
            self._floats.resume()

    # Inputs.

    def send(
        self, peer: str, packets: list[Packet], now_ns: int, *, is_rogue: bool = False, is_sparse: bool = False
    ) -> None:
        """See `Host`. There is no router here to get past; but to a floating address there are many ways."""
        if not peer and isinstance(packets[0], bytes):
            peer = self._routes.lookup(inner_destination(packets[0]) or b"") or peer
        seat = self.seats.get(peer)
        if seat is None or self.paused:
            return
        now = self._now(now_ns)
        is_waiting = not seat.session.is_ready
        datagram = seat.session.send_lone(packets[0], now, is_sparse=True) if is_sparse and len(packets) == 1 else None
        if datagram is not None:
            assert seat.session.endpoint is not None, "a session sends nowhere"
            seat.watch.sent([datagram], now)
            self._world.transmit(self, datagram, seat.session.endpoint, 0)
        else:
            seat.session.send(packets, now)
        if is_waiting and seat.session.staged:
            self._world.reached.reach("packet_waited")
            hold(queues_are_bounded, seat.session)
        self._flush(seat, now_ns, 0)

    def rekey(self, peer: str, now_ns: int) -> None:
        """See `Host`."""
        seat = self.seats.get(peer)
        if seat is not None and not self.paused:
            seat.session.rekey(self._now(now_ns))
            self._flush(seat, now_ns, 0)

    def receive(self, datagram: bytes, source: Address, now_ns: int, *, is_forged: bool, cause: int) -> None:
        """See `Host`."""
        demux = self._demux
        if demux is None:
            return
        heard = Heard(datagram, source, is_forged, cause, now_ns)
        if self.paused or self._has_offloads:
            if len(self._socket) < SOCKET_DATAGRAMS:
                self._socket.append(heard)
            if len(self._socket) == 1 and not self.paused:  # read when all that comes in this instant has come
                self._world.timeline.at(now_ns, self._read, self.life)
            return
        self._take(lone_arrival(heard), heard, now_ns)

    def _read(self, life: int) -> None:
        """Take what waits in the socket."""
        if life != self.life or self.paused:
            return
        waiting = list(self._socket)
        self._socket.clear()
        for arrival, first in (
            joined(waiting) if self._has_offloads else [(lone_arrival(each), each) for each in waiting]
        ):
            if self._demux is not None:
                self._take(arrival, first, self._world.timeline.now_ns)

    def _take(self, arrival: Arrival, heard: Heard, now_ns: int) -> None:
        """A datagram, or a run of them that `heard` is the first of."""
        demux = self._demux
        assert demux is not None
        datagram, _, is_forged, cause, _ = heard
        before = [snapshot(seat.session) for seat in self.seats.values()] if is_forged else []
        now = self._now(now_ns)
        found = demux.sort([arrival], now)
        for peer, batch in found.arrivals.items():
            seat = self.seats[peer]
            sight = seat.watch.look(batch)
            seat.session.receive(batch, now)
            seat.watch.received(sight, batch, now)
            self._flush(seat, now_ns, cause)
        for peer, opened, origin in found.initiations:
            seat = self.seats[peer]
            session = seat.session
            before_at, was_dialling = answered_at(session), is_dialling(session)
            session.receive_initiation(opened, origin, now)
            if answered_at(session) != before_at:
                hold(initiation_answered_once, self._answered, datagram, self.name)
                if was_dialling:
                    self._world.reached.reach("both_dialled_at_once")
            self._flush(seat, now_ns, cause)
        for peer, token, origin in found.resets:
            seat = self.seats[peer]
            seat.session.receive_reset(token, origin, now)
            self._flush(seat, now_ns, cause)
        for reply, origin in found.replies:
            hold(answers_are_no_longer_than_questions, datagram, reply)
            self._world.transmit(self, reply, origin, cause)
        if is_forged:
            hold(forgery_changes_nothing, before, [snapshot(each.session) for each in self.seats.values()], self.name)
            hold(tables_are_bounded, demux, len(self._peers))

    def wake(self, seat: Seat, life: int, now_ns: int) -> None:
        """A deadline of a session may be due."""
        if life != self.life or self._demux is None or self.paused:
            return
        seat.due_ns, seat.due_s = _NEVER, math.inf
        now = self._now(now_ns)
        seat.session.handle_timeout(now)
        hold(expired_keys_are_forgotten, seat.session, now)
        hold(old_pieces_are_forgotten, seat.session, now)
        self._flush(seat, now_ns, 0)
        hold(tables_are_bounded, self._demux, len(self._peers))

    # Outputs.

    def _flush(self, seat: Seat, now_ns: int, cause: int) -> None:
        session, world, peer = seat.session, self._world, seat.peer.name
        epoch = session.epoch
        if session.state is not seat.state or epoch != seat.epoch:
            hold(transitions_are_legal, session)
            hold(unconfirmed_key_is_not_used, session)
            hold(keys_are_few, session)
            hold(terms_are_what_both_ask_for, session.terms, allowed(world.plan, self.name, peer), session)
            what = f"{session.state.name} epoch {epoch}"
            cause = world.record(self, "state", peer, what, cause)
            seat.state, seat.epoch = session.state, epoch
            if self._liar is not None:
                self._liar.corrupt(session)
        while (event := session.next_event()) is not None:
            world.reached.note_event(event)
            self._follow(seat, event)
        for datagram, destination in session.answers_to_send():
            world.transmit(self, datagram, destination, cause)
        if runs := session.runs_to_send():
            datagrams = flatten(runs)
            seat.watch.sent(datagrams, self.clocks.monotonic_s(now_ns))
            for datagram in datagrams:
                assert session.endpoint is not None, "a session sends nowhere"
                world.transmit(self, datagram, session.endpoint, cause)
        if packets := session.packets_to_deliver():
            for packet in whole_packets(packets):
                world.deliver(self, packet, cause, session=peer)
        self._schedule(seat, now_ns)

    def _follow(self, seat: Seat, event: Event) -> None:
        """Where to call the peer, as the owner of a session decides it: an initiation that has to be repeated goes in turn
        to where the peer was last heard, and to where it is configured.
        """
        match event:
            case HandshakeStarted(attempt) if attempt > 1:
                places = list(dict.fromkeys((seat.proven or seat.peer.configured, seat.peer.configured)))
                seat.session.set_endpoint(places[(attempt - 1) % len(places)])
            case HandshakeCompleted():
                seat.proven = seat.session.endpoint
            case EndpointMoved(_, new):
                seat.proven = new
                if not has_just_been_answered(seat.session):
                    self._world.moved(self, seat.peer.static.public, event)
            case _:
                pass

    def _schedule(self, seat: Seat, now_ns: int) -> None:
        due = seat.session.next_timeout()
        if due is None:
            hold(waiting_ends, seat.session)
            return
        if due < seat.due_s:  # a later deadline is looked at when the earlier one has come
            seat.due_s = due
            seat.due_ns = max(now_ns, self.clocks.global_ns(due))
            self._world.wake(self, seat, seat.due_ns)

    def clock_changed(self, now_ns: int) -> None:
        """See `Host`. Every deadline lies elsewhere."""
        if self._floats is not None:
            self._floats.clock_changed()
        for seat in self.seats.values():
            seat.due_ns, seat.due_s = _NEVER, math.inf
            self._schedule(seat, now_ns)

    def _now(self, now_ns: int) -> float:
        """Monotonic seconds of this node."""
        self._world_ns = now_ns
        return self.clocks.monotonic_s(now_ns)
