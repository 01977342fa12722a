"""A network with an authority, in one program: members on a simulated network, their state in real folders, one store.

Host N is the node `node-N`, with the outer address of `node_world` and an overlay address from its certificate. Not responsible
for time: the tests run under a MockClock, and certificates are made at the time at which that begins.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import trio
from node_world import PORT, name, outer, private_key

from holloway.actors import (
    Config,
    Endpoint,
    FloatingConfig,
    IdentityConfig,
    InterfaceConfig,
    ListenConfig,
    MemoryRegistry,
    Node,
    NodeConfig,
    RegistryConfig,
    SessionConfig,
    open_node,
)
from holloway.actors.authority_files import AuthorityFiles
from holloway.actors.enrolled import REVOKED, identity_in, keep_granted
from holloway.actors.state_directory import StateDirectory
from holloway.protocols.enrolment import NONCE_BYTES
from holloway.protocols.identity import ENTROPY_BYTES
from holloway.protocols.invitations import Invitation
from holloway.protocols.joiner import Granted, Joiner
from holloway.protocols.membership import nodes_prefix
from holloway.protocols.network_settings import NetworkSettings, random_network6
from holloway.protocols.trust import revoked_key
from holloway.simulations.network import SimulatedNetwork
from holloway.simulations.ports import WALL_START_NS, SimulatedPorts

NETWORK = "home"
NOW = WALL_START_NS // 10**9
PREFIX = f"/holloway/{NETWORK}/".encode()


async def until(condition: Callable[[], bool], *, within_s: float = 20.0) -> None:
    """Wait for something that no event tells."""
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


class Entropy:
    """Counted bytes: the same in every run, never the same twice."""

    def __init__(self, seed: str = "") -> None:
        self._seed, self._count = seed, 0

    def __call__(self, length: int) -> bytes:
        self._count += 1
        return hashlib.shake_128(f"{self._seed}/{self._count}".encode()).digest(length)


class EnrolledWorld:
    """The authority has a folder of its own, so that no node of these works for it."""

    def __init__(self, folder: Path, seed: str = "") -> None:
        self.folder = folder
        self.wire = SimulatedNetwork()
        self.memory = MemoryRegistry()
        self.entropy = Entropy(seed)
        office = self.state("office")
        settings = NetworkSettings(network6=random_network6(self.entropy(16)))
        self.authority = AuthorityFiles.create(office, NETWORK, settings, self.entropy, NOW)

    def state(self, called: str) -> StateDirectory:
        state = StateDirectory(self.folder / called)
        state.create()
        return state

    def invite(self, **terms: Any) -> Invitation:
        return self.authority.invite(**{"expires": NOW + 3600, "registry": "memory:", "files": {}} | terms)

    def enrol(self, number: int, *prefixes: str) -> Granted:
        """Let host `number` in, as the authority's node would, with these prefixes in its certificate."""
        state = self.state(name(number))
        identity = identity_in(state, self.entropy(ENTROPY_BYTES))
        invitation = self.invite(name=name(number), prefixes=tuple(map(ip_network, prefixes)))
        joiner = Joiner(invitation, identity, self.entropy(NONCE_BYTES))
        answer = self.authority.enrol(invitation.terms.id, joiner.request(), NOW).decision.answer
        assert answer is not None
        granted = joiner.read(answer, NOW)
        assert isinstance(granted, Granted)
        keep_granted(state, granted)
        state.write(REVOKED, self.authority.statements(NOW)[revoked_key(NETWORK)])
        return granted

    def config(self, number: int, floating: Sequence[FloatingConfig] = ()) -> Config:
        return Config(
            node=NodeConfig(name=name(number), network=NETWORK),
            interface=InterfaceConfig(name="hw0"),
            session=SessionConfig(private_key=private_key(number)),
            listen=ListenConfig(advertise=(Endpoint(outer(number), PORT),)),
            registry=RegistryConfig(url="memory:", trust="authority"),
            identity=IdentityConfig(directory=self.folder / name(number)),
            floating=tuple(floating),
        )

    @asynccontextmanager
    async def node(
        self, number: int, *, floating: Sequence[FloatingConfig] = (), **changes: Any
    ) -> AsyncIterator[Node]:
        options: dict[str, Any] = {"ports": SimulatedPorts(self.wire, outer(number)), "memory": self.memory} | changes
        made = options.pop("config", None) or self.config(number, floating)
        async with open_node(made, **options) as node:
            yield node

    async def put(self, values: dict[bytes, bytes]) -> None:
        """Write into the store, as anybody can who owns it."""
        handle = self.memory.handle()
        for key, value in values.items():
            await handle.put(key, value)
        await handle.close()

    async def delete(self, key: bytes) -> None:
        handle = self.memory.handle()
        await handle.delete(key)
        await handle.close()

    def value(self, key: bytes) -> bytes:
        """What the store holds."""
        return self.memory.snapshot(key).entries[key].value

    @property
    def nodes(self) -> bytes:
        return nodes_prefix(NETWORK)
