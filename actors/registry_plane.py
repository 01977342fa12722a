"""The children of a node's registry plane, put together from its configuration.

Not responsible for what they do (`membership`, `issuer`), nor for the rest of the tree (`node`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address, ip_network
from typing import Any

from holloway.actors.address_keeper import address_keeper
from holloway.actors.authority_files import AuthorityFiles
from holloway.actors.belief import AuthorityBelief, Belief, PinnedBelief, StoreBelief
from holloway.actors.bounded_log import BoundedLog
from holloway.actors.config import Config, ConfigProblems
from holloway.actors.config.problems import Problem
from holloway.actors.control_claims import ControlClaims
from holloway.actors.enrolled import Enrolled
from holloway.actors.floating import Surroundings, floating
from holloway.actors.floating_belief import AuthorityFloating, FloatingBelief, StoreFloating
from holloway.actors.floating_follower import FloatingFollower
from holloway.actors.issuer import issuer
from holloway.actors.local_addresses import LocalAddresses
from holloway.actors.membership import Describe, membership
from holloway.actors.ports import Ports
from holloway.actors.roster import Roster
from holloway.actors.router import Router
from holloway.actors.store_member import StoreMember
from holloway.actors.store_visits import OpenStore
from holloway.protocols.errors import LocalError
from holloway.protocols.floating_operations import FloatingTimers
from holloway.protocols.floating_table import FloatingTable
from holloway.protocols.membership import NodeRecord
from holloway.supervisor import Child, Context

REGISTRY_TIMEOUT_S = 30.0
"""How long the registry may take at the start before the node gives up on it."""
SECOND_NS = 10**9
LOG_LINES = 20

log = logging.getLogger("holloway.node")


def enrolled_node(config: Config, ports: Ports) -> tuple[Config, Enrolled | None]:
    """What the node keeps of its membership, and the configuration with what follows from its certificate.

    Raises `ConfigProblems` when the two contradict each other, and as `Enrolled` does.
    """
    if config.identity is None or is_store_member(config):
        return config, None
    state = ports.open_state(config.identity.directory)
    enrolled = Enrolled(state, config.node.network, ports.wall_ns() // SECOND_NS)
    name = enrolled.certificate.name
    if name != config.node.name:
        fix = f'write name = "{name}", or join under the other name'
        raise ConfigProblems(
            [Problem(config.path, None, "node.name", f"the certificate is of node {name}", fix)], config.path
        )
    certified = {address.ip for address in enrolled.addresses}
    foreign = [str(address) for address in config.interface.addresses if address.ip not in certified]
    if foreign:
        what = f"the certificate has no {', '.join(foreign)}"
        fix = "leave addresses out: the node has those of its certificate"
        raise ConfigProblems([Problem(config.path, None, "interface.addresses", what, fix)], config.path)
    if not config.interface.addresses:
        config = replace(config, interface=replace(config.interface, addresses=enrolled.addresses))
    problems = list(_not_certified(config, enrolled))
    if problems:
        raise ConfigProblems(problems, config.path)
    return config, enrolled


def is_store_member(config: Config) -> bool:
    """Whether the node is one of a network whose store is believed, and has its address from there."""
    return config.identity is not None and config.registry is not None and config.registry.trust == "store"


def _not_certified(config: Config, enrolled: Enrolled) -> Iterator[Problem]:
    """Floating addresses that nobody would believe this node to hold."""
    if config.registry is None or config.registry.trust != "authority":
        return
    settings, name = enrolled.settings, config.node.name
    for position, each in enumerate(config.floating):
        key = f"floating[{position}].address"
        if not (settings.is_floating(each.address) and settings.is_host(each.address)):
            range_ = settings.floating_range
            what = f"{each.address} is not in the floating range of the network"
            fix = "the network has none" if range_ is None else f"choose one of {range_}"
            yield Problem(config.path, None, key, what, fix)
        elif ip_network(each.address) not in enrolled.certificate.prefixes:
            fix = f"join with another invitation: holloway invite --name {name} --prefix {each.address}/32"
            yield Problem(config.path, None, key, f"the certificate has no prefix {each.address}/32", fix)


def belief_of(config: Config, enrolled: Enrolled | None, own_key: bytes, wall_ns: Callable[[], int]) -> Belief:
    """Who is believed about the network. `own_key`: our session key."""
    assert config.registry is not None
    match config.registry.trust:
        case "authority":
            if enrolled is None:
                raise LocalError("nobody can be believed", 'trust = "authority" needs an [identity]')
            return AuthorityBelief(enrolled, wall_ns)
        case "pinned":
            return PinnedBelief((peer.public_key for peer in config.peers), own_key)
        case _:
            return StoreBelief(claims_addresses=not is_store_member(config))


def floating_belief_of(
    config: Config, enrolled: Enrolled | None, member: StoreMember | None, own_key: bytes, ports: Ports
) -> FloatingBelief | None:
    """Who is believed about floating addresses; None where nobody is."""
    match None if config.registry is None else config.registry.trust:
        case "authority" if enrolled is not None:
            return AuthorityFloating(enrolled, ports.wall_ns)
        case "store":
            return StoreFloating(config.node.name, own_key, member)
        case _:
            return None


def floating_name(address: IPv4Address) -> str:
    """The name of a floating address's actor in the tree. Dots join names into paths, so an address may not bring its own."""
    return f"floating-{str(address).replace('.', chr(0xB7))}"


@dataclass(frozen=True, slots=True)
class RegistryPlane:
    """What the plane is made of. `table` is who holds the floating addresses."""

    config: Config
    ports: Ports
    roster: Roster
    router: Router
    addresses: LocalAddresses
    table: FloatingTable
    enrolled: Enrolled | None
    member: StoreMember | None
    own_key: bytes
    describe: Describe
    claims: ControlClaims

    def children(self, open_store: OpenStore) -> list[Child[Any]]:
        """The actors, first to start first."""
        enrolled, wall_ns = self.enrolled, self.ports.wall_ns
        belief = floating_belief_of(self.config, enrolled, self.member, self.own_key, self.ports)
        meet = partial(
            membership,
            config=self.config,
            roster=self.roster,
            belief=belief_of(self.config, enrolled, self.own_key, wall_ns),
            describe=self._describe_if_ours,
            own_key=self.own_key,
            open_store=open_store,
            floating=None if belief is None else self._follower(belief),
            is_patient=self._knows_others(),
            claims=self.claims,
        )
        children: list[Child[Any]] = [Child(name="membership", run=meet, start_timeout=REGISTRY_TIMEOUT_S)]
        if enrolled is not None and AuthorityFiles.exist(enrolled.state):
            issue = partial(
                issuer,
                authority=AuthorityFiles(enrolled.state, enrolled.trust.network, self.ports.entropy),
                open_store=open_store,
                wall_ns=wall_ns,
                problems=self.roster.problems,
            )
            children.insert(0, Child(name="issuer", run=issue))
        if self.member is not None:
            keep = partial(
                address_keeper,
                member=self.member,
                open_store=open_store,
                wall_ns=wall_ns,
                problems=self.roster.problems,
            )
            children.insert(0, Child(name="address", run=keep))
        if belief is not None:
            children += self._floating(belief, open_store)
        return children

    async def _describe_if_ours(self, ctx: Context) -> NodeRecord:
        """See `Describe`. Raises `RegistryError` while another machine has our address: it would be believed to have two owners."""
        if self.member is not None and self.member.problem is not None:
            raise self.member.problem
        return await self.describe(ctx)

    def _knows_others(self) -> bool:
        """Whether the node can start with the registry away: it did so already, or peers are configured."""
        assert self.config.registry is not None
        is_pinned = self.config.registry.trust == "pinned" and bool(self.config.peers)
        return is_pinned or (self.member is not None and self.member.is_without_store)

    def _follower(self, belief: FloatingBelief) -> FloatingFollower:
        is_signed = self.enrolled is not None and isinstance(belief, AuthorityFloating)
        range_ = self.enrolled.settings.floating_range if self.enrolled is not None and is_signed else None
        bounded = BoundedLog(log, lines=LOG_LINES)
        return FloatingFollower(self.config.node.network, belief, self.table, self.roster, bounded, range_)

    def _floating(self, belief: FloatingBelief, open_store: OpenStore) -> list[Child[Any]]:
        around = Surroundings(
            self.config.node.network,
            belief,
            self.table,
            self.roster,
            self.addresses,
            self.router,
            self.ports,
            self.roster.problems,
            open_store,
            FloatingTimers(),
        )
        return [
            Child(name=floating_name(each.address), run=partial(floating, wanted=each, around=around))
            for each in self.config.floating
        ]
