"""A whole node in the simulation: the real actor tree of `open_node`, unmodified, on the ports of `actor_ports`.

A host has one `Life` after another. Killing one cuts it off from the world at once, and only then lets its tasks unwind, so
that nothing of its clean-up is ever seen: what is left behind is what `kill -9` leaves behind. A life that ends by itself is
started again after a while, as a service manager does. Not responsible for time, for the network, or for the registry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from holloway.actors import (
    Config,
    DtlsConfig,
    Endpoint,
    FloatingConfig,
    IdentityConfig,
    InterfaceConfig,
    ListenConfig,
    Node,
    NodeConfig,
    PeerConfig,
    RegistryConfig,
    SecurityConfig,
    SessionConfig,
    TimersConfig,
    open_node,
)
from holloway.actors.registry_plane import floating_name
from holloway.protocols.addresses import Address
from holloway.protocols.dtls_names import DtlsProblem
from holloway.protocols.errors import RegistryError
from holloway.protocols.events import DropReason
from holloway.protocols.floating_table import FloatingHolder
from holloway.protocols.membership import RecordProblem
from holloway.protocols.packets import Packet
from holloway.protocols.revocation import RevocationProblem
from holloway.protocols.session import Session
from holloway.simulations.actor_ports import LifePorts
from holloway.simulations.announcing import announce
from holloway.simulations.clocks import Clocks
from holloway.simulations.determinism import PROCESS
from holloway.simulations.disk import Desk
from holloway.simulations.identities import PORT, Identity, floating_address, preshared
from holloway.simulations.liars import Liar, reform
from holloway.simulations.oracles import no_actor_crashes
from holloway.simulations.runs import Heard
from holloway.simulations.streams import stream
from holloway.simulations.terms import policy_of
from holloway.simulations.world import Host
from holloway.supervisor import (
    ActorDown,
    ChildExited,
    ChildRestarting,
    ChildStarted,
    ChildStartError,
    ChildStartFailed,
    Event,
    IntensityExceeded,
)
from holloway.supervisor.errors import brief

if TYPE_CHECKING:
    from holloway.actors.floating import Candidate
    from holloway.actors.running_peer import Receiver
    from holloway.actors.udp_endpoint import UdpEndpoint
    from holloway.protocols.demux import Demux
    from holloway.simulations.actor_world import ActorWorld
    from holloway.simulations.store_door import Door

NETWORK = "simulated"
INTERFACE = "hw0"
PREFIX_BITS = 16
PREFIX_BITS_6 = 112
ELSEWHERE = Path("/simulated/certificates")
"""Nobody reads this: certificates are made (`dtls_certificates`)."""
STARTED_AGAIN_NS = 10**9
"""How long the service manager waits before it starts a node again that ended by itself."""
_PLACES = {problem.value: "record_refused" for problem in RecordProblem} | {
    RevocationProblem.STALE.value: "stale_list_refused",
    "dtls_hello_repeated": "repeated_hello_refused",
    DtlsProblem.EXPIRED.value: "bad_certificate_refused",
    DtlsProblem.FOREIGN_AUTHORITY.value: "bad_certificate_refused",
    DtlsProblem.REFUSED_BY_PEER.value: "refused_by_peer",
}
_REASONS = {reason.value: reason for reason in DropReason}


class Life:
    """One process of a node, from its start to its end."""

    def __init__(self, host: ActorHost, number: int) -> None:
        self.name = host.name
        self.configured = host.own.configured
        self.host = host
        self.node: Node | None = None
        self.is_over = False
        self.is_counted = False
        self.has_cause = False
        """Whether a port of it was broken."""
        self.has_lost_queue = False
        """Whether one of several sockets was."""
        self.scope = trio.CancelScope()
        self.entropy = stream(host.world.plan.seed, host.name, "entropy", str(number)).randbytes
        self.number = number
        disk = host.world.disks.get(host.name)
        self.desk: Desk | None = None if disk is None else Desk(disk, self)
        self.ports = LifePorts(self)
        self.door: Door | None = None if host.world.store is None else host.world.store.door(host.name)
        self._cause = 0
        self._cause_ns = -1

    # What its ports ask.

    def wall_ns(self) -> int:
        """The wall clock of the host."""
        return self.host.clocks.wall_ns(self.host.world.timeline.now_ns)

    def transmit(self, datagram: bytes, destination: Address) -> None:
        """Put a datagram on the wire."""
        if not self.is_over:
            self.host.world.transmit(self.host, datagram, destination, self.cause)

    def deliver(self, packet: bytes) -> None:
        """Give a packet to the programs of the host."""
        if not self.is_over:
            self.host.world.deliver(self.host, packet, self.cause)

    def took(self, address: IPv4Interface | IPv6Interface) -> None:
        """The device has one more address."""
        if not self.is_over and isinstance(address, IPv4Interface):
            self.host.world.floating.took(self.name, address.ip, self.host.world.timeline.now_ns)

    def owns(self, address: IPv4Address) -> bool:
        """Whether this process would answer for a floating address."""
        if self.is_over or self.node is None:
            return False
        try:
            candidate: Candidate = self.node.tree.ref(f"registry.{floating_name(address)}").get()
        except ActorDown:
            return address.packed in self.node.router.local
        return candidate.owns()

    def now_handles(self, line: int) -> None:
        """What happens in this instant is caused by that line of the trace, as far as we can tell."""
        self._cause, self._cause_ns = line, self.host.world.timeline.now_ns

    @property
    def cause(self) -> int:
        """The line of the trace that led to what happens now: that of the last datagram read in this instant, or 0."""
        return self._cause if self._cause_ns == self.host.world.timeline.now_ns else 0

    # Its end.

    def cut_off(self) -> None:
        """From now on the world sees and hears nothing of it."""
        self.is_over = True
        if self.door is not None:
            self.door.kill()

    def count(self) -> None:
        """Tell what it has gone through; once, before anything of it is gone."""
        if not self.is_counted and self.node is not None:
            self.is_counted = True
            for peer in self.node.roster.running.values():
                if isinstance(peer.session, Session):
                    self.host.world.note_transitions(peer.session)
            drops: Mapping[str, int] = self.node.drops()
            self.host.world.reached.note_drops(
                {_REASONS[name]: count for name, count in drops.items() if name in _REASONS}
            )
            for reason, place in _PLACES.items():
                if drops.get(reason):
                    self.host.world.reached.reach(place)


class ActorHost(Host):
    """See `Host`."""

    def __init__(self, world: ActorWorld, own: Identity, peers: list[Identity]) -> None:
        self.world, self.own = world, own
        self.name = own.name
        is_claimed = world.plan.registry is not None and world.plan.registry.claim_ns > 0
        self.inner, self.inside = (b"", {}) if is_claimed else (own.inner, own.inside)
        self.key = own.static.public
        self.public = own.configured
        self.clocks = Clocks()
        self.down = 0
        self.paused = 0
        self._config = _config(world, own, peers)
        self._by_key = {peer.static.public: peer.name for peer in peers}
        self._lives = 0
        self._woke_ns = -1
        self.left_ns: int | None = None
        """When it left in order; `None` while it runs, or when it died."""
        self._stopping: dict[Life, int] = {}
        self._life: Life | None = None
        self._liar: Liar | None = None

    # Lives.

    def boot(self, now_ns: int) -> None:
        """See `Host`."""
        self._lives += 1
        self.left_ns = None
        life = self._life = Life(self, self._lives)
        if self.paused:
            self.world.freezer.freeze(life)
        self.world.nursery.start_soon(self._live, life)

    async def _live(self, life: Life) -> None:
        """A process, and who looks after it."""
        PROCESS.set(life)
        error: Exception | None = None
        with life.scope:
            try:
                async with open_node(
                    self._config, ports=life.ports, memory=life.door, on_event=self._note_event
                ) as node:
                    life.node = node
                    self._settle(node.config.interface.addresses)
                    self._tell("node", "", "up")
                    self.world.has_booted(self)
                    await announce(node, self.world.office)
            except (ChildStartError, IntensityExceeded, RegistryError) as ended:
                error = ended
        self._stopping.pop(life, None)
        if error is not None and not life.is_over:
            life.count()
            life.cut_off()
            self._tell("node", "", f"failed: {brief(error)}")
            self.world.reached.reach("node_gave_up")
            at_ns = self.world.timeline.now_ns + STARTED_AGAIN_NS
            self.world.timeline.at(at_ns, self._start_again, life)

    def _settle(self, addresses: tuple[IPv4Interface | IPv6Interface, ...]) -> None:
        """The programs of the host have these addresses from now on."""
        self.inside = {each.version: each.ip.packed for each in addresses}
        self.inner = self.inside[4]

    def _start_again(self, life: Life) -> None:
        if self._life is life and not self.down:
            self.boot(self.world.timeline.now_ns)

    def die(self) -> None:
        """See `Host`."""
        if (life := self._life) is not None:
            self._end(life)
            self._tell("node", "", "killed")
            life.cut_off()
            life.scope.cancel()

    def leave(self) -> None:
        """See `Host`."""
        if (life := self._life) is not None:
            self._end(life)
            self._tell("node", "", "left")
            if life.node is not None:  # one that was still starting may have to wait for its lease
                self.left_ns = self.world.timeline.now_ns
            life.scope.cancel()

    def _end(self, life: Life) -> None:
        self._life = None
        if not life.is_over:  # it has not ended by itself
            self._stopping[life] = self.world.timeline.now_ns
        life.count()
        self.world.freezer.thaw(life)

    def settle_accounts(self) -> None:
        """See `Host`."""
        if self._life is not None:
            self._life.count()
            self._life.cut_off()
            self._life = None

    def pause(self) -> None:
        """See `Host`. No task of the node takes a step, as after SIGSTOP."""
        if self._life is not None:
            self.world.freezer.freeze(self._life)

    def resume(self, now_ns: int) -> None:
        """See `Host`."""
        self._woke_ns = now_ns
        if self._life is not None:
            self.world.freezer.thaw(self._life)

    # Inputs.

    def receive(self, datagram: bytes, source: Address, now_ns: int, *, is_forged: bool, cause: int) -> None:
        """See `Host`."""
        if self._life is not None and (socket := self._life.ports.socket_for(source)) is not None:
            if is_forged:
                self.world.forged[datagram] = None
            socket.take(Heard(datagram, source, is_forged, cause, now_ns))

    def send(
        self, peer: str, packets: list[Packet], now_ns: int, *, is_rogue: bool = False, is_sparse: bool = False
    ) -> None:
        """See `Host`."""
        if is_rogue:
            if self.node is not None and (running := self.node.roster.running.get(peer)) is not None:
                running.offer_packets(list(packets))
        elif self._life is not None and (tun := self._life.ports.tun) is not None and tun.is_open:
            tun.inject(packets, is_sparse=is_sparse)

    def rekey(self, peer: str, now_ns: int) -> None:
        """See `Host`."""
        if self._life is not None and self._life.node is not None and not self.paused:
            running = self._life.node.roster.running.get(peer)
            if running is not None:
                running.rekey()

    def lie(self, liar: Liar | None) -> None:
        """See `Host`."""
        self._liar = liar
        for session in self.sessions().values():
            if liar is not None:
                liar.corrupt(session)
            else:
                reform(session)

    def break_port(self, bits: int) -> None:
        """See `Host`."""
        if self._life is not None:
            self._life.has_cause = True
            self._tell("node", "", f"{self._life.ports.break_one(bits)} breaks")

    def break_socket(self, bits: int) -> None:
        """See `Host`. While it has another one, that is no cause for anything but the end of who reads the socket."""
        if self._life is None:
            return
        left = self._life.ports.break_socket(bits)
        if left is None:
            return
        self._tell("node", "", f"a socket breaks, {left} are left")
        if left:
            self._life.has_lost_queue = True
        else:
            self._life.has_cause = True

    # What it is.

    @property
    def stopping_since_ns(self) -> int | None:
        """Since when the slowest life that was told to stop is at it."""
        return min(self._stopping.values(), default=None)

    @property
    def is_waking(self) -> bool:
        """Whether it has stood still until this instant, and still has to catch up."""
        return self._woke_ns == self.world.timeline.now_ns

    @property
    def node(self) -> Node | None:
        """The node that runs."""
        return None if self._life is None else self._life.node

    @property
    def lives(self) -> int:
        """How many lives it has begun."""
        return self._lives

    def owns(self, address: IPv4Address) -> bool:
        """See `Host`. A process that is told to stop may still answer."""
        return any(life.owns(address) for life in self._processes())

    def believes(self, address: IPv4Address) -> FloatingHolder | None:
        """See `Host`."""
        return None if self.node is None else self.node.floating.holder(address)

    def has_on_device(self, address: IPv4Address) -> bool:
        """See `Host`."""
        return any(life.ports.has_address(address) for life in self._processes() if not life.has_cause)

    def _processes(self) -> list[Life]:
        return [life for life in (self._life, *self._stopping) if life is not None and not life.is_over]

    def demux(self) -> Demux[Receiver] | None:
        """The table that finds sessions, while there is one."""
        node = None if self._life is None else self._life.node
        if node is None:
            return None
        try:
            udp: UdpEndpoint = node.tree.ref("dataplane.udp").get()
        except ActorDown:
            return None
        return udp.demux

    def sessions(self) -> dict[str, Session]:
        """See `Host`."""
        node = None if self._life is None else self._life.node
        if node is None:
            return {}
        return {
            self._by_key[peer.peer.public_key]: peer.session
            for peer in node.roster.running.values()
            if isinstance(peer.session, Session)
        }

    def known(self) -> tuple[str, ...]:
        """See `Host`."""
        node = None if self._life is None else self._life.node
        return () if node is None else tuple(sorted(node.roster.running))

    def clock_changed(self, now_ns: int) -> None:
        """See `Host`. Only the wall clock can be wrong here, and it is read anew each time."""

    def state_of(self, session: Session, peer_key: bytes) -> None:
        """A session of this host has another state or key."""
        if self._liar is not None:
            self._liar.corrupt(session)
        self.tell_state(self._by_key.get(peer_key, "stranger"), f"{session.state.name} epoch {session.epoch}")

    def tell_state(self, peer: str, what: str) -> None:
        """The link to a peer has another state or key."""
        self._tell("state", peer, what)

    # What its supervisors say.

    def _note_event(self, event: Event) -> None:
        match event:
            case ChildStarted(path, _, incarnation):
                self._tell("actor", path, f"started {incarnation}")
                if ".peers." in path:
                    self.world.look_at_trust(self)
            case ChildExited(path, _, ended):
                self._tell("actor", path, f"{ended.reason}{f': {brief(ended.error)}' if ended.error else ''}")
                if ended.error is not None:
                    self.world.check(no_actor_crashes, path, ended.error, self._has_cause(path))
            case ChildStartFailed(path, _, _, error):
                self._tell("actor", path, f"did not start: {brief(error.__cause__ or error)}")
                if isinstance(error.__cause__, Exception):
                    self.world.check(no_actor_crashes, path, error.__cause__, self._has_cause(path))
            case ChildRestarting(path, _, delay_s, _):
                self._tell("actor", path, f"restarts in {delay_s:.3f} s")
                self.world.reached.reach("actor_restarted")
            case _:
                pass

    def _has_cause(self, path: str) -> bool:
        """Whether something has befallen the node that actors at `path` may end of, or it is over anyway."""
        life = PROCESS.get(None)
        if not isinstance(life, Life) or life.is_over or life.is_counted or life.has_cause:
            return True
        if life.has_lost_queue and path.startswith("node.dataplane.queues.udp-"):
            self.world.reached.reach("queue_replaced")
            return True
        if self.name in self.world.outcasts:  # it is told so, and cannot be in the registry any more
            return path.startswith("node.registry")
        return path.startswith("node.registry") and self.world.has_store_faults

    def _tell(self, kind: str, peer: str, what: str) -> None:
        self.world.record(self, kind, peer, json.dumps(what)[1:-1], 0 if self._life is None else self._life.cause)


def _config(world: ActorWorld, own: Identity, peers: list[Identity]) -> Config:
    plan = world.plan
    return Config(
        node=NodeConfig(name=own.name, network=NETWORK, backend=plan.backend if plan.is_dtls else None),
        interface=InterfaceConfig(
            name=INTERFACE, addresses=() if world.disks else _interfaces(own), queues=plan.queues
        ),
        session=SessionConfig(private_key=own.private, timers=TimersConfig(**plan.timers)),
        security=SecurityConfig(require=policy_of(plan, own.name).require.word),
        listen=ListenConfig(port=PORT, advertise=(Endpoint(str(own.configured[0]), PORT),)),
        peers=()
        if plan.registry is not None
        else tuple(
            PeerConfig(
                name=peer.name,
                public_key=peer.static.public,
                allowed=(IPv4Network((peer.inner, 32)), IPv6Network((peer.inner6, 128))),
                endpoint=Endpoint(str(peer.configured[0]), PORT),
                suite=plan.suite,
                preshared_key=None if plan.is_dtls else preshared(own.static.public, peer.static.public),
                keepalive_s=int(plan.keepalive_s),
            )
            for peer in peers
        ),
        registry=None
        if plan.registry is None
        else RegistryConfig(url="memory:", trust=plan.registry.trust, lease_s=plan.registry.lease_ns / 1e9),
        floating=tuple(
            FloatingConfig(address=floating_address(number), priority=each.priorities[each.nodes.index(own.name)])
            for number, each in enumerate(() if plan.registry is None else plan.registry.floating)
            if own.name in each.nodes
        ),
        dtls=DtlsConfig(cert_file=ELSEWHERE, key_file=ELSEWHERE, ca_file=ELSEWHERE) if plan.is_dtls else None,
        identity=IdentityConfig(directory=world.disks[own.name].path) if world.disks else None,
    )


def _interfaces(own: Identity) -> tuple[IPv4Interface, IPv6Interface]:
    return IPv4Interface((own.inner, PREFIX_BITS)), IPv6Interface((own.inner6, PREFIX_BITS_6))
