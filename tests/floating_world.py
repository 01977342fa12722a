"""A small world for floating addresses: several nodes, one store with leases, and everything that may go wrong between.

Questions and answers travel, get lost, or come seconds late, also those that the asker has given up or whose asker is dead;
leases live longer than they must; nodes stand still, die, fall ill and are doubted for no reason. Time is a heap of events.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from holloway.protocols.floating import FloatingAddress
from holloway.protocols.floating_operations import (
    FloatingLease,
    FloatingTimers,
    GiveUpLocally,
    Key,
    Kind,
    LeaseUse,
    Operation,
    Seen,
    TakeLocally,
)

LOOP_EVENTS = 200_000


@dataclass(slots=True)
class Lease:
    ttl_s: float
    until: float


class Store:
    """Two keys, a revision and leases. A lease lives `ttl_s`, and up to 0.6 s longer, as with etcd."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.revision = 1
        self.entries: dict[Key, tuple[Seen, int]] = {}
        self.leases: dict[int, Lease] = {}
        self.last_lease = 0

    def expire(self) -> None:
        for number in [each for each, lease in self.leases.items() if lease.until <= self.world.now]:
            self.revoke(number)

    def grant(self, ttl_s: float) -> int:
        self.last_lease += 1
        self.leases[self.last_lease] = Lease(ttl_s, 0.0)
        self.keep_alive(self.last_lease)
        return self.last_lease

    def keep_alive(self, number: int) -> bool:
        lease = self.leases.get(number)
        if lease is None:
            return False
        lease.until = self.world.now + lease.ttl_s + self.world.dice.random() * 0.6
        self.world.at(lease.until, self.expire)
        return True

    def revoke(self, number: int) -> None:
        if self.leases.pop(number, None) is not None:
            gone = [key for key, (_, lease) in self.entries.items() if lease == number]
            self.apply({}, gone, 0)

    def transact(self, operation: Operation, lease: int) -> bool:
        for key, revision in operation.compares:
            entry = self.entries.get(key)
            if revision != (entry[0].mod_revision if entry else 0):
                return False
        if operation.puts and lease not in self.leases:
            return False
        self.apply(dict(operation.puts), [key for key in operation.deletes if key in self.entries], lease)
        return True

    def apply(self, puts: dict[Key, bytes], deletes: list[Key], lease: int) -> None:
        if not puts and not deletes:
            return
        self.revision += 1
        for key, value in puts.items():
            old = self.entries.get(key)
            created = old[0].create_revision if old else self.revision
            self.entries[key] = Seen(value, created, self.revision), lease
        for key in deletes:
            del self.entries[key]
        for key in (*puts, *deletes):
            self.world.tell(key, self.revision, self.seen(key))

    def seen(self, key: Key) -> Seen | None:
        entry = self.entries.get(key)
        return entry[0] if entry else None


@dataclass(eq=False)
class Node:
    """One machine and the one process on it."""

    world: World
    name: str
    key: str
    priority: int
    machine: FloatingAddress = field(init=False)
    lives: int = 0
    is_dead: bool = True
    paused_until: float = -math.inf
    cut_until: float = -math.inf
    deaf_until: float = -math.inf
    is_local: bool = False
    told_at: float = 0.0
    timer_at: float = math.nan
    late: list[Callable[[], None]] = field(default_factory=list)

    def boot(self) -> None:
        self.lives += 1
        self.is_dead, self.is_local, self.late, self.timer_at = False, False, [], math.nan
        run = f"{self.lives:08x}{int(self.key[:8], 16):08x}"
        self.machine = FloatingAddress(self.name, self.key, run, priority=self.priority, timers=self.world.timers)
        self.do(lambda machine, now: machine.set_health(now, True))

    def die(self) -> None:
        self.is_dead, self.is_local = True, False

    def owns(self) -> bool:
        return not self.is_dead and self.machine.owns(self.world.now)

    def do(self, what: Callable[[FloatingAddress, float], None]) -> None:
        """Tell the machine something, now or when the process goes on."""
        life = self.lives

        def act() -> None:
            if self.lives == life and not self.is_dead:
                what(self.machine, self.world.now)
                self.carry_out()

        if self.paused_until > self.world.now:
            self.late.append(act)
        else:
            act()

    def hear(self, key: Key, revision: int, seen: Seen | None) -> None:
        self.do(lambda machine, now: machine.saw(now, key, revision, seen))

    def wake(self) -> None:
        if self.paused_until <= self.world.now:
            late, self.late = self.late, []
            for each in late:
                each()

    def carry_out(self) -> None:
        world = self.world
        for action in self.machine.actions():
            match action:
                case TakeLocally(fence):
                    assert not self.is_local
                    self.is_local = True
                    world.took(self, fence)
                case GiveUpLocally():
                    assert self.is_local
                    self.is_local = False
                case Operation():
                    self.ask(action)
        timeout = self.machine.next_timeout()
        if timeout is not None and timeout != self.timer_at:
            assert timeout > world.now, "it would go round for ever"
            self.timer_at = timeout
            world.at(timeout, lambda: self.ring(timeout))

    def ring(self, timer_at: float) -> None:
        if self.timer_at == timer_at:
            self.timer_at = math.nan
            self.do(lambda machine, now: machine.handle_timeout(now))

    def ask(self, operation: Operation) -> None:
        """Two calls one after the other, as with any store: the lease, then the transaction."""
        world, life = self.world, self.lives
        world.asked[operation.kind] += 1

        def answer(tell: Callable[[FloatingAddress, float], None]) -> None:
            if self.lives == life:
                self.travel(lambda: self.do(tell))

        def first() -> None:
            lease, store = operation.kept_lease or 0, world.store
            if operation.kind is Kind.LOOK:
                revision, claim, challenge = store.revision, store.seen(Key.CLAIM), store.seen(Key.CHALLENGE)
                number = operation.number
                answer(lambda machine, now: machine.looked(now, number, revision, claim, challenge))
                return
            if operation.lease is LeaseUse.NEW:
                lease = store.grant(operation.ttl_s)
            elif operation.lease is LeaseUse.KEEP and not store.keep_alive(lease):
                answer(lambda machine, now: machine.refused(now, operation.number))
                return
            self.travel(lambda: second(lease))

        def second(lease: int) -> None:
            store = world.store
            if not store.transact(operation, lease):
                if operation.lease is LeaseUse.NEW:
                    store.revoke(lease)
                answer(lambda machine, now: machine.refused(now, operation.number))
                return
            revision = store.revision

            def done(machine: FloatingAddress, now: float) -> None:
                machine.done(now, operation.number, revision, FloatingLease(lease, operation.ttl_s))

            answer(done)

        self.travel(first)

    def travel(self, then: Callable[[], None]) -> None:
        """A message between this node and the store: mostly quick, sometimes seconds late, lost while it is cut off."""
        world = self.world
        delay_s = world.latency_s * (0.2 + 0.8 * world.dice.random())
        if world.is_rough and world.dice.random() < 0.05:
            delay_s = 3.0 * world.dice.random()
        if self.cut_until > world.now:
            if world.dice.random() < 0.5:
                return
            delay_s += self.cut_until - world.now
        world.at(world.now + delay_s, then)


class World:
    """Nodes of the given priorities. `took_at` and `fences` tell who took the address when, and by what fence."""

    def __init__(
        self,
        seed: int,
        priorities: list[int],
        timers: FloatingTimers,
        *,
        is_rough: bool = False,
        latency_s: float = 0.02,
    ) -> None:
        self.now = 0.0
        self.dice = random.Random(seed)
        self.timers, self.is_rough, self.latency_s = timers, is_rough, latency_s
        self.asked = dict.fromkeys(Kind, 0)
        self.takes: list[tuple[float, str, int]] = []
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.store = Store(self)
        self.nodes = [Node(self, f"n{at}", f"{at + 1:064x}"[::-1], each) for at, each in enumerate(priorities)]

    def boot(self) -> None:
        for node in self.nodes:
            node.boot()

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (max(when, self.now), self._count, what))

    def run(self, until: float) -> None:
        for _ in range(LOOP_EVENTS):
            if not self._heap or self._heap[0][0] > until:
                self.now = until
                return
            self.now, _, what = heapq.heappop(self._heap)
            what()
            self.check()
        raise AssertionError("it never comes to rest")

    def check(self) -> None:
        """No two nodes own the address at one moment, and who does not stand still knows what it owns."""
        owners = [node.name for node in self.nodes if node.owns()]
        assert len(owners) <= 1, (self.now, owners)
        for node in self.nodes:
            if node.is_local and node.paused_until <= self.now:
                assert node.owns() or node.machine.next_timeout() == self.now or node.late, (self.now, node.name)

    def took(self, node: Node, fence: int) -> None:
        if self.takes:
            _, last, newest = self.takes[-1]
            assert fence > newest or (fence == newest and node.name == last), "a fence went back"
        self.takes.append((self.now, node.name, fence))

    def owner(self) -> Node | None:
        return next((node for node in self.nodes if node.owns()), None)

    def tell(self, key: Key, revision: int, seen: Seen | None) -> None:
        """News travels to every node, in order, unless its watch is broken."""
        for node in self.nodes:
            if node.deaf_until <= self.now and not node.is_dead:
                node.told_at = max(node.told_at, self.now + self.latency_s * self.dice.random())
                self.at(node.told_at, partial(node.hear, key, revision, seen))

    # Faults.

    def pause(self, node: Node, duration_s: float) -> None:
        node.paused_until = max(node.paused_until, self.now + duration_s)
        self.at(node.paused_until, node.wake)

    def kill(self, node: Node, duration_s: float) -> None:
        if node.is_dead:
            return
        node.die()
        if duration_s < math.inf:
            self.at(self.now + duration_s, lambda: node.boot() if node.is_dead else None)

    def fall_ill(self, node: Node, duration_s: float) -> None:
        node.do(lambda machine, now: machine.set_health(now, False))
        self.at(self.now + duration_s, lambda: node.do(lambda machine, now: machine.set_health(now, True)))

    def doubt(self, node: Node, duration_s: float) -> None:
        """The node thinks for a while that whoever holds the address is dead."""
        claim = self.store.seen(Key.CLAIM)
        fence = claim.create_revision if claim else None
        node.do(lambda machine, now: machine.set_doubt(now, fence))
        self.at(self.now + duration_s, lambda: node.do(lambda machine, now: machine.set_doubt(now, None)))
