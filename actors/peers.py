"""The peers of a node: what each of their actors is made of, and its place in the tables while it runs.

An actor that starts takes the present handles of its elders (socket, device), registers where datagrams and packets are
sorted, and gives all of it back at its end, however it ends. Not responsible for which peers there are (`roster`), nor
for what the actor does meanwhile (`peer_session`, `dtls_peer`).
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import trio

from holloway.actors.config.model import Config
from holloway.actors.pair_terms import policy_of, terms_with
from holloway.actors.peer_session import PeerSession
from holloway.actors.ports import Ports
from holloway.actors.roster import Roster
from holloway.actors.router import Router
from holloway.actors.running_peer import RunningPeer
from holloway.actors.secrets import Secrets
from holloway.actors.status import peer_drops
from holloway.actors.udp_endpoint import UdpEndpoint
from holloway.actors.wanted import MAX_PEERS, Peer
from holloway.protocols.compression import Codec
from holloway.protocols.exported import ExportedSession
from holloway.protocols.inspection import Inspector
from holloway.protocols.keys import StaticKey
from holloway.protocols.memory import MemoryBudget
from holloway.protocols.network_settings import Backend
from holloway.protocols.psk import pair_key
from holloway.protocols.session import Session, SessionConfig
from holloway.protocols.suites import AES_GCM, SUITES
from holloway.protocols.timers import Timers
from holloway.supervisor import Child, Intensity, Pool, dynamic

if TYPE_CHECKING:
    from holloway.actors.dtls_peer import DtlsPeer
    from holloway.supervisor import Context

RESTARTS_IN_A_PERIOD = 16
"""Of one actor, more than its backoff allows in the 30 s of `Intensity`: 9, at 0, 0.08, 0.24, 0.56, ... 20.4 s."""

log = logging.getLogger("holloway.node")


class Peers:
    """Makes the pool of peer actors."""

    def __init__(
        self,
        config: Config,
        ports: Ports,
        secrets: Secrets,
        network_secret: bytes | None,
        *,
        static: StaticKey,
        roster: Roster,
        router: Router,
        past_drops: Counter[str],
        memory: MemoryBudget,
        codec: Codec | None,
    ) -> None:
        """What an actor counted goes into `past_drops` at its end. What waits in all of them is taken from `memory`. `codec`: what
        compresses, if the configuration asks for it.
        """
        self._config, self._ports, self._secrets, self._network_secret = config, ports, secrets, network_secret
        self._static, self._roster, self._router, self._past_drops = static, roster, router, past_drops
        self._memory, self._codec = memory, codec
        self._terms_with = partial(terms_with, policy_of(config))

    def pool(self) -> Pool[Peer, RunningPeer]:
        """The pool, of which the keys are identities. A peer that crashes again and again backs off by itself: it takes
        nobody with it, so no number of crashes is the pool's business.
        """
        intensity = Intensity(restarts=RESTARTS_IN_A_PERIOD * MAX_PEERS)
        return dynamic(self._child, name="peers", limit=MAX_PEERS, intensity=intensity)

    def _child(self, identity: Peer) -> Child[RunningPeer]:
        return Child(name=child_name(identity.name), run=partial(self._run, identity=identity))

    async def _run(self, ctx: Context, *, identity: Peer, task_status: trio.TaskStatus[RunningPeer]) -> None:
        """Actor: one peer, in the tables of the node for as long as it runs."""
        udp: UdpEndpoint = ctx.ref("dataplane.udp").get()
        peer = self._roster.of(identity)
        is_dtls = Backend(self._config.node.backend or Backend.SESSION).is_dtls
        handle: PeerSession | DtlsPeer
        handle = self._over_dtls(ctx, peer, udp) if is_dtls else self._over_session(ctx, peer, udp)
        try:
            self._router.assign(handle, peer.allowed)
            self._roster.arrive(handle)
            await handle.run(task_status)
        finally:
            handle.close()
            self._roster.leave(handle)
            self._router.remove(handle)
            udp.demux.unregister(peer.public_key)
            self._past_drops.update(peer_drops(handle))

    def _over_session(self, ctx: Context, peer: Peer, udp: UdpEndpoint) -> PeerSession:
        return PeerSession(
            peer,
            partial(self._session, udp),
            tun=ctx.ref("dataplane.tun").get(),
            udp=udp,
            log=log,
            first_ping=self._first_ping(),
            memory=self._memory,
            terms_with=self._terms_with,
        )

    def _over_dtls(self, ctx: Context, peer: Peer, udp: UdpEndpoint) -> DtlsPeer:
        from holloway.actors.dtls_peer import DtlsPeer  # needs OpenSSL, which most nodes do not

        is_offered = (
            self._config.node.backend == Backend.DTLS_EXPORTER.value and self._config.security.require != "dtls"
        )
        has_exporter = is_offered and not peer.is_plain_dtls
        return DtlsPeer(
            peer,
            partial(self._exported, udp) if has_exporter else None,
            own_name=self._config.node.name,
            timers=Timers(**asdict(self._config.session.timers)),
            router=self._router,
            handshaker=ctx.ref("dataplane.dtls").get(),
            tun=ctx.ref("dataplane.tun").get(),
            udp=udp,
            log=log,
            first_ping=self._first_ping(),
            memory=self._memory,
            mtu=self._config.interface.device_mtu,
        )

    def _first_ping(self) -> int:
        return int.from_bytes(self._ports.entropy(4), "big")

    def _exported(self, udp: UdpEndpoint, handle: DtlsPeer) -> ExportedSession:
        """The data of the peer behind `handle` under exported keys. Raises `LocalError` as `_session` does."""
        config = SessionConfig(
            suite=AES_GCM,
            static=self._static,
            peer_public=handle.peer.public_key,
            timers=Timers(**asdict(self._config.session.timers)),
            mtu=self._config.interface.device_mtu,
            inspect=Inspector(self._router.routes, handle, self._router.local),
            memory=self._memory,
        )
        links = udp.demux.register(handle.peer.public_key, handle)
        return ExportedSession(config, links, self._ports.entropy, trio.current_time())

    def _session(self, udp: UdpEndpoint, handle: PeerSession) -> Session:
        """The pure session behind `handle`. Raises `LocalError` when the peer's key is in use already, or is no key."""
        peer = handle.peer
        links = udp.demux.register(peer.public_key, handle)
        try:
            config = SessionConfig(
                suite=SUITES[peer.suite],
                static=self._static,
                peer_public=peer.public_key,
                preshared=self._preshared(peer),
                timers=Timers(**asdict(self._config.session.timers)),
                keepalive_s=peer.keepalive_s,
                mtu=self._config.interface.device_mtu,
                inspect=Inspector(self._router.routes, handle, self._router.local),
                memory=self._memory,
                terms=self._terms_with(peer),
                codec=self._codec,
            )
            addresses = handle.callbook.addresses
            return Session(
                config,
                links=links,
                entropy=self._ports.entropy,
                wall_ns=self._ports.wall_ns,
                now=trio.current_time(),
                endpoint=addresses[0] if addresses else None,
            )
        except BaseException:
            udp.demux.unregister(peer.public_key)
            raise

    def _preshared(self, peer: Peer) -> bytes:
        """The peer's own pre-shared key, else one from the network's passphrase, else none (zeros)."""
        own = self._secrets.preshared_keys.get(peer.name)
        if own is not None:
            return own
        if self._network_secret is not None and SUITES[peer.suite] is AES_GCM:
            return pair_key(self._network_secret, self._static.public, peer.public_key)
        return bytes(32)


def child_name(peer: str) -> str:
    """The name of a peer's actor in the tree. Dots join names into paths, so a peer's name may not bring its own."""
    return peer.replace(".", "\N{MIDDLE DOT}")
