"""The floating addresses of one process at heap speed: the pure machines and the table of holders, driven as the actors drive them.

Not responsible for the store (`heap_store`), for sessions (`machine`), nor for judging (`floating_watch`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_network
from typing import TYPE_CHECKING, assert_never

from holloway.protocols.floating import FloatingAddress
from holloway.protocols.floating_claims import FloatingProblem, decode_floating_claim
from holloway.protocols.floating_operations import (
    FloatingLease,
    FloatingTimers,
    GiveUpLocally,
    Key,
    Kind,
    LeaseUse,
    LookAround,
    Operation,
    TakeLocally,
)
from holloway.protocols.floating_pings import HolderPings
from holloway.protocols.floating_states import Phase
from holloway.protocols.floating_table import FloatingHolder, FloatingTable
from holloway.protocols.inspection import LocalPrefixes
from holloway.protocols.routes import RouteTable
from holloway.simulations.heap_store import HeapStore, News
from holloway.simulations.streams import stream

if TYPE_CHECKING:
    from holloway.simulations.breadth import HeapWorld
    from holloway.simulations.machine import Machine

PING_NS = 200_000_000
PATIENCE_NS = PING_NS - 1
"""So that what came of one ping is known when the next is sent."""
STOP_NS = 1_500_000_000
RUN_BYTES = 8
NOBODY = ""
"""Where packets for our own addresses are sent."""
TIMERS = FloatingTimers()
LOOK_AROUND_NS = int(TIMERS.look_around_s * 1e9)


@dataclass(slots=True, eq=False)
class _Seat:
    """One address that this node may have."""

    address: IPv4Address
    machine: FloatingAddress
    is_local: bool = False
    timer_ns: int = -1
    pings: HolderPings = field(default_factory=HolderPings)
    doubt: tuple[int | None, bool] = (None, False)
    """As the machine was told."""
    asked: int = 0
    """Of the questions to the store the newest."""


class FloatingSeats:
    """What one life of a node has to do with floating addresses."""

    def __init__(
        self, world: HeapWorld, store: HeapStore, host: Machine, routes: RouteTable[str], local: LocalPrefixes
    ) -> None:
        self._world, self._store, self._host = world, store, host
        self._routes, self._local = routes, local
        self._is_over = False
        self.table = FloatingTable()
        key = hashlib.sha256(host.key).hexdigest()
        self._key = key
        dice = stream(world.plan.seed, host.name, "floating", str(host.life))
        self._seats = {
            address: _Seat(
                address,
                FloatingAddress(
                    host.name,
                    key,
                    dice.randbytes(RUN_BYTES).hex(),
                    priority=plan.priorities[plan.nodes.index(host.name)],
                    timers=TIMERS,
                ),
            )
            for address, plan in world.floating.plans.items()
            if host.name in plan.nodes
        }
        self._late: list[Callable[[], None]] = []
        store.follow(host.name, self._hear)
        for seat in self._seats.values():
            self._tell(seat, lambda machine, now: machine.set_health(now, True))
            world.timeline.at(world.timeline.now_ns + PING_NS, self._ping_holder, seat)

    # Its end.

    def die(self) -> None:
        """The process is gone."""
        self._is_over = True
        self._store.follow(self._host.name, None)

    def stop(self) -> None:
        """Hand over, and be gone within `STOP_NS`."""
        self._store.follow(self._host.name, None)
        for seat in self._seats.values():
            self._tell(seat, lambda machine, now: machine.stop(now))
        self._world.timeline.at(self._world.timeline.now_ns + STOP_NS, self._be_gone)

    def _be_gone(self) -> None:
        self._is_over = True

    # What it is.

    def owns(self, address: IPv4Address) -> bool:
        """Whether this process would answer for the address."""
        seat = self._seats.get(address)
        return not self._is_over and seat is not None and seat.machine.owns(self._now)

    def has_locally(self, address: IPv4Address) -> bool:
        """Whether it has been told to have it on the device."""
        seat = self._seats.get(address)
        return not self._is_over and seat is not None and seat.is_local

    @property
    def _now(self) -> float:
        return self._host.clocks.monotonic_s(self._world.timeline.now_ns)

    # The machines.

    def resume(self) -> None:
        """The process goes on: what has come meanwhile is done."""
        late, self._late = self._late, []
        for each in late:
            each()

    def clock_changed(self) -> None:
        """Deadlines lie elsewhere."""
        for seat in self._seats.values():
            seat.timer_ns = -1
            self._schedule(seat)

    def _do(self, act: Callable[[], None]) -> None:
        """Now, or when the process goes on."""
        if self._is_over:
            return
        if self._host.paused:
            self._late.append(act)
        else:
            act()

    def _tell(self, seat: _Seat, what: Callable[[FloatingAddress, float], None]) -> None:
        def act() -> None:
            what(seat.machine, self._now)
            self._carry_out(seat)

        self._do(act)

    def _carry_out(self, seat: _Seat) -> None:
        world, host, network = self._world, self._host, ip_network(seat.address)
        for action in seat.machine.actions():
            match action:
                case TakeLocally():
                    seat.is_local = True
                    self._local.borrow(seat.address.packed, lambda: self.owns(seat.address))
                    self._routes.add(network, NOBODY)  # as the router does: whoever remembers verdicts forgets them
                    world.record(host, "node", "", f"has {seat.address}", 0)
                    world.floating.took(host.name, seat.address, world.timeline.now_ns)
                case GiveUpLocally():
                    seat.is_local = False
                    self._local.give_back(seat.address.packed)
                    self._route(seat.address)
                    world.record(host, "node", "", f"gave up {seat.address}", 0)
                case LookAround(number, name, _):
                    self._look_around(seat, number, name)
                case Operation():
                    self._ask(seat, action)
                case _:
                    assert_never(action)
        self._schedule(seat)

    def _schedule(self, seat: _Seat) -> None:
        due = seat.machine.next_timeout()
        if due is None or self._is_over:
            return
        at_ns = max(self._world.timeline.now_ns, self._host.clocks.global_ns(due))
        if at_ns != seat.timer_ns:
            seat.timer_ns = at_ns
            self._world.timeline.at(at_ns, self._ring, seat, at_ns)

    def _ring(self, seat: _Seat, at_ns: int) -> None:
        if seat.timer_ns == at_ns:
            seat.timer_ns = -1
            self._tell(seat, lambda machine, now: machine.handle_timeout(now))

    # The store.

    def _ask(self, seat: _Seat, operation: Operation) -> None:
        """One or two calls, one after the other; whoever asks anew leaves the rest of the last question unasked."""
        seat.asked = operation.number
        store, name, number, address = self._store, self._host.name, operation.number, seat.address
        if operation.kind is Kind.LOOK:
            store.call(name, lambda: store.look(address), lambda found: self._looked(seat, number, found))
        elif operation.lease is LeaseUse.NEW:
            store.call(
                name, lambda: store.grant(name, operation.ttl_s), lambda lease: self._granted(seat, operation, lease)
            )
        elif operation.lease is LeaseUse.KEEP:
            kept = operation.kept_lease or 0
            store.call(name, lambda: store.keep_alive(kept), lambda is_kept: self._kept(seat, operation, is_kept))
        else:
            self._transact(seat, operation, 0)

    def _looked(self, seat: _Seat, number: int, found: object) -> None:
        if not isinstance(found, tuple):
            self._tell(seat, lambda machine, now: machine.unanswered(now, number))
        else:
            self._tell(seat, lambda machine, now: machine.looked(now, number, *found))

    def _granted(self, seat: _Seat, operation: Operation, lease: object) -> None:
        if not isinstance(lease, int):
            self._tell(seat, lambda machine, now: machine.unanswered(now, operation.number))
        elif seat.asked == operation.number:
            self._do(lambda: self._transact(seat, operation, lease))
        else:
            self._revoke(lease)

    def _kept(self, seat: _Seat, operation: Operation, is_kept: object) -> None:
        if is_kept is None:
            self._tell(seat, lambda machine, now: machine.unanswered(now, operation.number))
        elif not is_kept:
            self._tell(seat, lambda machine, now: machine.refused(now, operation.number))
        elif seat.asked == operation.number:
            self._do(lambda: self._transact(seat, operation, 0))

    def _transact(self, seat: _Seat, operation: Operation, lease: int) -> None:
        store, name = self._store, self._host.name

        def act() -> tuple[bool | None, int]:
            return store.transact(name, seat.address, operation, lease), store.revision

        store.call(name, act, lambda answer: self._transacted(seat, operation, lease, answer))

    def _transacted(self, seat: _Seat, operation: Operation, lease: int, answer: object) -> None:
        number, is_done, revision = operation.number, None, 0
        if isinstance(answer, tuple):
            is_done, revision = answer
        if not is_done and lease:
            self._revoke(lease)
        if is_done:
            granted = FloatingLease(lease, operation.ttl_s) if lease else None
            self._tell(seat, lambda machine, now: machine.done(now, number, revision, granted))
        elif is_done is None:
            self._tell(seat, lambda machine, now: machine.unanswered(now, number))
        else:
            self._tell(seat, lambda machine, now: machine.refused(now, number))

    def _revoke(self, lease: int) -> None:
        self._store.call(self._host.name, lambda: self._store.revoke(lease), lambda _: None)

    # News of the store.

    def _hear(self, news: Sequence[News], is_all: bool) -> None:
        self._do(lambda: self._learn(news, is_all))

    def _learn(self, news: Sequence[News], is_all: bool) -> None:
        if is_all:
            claimed = frozenset(each.place[0] for each in news if each.place[1] is Key.CLAIM and each.seen is not None)
            self.table.keep_only(claimed, news[0].revision)
        for each in news:
            address, key = each.place
            if key is Key.CLAIM and each.seen is not None:
                claim = decode_floating_claim(each.seen.value)
                if not isinstance(claim, FloatingProblem):
                    self.table.learn(address, FloatingHolder(claim.name, claim.key, each.seen.create_revision))
            elif key is Key.CLAIM:
                self.table.forget(address, each.revision)
        for address in self._world.floating.plans:
            self._route(address)
        for address, seat in self._seats.items():
            told = [each for each in news if each.place[0] == address]
            for each in told:
                seat.machine.saw(self._now, each.place[1], each.revision, each.seen)
            if told:
                self._carry_out(seat)

    def _route(self, address: IPv4Address) -> None:
        holder, network = self.table.holder(address), ip_network(address)
        seat = self._seats.get(address)
        if seat is not None and seat.is_local:
            return
        if holder is None or holder.key == self._key:
            self._routes.remove(network)
        elif self._routes.lookup(address.packed) != holder.name:
            self._routes.add(network, holder.name)

    # Doubt.

    def _ping_holder(self, seat: _Seat) -> None:
        if self._is_over:
            return
        self._world.timeline.at(self._world.timeline.now_ns + PING_NS, self._ping_holder, seat)
        if self._host.paused:
            return
        holder = self.table.holder(seat.address)
        is_asked = seat.machine.phase is Phase.WAITING and holder is not None and holder.key != self._key
        seat.pings.aim(holder.fence if is_asked and holder is not None else None)
        self._tell_doubt(seat)
        if is_asked and holder is not None:
            fence = holder.fence
            if seat.pings.are_others_asked(self._now):
                self._is_in_touch(holder.name, PATIENCE_NS, lambda answer: self._note_touch(seat, fence, answer))
            self._world.ping(self._host, holder.name, PATIENCE_NS, lambda is_there: self._pinged(seat, fence, is_there))

    def _pinged(self, seat: _Seat, fence: int, is_there: bool) -> None:
        if self._is_over or self._host.paused or fence != seat.pings.fence:
            return
        seat.pings.holder_asked(is_there)
        self._tell_doubt(seat)

    def _tell_doubt(self, seat: _Seat) -> None:
        if seat.pings.doubt == seat.doubt:
            return
        seat.doubt = fence, is_in_touch = seat.pings.doubt
        self._tell(seat, lambda machine, now: machine.set_doubt(now, fence, is_in_touch=is_in_touch))

    def _note_touch(self, seat: _Seat, fence: int, is_in_touch: bool | None) -> None:
        if fence == seat.pings.fence:
            seat.pings.others_asked(is_in_touch is True)

    def _look_around(self, seat: _Seat, number: int, accuser: str) -> None:
        def tell(is_in_touch: bool | None) -> None:
            self._tell(seat, lambda machine, now: machine.looked_around(now, number, is_in_touch))

        self._is_in_touch(accuser, LOOK_AROUND_NS, tell)

    def _is_in_touch(self, left_out: str, patience_ns: int, tell: Callable[[bool | None], None]) -> None:
        """Ask the other nodes, and tell whether at least half of them answer."""
        others = [name for name in self._world.plan.nodes if name not in (left_out, self._host.name)]
        answers: list[bool] = []

        def note(is_there: bool) -> None:
            answers.append(is_there)
            if len(answers) == len(others):
                tell(2 * sum(answers) >= len(others))

        for name in others:
            self._world.ping(self._host, name, patience_ns, note)
        if not others:
            tell(None)
