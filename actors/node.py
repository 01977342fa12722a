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
    │  ├─ roster      keeps the pool equal to the wanted peers
    │  └─ host        puts back what the kernel forgets, tells peers of new addresses
    ├─ registry   one_for_one                                       (when configured)
    │  ├─ issuer      lets in whom the authority invited           (with the authority's key)
    │  ├─ membership  registry watcher, our record and its lease
    │  └─ floating-…  one actor a floating address                 (for each configured one)
    └─ control    one_for_one                                       (when configured)
       └─ socket      local socket

The planes fail apart: `registry` and `control` never spend the restart budget of the node, because each has a supervisor
whose own budget is more than the backoff of its one child can spend. Only a data plane that fails again and again ends the
node.

`open_node` installs no signal handlers, configures no logging and keeps no module state: two nodes in one program work.
"""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import trio

from holloway.actors.config import Config, verify_config
from holloway.actors.control import Answer, control
from holloway.actors.enrolled import Enrolled
from holloway.actors.host_watch import watch_host
from holloway.actors.local_addresses import LocalAddresses
from holloway.actors.membership import Membership
from holloway.actors.netlink_service import netlink_service
from holloway.actors.own_endpoints import OwnEndpoints
from holloway.actors.peers import RESTARTS_IN_A_PERIOD, Peers, child_name
from holloway.actors.ports import Netlink, Ports
from holloway.actors.registry import HandleSource, RegistryPort, open_registry
from holloway.actors.registry_plane import RegistryPlane, enrolled_node, floating_name
from holloway.actors.roster import Roster, keep_roster
from holloway.actors.router import Router
from holloway.actors.secrets import Secrets, load_secrets
from holloway.actors.status import (
    PEERS_SCHEMA,
    PING_SCHEMA,
    STATUS_SCHEMA,
    certificate_status,
    floating_status,
    host_prefixes,
    memory_status,
    peer_details,
    peer_drops,
    peer_status,
    program_version,
    summary,
)
from holloway.actors.tun_reader import TunReader, tun_reader
from holloway.actors.udp_endpoint import UdpEndpoint, udp_endpoint
from holloway.actors.wanted import Peer
from holloway.protocols.addresses import format_address
from holloway.protocols.errors import HollowayError
from holloway.protocols.floating_table import FloatingTable
from holloway.protocols.keys import StaticKey, encode_key
from holloway.protocols.membership import NodeRecord
from holloway.protocols.memory import MemoryBudget
from holloway.protocols.psk import network_key
from holloway.protocols.suites import WIREGUARD
from holloway.supervisor import ActorDown, Child, Context, Event, Intensity, Ref, Strategy, Supervisor, Tree, open_tree

MAX_PING_COUNT = 10_000
ROSTER_TIMEOUT_S = 120.0
"""How long it may take to begin all configured peers, with the kernel routes to them."""

log = logging.getLogger("holloway.node")


class Node:
    """A running node, made by `open_node`."""

    def __init__(
        self,
        config: Config,
        ports: Ports,
        secrets: Secrets,
        network_secret: bytes | None,
        enrolled: Enrolled | None = None,
    ) -> None:
        self.config = config
        self.enrolled = enrolled
        """Who we are in a network with an authority."""
        self._endpoints = OwnEndpoints(config.interface.name)
        self._ports = ports
        self._private_key = secrets.private_key
        self._static = StaticKey(secrets.private_key)
        local = tuple(ip_network(address.ip) for address in config.interface.addresses) + config.node.prefixes
        self.router = Router(local)
        self._addresses = LocalAddresses(config.interface.addresses, self.router)
        self.floating = FloatingTable()
        """Who holds the floating addresses."""
        self.past_drops: Counter[str] = Counter()
        """What actors that have ended counted."""
        self.problems: Counter[str] = Counter()
        """What was refused or failed, by reason."""
        self.memory = MemoryBudget(config.limits.memory)
        """What everything that waits in the data plane is taken from."""
        configured = [Peer.from_config(peer) for peer in config.peers]
        self.roster = Roster(configured, own_key=self.public_key, own_prefixes=local, problems=self.problems)
        self._peers = Peers(
            config,
            ports,
            secrets,
            network_secret,
            static=self._static,
            roster=self.roster,
            router=self.router,
            past_drops=self.past_drops,
            memory=self.memory,
        ).pool()
        self._started_at = trio.current_time()
        self._tree: Tree | None = None

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
            plane = RegistryPlane(
                config,
                self._ports,
                self.roster,
                self.router,
                self._addresses,
                self.floating,
                self.enrolled,
                self.public_key,
                self._describe,
            )
            children.append(_plane("registry", *plane.children(open_store)).as_child())
        if config.control is not None:
            listen = partial(control, path=config.control.socket, service=self.serve)
            children.append(_plane("control", Child(name="socket", run=listen)).as_child())
        return Supervisor(children, name="node", strategy=Strategy.ONE_FOR_ONE)

    def _dataplane(self) -> Supervisor:
        config, ports = self.config, self._ports
        udp = partial(
            udp_endpoint,
            ports=ports,
            address=config.listen.address,
            port=config.listen.port,
            private_key=self._private_key,
            past_drops=self.past_drops,
        )
        interface, addresses = config.interface, self._addresses
        tun = partial(
            tun_reader,
            ports=ports,
            interface=interface,
            addresses=addresses,
            router=self.router,
            past_drops=self.past_drops,
        )
        watch = partial(watch_host, interface=interface, addresses=addresses, roster=self.roster)
        networks = tuple(address.network for address in config.interface.addresses)
        roster = partial(keep_roster, roster=self.roster, router=self.router, connected=networks)
        return Supervisor(
            [
                Child(name="netlink", run=partial(netlink_service, ports=ports)),
                Child(name="udp", run=udp),
                Child(name="tun", run=tun),
                self._peers.as_child(),
                Child(name="roster", run=roster, start_timeout=ROSTER_TIMEOUT_S),
                Child(name="host", run=watch),
            ],
            name="dataplane",
            strategy=Strategy.REST_FOR_ONE,
        )

    def _running(self, path: str) -> Any:
        """The handle of an actor of this node by its path below the root, or `None` between two lives."""
        return None if self._tree is None else _handle(self._tree.ref(path))

    async def _describe(self, ctx: Context) -> NodeRecord:
        """What the registry is to tell the others about us. `ctx`: of an actor of ours, which runs before the tree is whole."""
        config = self.config
        endpoints = tuple((endpoint.host, endpoint.port) for endpoint in config.listen.advertise)
        if not endpoints:
            udp: UdpEndpoint | None = _handle(ctx.ref("dataplane.udp"))
            netlink: Netlink | None = _handle(ctx.ref("dataplane.netlink"))
            endpoints = await self._endpoints.find(netlink, udp.listening if udp else ())
        return NodeRecord(
            name=config.node.name,
            public_key=self.public_key,
            endpoints=endpoints,
            addresses=config.interface.addresses,
            prefixes=config.node.prefixes,
        )

    # What the outside asks.

    def status(self) -> dict[str, object]:
        """The object that `holloway status --json` prints."""
        config, now, problems = self.config, trio.current_time(), self._peer_problems()
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
                "offloads": self._offloads(),
                "refused_runs": self._refused_runs(),
                "memory": memory_status(self.memory),
                "registry": self._registry_status(),
                "certificate": None
                if self.enrolled is None
                else certificate_status(self.enrolled, self._ports.wall_ns()),
                "floating": self._floating_status(),
            },
            "peers": [
                peer_status(peer, self.roster.running.get(name), problems.get(name), now)
                for name, peer in sorted(self.roster.plan.peers.items())
            ],
            "drops": dict(sorted(self.drops().items())),
        }

    def peers(self) -> dict[str, object]:
        """The object that `holloway peers --json` prints."""
        now, problems = trio.current_time(), self._peer_problems()
        return {
            "schema": PEERS_SCHEMA,
            "peers": [
                peer_details(peer, self.roster.running.get(name), problems.get(name), now)
                for name, peer in sorted(self.roster.plan.peers.items())
            ],
        }

    def _listening(self) -> list[str]:
        udp: UdpEndpoint | None = self._running("dataplane.udp")
        return [format_address(address) for address in udp.listening] if udp else []

    def _offloads(self) -> list[str]:
        tun: TunReader | None = self._running("dataplane.tun")
        udp: UdpEndpoint | None = self._running("dataplane.udp")
        return [*(tun.port.offloads if tun else ()), *(udp.offloads if udp else ())]

    def _refused_runs(self) -> dict[str, int]:
        udp: UdpEndpoint | None = self._running("dataplane.udp")
        return dict(sorted(udp.refused_runs().items())) if udp else {}

    def _registry_status(self) -> dict[str, object] | None:
        if self.config.registry is None:
            return None
        found: Membership | None = self._running("registry.membership")
        refused = {each.name: each.reason.value for each in self.roster.plan.refused if each.prefix is None}
        return {
            "trust": self.config.registry.trust,
            "in_touch": found is not None and found.is_in_touch,
            "nodes": len(self.roster.found),
            "refused": dict(sorted((refused | (found.records.refused() if found is not None else {})).items())),
        }

    def _floating_status(self) -> list[dict[str, object]]:
        candidates = {
            each.address: self._running(f"registry.{floating_name(each.address)}") for each in self.config.floating
        }
        priorities = {each.address: each.priority for each in self.config.floating}
        return floating_status(self.floating, priorities, candidates)

    def drops(self) -> Counter[str]:
        """Everything that was dropped since the node started, by reason."""
        drops = self.router.drops + self.problems + self.past_drops
        udp: UdpEndpoint | None = self._running("dataplane.udp")
        if udp is not None:
            drops += udp.drops()
        tun: TunReader | None = self._running("dataplane.tun")
        if tun is not None:
            drops += tun.port.drops
        for peer in self.roster.running.values():
            drops += peer_drops(peer)
        return drops

    def _peer_problems(self) -> dict[str, str]:
        """By name, what keeps wanted peers from being all that was wanted."""
        plan, roster = self.roster.plan, self.roster
        problems = {refused.name: str(refused) for refused in reversed(plan.refused)}
        refused_routes = roster.routes.refused if roster.routes is not None else {}
        if refused_routes:
            for name, peer in plan.peers.items():
                for prefix in peer.allowed:
                    if prefix in refused_routes:
                        problems[name] = f"no kernel route for {prefix}: {refused_routes[prefix]}"
        absent = [peer for name, peer in plan.peers.items() if name not in roster.running]
        if absent:
            crashes = {info.name: info.error for info in self._peers.children()}
            for peer in absent:
                failure = roster.failures.get(peer.identity)
                crash = crashes.get(child_name(peer.name))
                if failure is not None:
                    problems[peer.name] = f"it cannot be used, and is tried again: {failure.why}"
                else:
                    problems[peer.name] = f"it failed and will be back: {crash}" if crash else "it is not running yet"
        return problems

    async def connected(self, name: str) -> None:
        """Wait until the first handshake with the peer of that name is complete; also for a peer that is not there yet."""
        while not await (await self.roster.find(name)).wait_connected():
            pass  # that one has ended: its successor may do better

    async def ping(
        self, name: str, *, count: int = 4, interval_s: float = 1.0, timeout_s: float = 2.0
    ) -> AsyncGenerator[Answer, None]:
        """Ping a peer, by name or inner address, through the tunnel: yields each answer, last the summary.

        Raises `HollowayError` for a peer that we do not have, that does not run, or that has no address of a family of
        ours.
        """
        peer_name, target = self._find(name)
        source = next(
            (address.ip for address in self.config.interface.addresses if address.version == target.version), None
        )
        if source is None:
            raise HollowayError(f"cannot ping {target}", f"this node has no IPv{target.version} address of its own")
        times: list[float] = []
        for sequence in range(1, count + 1):
            began = trio.current_time()
            peer = self.router.routes.lookup(target.packed)  # each time, since its actor may have been restarted
            pong = None if peer is None else await peer.ping(source.packed, target.packed, timeout_s)
            if pong is None:
                yield {"event": {"sequence": sequence, "error": "down" if peer is None else "timeout"}}
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
                "peer": peer_name,
                "address": str(target),
                "sent": count,
                "received": len(times),
                "rtt_ms": summary(times),
            }
        }

    def _find(self, name: str) -> tuple[str, IPv4Address | IPv6Address]:
        """The peer of that name or inner address, which runs, and the address to ping."""
        ours = {address.version for address in self.config.interface.addresses}
        peer = self.roster.plan.peers.get(name)
        if peer is not None:
            hosts = [prefix.network_address for prefix in host_prefixes(peer.allowed)]
            target = next((address for address in hosts if address.version in ours), None)
            if target is None:
                raise HollowayError(
                    f"cannot ping {name}",
                    "none of its allowed prefixes is a single address of a family of ours",
                    "ping one of its addresses instead of its name",
                )
            if name not in self.roster.running:
                raise HollowayError(f"cannot ping {name}", self._peer_problems().get(name, "it is not running"))
            return name, target
        try:
            target = ip_address(name)
        except ValueError:
            target = None
        found = None if target is None else self.router.routes.lookup(target.packed)
        if target is None or found is None:
            raise HollowayError(f"no peer {name[:100]}", "no peer has that name or address", "holloway peers")
        return found.peer.name, target

    async def serve(self, request: Answer) -> AsyncGenerator[Answer, None]:
        """Answer one request of the control socket. Raises `HollowayError` for one that makes no sense."""
        match request:
            case {"op": "status"}:
                yield {"result": self.status()}
            case {"op": "peers"}:
                yield {"result": self.peers()}
            case {"op": "ping", "peer": str(name)}:
                count = _number(request, "count", 4, 1, MAX_PING_COUNT)
                if not count.is_integer():
                    raise HollowayError(f"count cannot be {count}", "it must be a whole number")
                interval_s = _number(request, "interval_s", 1.0, 0.001, 3600.0)
                timeout_s = _number(request, "timeout_s", 2.0, 0.001, 3600.0)
                pings = self.ping(name, count=int(count), interval_s=interval_s, timeout_s=timeout_s)
                async with aclosing(pings):
                    async for answer in pings:
                        yield answer
            case _:
                raise HollowayError("an unknown request", "this version knows status, peers and ping")


def _number(request: Answer, key: str, default: float, least: float, most: float) -> float:
    value = request.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise HollowayError(f"{key} cannot be {value!r}"[:200], f"it must be a number from {least} to {most}")
    return float(value)


def _handle(ref: Ref[Any]) -> Any:
    try:
        return ref.get()
    except ActorDown:
        return None


def _plane(name: str, *children: Child[Any]) -> Supervisor:
    """A supervisor whose children are restarted for ever, by the backoff of each, and never at the node's expense."""
    return Supervisor(children, name=name, intensity=Intensity(restarts=len(children) * RESTARTS_IN_A_PERIOD))


@asynccontextmanager
async def open_node(
    config: Config,
    *,
    ports: Ports | None = None,
    memory: HandleSource | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> AsyncIterator[Node]:
    """Run a node inside a Trio program: ready on entering, stopped and cleaned up on leaving.

    `ports` is the world it lives in (default: the kernel's). `memory` is the registry behind `memory:`. `on_event` sees
    what the supervisors do. Raises `ConfigError` for a configuration or secrets that cannot be used, and
    `ChildStartError` (its `__cause__` says why) when a part of the node does not start.
    """
    verify_config(config)
    if ports is None:
        from holloway.actors.kernel import KernelPorts

        # WireGuard's datagrams carry one packet each: when all peers are of its kind, let the kernel do the cutting.
        takes_super = config.registry is not None or any(peer.suite != WIREGUARD.name for peer in config.peers)
        ports = KernelPorts(offloads=config.interface.offloads, receive_super=takes_super)
    config, enrolled = enrolled_node(config, ports)
    secrets = load_secrets(config, environ=os.environ)
    network_secret = None
    if secrets.passphrase is not None:
        # Slow by design, so not in the event loop, nor something to wait for when nobody wants it any more.
        network_secret = await trio.to_thread.run_sync(
            network_key, secrets.passphrase, config.node.network, abandon_on_cancel=True
        )
    node = Node(config, ports, secrets, network_secret, enrolled)
    open_store = None
    if config.registry is not None:
        open_store = partial(open_registry, config.registry.url, wall_ns=ports.wall_ns, memory=memory)

    seed = random.Random(ports.entropy(16))  # noqa: S311 - jitter of restarts, not keys
    async with open_tree(node.root(open_store), on_event=on_event, rng=seed) as tree:
        node.attach(tree)
        yield node
