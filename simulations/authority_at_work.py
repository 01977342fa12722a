"""What the authority of a simulated network does in a run, who attacks its registry, and the looking at whom nodes believe.

Not responsible for the authority itself (`office`), for what an attacker thinks of (`store_attacker`), nor for what nodes may
believe (`trust_watch`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holloway.protocols.errors import PortError
from holloway.simulations.faults import Fault
from holloway.simulations.office import Elsewhere, Office
from holloway.simulations.store_attacker import StoreAttacker
from holloway.simulations.trust_watch import TrustWatch

if TYPE_CHECKING:
    from holloway.simulations.actor_host import ActorHost
    from holloway.simulations.actor_world import ActorWorld
    from holloway.simulations.store import Store

SECOND_NS = 10**9
RETURNED_NS = 3 * SECOND_NS
"""How long a revoked node has been back when it is said to have come back in vain."""


class AuthorityAtWork:
    """The authority of one run."""

    def __init__(self, world: ActorWorld, office: Office, store: Store | None) -> None:
        assert store is not None, "there is no authority without a registry"
        self._world, self._office, self._store = world, office, store
        plan = world.plan
        self._owner = plan.nodes[0]
        self._watches = {name: TrustWatch(name, office, world.check) for name in plan.nodes}
        attacks = [fault for fault in plan.faults if fault.kind == "store_attacker"]
        elsewhere = Elsewhere(plan.seed, office.network, self._now) if attacks else None
        self._attackers = {
            fault.name: StoreAttacker(
                fault, plan.seed, office, elsewhere, fault.nodes or plan.nodes, in_clear=bool(plan.in_clear)
            )
            for fault in attacks
            if elsewhere is not None
        }
        self._returned_ns: dict[str, int] = {}

    @property
    def has_attackers(self) -> bool:
        return bool(self._attackers)

    @property
    def _now(self) -> int:
        """What the owner of the authority takes for the time, in seconds since 1970."""
        return self._world.hosts[self._owner].clocks.wall_ns(self._world.timeline.now_ns) // SECOND_NS

    def revoke(self, name: str) -> None:
        """Take the certificate of a node back, and say so in the registry. With a full disk it is tried again each second."""
        timeline = self._world.timeline
        if name in self._world.outcasts:
            return
        try:
            published = self._office.revoke(name, self._now)
        except PortError:
            timeline.at(timeline.now_ns + SECOND_NS, self.revoke, name)
            return
        self._world.outcasts[name] = None
        self._store.overwrite(published)

    # Attackers.

    def attack(self, fault: Fault) -> None:
        """Somebody owns the registry from now on."""
        self._act(self._attackers[fault.name])

    def _act(self, attacker: StoreAttacker) -> None:
        timeline, fault = self._world.timeline, attacker.fault
        if timeline.now_ns >= fault.until_ns:
            return
        for host in self._world.hosts.values():  # what came of the last one
            self.look(host)
        attack = attacker.act(self._store.held(self._office.network), self._world.outcasts, timeline.now_ns)
        self._store.overwrite(attack.puts, attack.deletes)
        self._store.overwrite(attack.then)
        self._world.record(self._world.hosts[self._owner], "store", "", f"attacker: {attack.what}", 0)
        timeline.at(timeline.now_ns + int(fault.values["every"]), self._act, attacker)

    # Judging.

    def note_boot(self, host: ActorHost) -> None:
        """A node is up."""
        if host.lives > 1 and self._store.is_away(host.name):
            self._world.reached.reach("restarted_without_store")
        if host.name in self._world.outcasts:
            self._returned_ns.setdefault(host.name, self._world.timeline.now_ns)

    def look(self, host: ActorHost) -> None:
        """Hold the promises about whom a node believes."""
        now_ns, watch = self._world.timeline.now_ns, self._watches[host.name]
        for attacker in self._attackers.values():
            attacker.remember(self._store.held(self._office.network))
        if host.paused or host.is_waking:
            watch.stand_still(now_ns)
        elif (node := host.node) is not None:
            watch.look(node, now_ns)
            if watch.sees_control_plane(node):
                self._world.reached.reach("control_plane_seen")
            for name, since_ns in list(self._returned_ns.items()):
                if now_ns - since_ns > RETURNED_NS and watch.knows_revoked(name) and name not in node.roster.plan.peers:
                    self._world.reached.reach("revoked_returned_in_vain")
                    del self._returned_ns[name]
