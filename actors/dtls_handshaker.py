"""The actor that makes associations over DTLS: it dials for the peers, answers those that dial us, and sorts datagrams by association.

    UDP socket ──► offer ──┬─ of an association that is up ──► its peer (`dtls_peer`), in the same turn
                           └─ of a handshake ──► AssociationSocket ──► Trio's DTLS

A handshake that fails has a reason, always: nobody waits for a peer that was refused. Certificates are judged inside of the handshake,
so that an association that is up belongs to a peer of ours. Handshakes are bounded in number, and hellos in rate as soon as many come.
A hello for an association that exists changes nothing.

Trio's DTLS is behind this module and `dtls_channel`. Not responsible for when to dial (`holloway.protocols.dtls_link`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

import trio
from OpenSSL import SSL, crypto

from holloway.actors.bounded_log import BoundedLog
from holloway.actors.dtls_channel import HandshakeRefused, QuietConnection, SecureChannel
from holloway.actors.dtls_context import READ_ALERT, WRITE_ALERT, DtlsContext, dtls_context
from holloway.actors.dtls_credentials import Credentials, Shown
from holloway.actors.dtls_peer import DtlsPeer
from holloway.actors.dtls_socket import AssociationSocket, Place
from holloway.protocols.addresses import Address, format_address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.demux import LoadMeter
from holloway.protocols.dtls_names import DtlsProblem, Speaker
from holloway.protocols.dtls_wire import (
    APPLICATION_DATA,
    ASSOCIATION_BYTES,
    PREFIX_BYTES,
    association_of,
    is_client_hello,
    is_handshake,
    prefixed,
)
from holloway.protocols.ratelimit import RateLimiter
from holloway.protocols.suites import MessageType

if TYPE_CHECKING:
    from holloway.actors.roster import Roster
    from holloway.actors.udp_endpoint import UdpEndpoint
    from holloway.supervisor import Context

HANDSHAKE_S = 4.0
"""How long a handshake may take. One that was spoilt on the way never ends by itself; another one may do better."""
RETRANSMIT_S = 0.2
"""After so long without an answer a flight is sent again, and after twice as long each time."""
HANDSHAKE_DATAGRAM_BYTES = 1200
MAX_ANSWERED = 256
"""Handshakes of others that may be under way at once; then the oldest makes room."""
EARLY_RECORDS = 64
ALERT_S = 0.02
"""For Trio to send the alert after a handshake has failed."""

RENEWAL_S = 60.0
"""How often what we show is looked at again."""

_FATAL = 2
_BY_ALERT = {  # those that we send (RFC 5246, section 7.2), where no judgement of ours is the reason
    20: DtlsProblem.NOT_AUTHENTIC,
    40: DtlsProblem.NO_CERTIFICATE,
    42: DtlsProblem.MALFORMED,
    51: DtlsProblem.NOT_AUTHENTIC,
}
_ALERT_WORDS = {
    40: "it found nothing in common, or no certificate",
    42: "bad certificate",
    43: "unsupported certificate",
    44: "certificate revoked",
    45: "certificate expired",
    46: "certificate unknown",
    48: "unknown authority",
    80: "it does not want this certificate",
}


class _Handshake:
    """What is found out in one. `find` gives the peer that a certificate speaks for."""

    def __init__(self, find: Callable[[Speaker], DtlsPeer | DtlsProblem]) -> None:
        self._find = find
        self.speaker: Speaker | None = None
        self.peer: DtlsPeer | None = None
        self.problem: DtlsProblem | None = None
        self.alert: int | None = None
        self.ended = trio.Event()

    def judge(self, verdict: Speaker | DtlsProblem | None) -> bool:
        if verdict is None:
            return True
        if isinstance(verdict, Speaker):
            found = self._find(verdict)
            if not isinstance(found, DtlsProblem):
                self.speaker, self.peer = verdict, found
                return True
            verdict = found
        self.fail(verdict)
        return False

    def fail(self, problem: DtlsProblem) -> None:
        if self.problem is None:
            self.problem = problem
        self.ended.set()

    def hear_alert(self, alert: int) -> None:
        """Nobody has signed it: it may come from anybody on the way, who could as well keep the handshake from happening."""
        self.alert = alert
        self.ended.set()


class _Dialled:
    """An association that we dial: its name for Trio, and what came under it already, because the other side is done first."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.early: list[tuple[bytes, Address]] = []

    def keep(self, record: bytes, source: Address) -> None:
        if len(self.early) < EARLY_RECORDS:
            self.early.append((record, source))


class DtlsHandshaker:
    """Handle of the running actor."""

    def __init__(
        self,
        udp: UdpEndpoint,
        roster: Roster,
        credentials: Credentials,
        entropy: Callable[[int], bytes],
        log: BoundedLog,
    ) -> None:
        self._udp, self._roster, self._credentials, self._entropy, self._log = udp, roster, credentials, entropy, log
        self.drops: Counter[str] = Counter()
        self._channels: dict[int, tuple[SecureChannel, DtlsPeer]] = {}
        self._plain: dict[Address, tuple[SecureChannel, DtlsPeer]] = {}
        """The associations of foreign programs, which put nothing before their datagrams, by their addresses."""
        self._dialled: dict[int | Address, _Dialled] = {}  # by number, or those of foreign programs by address
        self._answered: dict[Place, _Handshake] = {}  # the oldest first
        self._load = LoadMeter()
        self._rate = RateLimiter()
        self._socket = AssociationSocket(self._transmit)
        self._endpoint: Any = trio.DTLSEndpoint(self._socket, incoming_packets_buffer=64)  # type: ignore[arg-type]
        self._context: tuple[Shown, DtlsContext] | None = None

    def __repr__(self) -> str:
        return f"<DtlsHandshaker {len(self._channels)} associations>"

    @property
    def associations(self) -> int:
        """How many are up."""
        return len(self._channels) + len(self._plain)

    # Datagrams.

    def offer(self, arrivals: Iterable[Arrival]) -> None:
        """Datagrams of the network, as `Demux.sort` gives them: long enough, but anything."""
        batches: dict[DtlsPeer, list[tuple[SecureChannel, bytes, Address]]] = {}
        for arrival in arrivals:
            source = arrival.source
            for datagram in arrival.datagrams():
                number: int | None
                if datagram[0] == MessageType.DTLS:
                    number, record = association_of(datagram), datagram[PREFIX_BYTES:]
                    known = self._channels.get(number)
                else:
                    number, record, known = None, datagram, self._plain.get(source)
                if known is None:
                    self._offer_handshake(number, record, source)
                elif not is_handshake(record):
                    batches.setdefault(known[1], []).append((known[0], record, source))
                elif is_client_hello(record):
                    self.drops["dtls_hello_repeated"] += 1
                else:
                    self._send(known[0].resend_final(trio.current_time()), source)
        for peer, records in batches.items():
            peer.offer_records(records)

    def _offer_handshake(self, number: int | None, record: bytes, source: Address) -> None:
        dialled = self._dialled.get(source if number is None else number)
        place = (*source, number) if dialled is None else dialled.place
        if dialled is not None and record[0] == APPLICATION_DATA:
            dialled.keep(record, source)
            return
        if dialled is not None or place in self._answered:
            if is_client_hello(record):
                self.drops["dtls_hello_repeated"] += 1
                return
        elif not is_client_hello(record):
            self.drops["dtls_unknown_association"] += 1
            return
        elif not self._is_admitted(source):
            return
        if not self._socket.offer(record, place):
            self.drops["dtls_busy"] += 1

    def _is_admitted(self, source: Address) -> bool:
        """Whether a hello is worth an answer."""
        now = trio.current_time()
        if self._load.note(now) and not self._rate.allow(source[0], now):
            self.drops["dtls_rate_limited"] += 1
            return False
        return True

    def _transmit(self, datagram: bytes, place: Place) -> None:
        number = place[-1]
        self._send((datagram if number is None else prefixed(number, datagram),), place[:-1])

    def _send(self, datagrams: Sequence[bytes], destination: tuple[Any, ...]) -> None:
        if datagrams and self._udp.can_reach(destination):
            self._udp.send(datagrams, destination)

    # Handshakes.

    async def dial(self, peer: DtlsPeer, address: Address, *, is_plain: bool = False) -> SecureChannel:
        """An association with `peer` at `address`; `is_plain`: with nothing before its datagrams, so only one at a time with that
        address. Raises `HandshakeRefused`.
        """
        number = None if is_plain else self._draw()
        place: Place = (*address, number)
        key = address if number is None else number
        if is_plain and (address in self._plain or address in self._dialled or place in self._answered):
            raise HandshakeRefused(DtlsProblem.ADDRESS_IN_USE)
        dialled = self._dialled[key] = _Dialled(place)
        handshake = _Handshake(lambda speaker: self._expected(peer, speaker))
        try:
            try:
                channel = self._endpoint.connect(dialled.place, self._present_context())
            except trio.ClosedResourceError:
                raise HandshakeRefused(DtlsProblem.NOT_COMPLETED) from None
            made = await self._complete(channel, number, address, handshake, is_ours=True)
            made.early = dialled.early
            return made
        finally:
            del self._dialled[key]

    async def answer(self, channel: trio.DTLSChannel) -> None:
        """Serve one association that somebody else dials, until it is closed."""
        place = channel.peer_address
        address, number = place[:-1], place[-1]
        handshake = self._answered[place] = _Handshake(self._find)
        if len(self._answered) > MAX_ANSWERED:  # an honest one is done in a few round trips
            self._answered.pop(next(iter(self._answered))).fail(DtlsProblem.PUSHED_OUT)
        try:
            made = await self._complete(channel, number, address, handshake, is_ours=False)
        except HandshakeRefused as refused:
            self.drops[refused.problem.value] += 1
            self._log.warning("a handshake from %s is refused: %s", format_address(address), refused)
            return
        finally:
            if self._answered.get(place) is handshake:
                del self._answered[place]
        peer = handshake.peer
        assert peer is not None
        peer.accept(made)
        await made.closed.wait()

    async def _complete(
        self, channel: Any, number: int | None, address: Address, handshake: _Handshake, *, is_ours: bool
    ) -> SecureChannel:
        """Make the handshake. Raises `HandshakeRefused`."""
        connection = channel._ssl
        connection.set_app_data(handshake)
        channel.set_ciphertext_mtu(HANDSHAKE_DATAGRAM_BYTES)
        channel._ssl = QuietConnection(connection)
        try:
            with trio.move_on_after(HANDSHAKE_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cut_short, handshake, nursery.cancel_scope)
                    try:
                        await channel.do_handshake(initial_retransmit_timeout=RETRANSMIT_S)
                    except SSL.Error:  # Trio lets it out when it comes with the hello, before any certificate
                        handshake.problem = DtlsProblem.NOTHING_IN_COMMON
                    except (trio.BrokenResourceError, trio.ClosedResourceError):  # another hello came first; or we end
                        handshake.fail(DtlsProblem.NOT_COMPLETED)
                    nursery.cancel_scope.cancel()
            if not channel._did_handshake or handshake.problem is not None:
                raise _refusal(handshake, is_ours=is_ours)
            if (
                number in self._channels
                or (number is None and address in self._plain)
                or handshake.peer is None
                or handshake.speaker is None
            ):
                raise HandshakeRefused(DtlsProblem.NOT_COMPLETED)
        except BaseException:
            channel.close()
            raise
        channel._ssl = connection
        connection.set_app_data(None)
        return self._keep(channel, number, address, handshake.speaker, handshake.peer, is_ours=is_ours)

    def _keep(
        self, channel: Any, number: int | None, address: Address, speaker: Speaker, peer: DtlsPeer, *, is_ours: bool
    ) -> SecureChannel:
        """Send what comes for an association that is up to its peer, until it is closed."""
        inside = self._draw() if number is None else number
        made = SecureChannel(
            channel,
            inside,
            address,
            speaker,
            is_ours=is_ours,
            is_plain=number is None,
            ended=lambda: self._forget(inside, address, is_plain=number is None),
        )
        if number is None:
            self._plain[address] = made, peer
        else:
            self._channels[number] = made, peer
        return made

    def _forget(self, number: int, address: Address, *, is_plain: bool) -> None:
        if is_plain:
            self._plain.pop(address, None)
        else:
            self._channels.pop(number, None)

    def _draw(self) -> int:
        return int.from_bytes(self._entropy(ASSOCIATION_BYTES), "big")

    # Who is who.

    def _expected(self, peer: DtlsPeer, speaker: Speaker) -> DtlsPeer | DtlsProblem:
        return self._misfit(peer, speaker) or peer

    def _find(self, speaker: Speaker) -> DtlsPeer | DtlsProblem:
        """The peer that runs for whom a certificate speaks."""
        if speaker.name is not None:
            named = self._roster.running.get(speaker.name)
            return self._expected(named, speaker) if isinstance(named, DtlsPeer) else DtlsProblem.UNKNOWN_NODE
        for peer in self._roster.running.values():
            if isinstance(peer, DtlsPeer) and self._misfit(peer, speaker) is None:
                return peer
        return DtlsProblem.UNKNOWN_NODE

    def _misfit(self, peer: DtlsPeer, speaker: Speaker) -> DtlsProblem | None:
        return speaker.fits(peer.peer.name, self.own_addresses(peer))

    def own_addresses(self, peer: DtlsPeer) -> list[IPv4Address | IPv6Address]:
        """The overlay addresses that a peer has for itself, and not for as long as it is its turn."""
        floating = self._roster.floating.holders
        return [
            prefix.network_address
            for prefix in peer.peer.allowed
            if prefix.prefixlen == prefix.max_prefixlen and prefix not in floating
        ]

    # Contexts.

    def _present_context(self) -> DtlsContext:
        """Of what we show now: a certificate is renewed, and authorities follow one another, while we run."""
        shown = self._credentials.shown()
        if self._context is None or self._context[0] != shown:
            self._context = shown, dtls_context(shown, self._verify, _note_alert)
            if self._endpoint._listening_context is not None:
                self._endpoint._listening_context = self._context[1]
        return self._context[1]

    def _verify(self, connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, _ok: int) -> bool:
        """OpenSSL asks what to make of a certificate."""
        handshake: _Handshake = connection.get_app_data()
        der = crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)  # as it came: others may find it unreadable
        return handshake.judge(self._credentials.judge(der, depth, error))

    # Life.

    async def serve(self, task_status: trio.TaskStatus[DtlsHandshaker]) -> None:
        """Answer until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._endpoint.serve, self._present_context(), self.answer)
                self._udp.dtls = self
                task_status.started(self)
                while True:
                    await trio.sleep(RENEWAL_S)
                    self._present_context()
        finally:
            self._udp.dtls = None
            for channel, _ in [*self._channels.values(), *self._plain.values()]:
                self._send(channel.close(), channel.address)
            self._endpoint.close()


async def _cut_short(handshake: _Handshake, scope: trio.CancelScope) -> None:
    await handshake.ended.wait()
    await trio.sleep(ALERT_S)
    scope.cancel()


def _note_alert(connection: SSL.Connection, where: int, value: int) -> None:
    """OpenSSL tells what it does: of interest are the alerts that end a handshake."""
    handshake: _Handshake | None = connection.get_app_data()
    if handshake is None or value >> 8 != _FATAL:
        return
    if where & WRITE_ALERT == WRITE_ALERT:
        handshake.fail(_BY_ALERT.get(value & 0xFF, DtlsProblem.NOTHING_IN_COMMON))
    elif where & READ_ALERT == READ_ALERT:
        handshake.hear_alert(value & 0xFF)


def _refusal(handshake: _Handshake, *, is_ours: bool) -> HandshakeRefused:
    if handshake.problem is not None:
        return HandshakeRefused(handshake.problem)
    if handshake.alert is not None:
        words = _ALERT_WORDS.get(handshake.alert, f"alert {handshake.alert}")
        return HandshakeRefused(DtlsProblem.REFUSED_BY_PEER, words)
    return HandshakeRefused(DtlsProblem.UNANSWERED if is_ours else DtlsProblem.NOT_COMPLETED)


async def dtls_handshaker(
    ctx: Context,
    roster: Roster,
    credentials: Credentials,
    entropy: Callable[[int], bytes],
    past_drops: Counter[str],
    *,
    task_status: trio.TaskStatus[DtlsHandshaker],
) -> None:
    """Actor: DTLS over the node's UDP sockets. What it counted goes into `past_drops` at its end."""
    handshaker = DtlsHandshaker(ctx.sibling("udp").get(), roster, credentials, entropy, BoundedLog(ctx.log))
    try:
        await handshaker.serve(task_status)
    finally:
        past_drops.update(handshaker.drops)
