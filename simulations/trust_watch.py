"""Looks at whom nodes believe in a network with an authority, and remembers what each has seen, through all its lives.

Not responsible for the promises (`trust_oracles`), nor for when to look (`actor_world`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from holloway.actors.membership import Membership
from holloway.protocols.signed_records import LABEL
from holloway.simulations.office import Office
from holloway.simulations.trust_oracles import (
    OBEYED_WITHIN_NS,
    addresses_are_certified,
    no_older_record_is_believed,
    nobody_is_enrolled_by_another,
    nobody_is_impersonated,
    only_named_nodes_are_obeyed,
    revoked_stay_out,
)
from holloway.supervisor import ActorDown

if TYPE_CHECKING:
    from holloway.actors import Node

KEPT_WITHIN_NS = OBEYED_WITHIN_NS
"""How long a node may take to keep what it has seen."""


class TrustWatch:
    """What one node has seen."""

    def __init__(self, name: str, office: Office, check: Callable[..., None]) -> None:
        self._name, self._office, self._check = name, office, check
        self._disk = office.disks[name]
        self._life: object = None
        self._full_ns = -KEPT_WITHIN_NS
        self._seen_ns: dict[str, int] = {}
        self._newest: dict[str, int] = {}
        self._fresh: dict[str, tuple[int, int]] = {}
        """By name, the serial number of the record that this life believes, and since when."""
        self._serials: dict[bytes, int] = {}

    def look(self, node: Node, now_ns: int) -> None:
        """Hold the promises."""
        if self._life is not node:
            self._life, self._fresh = node, {}
        if self._disk.is_full:
            self._full_ns = now_ns
        peers = dict(node.roster.plan.peers) | {name: each.peer for name, each in node.roster.running.items()}
        self._check(nobody_is_impersonated, peers, self._office.genuine, self._name)
        self._check(addresses_are_certified, node.roster.plan.peers, self._office.genuine, self._name)
        self._note_revocations(node, now_ns)
        self._check(revoked_stay_out, peers, self._seen_ns, now_ns, self._name)
        self._look_at_records(node, now_ns)
        view, keys = node.claims.view(), self._office.agent_keys
        self._check(nobody_is_enrolled_by_another, view, keys, self._name)
        self._check(only_named_nodes_are_obeyed, view, self._office.may_have_brokers, keys, self._name)
        others = [name for name, _ in (*view.agents, *view.brokers) if name != self._name]
        self._check(revoked_stay_out, others, self._seen_ns, now_ns, self._name)

    def sees_control_plane(self, node: Node) -> bool:
        """Whether the node knows another's agent, a broker, and somebody who announces one and may not."""
        view = node.claims.view()
        return bool(any(name != self._name for name, _ in view.agents) and view.brokers and view.ignored)

    def stand_still(self, now_ns: int) -> None:
        """The node takes no step: whatever it has seen, it obeys when it goes on."""
        self._seen_ns = dict.fromkeys(self._seen_ns, now_ns)

    def knows_revoked(self, name: str) -> bool:
        """Whether it has seen that this one was revoked."""
        return name in self._seen_ns

    def _note_revocations(self, node: Node, now_ns: int) -> None:
        """Of what it learned with its disk full it may know nothing in its next life."""
        assert node.enrolled is not None
        revocations = node.enrolled.trust.revocations
        if revocations is None or now_ns - self._full_ns < KEPT_WITHIN_NS:
            return
        for name, genuine in self._office.genuine.items():
            if genuine.certificate in revocations.serials:
                self._seen_ns.setdefault(name, now_ns)

    def _look_at_records(self, node: Node, now_ns: int) -> None:
        try:
            membership: Membership = node.tree.ref("registry.membership").get()
        except ActorDown:
            return
        believed = {name: self._serial(value) for name, value in membership.records.values().items()}
        self._check(no_older_record_is_believed, believed, self._newest, self._name)
        for name, serial in believed.items():
            known, since_ns = self._fresh.get(name, (0, now_ns))
            if known and serial < known:
                self._check(no_older_record_is_believed, believed, {name: known}, self._name)
            if serial != known:
                self._fresh[name] = serial, now_ns
            elif now_ns - max(since_ns, self._full_ns) >= KEPT_WITHIN_NS:
                self._newest[name] = serial

    def _serial(self, value: bytes) -> int:
        if value not in self._serials:
            serial = json.loads(json.loads(value)[LABEL])["serial"]
            assert isinstance(serial, int)
            self._serials[value] = serial
        return self._serials[value]
