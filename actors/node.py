"""One node: composes the supervisor tree and is what an embedding program holds. Read this first.

    outbound  host ─► tun_reader ──batch──► router (prefix ─► peer) ──► peer session ──datagrams──► UDP socket ─► wire
    inbound   wire ─► udp_endpoint ──demux by receiver index──► peer session ──packets──► TUN device ─► host
    control   registry ─► membership ──► roster ──► pool (starts and stops sessions);  control socket ◄─► command line

    node  one_for_one
    ├─ dataplane  rest_for_one
    │  ├─ netlink     addresses, routes, MTU
    │  ├─ udp         the sockets, demux
    │  ├─ tun         the device, routing to peers
    │  ├─ peers       dynamic pool, one session actor a peer
    │  └─ roster      keeps the pool equal to the wanted peers
    ├─ membership     registry watcher, our record and its lease      (when configured)
    └─ control        local socket                                    (when configured)

`open_node` installs no signal handlers, configures no logging and keeps no module state: two nodes in one program work.
"""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import asdict
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from socket import if_nametoindex
from typing import Any

import trio

from holloway.actors.config import Config, PeerConfig, verify_config
from holloway.actors.control import Answer, control
from holloway.actors.membership import Membership, membership
from holloway.actors.netlink_service import netlink_service
from holloway.actors.peer_session import PeerSession
from holloway.actors.ports import Ports, TunPort
from holloway.actors.registry import MemoryRegistry, RegistryPort, open_registry
from holloway.actors.roster import MAX_PEERS, Roster, keep_roster
from holloway.actors.router import Router
from holloway.actors.secrets import Secrets, load_secrets
from holloway.actors.status import (
    PEERS_SCHEMA,
    PING_SCHEMA,
    STATUS_SCHEMA,
    host_prefixes,
    peer_details,
    peer_drops,
    peer_status,
    program_version,
)
from holloway.actors.tun_reader import tun_reader
from holloway.actors.udp_endpoint import UdpEndpoint, udp_endpoint
from holloway.protocols.addresses import Address, format_address
from holloway.protocols.errors import HollowayError
from holloway.protocols.inspection import Inspector
from holloway.protocols.keys import StaticKey, encode_key
from holloway.protocols.membership import NodeRecord
from holloway.protocols.psk import network_key, pair_key
from holloway.protocols.session import Session, SessionConfig
from holloway.protocols.suites import AES_GCM, SUITES
from holloway.protocols.timers import Timers
from holloway.supervisor import (
    ActorDown,
    Child,
    Context,
    Event,
    Pool,
    Strategy,
    Supervisor,
    Tree,
    dynamic,
    open_tree,
)

MAX_PING_COUNT = 10_000
REGISTRY_TIMEOUT_S = 30.0
"""How long the registry may take at the start before the node gives up on it."""

log = logging.getLogger("holloway.node")


class Node:
    """A running node, made by `open_node`."""

    def __init__(self, config: Config, ports: Ports, secrets: Secrets, network_secret: bytes | None) -> None:
        self.config = config
        self._ports = ports
        self._static = StaticKey(secrets.private_key)
        self._secrets = secrets
        self._network_secret = network_secret
        self._local = tuple(ip_network(address.ip) for address in config.interface.addresses) + config.node.prefixes
        self.router = Router(self._local)
        self.roster = Roster(config.peers, self._static.public)
        self._started_at = trio.current_time()
        self._tree: Tree | None = None
        self.conflicts: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Node {self.config.node.name}>"

    @property
    def public_key(self) -> bytes:
        """Our 32-byte Curve25519 public key."""
        return self._static.public

    def attach(self, tree: Tree) -> None:
        """Take hold of the running tree."""
        self._tree = tree

    @property
    def tree(self) -> Tree:
        """The supervisor tree."""
        assert self._tree is not None
        return self._tree

    # The tree.

    def root(self, open_store: Callable[[], AbstractAsyncContextManager[RegistryPort]] | None) -> Supervisor:
        """The supervisor tree of this node, not yet running."""
        config = self.config
        children = [self._dataplane().as_child()]
        if config.registry is not None and open_store is not None:
            run = partial(membership, config=config, roster=self.roster, record=self._record(), open_store=open_store)
            children.append(Child(name="membership", run=run, start_timeout=REGISTRY_TIMEOUT_S))
        if config.control is not None:
            children.append(Child(name="control", run=partial(control, path=config.control.socket, service=self.serve)))
        return Supervisor(children, name="node", strategy=Strategy.ONE_FOR_ONE)

    def _dataplane(self) -> Supervisor:
        config, ports = self.config, self._ports
        udp = partial(
            udp_endpoint,
            ports=ports,
            address=config.listen.address,
            port=config.listen.port,
            private_key=self._secrets.private_key,
        )
        tun = partial(tun_reader, ports=ports, interface=config.interface, router=self.router)
        networks = tuple(address.network for address in config.interface.addresses)
        roster = partial(keep_roster, roster=self.roster, connected=networks)
        peers: Pool[PeerConfig, PeerSession] = dynamic(self._peer, name="peers", limit=MAX_PEERS)
        return Supervisor(
            [
                Child(name="netlink", run=partial(netlink_service, ports=ports)),
                Child(name="udp", run=udp),
                Child(name="tun", run=tun),
                peers.as_child(),
                Child(name="roster", run=roster),
            ],
            name="dataplane",
            strategy=Strategy.REST_FOR_ONE,
        )

    def _running(self, path: str) -> Any:
        """The handle of an actor of this node by its path below the root, or `None` between two lives."""
        try:
            return None if self._tree is None else self._tree.ref(path).get()
        except ActorDown:
            return None

    def _peer(self, peer: PeerConfig) -> Child[PeerSession]:
        # Dots join the names of a tree into paths, so a peer's name may not bring its own.
        return Child(name=peer.name.replace(".", "\N{MIDDLE DOT}"), run=partial(self._run_peer, peer=peer))

    async def _run_peer(self, ctx: Context, *, peer: PeerConfig, task_status: trio.TaskStatus[PeerSession]) -> None:
        """Actor: one peer, in the tables of the node for as long as it runs."""
        udp: UdpEndpoint = ctx.ref("dataplane.udp").get()
        tun: TunPort = ctx.ref("dataplane.tun").get()
        handle = PeerSession(peer, lambda own: self._session(own, udp), tun=tun, udp=udp, log=log)
        try:
            self._claim(handle)
            await handle.run(task_status)
        finally:
            self.roster.leave(handle)
            self.router.routes.remove_target(handle)
            udp.demux.unregister(peer.public_key)

    def _session(self, handle: PeerSession, udp: UdpEndpoint) -> Session:
        """The pure session behind `handle`. Raises `LocalError` when the peer's key is in use already."""
        peer = handle.peer
        links = udp.demux.register(peer.public_key, handle)
        config = SessionConfig(
            suite=SUITES[peer.suite],
            static=self._static,
            peer_public=peer.public_key,
            preshared=self._preshared(peer),
            timers=Timers(**asdict(self.config.session.timers)),
            keepalive_s=peer.keepalive_s,
            mtu=self.config.interface.mtu,
            inspect=Inspector(self.router.routes, handle, self.router.local),
        )
        return Session(
            config,
            links=links,
            entropy=self._ports.entropy,
            wall_ns=self._ports.wall_ns,
            now=trio.current_time(),
            endpoint=_numeric(peer),
        )

    def _preshared(self, peer: PeerConfig) -> bytes:
        """The peer's own pre-shared key, else one from the network's passphrase, else none (zeros)."""
        own = self._secrets.preshared_keys.get(peer.name)
        if own is not None:
            return own
        if self._network_secret is not None and SUITES[peer.suite] is AES_GCM:
            return pair_key(self._network_secret, self.public_key, peer.public_key)
        return bytes(32)

    def _claim(self, handle: PeerSession) -> None:
        """Route the peer's prefixes to it, except those that are ours or another peer's."""
        taken = dict(self.router.routes.entries())
        for prefix in handle.peer.allowed:
            if prefix in self._local or taken.get(prefix, handle) is not handle:
                self.conflicts["prefix_taken"] += 1
                log.warning("peer %s: its prefix %s belongs to somebody else and is left out", handle.peer.name, prefix)
            else:
                self.router.routes.add(prefix, handle)
        self.roster.arrive(handle)

    def _record(self) -> NodeRecord:
        config = self.config
        return NodeRecord(
            name=config.node.name,
            public_key=self.public_key,
            endpoints=tuple((endpoint.host, endpoint.port) for endpoint in config.listen.advertise),
            addresses=config.interface.addresses,
            prefixes=config.node.prefixes,
        )

    # What the outside asks.

    def status(self) -> dict[str, object]:
        """The object that `holloway status --json` prints."""
        config, now = self.config, trio.current_time()
        drops = self._drops()
        return {
            "schema": STATUS_SCHEMA,
            "node": {
                "name": config.node.name,
                "public_key": encode_key(self.public_key),
                "network": config.node.network,
                "interface": config.interface.name,
                "addresses": [str(address) for address in config.interface.addresses],
                "mtu": config.interface.mtu,
                "listen": self._listening(),
                "uptime_s": round(now - self._started_at, 3),
                "pid": os.getpid(),
                "version": program_version(),
                "backend": "session",
            },
            "peers": [peer_status(peer, now) for _, peer in sorted(self.roster.running.items())],
            "drops": dict(sorted(drops.items())),
        }

    def peers(self) -> dict[str, object]:
        """The object that `holloway peers --json` prints."""
        now = trio.current_time()
        return {
            "schema": PEERS_SCHEMA,
            "peers": [peer_details(peer, now) for _, peer in sorted(self.roster.running.items())],
        }

    def _listening(self) -> list[str]:
        udp: UdpEndpoint | None = self._running("dataplane.udp")
        return [format_address(address) for address in udp.listening] if udp else []

    def _drops(self) -> Counter[str]:
        drops = self.router.drops + self.conflicts + self.roster.problems
        udp: UdpEndpoint | None = self._running("dataplane.udp")
        if udp is not None:
            drops += udp.drops()
        tun: TunPort | None = self._running("dataplane.tun")
        if tun is not None:
            drops += tun.drops
        found: Membership | None = self._running("membership")
        if found is not None:
            drops += found.problems
        for peer in self.roster.running.values():
            drops += peer_drops(peer)
        return drops

    async def connected(self, name: str) -> None:
        """Wait until the first handshake with the peer of that name is complete."""
        await (await self.roster.find(name)).connected.wait()

    async def ping(
        self, name: str, *, count: int = 4, interval_s: float = 1.0, timeout_s: float = 2.0
    ) -> AsyncGenerator[Answer, None]:
        """Ping a peer, by name or inner address, through the tunnel: yields each answer, last the summary.

        Raises `HollowayError` for a peer that we do not have, or that has no address of a family of ours.
        """
        peer, target = self._find(name)
        source = next(
            (address.ip for address in self.config.interface.addresses if address.version == target.version), None
        )
        if source is None:
            raise HollowayError(f"cannot ping {target}", f"this node has no IPv{target.version} address of its own")
        identifier = int.from_bytes(self._ports.entropy(2), "big")
        times: list[float] = []
        for sequence in range(1, count + 1):
            began = trio.current_time()
            pong = await peer.ping(source.packed, target.packed, identifier, sequence & 0xFFFF, timeout_s)
            if pong is None:
                yield {"event": {"sequence": sequence, "error": "timeout"}}
            else:
                times.append(pong.round_trip_s * 1000)
                yield {
                    "event": {
                        "sequence": sequence,
                        "rtt_ms": round(times[-1], 3),
                        "path": pong.path,
                        "epoch": pong.epoch,
                    }
                }
            if sequence < count:
                await trio.sleep_until(began + interval_s)
        yield {
            "result": {
                "schema": PING_SCHEMA,
                "peer": peer.peer.name,
                "address": str(target),
                "sent": count,
                "received": len(times),
                "rtt_ms": summary(times),
            }
        }

    def _find(self, name: str) -> tuple[PeerSession, IPv4Address | IPv6Address]:
        """The running peer of that name or inner address, and the address to ping."""
        running = self.roster.running
        ours = {address.version for address in self.config.interface.addresses}
        if name in running:
            hosts = [prefix.network_address for prefix in host_prefixes(running[name].peer.allowed)]
            target = next((address for address in hosts if address.version in ours), None)
            if target is None:
                raise HollowayError(
                    f"cannot ping {name}",
                    "none of its allowed prefixes is a single address of a family of ours",
                    "ping one of its addresses instead of its name",
                )
            return running[name], target
        try:
            target = ip_address(name)
        except ValueError:
            target = None
        found = None if target is None else self.router.routes.lookup(target.packed)
        if target is None or found is None:
            raise HollowayError(f"no peer {name}", "no peer has that name or address", "see: holloway peers")
        return found, target

    async def serve(self, request: Answer) -> AsyncGenerator[Answer, None]:
        """Answer one request of the control socket. Raises `HollowayError` for one that makes no sense."""
        match request:
            case {"op": "status"}:
                yield {"result": self.status()}
            case {"op": "peers"}:
                yield {"result": self.peers()}
            case {"op": "ping", "peer": str(name)}:
                count = _number(request, "count", 4, 1, MAX_PING_COUNT)
                interval_s = _number(request, "interval_s", 1.0, 0.001, 3600.0)
                timeout_s = _number(request, "timeout_s", 2.0, 0.001, 3600.0)
                pings = self.ping(name, count=int(count), interval_s=interval_s, timeout_s=timeout_s)
                async with aclosing(pings):
                    async for answer in pings:
                        yield answer
            case _:
                raise HollowayError("an unknown request", "this version knows status, peers and ping")


def summary(times_ms: list[float]) -> dict[str, float] | None:
    """Least, mean and greatest of some round trips, to a microsecond; `None` of none."""
    if not times_ms:
        return None
    mean = sum(times_ms) / len(times_ms)
    return {"min": round(min(times_ms), 3), "avg": round(mean, 3), "max": round(max(times_ms), 3)}


def _number(request: Answer, key: str, default: float, least: float, most: float) -> float:
    value = request.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise HollowayError(f"{key} cannot be {value!r}"[:200], f"it must be a number from {least} to {most}")
    return float(value)


def _numeric(peer: PeerConfig) -> Address | None:
    """The peer's endpoint when it needs no look-up."""
    if peer.endpoint is None:
        return None
    host, port = peer.endpoint.host, peer.endpoint.port
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return host, port
    zone = address.scope_id
    return host.partition("%")[0], port, 0, if_nametoindex(zone) if zone else 0


@asynccontextmanager
async def open_node(
    config: Config,
    *,
    ports: Ports | None = None,
    memory: MemoryRegistry | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> AsyncIterator[Node]:
    """Run a node inside a Trio program: ready on entering, stopped and cleaned up on leaving.

    `ports` is the world it lives in (default: the kernel's). `memory` is the registry behind `memory:`. `on_event` sees
    what the supervisors do. Raises `ConfigError` for a configuration or secrets that cannot be used, and
    `ChildStartError` (its `__cause__` says why) when a part of the node does not start.
    """
    verify_config(config)
    secrets = load_secrets(config, environ=os.environ)
    if ports is None:
        from holloway.actors.kernel import KernelPorts

        ports = KernelPorts()
    network_secret = None
    if secrets.passphrase is not None:
        # Slow by design, so not in the event loop.
        network_secret = await trio.to_thread.run_sync(network_key, secrets.passphrase, config.node.network)
    node = Node(config, ports, secrets, network_secret)
    open_store = None
    if config.registry is not None:
        open_store = partial(open_registry, config.registry.url, wall_ns=ports.wall_ns, memory=memory)

    seed = random.Random(ports.entropy(16))  # noqa: S311 - jitter of restarts, not keys
    async with open_tree(node.root(open_store), on_event=on_event, rng=seed) as tree:
        node.attach(tree)
        yield node
