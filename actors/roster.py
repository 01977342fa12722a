"""Which peers this node should have, which it has, and the actor that makes the second equal to the first.

The wanted ones are the configured peers plus those found in the registry, made into a plan by `wanted`. The actor runs
after all that peers need, so when any of that restarts, all peers are begun again; when it restarts itself, it finds the
peers that run and leaves them in peace. Not responsible for where found peers come from (`membership`), nor for what a
peer's actor does (`peers`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from holloway.actors.bounded_log import BoundedLog
from holloway.actors.config.model import Prefix
from holloway.actors.kernel_routes import KernelRoutes
from holloway.actors.ports import Netlink
from holloway.actors.router import Router
from holloway.actors.running_peer import RunningPeer
from holloway.actors.tun_reader import TunReader
from holloway.actors.wanted import Floating, Peer, Plan, settle
from holloway.supervisor import ChildStartError

if TYPE_CHECKING:
    from holloway.supervisor import Context, Pool

RETRY_S = 5.0
RETRY_MAX_S = 300.0
LOG_LINES = 50
CLEANUP_S = 2.0
"""How long the removal of kernel routes may delay a stop. They go with the device anyway, unless that outlives us."""


@dataclass(slots=True)
class Failure:
    """A peer whose actor does not start: `why`, and when it is tried again."""

    why: str
    pause_s: float
    again_at: float


class Roster:
    """The plan of wanted peers, and the running ones. Outlives every actor that works by it."""

    def __init__(
        self,
        configured: Iterable[Peer],
        *,
        own_key: bytes,
        own_prefixes: Iterable[Prefix],
        problems: Counter[str],
        gateway: str | None = None,
    ) -> None:
        """`problems` counts what was refused or failed, by reason. `gateway`: the peer that the default route leads to."""
        self._configured = tuple(configured)
        self._own_key = own_key
        self._own_prefixes = tuple(own_prefixes)
        self.problems = problems
        self.gateway = gateway
        self.found: tuple[Peer, ...] = ()
        self.floating = Floating()
        self.plan = Plan({})
        self.running: dict[str, RunningPeer] = {}
        self.failures: dict[Peer, Failure] = {}
        """By identity, the peers whose actors do not start."""
        self.routes: KernelRoutes | None = None
        self._changed = trio.Event()
        self._arrived = trio.Event()
        self._make_plan()

    def set_found(self, peers: Sequence[Peer]) -> None:
        """Replace the peers found in the registry; of two with one claim the first has it."""
        found = tuple(peers)
        if found != self.found:
            self.found = found
            self._make_plan()

    def set_floating(self, floating: Floating) -> None:
        """Replace who holds the floating addresses."""
        if floating != self.floating:
            self.floating = floating
            self._make_plan()

    def recheck_routes(self) -> None:
        """The kernel may have lost our routes: make them again."""
        if self.routes is not None:
            self.routes.doubt()
        self._changed.set()

    def _make_plan(self) -> None:
        plan = settle(
            self._configured,
            self.found,
            own_key=self._own_key,
            own_prefixes=self._own_prefixes,
            floating=self.floating,
            gateway=self.gateway,
        )
        before = set(self.plan.refused)
        self.problems.update(refused.reason.value for refused in plan.refused if refused not in before)
        if plan != self.plan:
            self.plan = plan
            self._changed.set()

    def of(self, identity: Peer) -> Peer:
        """What the plan says now about the peer of that identity; the bare identity when it is on its way out."""
        peer = self.plan.peers.get(identity.name)
        return peer if peer is not None and peer.identity == identity else identity

    def arrive(self, peer: RunningPeer) -> None:
        """A peer actor is about to run."""
        self.running[peer.peer.name] = peer
        self._arrived.set()
        self._arrived = trio.Event()

    def leave(self, peer: RunningPeer) -> None:
        """It has ended."""
        if self.running.get(peer.peer.name) is peer:
            del self.running[peer.peer.name]

    async def find(self, name: str) -> RunningPeer:
        """The running peer of that name; waits until there is one."""
        while name not in self.running:
            await self._arrived.wait()
        return self.running[name]

    def changed(self) -> trio.Event:
        """An event that is set by the next change of the plan; ask before reading it."""
        if self._changed.is_set():
            self._changed = trio.Event()
        return self._changed


async def keep_roster(
    ctx: Context,
    roster: Roster,
    router: Router,
    connected: tuple[Prefix, ...],
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    """Actor: starts, updates and stops peers, with the kernel routes to their prefixes.

    Ready once every configured peer that can be started has been. A peer whose actor does not start is tried again.
    """
    netlink: Netlink = ctx.sibling("netlink").get()
    tun: TunReader = ctx.sibling("tun").get()
    log = BoundedLog(ctx.log, lines=LOG_LINES)
    known = roster.routes.known if roster.routes is not None else []
    routes = roster.routes = KernelRoutes(
        netlink, tun.port.name, connected, known=known, problems=roster.problems, log=log
    )
    keeper = _Keeper(roster, router, ctx.sibling("peers").get(), routes, log)
    is_started = False
    try:
        while True:
            changed = roster.changed()
            again_at = await keeper.carry_out(roster.plan)
            if not is_started:
                is_started = True
                task_status.started(None)
            with trio.move_on_at(again_at):
                await changed.wait()
    finally:
        if trio.current_effective_deadline() == -math.inf:  # stopped, not crashed: then they are wanted soon again
            with trio.move_on_after(CLEANUP_S, shield=True):
                await routes.clear()


class _Keeper:
    """Carries out plans."""

    def __init__(
        self, roster: Roster, router: Router, pool: Pool[Peer, RunningPeer], routes: KernelRoutes, log: BoundedLog
    ) -> None:
        self._roster, self._router, self._pool, self._routes, self._log = roster, router, pool, routes, log
        self._failures = roster.failures
        self._told: set[object] = set()
        self._identities: dict[str, tuple[Peer, Peer]] = {}
        """By name: a peer of the last plan, and what its session is made for. Most plans change one peer of many."""

    async def carry_out(self, plan: Plan) -> float:
        """Make what runs equal to `plan`. Returns when to do it again even if the plan does not change."""
        self._tell_refusals(plan)
        wanted = self._by_identity(plan.peers)
        present = self._pool.keys()
        for identity in (identity for identity in present if identity not in wanted):
            await self._pool.stop(identity)
        for identity in [identity for identity in self._failures if identity not in wanted]:
            del self._failures[identity]
        kept = set(self._pool.keys())
        for identity, peer in wanted.items():
            if identity not in kept:
                await self._start(identity)
            elif (running := self._roster.running.get(peer.name)) is not None and running.peer != peer:
                running.update(peer)
                self._router.assign(running, peer.allowed)
        await self._routes.update(
            prefix
            for name, peer in plan.peers.items()
            for prefix in peer.allowed
            if prefix.prefixlen or name != self._roster.gateway  # whose default route is not made in the main table
        )
        return min([self._routes.retry_at, *(failure.again_at for failure in self._failures.values())])

    def _by_identity(self, peers: Mapping[str, Peer]) -> dict[Peer, Peer]:
        before, self._identities = self._identities, {}
        for name, peer in peers.items():
            known = before.get(name)
            self._identities[name] = known if known is not None and known[0] is peer else (peer, peer.identity)
        return {identity: peer for peer, identity in self._identities.values()}

    async def _start(self, identity: Peer) -> None:
        failure, now = self._failures.get(identity), trio.current_time()
        if failure is not None and now < failure.again_at:
            return
        try:
            await self._pool.start(identity)
        except ChildStartError as error:
            self._roster.problems["peer_not_started"] += 1
            why = str(error.__cause__ or error)
            if failure is None or failure.why != why:
                self._log.error("peer %s cannot be used: %s", identity.name, why)
            pause_s = RETRY_S if failure is None else min(2 * failure.pause_s, RETRY_MAX_S)
            self._failures[identity] = Failure(why, pause_s, now + pause_s)
        else:
            if self._failures.pop(identity, None) is not None:
                self._log.info("peer %s can be used after all", identity.name)

    def _tell_refusals(self, plan: Plan) -> None:
        for refused in plan.refused:
            if refused not in self._told:
                self._log.warning("peer %s is refused something: %s", refused.name, refused)
        self._told = set(plan.refused)
