"""The world at actor speed: whole nodes, each with its tree of actors, under Trio's mock clock in an order that the seed
decides.

The world has one task of its own, the pump, which does what is due; all other tasks are the nodes'. A promise that is broken
inside a node must not be raised there, because the node's supervisors would take it for a crash of their own: it is kept,
and ends the run. Not responsible for what makes a run repeatable (`determinism`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from holloway.protocols.addresses import Address
from holloway.protocols.session import Session
from holloway.protocols.suites import Suite
from holloway.simulations import determinism
from holloway.simulations.actor_host import NETWORK, ActorHost, Life
from holloway.simulations.authority_at_work import AuthorityAtWork
from holloway.simulations.claim_watch import ClaimWatch
from holloway.simulations.clocks import WALL_START_NS
from holloway.simulations.determinism import PROCESS, STEPS_PER_INSTANT, Freezer, NoNames, Steps
from holloway.simulations.disk import Disk
from holloway.simulations.errors import PropertyViolated
from holloway.simulations.faults import KINDS, Fault, Scope
from holloway.simulations.identities import Identity, identity
from holloway.simulations.office import Office
from holloway.simulations.oracles import (
    Calm,
    addresses_have_one_holder,
    deadlines_are_kept,
    hold,
    leaving_frees_the_name,
    stopping_ends,
    tables_are_bounded,
    time_moves,
)
from holloway.simulations.plan import Plan
from holloway.simulations.pump import Pump
from holloway.simulations.store import Store
from holloway.simulations.trace import Trace
from holloway.simulations.watched import watched_suite
from holloway.simulations.watched_session import watched_sessions
from holloway.simulations.world import EVENTS_PER_SECOND, NOBODY_THERE, SECOND_NS, Host, World, needs_records

if TYPE_CHECKING:
    from holloway.simulations.capture import Capture
    from holloway.simulations.dtls_watch import DtlsWatch


class ActorWorld(World):
    """See `World`."""

    hosts: dict[str, ActorHost]  # type: ignore[assignment]  # `make_host` makes no others
    freezer: Freezer
    nursery: trio.Nursery

    def __init__(self, plan: Plan, trace: Trace | None = None, capture: Capture | None = None) -> None:
        self._pump = Pump()
        self._broken: PropertyViolated | None = None
        self._suites: dict[str, Suite] = {}
        self.forged: dict[bytes, None] = {}
        """Datagrams that are not as a peer made them."""
        self.store: Store | None = None
        self.has_store_faults = any(KINDS[fault.kind].scope is Scope.STORE for fault in plan.faults)
        self._dtls: DtlsWatch | None = None
        if plan.is_dtls:  # needs OpenSSL, which sessions do not
            from holloway.simulations.dtls_watch import DtlsWatch

            self._dtls = DtlsWatch(self, NETWORK, plan.nodes)
        self.office: Office | None = None
        if plan.registry is not None and plan.registry.has_authority:
            members = {name: identity(plan.seed, number, name) for number, name in enumerate(plan.nodes)}
            self.office = Office(plan.seed, NETWORK, members, WALL_START_NS // SECOND_NS)
        self.disks: dict[str, Disk] = {}
        """What nodes keep, where they keep anything."""
        if self.office is not None:
            self.disks = self.office.disks
        elif plan.registry is not None and plan.registry.claim_ns:
            self.disks = {name: Disk(name) for name in plan.nodes}
        super().__init__(plan, self._pump, trace, capture)
        if plan.registry is not None:
            meeting = plan.registry
            self.store = Store(
                plan.seed,
                meeting.latency_low_ns,
                meeting.latency_high_ns,
                tell=self._tell_store,
                reach=self.reached.reach,
            )

        self.claims: ClaimWatch | None = None
        if plan.registry is not None and plan.registry.claim_ns and self.store is not None:
            self.claims = ClaimWatch(plan.registry, NETWORK, self.store, self.check, self.reached.reach)
        self._authority = None if self.office is None else AuthorityAtWork(self, self.office, self.store)

    def make_host(self, own: Identity, peers: list[Identity]) -> ActorHost:
        """See `World`."""
        return ActorHost(self, own, peers)

    def run(self, progress: Callable[[int], None] | None = None) -> None:
        """See `World`."""
        steps = Steps(is_hashing=self.trace is not None, stuck=self._stuck)
        try:
            with self._logged():
                determinism.run(self.plan.seed, self._main, progress, steps=steps)
        except BaseExceptionGroup as group:
            raise self._broken or _first(group) from None
        if self.trace is not None:
            self.trace.add(self.timeline.now_ns, "world", "steps", "", steps.count, 0, steps.digest())
        if self._broken is not None:
            raise self._broken

    async def _main(self, progress: Callable[[int], None] | None) -> None:
        trio.socket.set_custom_hostname_resolver(NoNames())
        self.freezer = Freezer()
        self._pump.start()
        async with trio.open_nursery() as self.nursery:
            with watched_sessions(), self._watched_links():
                try:
                    if self.claims is not None:
                        self.claims.begin()
                    self.populate()
                    await self._pass_time(progress)
                except PropertyViolated as broken:
                    self.violated(broken)
                finally:
                    self._end()

    def _watched_links(self) -> AbstractContextManager[None]:
        if self._dtls is None:
            return nullcontext()
        from holloway.simulations.dtls_watch import watched_links

        return watched_links()

    async def _pass_time(self, progress: Callable[[int], None] | None) -> None:
        pump, end_ns = self._pump, self.plan.duration_ns
        while pump.now_ns < end_ns:
            until_ns = min(pump.now_ns + SECOND_NS, end_ns)
            before = pump.events
            await pump.run(until_ns)
            hold(time_moves, pump.events - before, EVENTS_PER_SECOND)
            self._look_around()
            if progress is not None:
                progress(until_ns)

    def _look_around(self) -> None:
        """Hold the promises that are not about one event."""
        now_s = trio.current_time()
        for host in self.hosts.values():
            if not host.paused and not host.is_waking:
                for session in host.sessions().values():
                    hold(deadlines_are_kept, session.next_timeout(), now_s, host.name)
                if (demux := host.demux()) is not None:
                    hold(tables_are_bounded, demux, len(self.plan.nodes) - 1)
                if self._dtls is not None:
                    self._dtls.look(host)
            hold(stopping_ends, host.stopping_since_ns, self.timeline.now_ns, host.name)
            self.look_at_trust(host)
        self.floating.look(self.timeline.now_ns)
        if self.store is not None:
            members = self.store.members(NETWORK)
            for host in self.hosts.values() if not self.has_attackers else ():
                hold(leaving_frees_the_name, host.left_ns, self.timeline.now_ns, host.name, members)
            if self.claims is None:
                hold(addresses_have_one_holder, self.store.members(NETWORK), self.store.addresses(NETWORK))
            else:
                self.claims.look(self.hosts.values(), self.timeline.now_ns)

    def _end(self) -> None:
        """The run is over: whatever the nodes still do is seen by nobody."""
        for host in self.hosts.values():
            host.settle_accounts()
        self._pump.stop()
        self.freezer.thaw_all()
        self.nursery.cancel_scope.cancel()

    # Promises.

    def violated(self, broken: PropertyViolated) -> None:
        """A promise is broken: that is the end."""
        if self._broken is None:
            self._broken = broken
            self._end()

    def check(self, promise: Callable[..., str | None], *facts: object) -> None:
        """Hold a promise from inside a node."""
        try:
            hold(promise, *facts)
        except PropertyViolated as broken:
            self.violated(broken)

    def _stuck(self) -> None:
        self.check(time_moves, STEPS_PER_INSTANT, STEPS_PER_INSTANT)

    def watch(self, suite: Suite) -> Suite:
        """`suite` with its nonces under watch."""
        if suite.name not in self._suites:
            self._suites[suite.name] = watched_suite(
                suite, self.check, self.foretold.note_sealed if needs_records(self.plan) else None
            )
        return self._suites[suite.name]

    def note_transitions(self, session: Session) -> None:
        """What the machine of a session went through, at its end."""
        for (before, after), count in session.transitions.items():
            self.reached.transitions[f"{before.name}>{after.name}"] += count

    def transmit(self, sender: Host, datagram: bytes, destination: Address, cause: int) -> None:
        """See `World`."""
        try:
            super().transmit(sender, datagram, destination, cause)
        except PropertyViolated as broken:
            self.violated(broken)

    def deliver(self, host: Host, packet: bytes, cause: int, session: str | None = None) -> None:
        """See `World`."""
        try:
            super().deliver(host, packet, cause, session)
        except PropertyViolated as broken:
            self.violated(broken)

    def calm(self) -> Calm:
        """See `World`."""
        if self._dtls is not None:
            return self._dtls.calm(super().calm())
        if self.store is None:
            return super().calm()
        return replace(
            super().calm(),
            published=tuple(self.store.members(NETWORK)),
            known={name: host.known() for name, host in self.hosts.items() if name not in self.outcasts},
        )

    # The registry.

    def _tell_store(self, node: str, what: str) -> None:
        self.record(self.hosts[node], "store", "", what, 0)

    def store_fails(self, fault: Fault) -> None:
        """See `World`."""
        assert self.store is not None, "a plan without a registry has no such fault"
        if fault.kind == "store_attacker":
            self.authority.attack(fault)
            return
        if fault.kind == "release":
            assert self.claims is not None, "a plan without claims has no such fault"
            self.claims.release(fault, self.hosts.values(), self.timeline.now_ns)
            return
        self.store.begin(fault)
        for disk in self._disks(fault):
            disk.fill(fault.name)
        for host in self.hosts.values():
            host.left_ns = None  # what it said on leaving may have been lost

    def store_recovers(self, fault: Fault) -> None:
        """See `World`."""
        assert self.store is not None, "a plan without a registry has no such fault"
        self.store.end(fault)
        for disk in self._disks(fault):
            disk.clear(fault.name)

    def _disks(self, fault: Fault) -> list[Disk]:
        """The disks that a fault befalls."""
        if not self.disks or fault.kind != "disk_full":
            return []
        return [self.disks[name] for name in fault.nodes or self.plan.nodes]

    # DTLS.

    @property
    def dtls(self) -> DtlsWatch:
        """The associations of the network, and who looks at them."""
        assert self._dtls is not None, "a plan without DTLS has no such fault"
        return self._dtls

    def certificate_fails(self, host: Host, kind: str) -> None:
        """See `World`."""
        self.dtls.spoil(host.name, kind)

    def certificate_recovers(self, host: Host, kind: str) -> None:
        """See `World`."""
        self.dtls.mend(host.name, kind)

    def words(self, datagram: bytes) -> str:
        """See `World`. Nothing of what OpenSSL has drawn may be in the trace."""
        return super().words(datagram) if self._dtls is None else self._dtls.words(datagram)

    def _note(self, kind: str, node: str, peer: str, datagram: bytes, cause: int, why: str = "") -> int:
        if self._dtls is not None and (kind == "send" or (kind == "lost" and why != NOBODY_THERE)):
            self._dtls.sent(node, datagram, why)
        return super()._note(kind, node, peer, datagram, cause, why)

    # The authority.

    @property
    def authority(self) -> AuthorityAtWork:
        """What the authority of the network does, and who attacks it."""
        assert self._authority is not None, "a plan without an authority has no such fault"
        return self._authority

    @property
    def has_attackers(self) -> bool:
        """Whether records may stand in the registry that nobody put there in earnest."""
        return self._authority is not None and self._authority.has_attackers

    def revoke(self, host: Host) -> None:
        """See `World`."""
        self.authority.revoke(host.name)

    def has_booted(self, host: ActorHost) -> None:
        """A life of a host has begun."""
        if self.claims is not None:
            self.claims.has_booted(host)
            self._inside[host.name] = tuple(host.inside.values())
        if self._authority is not None:
            self._authority.note_boot(host)

    def look_at_trust(self, host: ActorHost) -> None:
        """Hold the promises of a network with an authority."""
        if self._authority is not None:
            self._authority.look(host)

    # What the nodes log.

    @contextmanager
    def _logged(self) -> Iterator[None]:
        """What nodes log goes into the trace, and nowhere else."""
        log = logging.getLogger("holloway")
        handler = _Log(self)
        before = log.handlers[:], log.propagate, log.level
        log.handlers[:], log.propagate = [handler], False
        log.setLevel(logging.INFO if self.trace is not None else logging.CRITICAL + 1)
        try:
            yield
        finally:
            log.handlers[:], log.propagate = before[0], before[1]
            log.setLevel(before[2])


class _Log(logging.Handler):
    """Writes log records of nodes into the trace."""

    def __init__(self, world: ActorWorld) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        life = PROCESS.get(None)
        if isinstance(life, Life) and not life.is_over:
            text = f"{record.levelname.lower()}: {record.getMessage()}"
            self._world.record(life.host, "log", "", json.dumps(text)[1:-1], life.cause)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first of what was raised, an interruption before all else."""
    interruptions = group.subgroup(KeyboardInterrupt)
    if interruptions is not None:
        return KeyboardInterrupt()
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
