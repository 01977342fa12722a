"""The children of a node's registry plane, put together from its configuration.

Not responsible for what they do (`membership`, `issuer`), nor for the rest of the tree (`node`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from holloway.actors.authority_files import AuthorityFiles
from holloway.actors.belief import AuthorityBelief, Belief, PinnedBelief, StoreBelief
from holloway.actors.config import Config, ConfigProblems
from holloway.actors.config.problems import Problem
from holloway.actors.enrolled import Enrolled
from holloway.actors.issuer import issuer
from holloway.actors.membership import Describe, membership
from holloway.actors.ports import Ports
from holloway.actors.registry import RegistryPort
from holloway.actors.roster import Roster
from holloway.protocols.errors import LocalError
from holloway.supervisor import Child

REGISTRY_TIMEOUT_S = 30.0
"""How long the registry may take at the start before the node gives up on it."""
SECOND_NS = 10**9


def enrolled_node(config: Config, ports: Ports) -> tuple[Config, Enrolled | None]:
    """What the node keeps of its membership, and the configuration with what follows from its certificate.

    Raises `ConfigProblems` when the two contradict each other, and as `Enrolled` does.
    """
    if config.identity is None:
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
    return config, enrolled


def belief_of(config: Config, enrolled: Enrolled | None, wall_ns: Callable[[], int]) -> Belief:
    """Who is believed about the network."""
    assert config.registry is not None
    match config.registry.trust:
        case "authority":
            if enrolled is None:
                raise LocalError("nobody can be believed", 'trust = "authority" needs an [identity]')
            return AuthorityBelief(enrolled, wall_ns)
        case "pinned":
            return PinnedBelief(peer.public_key for peer in config.peers)
        case _:
            return StoreBelief()


@dataclass(frozen=True, slots=True)
class RegistryPlane:
    """What the plane is made of."""

    config: Config
    ports: Ports
    roster: Roster
    enrolled: Enrolled | None
    own_key: bytes
    describe: Describe

    def children(self, open_store: Callable[[], AbstractAsyncContextManager[RegistryPort]]) -> list[Child[Any]]:
        """The actors, first to start first."""
        enrolled, wall_ns = self.enrolled, self.ports.wall_ns
        meet = partial(
            membership,
            config=self.config,
            roster=self.roster,
            belief=belief_of(self.config, enrolled, wall_ns),
            describe=self.describe,
            own_key=self.own_key,
            open_store=open_store,
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
        return children
