"""Looks at who has the floating addresses of a run, at whom nodes believe, and at the packets to and from them.

A second owner can only come up when somebody takes an address, so that is looked at each time; the rest at every packet, and
now and then. Not responsible for the promises (`floating_oracles`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address
from typing import Protocol

from holloway.protocols.floating_table import FloatingHolder
from holloway.simulations.faults import HOLDER, Fault
from holloway.simulations.floating_oracles import (
    FOLLOWED_WITHIN_NS,
    HANDED_OVER_WITHIN_NS,
    REPLACED_WITHIN_NS,
    Afloat,
    a_fence_has_one_holder,
    earlier_holders_are_not_heard,
    fences_are_followed,
    lost_holders_are_replaced,
    one_node_takes_nothing,
    one_owner_of_a_floating_address,
    only_the_owner_answers,
    what_is_given_up_leaves_the_device,
)
from holloway.simulations.heap import Agenda
from holloway.simulations.identities import floating_address
from holloway.simulations.ledger import Delivered
from holloway.simulations.plan import Plan

UNTRUE_STORE_NS = 10**9
"""How long after a lease was lost before its time an earlier holder may still take itself for one: what its claim promised, and
the way of the news. The store has broken its word there, and only fences tell the holders apart."""
LOSSES = {
    "crash": REPLACED_WITHIN_NS,
    "pause": REPLACED_WITHIN_NS,
    "store_down": REPLACED_WITHIN_NS,
    "partition": REPLACED_WITHIN_NS,
    "stop": HANDED_OVER_WITHIN_NS,
}
"""By kind of fault, how soon another node has the address of one that it befalls."""
QUIET_NS = 8 * 10**9
"""How long after another fault nodes may still be busy with it."""
_REPLACED = {
    "stop": "stopped_holder_replaced",
    "crash": "dead_holder_replaced",
    "restart": "dead_holder_replaced",
    "pause": "stalled_holder_replaced",
    "store_down": "holder_without_store_replaced",
    "partition": "unreachable_holder_replaced",
}


class Floater(Protocol):
    """What is asked of a node."""

    name: str
    down: int
    paused: int

    def owns(self, address: IPv4Address) -> bool:
        """Whether it would answer for the address at this moment."""

    def believes(self, address: IPv4Address) -> FloatingHolder | None:
        """Whom it takes for the holder."""

    def has_on_device(self, address: IPv4Address) -> bool:
        """Whether the kernel would answer for the address."""


class FloatingWatch:
    """The floating addresses of one run."""

    def __init__(
        self,
        plan: Plan,
        hosts: Mapping[str, Floater],
        timeline: Agenda,
        check: Callable[..., None],
        reach: Callable[[str], None],
    ) -> None:
        plans = () if plan.registry is None else plan.registry.floating
        self._all, self._timeline = plan, timeline
        self.plans = {floating_address(number): plan for number, plan in enumerate(plans)}
        self._raw = {address.packed: address for address in self.plans}
        self._hosts, self._check, self._reach = hosts, check, reach
        self._holders: dict[IPv4Address, str] = {}
        self._fences: dict[tuple[IPv4Address, int], FloatingHolder] = {}
        self._newest: dict[tuple[str, IPv4Address], FloatingHolder] = {}
        self._believed: dict[tuple[str, IPv4Address], list[tuple[int, str | None]]] = {}
        """By node and address, since when it takes whom for the holder, the last first."""
        self._stuck_ns: dict[tuple[str, IPv4Address], int] = {}
        self._active: dict[str, Fault] = {}
        self._steady: dict[IPv4Address, str] = {}
        """Who has an address that is to stay where it is."""
        self._untrue_until_ns = 0

    # Faults.

    def resolve(self, fault: Fault) -> tuple[str, ...]:
        """Whom a fault befalls, if it begins now."""
        return (self.holder(),) if fault.nodes == (HOLDER,) else fault.nodes

    def holder(self) -> str:
        """Who has the first address, or had it last, or may have it."""
        address, plan = next(iter(self.plans.items()))
        owners = self._owners(address)
        return owners[0] if owners else self._holders.get(address, plan.nodes[0])

    def begin(self, fault: Fault, now_ns: int) -> None:
        """A fault befalls somebody."""
        self._active[fault.name] = fault
        for address in self.plans if self._is_lone(fault, now_ns) else ():
            owners = self._owners(address)
            if owners == list(fault.nodes) and fault.kind in LOSSES and self._has_others(address, owners[0]):
                within_ns = LOSSES[fault.kind]
                self._timeline.at(now_ns + within_ns, self._look_for_another, owners[0], within_ns, address)
            elif len(owners) == 1 and owners[0] not in fault.nodes and fault.kind == "partition":
                self._steady[address] = owners[0]
                self._timeline.at(fault.until_ns, self._look_for_the_same, owners[0], address)
        if fault.kind == "lease_loss":
            self._untrue_until_ns = now_ns + UNTRUE_STORE_NS

    def end(self, fault: Fault) -> None:
        """It is over."""
        self._active.pop(fault.name, None)

    def _is_lone(self, fault: Fault, now_ns: int) -> bool:
        """Whether a fault befalls one node, or the way between two, for long enough, and is the only one."""
        if len(fault.nodes or fault.between[1:]) != 1 or fault.until_ns <= now_ns + REPLACED_WITHIN_NS:
            return False
        others = [each for each in self._all.faults if each.name != fault.name]
        return all(each.at_ns > fault.until_ns or each.until_ns < now_ns - QUIET_NS for each in others)

    def _has_others(self, address: IPv4Address, lost: str) -> bool:
        """Whether somebody may follow, and is heard by somebody else."""
        return len(self._hosts) > 2 and any(name != lost for name in self.plans[address].nodes)

    def _look_for_another(self, lost: str, within_ns: int, address: IPv4Address) -> None:
        self._check(lost_holders_are_replaced, lost, within_ns, self._owners(address), address)

    def _look_for_the_same(self, before: str, address: IPv4Address) -> None:
        del self._steady[address]
        self._check(one_node_takes_nothing, before, self._owners(address), address)

    # What happens.

    def took(self, host: str, address: IPv4Address, now_ns: int) -> None:
        """A node has taken an address."""
        if address not in self.plans:
            return
        self._look_at_owners(address, now_ns)
        if address in self._steady:
            self._check(one_node_takes_nothing, self._steady[address], [host], address)
        before, self._holders[address] = self._holders.get(address), host
        if before is None or before == host:
            return
        self._reach("floating_moved")
        kinds = [fault.kind for fault in self._active.values() if before in fault.nodes]
        for kind, place in _REPLACED.items():
            if kind in kinds:
                self._reach(place)
                return
        if self._priority(address, before) < self._priority(address, host):
            self._reach("floating_handed_over")

    def heard(self, receiver: Floater, maker: str, packet: Delivered, now_ns: int) -> None:
        """A packet has come out of a tunnel."""
        called, calling = self._raw.get(packet.destination), self._raw.get(packet.source)
        if called is not None:
            self._look_at_owners(called, now_ns)
            self._check(only_the_owner_answers, receiver.owns(called), receiver.name, called)
        if calling is not None:
            self._look_at_belief(receiver, calling, now_ns)
            history = self._believed.get((receiver.name, calling), [])
            lately = [name for since_ns, name in history]
            self._check(earlier_holders_are_not_heard, maker, lately, receiver.name)
            self._reach("floating_answered")

    def look(self, now_ns: int) -> None:
        """Some time has passed."""
        for address in self.plans:
            self._look_at_owners(address, now_ns)
            for host in self._hosts.values():
                self._look_at_belief(host, address, now_ns)
                self._look_at_device(host, address, now_ns)

    def _look_at_owners(self, address: IPv4Address, now_ns: int) -> None:
        if now_ns >= self._untrue_until_ns:
            self._check(one_owner_of_a_floating_address, self._owners(address), address)

    def _look_at_belief(self, host: Floater, address: IPv4Address, now_ns: int) -> None:
        place, holder = (host.name, address), host.believes(address)
        before = self._newest.get(place)
        self._check(fences_are_followed, before, holder, host.name)
        if holder is not None:
            known = self._fences.setdefault((address, holder.fence), holder)
            self._check(a_fence_has_one_holder, known, holder, host.name)
            self._newest[place] = holder
        name = None if holder is None else holder.name
        history = self._believed.setdefault(place, [(now_ns, name)])
        if history[0][1] != name:
            history.insert(0, (now_ns, name))
        # Of the earlier ones only that stays which was believed until less than a moment ago.
        moment_ns = now_ns - FOLLOWED_WITHIN_NS
        keep = next((at for at, (since_ns, _) in enumerate(history) if since_ns <= moment_ns), len(history))
        del history[keep + 1 :]

    def _look_at_device(self, host: Floater, address: IPv4Address, now_ns: int) -> None:
        place = host.name, address
        if host.paused or not host.has_on_device(address) or host.owns(address):
            self._stuck_ns.pop(place, None)
        else:
            self._stuck_ns.setdefault(place, now_ns)
        self._check(what_is_given_up_leaves_the_device, self._stuck_ns.get(place), now_ns, host.name)

    # How things stand.

    def afloat(self) -> Iterator[Afloat]:
        """Every address."""
        up = {name: host for name, host in self._hosts.items() if not host.down}
        for address, plan in self.plans.items():
            able = [name for name in plan.nodes if name in up]
            highest = max((self._priority(address, name) for name in able), default=0)
            best = tuple(name for name in able if self._priority(address, name) == highest)
            holders = {name: host.believes(address) for name, host in up.items()}
            believed = {name: None if holder is None else holder.name for name, holder in holders.items()}
            if able:
                yield Afloat(address, tuple(self._owners(address)), best, believed)

    def _owners(self, address: IPv4Address) -> list[str]:
        return [host.name for host in self._hosts.values() if host.owns(address)]

    def _priority(self, address: IPv4Address, name: str) -> int:
        plan = self.plans[address]
        return plan.priorities[plan.nodes.index(name)]
