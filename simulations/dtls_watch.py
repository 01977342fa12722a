"""Networks whose nodes speak DTLS: which certificates they show, what of their datagrams can be told, and the promises about them.

Randomness inside of OpenSSL is not decided by a seed, so nothing that follows from it may be in a trace: datagrams are told by what
they are for, and not by their bytes. Not responsible for certificates (`dtls_certificates`), nor for promises (`dtls_oracles`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

import holloway.actors.dtls_credentials as believing
import holloway.actors.dtls_handshaker as shaking
import holloway.actors.dtls_peer as making
from holloway.actors.dtls_channel import QuietConnection
from holloway.actors.dtls_credentials import Credentials, FileCredentials, Shown
from holloway.actors.dtls_handshaker import DtlsHandshaker
from holloway.actors.dtls_peer import DtlsPeer
from holloway.protocols.dtls_wire import PREFIX_BYTES, association_of, is_client_hello, is_handshake
from holloway.protocols.suites import MessageType
from holloway.simulations.determinism import PROCESS
from holloway.simulations.dtls_certificates import Showing, der_of, shown
from holloway.simulations.dtls_oracles import (
    associations_are_certified,
    associations_are_few,
    associations_are_owned,
    no_real_time_passes,
    waiting_packets_are_bounded,
)
from holloway.simulations.oracles import Calm, deadlines_are_kept
from holloway.supervisor import ActorDown

if TYPE_CHECKING:
    from holloway.actors.dtls_channel import SecureChannel
    from holloway.protocols.addresses import Address
    from holloway.protocols.packets import Packet
    from holloway.simulations.actor_host import ActorHost, Life
    from holloway.simulations.actor_world import ActorWorld

MAX_DIALLERS = 4096
"""Associations whose dialler is remembered."""
_CHANGE_OF_CIPHERS, _HELLO_VERIFY_REQUEST = 20, 3  # RFC 5246, section 6.2.1; RFC 6347, section 4.3.2
_TYPE_AT = 13


class DtlsWatch:
    """The associations of one run."""

    def __init__(self, world: ActorWorld, network: str, nodes: Sequence[str]) -> None:
        self._world, self.network = world, network
        self._bad: dict[str, Counter[Showing]] = {name: Counter() for name in nodes}
        self._diallers: dict[int, str] = {}
        for name in nodes:  # here, and not in the midst of a handshake, for which time passes meanwhile
            for each in Showing:
                shown(network, name, each)

    # Certificates.

    def spoil(self, name: str, kind: str) -> None:
        """The node shows a bad certificate from now on."""
        self._bad[name][Showing(kind)] += 1

    def mend(self, name: str, kind: str) -> None:
        """It shows that one no more."""
        self._bad[name][Showing(kind)] -= 1

    def shown_by(self, name: str) -> Shown:
        """What a node shows now."""
        bad = next((each for each, count in self._bad[name].items() if count > 0), Showing.GOOD)
        return shown(self.network, name, bad)

    def check_certificate(self, node: str, peer: str, channel: SecureChannel) -> None:
        """Hold the promise about whom an association is with."""
        seen = channel._connection.get_peer_certificate(as_cryptography=True)
        good = der_of(shown(self.network, peer).certificate)
        self._world.check(associations_are_certified, b"" if seen is None else der_of(seen), good, node, peer)

    # Datagrams.

    def sent(self, node: str, datagram: bytes, lost: str) -> None:
        """A node put a datagram on the wire; `lost`: why it got lost there."""
        if datagram[0] != MessageType.DTLS:
            return
        record, number = datagram[PREFIX_BYTES:], association_of(datagram)
        if not lost:
            if is_client_hello(record):
                self._diallers.setdefault(number, node)
                if len(self._diallers) > MAX_DIALLERS:
                    del self._diallers[next(iter(self._diallers))]
        elif (flight := self._flight(record, is_dialler=self._diallers.get(number) == node)) is not None:
            self._world.reached.reach(f"{flight}_lost")

    @staticmethod
    def _flight(record: bytes, *, is_dialler: bool) -> str | None:
        """Which flight of a handshake a datagram belongs to (RFC 6347, section 4.2.4)."""
        if not is_handshake(record):
            return None
        if is_dialler:
            return "hello" if is_client_hello(record) else "client_flight"
        if record[0] == _CHANGE_OF_CIPHERS:
            return "last_flight"
        return "cookie" if record[_TYPE_AT] == _HELLO_VERIFY_REQUEST else "server_flight"

    @staticmethod
    def words(datagram: bytes) -> str:
        """What a datagram is, without a word about what OpenSSL has drawn."""
        if datagram[0] != MessageType.DTLS:
            return "data"
        record = datagram[PREFIX_BYTES:]
        word = "data" if not is_handshake(record) else "initiation" if is_client_hello(record) else "response"
        return f"{word} {association_of(datagram):016x}"

    # Nodes.

    def links(self, host: ActorHost) -> dict[str, DtlsPeer]:
        """The peers that run, by name."""
        node = host.node
        if node is None:
            return {}
        return {name: peer for name, peer in node.roster.running.items() if isinstance(peer, DtlsPeer)}

    def calm(self, calm: Calm) -> Calm:
        """How things stand: what waits for associations, and where they lead."""
        links = {
            (host.name, name): peer for host in self._world.hosts.values() for name, peer in self.links(host).items()
        }
        true = {pair: where for pair, (_, where) in calm.endpoints.items()}
        return replace(
            calm,
            waiting={pair: len(peer._staged) for pair, peer in links.items()},
            endpoints={
                pair: (links[pair].session.endpoint if pair in links else None, where) for pair, where in true.items()
            },
        )

    def look(self, host: ActorHost) -> None:
        """Hold the promises that are not about one event."""
        now_s, check = trio.current_time(), self._world.check
        links = self.links(host)
        for name, peer in links.items():
            if not peer.is_stopped:
                check(deadlines_are_kept, peer._deadline(), now_s, host.name)
                check(associations_are_few, peer._channels, peer.link._known, host.name, name)
                check(waiting_packets_are_bounded, len(peer._staged), peer._staged.held_bytes, host.name)
        handshaker = self._handshaker(host)
        if handshaker is not None:
            kept = [channel.number for channel, _ in (*handshaker._channels.values(), *handshaker._plain.values())]
            owned = [number for peer in links.values() for number in peer._channels]
            check(associations_are_owned, kept, owned, host.name)

    @staticmethod
    def _handshaker(host: ActorHost) -> DtlsHandshaker | None:
        node = host.node
        try:
            return None if node is None else node.tree.ref("dataplane.dtls").get()
        except ActorDown:
            return None


class WatchedCredentials(FileCredentials):
    """Of a simulated node: what it shows changes with the faults that befall it."""

    def __init__(self, watch: DtlsWatch, name: str) -> None:
        super().__init__(watch.network, shown(watch.network, name), is_verifying=True)
        self._watch, self._name = watch, name

    def shown(self) -> Shown:
        """See `Credentials`."""
        return self._watch.shown_by(self._name)


class WatchedConnection(QuietConnection):
    """A handshake of a simulated node."""

    def repeated(self) -> None:
        """See `QuietConnection`."""
        life: Life = PROCESS.get()  # type: ignore[assignment]
        life.host.world.check(no_real_time_passes, life.name)


class WatchedDtlsPeer(DtlsPeer):
    """The link of a simulated node to a peer: it does what the real one does, and tells the world what happens to it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._life: Life = PROCESS.get()  # type: ignore[assignment]  # what `determinism` knows only as an object
        self._world = self._life.host.world
        self._seen = "", 0
        super().__init__(*arguments, **options)

    def _begin(self, channel: SecureChannel) -> None:
        was_dialling = self.link.is_dialling
        self._world.dtls.check_certificate(self._life.name, self.peer.name, channel)
        super()._begin(channel)
        if was_dialling and not channel.is_ours:
            self._world.reached.reach("both_dialled_at_once")
        if self.link.epoch > 2:  # two may be of one moment, when both dial
            self._world.reached.reach("rekey_completed")

    async def _dial(self, attempt: int) -> None:
        if attempt > 1:
            self._world.reached.reach("dial_repeated")
        await super()._dial(attempt)

    def _send(self, packets: Sequence[Packet]) -> None:
        super()._send(packets)
        if len(self._staged):
            self._world.reached.reach("packet_waited")

    def _note_move(self, old: Address, channel: SecureChannel, now: float) -> None:
        super()._note_move(old, channel, now)
        self._world.reached.reach("roamed")

    def _follow_link(self) -> None:
        super()._follow_link()
        link = self.link
        word = "REKEYING" if link.is_dialling else "ESTABLISHED"
        if link.current is None:
            word = "INITIATING" if link.is_dialling else "IDLE"
        if (word, link.epoch) != self._seen:
            self._seen = word, link.epoch
            self._life.host.tell_state(self.peer.name, f"{word} epoch {link.epoch}")


@contextmanager
def watched_links() -> Iterator[None]:
    """Links that nodes make meanwhile are watched, and their certificates are those of the simulation."""

    def load(*_: object) -> Credentials:
        life: Life = PROCESS.get()  # type: ignore[assignment]
        return WatchedCredentials(life.host.world.dtls, life.name)

    watched: list[tuple[dict[str, Any], str, object]] = [
        (vars(making), "DtlsPeer", WatchedDtlsPeer),
        (vars(shaking), "QuietConnection", WatchedConnection),
        (vars(believing), "load_credentials", load),
    ]
    before = [module[name] for module, name, _ in watched]
    for module, name, ours in watched:
        module[name] = ours
    try:
        yield
    finally:
        for (module, name, _), theirs in zip(watched, before, strict=True):
            module[name] = theirs
