"""A network with an authority over a real etcd: nodes in this process, on a wire in memory that everybody can listen to.

    async with EtcdNetwork(tmp_path) as net:                  # a founded the network and runs with the authority's key
        b = await net.joined("b")                              # an invitation, a request and a grant through etcd; then it runs

Responsible for hosts that join and nodes that run on them, and for the hand of whoever owns the store (`put`, `delete`, `held`).
Time is the real one, because etcd's is. Not responsible for what the tests do to them.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from struct import pack
from typing import Any, Self

import trio
from etcd_servers import EtcdServer, fresh_prefix, shared_server, text

from holloway.actors import (
    Config,
    Endpoint,
    IdentityConfig,
    InterfaceConfig,
    ListenConfig,
    Node,
    NodeConfig,
    RegistryConfig,
    SessionConfig,
    open_node,
)
from holloway.actors.authority_files import AuthorityFiles
from holloway.actors.enrolled import SESSION_KEY, Enrolled, ensure_session_key, identity_in, keep_granted
from holloway.actors.founding import found_network
from holloway.actors.joining import join
from holloway.actors.registry import open_registry
from holloway.actors.state_directory import StateDirectory
from holloway.protocols.enrolment import NONCE_BYTES
from holloway.protocols.envelopes import seal_text
from holloway.protocols.identity import ENTROPY_BYTES
from holloway.protocols.invitations import Invitation
from holloway.protocols.joiner import Granted, Joiner
from holloway.protocols.membership import NodeRecord, Prefix, encode_record, network_prefix, node_key
from holloway.protocols.network_settings import NetworkSettings, random_network6
from holloway.protocols.signed_records import LABEL as RECORD
from holloway.simulations.network import SimulatedNetwork
from holloway.simulations.ports import SimulatedPorts

NETWORK = "home"
PREFIX = network_prefix(NETWORK)
PORT = 1099
PING_EVERY_S = 0.01
FOUNDER = "a"
MARK = b"only for the one it is sent to"
"""What the packets say, which nobody else is to read."""


class RealHost(SimulatedPorts):
    """Ports in memory, with the clock and the dice of this machine."""

    def wall_ns(self) -> int:
        return time.time_ns()

    def entropy(self, n: int) -> bytes:
        return os.urandom(n)

    def open_state(self, directory: Path) -> StateDirectory:
        return StateDirectory(directory)


class EtcdNetwork:
    """The founder runs as long as the context lasts, and so do the nodes that `joined` or `node` started."""

    def __init__(self, folder: Path, *, server: EtcdServer | None = None, **query: object) -> None:
        """`query`: of the registry URL."""
        self.folder = folder
        self.server = server or shared_server()
        self.place = fresh_prefix()[:-1]
        self.url = self.server.url(self.place, **query)
        self.wire = SimulatedNetwork()
        self.nodes: dict[str, Node] = {}
        self.ports: dict[str, SimulatedPorts] = {}
        self._numbers: dict[str, int] = {}
        self._prefixes: dict[str, list[Prefix]] = {}
        self._scopes: dict[str, tuple[trio.CancelScope, trio.Event]] = {}
        self._stack = AsyncExitStack()
        self.heard: list[bytes] = []
        self.wire.taps.append(lambda _source, _destination, data: self.heard.append(bytes(data)))

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        self._nursery = await self._stack.enter_async_context(trio.open_nursery())
        state = self.state(FOUNDER)
        settings = NetworkSettings(network6=random_network6(os.urandom(16)))
        granted = found_network(
            state, NETWORK, settings, name=FOUNDER, address=None, registry=self.url, entropy=os.urandom, now=now()
        )
        ensure_session_key(state, os.urandom(32))
        keep_granted(state, granted)
        self.authority = AuthorityFiles(state, NETWORK, os.urandom)
        await self.start(FOUNDER)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._nursery.cancel_scope.cancel()
        await self._stack.__aexit__(*exc)

    # Hosts and nodes.

    def state(self, called: str) -> StateDirectory:
        state = StateDirectory(self.folder / called)
        state.create()
        return state

    def outer(self, called: str) -> str:
        number = self._numbers.setdefault(called, len(self._numbers) + 1)
        return f"192.0.2.{number}"

    def invite(self, **terms: Any) -> Invitation:
        return self.authority.invite(**{"expires": now() + 3600, "registry": self.url, "files": {}} | terms)

    def joiner(self, called: str, invitation: Invitation | None = None) -> Joiner:
        """A machine that wants in under this name. Its key is in its state directory."""
        identity = identity_in(self.state(called), os.urandom(ENTROPY_BYTES))
        return Joiner(invitation or self.invite(), identity, os.urandom(NONCE_BYTES), name=called)

    async def enrol(
        self, called: str, tell: Callable[[str], None] = lambda _: None, joiner: Joiner | None = None
    ) -> Granted:
        """Ask to be let in, through etcd, and keep what is granted."""
        joiner = joiner or self.joiner(called)
        async with open_registry(self.url, wall_ns=time.time_ns) as registry:
            granted = await join(registry, joiner, time.time_ns, tell)
        state = self.state(called)
        ensure_session_key(state, os.urandom(32))
        keep_granted(state, granted)
        return granted

    def config(self, called: str, **registry: Any) -> Config:
        state = self.state(called)
        return Config(
            node=NodeConfig(name=called, network=NETWORK),
            interface=InterfaceConfig(name="hw0"),
            session=SessionConfig(private_key_file=state.file(SESSION_KEY)),
            listen=ListenConfig(advertise=(Endpoint(self.outer(called), PORT),)),
            registry=RegistryConfig(**{"url": self.url, "trust": "authority"} | registry),
            identity=IdentityConfig(directory=state.path),
        )

    @asynccontextmanager
    async def node(self, called: str) -> AsyncIterator[Node]:
        ports = self.ports[called] = RealHost(self.wire, self.outer(called), answer_pings=True)
        async with open_node(self.config(called), ports=ports) as node:
            self.nodes[called] = node
            self._prefixes[called] = [ip_network(each.ip) for each in node.config.interface.addresses]
            try:
                yield node
            finally:
                del self.nodes[called]

    async def start(self, called: str) -> Node:
        """Run its node in the background."""

        async def run(*, task_status: trio.TaskStatus[Node]) -> None:
            scope, ended = self._scopes[called] = trio.CancelScope(), trio.Event()
            try:
                with scope:
                    async with self.node(called) as node:
                        task_status.started(node)
                        await trio.sleep_forever()
            finally:
                ended.set()

        node: Node = await self._nursery.start(run)
        return node

    async def stop(self, called: str) -> None:
        """As its owner would."""
        scope, ended = self._scopes.pop(called)
        scope.cancel()
        await ended.wait()

    async def joined(self, *names: str) -> list[Node]:
        """Let these in, run them, and wait until all have each other in their tables."""
        for name in names:
            await self.enrol(name)
            await self.start(name)
        await self.all_meet()
        return [self.nodes[name] for name in names]

    async def all_meet(self, within_s: float = 10.0) -> None:
        with trio.fail_after(within_s):
            for one in list(self.nodes):
                for other in self.nodes.keys() - {one}:
                    await until(lambda: self.knows(one, other), within_s)  # noqa: B023

    def knows(self, one: str, other: str) -> bool:
        """Whether the first has the second as what it is: its key, its addresses, and its place."""
        peer, node = self.nodes[one].roster.plan.peers.get(other), self.nodes.get(other)
        return (
            peer is not None
            and node is not None
            and peer.public_key == node.public_key
            and set(peer.allowed) >= set(self._prefixes[other])
            and peer.endpoints == (Endpoint(self.outer(other), PORT),)
        )

    def registry_of(self, called: str) -> Any:
        status: Any = self.nodes[called].status()
        return status["node"]["registry"]

    def is_whole(self) -> bool:
        """Whether all nodes are in the registry, and have each other."""
        return all(
            self.registry_of(one)["in_touch"]
            and bool(self.record(one))
            and all(self.knows(one, other) for other in self.nodes if other != one)
            for one in self.nodes
        )

    def address(self, called: str) -> IPv4Address:
        found = (each.ip for each in self.nodes[called].config.interface.addresses)
        return next(each for each in found if isinstance(each, IPv4Address))

    # Packets.

    def ask(self, one: str, other: str, serial: int) -> None:
        """A host pings the other's."""
        self.ports[one].tun.inject([echo(self.address(one), self.address(other), serial)])

    async def answers(self, one: str, other: str, within_s: float = 5.0) -> bool:
        """Whether a ping of one host comes back from the other."""
        serial = int.from_bytes(os.urandom(2), "big")
        with trio.move_on_after(within_s):
            self.ask(one, other, serial)
            while True:
                for packet in await self.ports[one].tun.collect():
                    if packet[20] == 0 and packet[26:28] == pack("!H", serial):
                        return True
        return False

    # The hand of whoever owns the store.

    def put(self, values: Mapping[bytes, bytes]) -> None:
        for key, value in values.items():
            self.server.put(self.place.encode() + key, value)

    def delete(self, key: bytes, *, prefix: bool = False) -> None:
        full = self.place.encode() + key
        body = {"key": text(full)}
        if prefix:
            body["range_end"] = text(full[:-1] + bytes([full[-1] + 1]))
        self.server.ask("/v3/kv/deleterange", body)

    def held(self, key: bytes = PREFIX) -> dict[bytes, bytes]:
        """What stands under keys that begin like this."""
        full = self.place.encode() + key
        end = full[:-1] + bytes([full[-1] + 1])
        found = self.server.ask("/v3/kv/range", {"key": text(full), "range_end": text(end)}).get("kvs", [])
        at = len(self.place)
        return {base64.b64decode(kv["key"])[at:]: base64.b64decode(kv.get("value", "")) for kv in found}

    def record(self, called: str) -> bytes:
        """What stands under the name of a node, or nothing."""
        return self.held(node_key(NETWORK, called)).get(node_key(NETWORK, called), b"")

    def signed_by(self, called: str, **changes: Any) -> bytes:
        """A record that the insider `called` signs himself, and that may say more than his certificate does."""
        return signed(Enrolled(self.state(called), NETWORK, now()), self.said_by(called), **changes)

    def said_by(self, called: str) -> NodeRecord:
        """What a node says of itself."""
        config = self.nodes[called].config
        return NodeRecord(
            name=called,
            public_key=self.nodes[called].public_key,
            endpoints=((self.outer(called), PORT),),
            addresses=config.interface.addresses,
        )


class Talk:
    """Two hosts: the first pings the other a hundred times a second."""

    def __init__(self, net: EtcdNetwork, one: str, other: str) -> None:
        self._net, self._one, self._other = net, one, other
        self._answered: set[int] = set()
        self.asked = 0

    async def go_on(self) -> None:
        """Until cancelled. Nobody else collects what the first host gets meanwhile."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._collect)
            while True:
                if self._other in self._net.nodes:
                    self._net.ask(self._one, self._other, self.asked)
                    self.asked += 1
                await trio.sleep(PING_EVERY_S)

    async def lost(self) -> int:
        """How many were not answered of those that were sent until now."""
        asked = self.asked
        with trio.move_on_after(2):
            while self._missing(asked):  # noqa: ASYNC110
                await trio.sleep(0.01)
        return len(self._missing(asked))

    def _missing(self, asked: int) -> set[int]:
        return set(range(asked)) - self._answered

    async def _collect(self) -> None:
        while True:
            for packet in await self._net.ports[self._one].tun.collect():
                if packet[20] == 0:
                    self._answered.add(int.from_bytes(packet[26:28], "big"))  # of at most 65536: eleven minutes


def signed(enrolled: Enrolled, record: NodeRecord, **changes: Any) -> bytes:
    """A record under the signature of that node, whatever it says."""
    made = replace(record, **{"serial": time.time_ns() // 1000} | changes)
    return seal_text(RECORD, encode_record(made).decode("ascii"), enrolled.identity, enrolled.certificate)


def now() -> int:
    return time.time_ns() // 10**9


async def until(holds: Callable[[], bool], within_s: float = 10.0) -> float:
    """Wait for something that no event tells; the seconds that it took."""
    began = trio.current_time()
    with trio.fail_after(within_s):
        while not holds():  # noqa: ASYNC110
            await trio.sleep(0.01)
    return trio.current_time() - began


def echo(source: IPv4Address, target: IPv4Address, serial: int) -> bytes:
    """An echo request (RFC 792) whose data are `MARK`."""
    body = pack("!BBHHH", 8, 0, 0, 7, serial) + MARK
    body = body[:2] + pack("!H", _sum(body)) + body[4:]
    head = pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), serial, 0, 64, 1, 0, source.packed, target.packed)
    return head[:10] + pack("!H", _sum(head)) + head[12:] + body


def _sum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
