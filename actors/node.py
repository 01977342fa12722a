"""One node: composes the supervisor tree and is what an embedding program holds. Read this first.

    outbound  host ─► tun_reader ──batch──► router (prefix ─► peer) ──► peer session ──datagrams──► UDP socket ─► wire
    inbound   wire ─► udp_endpoint ──demux by receiver index──► peer session ──packets──► TUN device ─► host
    control   registry ─► membership ──► roster ──► pool (starts and stops sessions);  control socket ◄─► command line

    node  one_for_one
    ├─ dataplane  rest_for_one
    │  ├─ netlink     addresses, routes, MTU
    │  ├─ udp         the sockets, demux
    │  ├─ tun         the device, routing to peers
    │  ├─ queues      who reads the sockets and the device               (with more than one queue)
    │  ├─ dtls        handshakes over DTLS                            (with that back end)
    │  ├─ peers       dynamic pool, one session actor a peer
    │  ├─ roster      keeps the pool equal to the wanted peers
    │  ├─ gateway     the default route of the host, masquerading (when configured)
    │  └─ host        puts back what the kernel forgets, tells peers of new addresses
    ├─ registry   one_for_one                                       (when configured)
    │  ├─ issuer      lets in whom the authority invited           (with the authority's key)
    │  ├─ address     keeps our address                            (where the store is believed)
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
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import trio

from holloway.actors.backend import with_backend
from holloway.actors.config import Config, verify_config
from holloway.actors.control import Answer, control
from holloway.actors.control_claims import ControlClaims
from holloway.actors.enrolled import Enrolled
from holloway.actors.gateway import Gateway, depends_on_names, keep_gateway, take_back
from holloway.actors.host_watch import watch_host
from holloway.actors.local_addresses import LocalAddresses
from holloway.actors.netlink_service import netlink_service
from holloway.actors.node_answers import NodeAnswers
from holloway.actors.own_endpoints import OwnEndpoints
from holloway.actors.pair_terms import codec_of, policy_of, refuse_contradictions, warn_of_policy
from holloway.actors.peers import RESTARTS_IN_A_PERIOD, Peers
from holloway.actors.ports import Netlink, Ports
from holloway.actors.queue_readers import queue_readers
from holloway.actors.registry import HandleSource, RegistryPort, open_registry
from holloway.actors.registry_plane import RegistryPlane, enrolled_node, is_store_member
from holloway.actors.roster import Roster, keep_roster
from holloway.actors.router import Router
from holloway.actors.secrets import Secrets, load_secrets
from holloway.actors.store_member import StoreMember, settled_node
from holloway.actors.tun_reader import tun_reader
from holloway.actors.udp_endpoint import UdpEndpoint, udp_endpoint
from holloway.actors.wanted import Peer
from holloway.protocols.compression import Codec
from holloway.protocols.floating_table import FloatingTable
from holloway.protocols.keys import StaticKey
from holloway.protocols.membership import NodeRecord
from holloway.protocols.memory import MemoryBudget
from holloway.protocols.network_settings import Backend
from holloway.protocols.psk import network_key
from holloway.protocols.suites import WIREGUARD
from holloway.supervisor import ActorDown, Child, Context, Event, Intensity, Ref, Strategy, Supervisor, Tree, open_tree

if TYPE_CHECKING:
    from holloway.actors.dtls_credentials import Credentials
    from holloway.actors.outer_loop import OuterLoop

ROSTER_TIMEOUT_S = 120.0
"""How long it may take to begin all configured peers, with the kernel routes to them."""
GATEWAY_TIMEOUT_S = 60.0
"""The same for the gateway, which may have to look up names first."""

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
        member: StoreMember | None = None,
        credentials: Credentials | None = None,
        codec: Codec | None = None,
    ) -> None:
        """`credentials`: what we show over DTLS, for a node with that back end."""
        self.config = config
        self._credentials = credentials
        self.enrolled = enrolled
        """Who we are in a network with an authority."""
        self.member = member
        """What we have in a network whose store is believed."""
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
        self.roster = Roster(
            configured,
            own_key=self.public_key,
            own_prefixes=local,
            problems=self.problems,
            gateway=config.gateway.through,
        )
        self.gateway = Gateway(config, self.roster)
        is_signed = config.registry is not None and config.registry.trust == "authority"
        self.claims = ControlClaims(config.node.name, enrolled if is_signed else None)
        """What is said and believed of the control plane."""
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
            codec=codec,
        ).pool()
        self._tree: Tree | None = None
        self._answers = NodeAnswers(
            config=config,
            ports=ports,
            public_key=self.public_key,
            enrolled=enrolled,
            member=member,
            router=self.router,
            roster=self.roster,
            pool=self._peers,
            floating=self.floating,
            gateway=self.gateway,
            memory=self.memory,
            credentials=credentials,
            problems=self.problems,
            past_drops=self.past_drops,
            started_at=trio.current_time(),
            running=self._running,
            claims=self.claims,
        )

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
                self.member,
                self.public_key,
                self._describe,
                self.claims,
            )
            children.append(_plane("registry", *plane.children(open_store)).as_child())
        if config.control is not None:
            listen = partial(control, path=config.control.socket, service=self._answers.serve)
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
            mark=self.gateway.mark,
            queues=config.interface.queues,
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
        gateway = partial(keep_gateway, ports=ports, gateway=self.gateway, roster=self.roster, config=config)
        return Supervisor(
            [
                Child(name="netlink", run=partial(netlink_service, ports=ports)),
                Child(name="udp", run=udp),
                Child(name="tun", run=tun),
                *([queue_readers(interface.queues).as_child()] if interface.queues > 1 else ()),
                *self._dtls(),
                self._peers.as_child(),
                Child(name="roster", run=roster, start_timeout=ROSTER_TIMEOUT_S),
                Child(name="gateway", run=gateway, start_timeout=GATEWAY_TIMEOUT_S),
                Child(name="host", run=watch),
            ],
            name="dataplane",
            strategy=Strategy.REST_FOR_ONE,
        )

    def _dtls(self) -> list[Child[Any]]:
        if self._credentials is None:
            return []
        from holloway.actors.dtls_handshaker import dtls_handshaker  # needs OpenSSL, which most nodes do not

        run = partial(
            dtls_handshaker,
            roster=self.roster,
            credentials=self._credentials,
            entropy=self._ports.entropy,
            past_drops=self.past_drops,
        )
        return [Child(name="dtls", run=run)]

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
        offers = policy_of(config).offers
        record = NodeRecord(
            name=config.node.name,
            public_key=self.public_key,
            endpoints=endpoints,
            addresses=config.interface.addresses,
            prefixes=config.node.prefixes,
            security=offers.security,
            compression=offers.compression,
        )
        return self.claims.said_of(record)

    # What an embedding program asks; `holloway status`, `peers`, `routes` and `ping` ask the same through the control socket.

    def status(self) -> dict[str, object]:
        """The object that `holloway status --json` prints."""
        return self._answers.status()

    def peers(self) -> dict[str, object]:
        """The object that `holloway peers --json` prints."""
        return self._answers.peers()

    def routes(self) -> dict[str, object]:
        """The object that `holloway routes --json` prints."""
        return self._answers.routes()

    def drops(self) -> Counter[str]:
        """Everything that was dropped since the node started, by reason."""
        return self._answers.drops()

    def ping(
        self, name: str, *, count: int = 4, interval_s: float = 1.0, timeout_s: float = 2.0
    ) -> AsyncGenerator[Answer, None]:
        """Ping a peer, by name or inner address, through the tunnel: yields each answer, last the summary.

        Raises `HollowayError` for a peer that we do not have, that does not run, or that has no address of a family of
        ours.
        """
        return self._answers.ping(name, count=count, interval_s=interval_s, timeout_s=timeout_s)

    async def connected(self, name: str) -> None:
        """Wait until the first handshake with the peer of that name is complete; also for a peer that is not there yet."""
        while not await (await self.roster.find(name)).wait_connected():
            pass  # that one has ended: its successor may do better


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
    loop: OuterLoop | None = None,
) -> AsyncIterator[Node]:
    """Run a node inside a Trio program: ready on entering, stopped and cleaned up on leaving.

    `ports` is the world it lives in (default: the kernel's). `memory` is the registry behind `memory:`. `on_event` sees
    what the supervisors do. `loop`: what Trio is a guest of, if it is; the kernel's ports are read by it then. Raises `ConfigError` for a configuration or secrets that cannot be used, and
    `ChildStartError` (its `__cause__` says why) when a part of the node does not start; `RegistryError` when a network whose
    store is believed has no address for the node.
    """
    verify_config(config)
    if ports is None:
        from holloway.actors.kernel import KernelPorts

        # WireGuard's datagrams carry one packet each: when all peers are of its kind, let the kernel do the cutting.
        takes_super = config.registry is not None or any(peer.suite != WIREGUARD.name for peer in config.peers)
        ports = KernelPorts(
            offloads=config.interface.offloads,
            receive_super=takes_super,
            loop=loop,
            sparse_first=config.interface.sparse_first and config.interface.queues == 1,
        )
    if config.gateway.through is not None and depends_on_names(config):
        await take_back(ports, config.interface.name)  # what a node that was killed has left may be in the way
    config, enrolled = enrolled_node(config, ports)
    secrets = load_secrets(config, environ=os.environ)
    network_secret = None
    if secrets.passphrase is not None:
        # Slow by design, so not in the event loop, nor something to wait for when nobody wants it any more.
        network_secret = await trio.to_thread.run_sync(
            network_key, secrets.passphrase, config.node.network, abandon_on_cancel=True
        )
    open_store = None
    if config.registry is not None:
        open_store = partial(open_registry, config.registry.url, wall_ns=ports.wall_ns, memory=memory)
    member = None
    if open_store is not None and is_store_member(config):
        config, member = await settled_node(config, ports, StaticKey(secrets.private_key).public, open_store)
    config = with_backend(config, enrolled, member)
    credentials = None
    if Backend(config.node.backend).is_dtls:
        from holloway.actors.dtls_credentials import load_credentials

        credentials = load_credentials(config, enrolled, ports.wall_ns)
    refuse_contradictions(config)
    codec = codec_of(config)
    warn_of_policy(policy_of(config))
    node = Node(config, ports, secrets, network_secret, enrolled, member, credentials, codec)

    seed = random.Random(ports.entropy(16))  # noqa: S311 - jitter of restarts, not keys
    try:
        async with open_tree(node.root(open_store), on_event=on_event, rng=seed) as tree:
            node.attach(tree)
            try:
                yield node
            finally:
                node.gateway.is_leaving = True
    finally:
        await node.gateway.give_back(ports)
