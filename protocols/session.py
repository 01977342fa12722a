"""The session with one peer: when to shake hands, which key to use, where to send. WireGuard's rules, one machine.

How it works. A session seals under one key and opens under several (`keyring`), and beside them there may be one
initiation of ours under way (`handshakes`). The state is a summary of those facts, recomputed in one place (`_settle`),
and every move is checked against a table (`states`):

    IDLE ──dial──► INITIATING ──response──► ESTABLISHED ──dial──► REKEYING ──response──► ESTABLISHED
    IDLE ──answered──► CONFIRMING ──first datagram──► ESTABLISHED          any ──keys expired──► IDLE

What happens arms and disarms deadlines (`timers`), and a deadline does one of three things: it begins a handshake,
sends a keepalive or forgets something. While packets wait for a key there is always one ahead that will end their wait.

The object is pure. Time is the parameter `now`, in monotonic seconds that never go back; randomness, the wall clock for
TAI64N stamps and the receiver indices come in by the constructor. What a peer sends never raises: it is dropped for a
`DropReason`, counted in `drops`, and told by `next_event` (`journal`). Nothing leaves `runs_to_send` that is not
sealed or a handshake message. Not responsible for sockets, for finding the session of a datagram (`demux`) or for who
may use which inner address (`inspect`, given by the caller).

Sources: WireGuard paper, sections 5 and 6; wireguard-go, device/timers.go, for the order of its events. Where we differ
is listed in `docs/protocol.md`; the greatest difference: when both peers begin at once, both handshakes may complete,
and then the key of the one begun by the smaller public key is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import assert_never

from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.bulk import BulkLane
from holloway.protocols.dialling import Dialling
from holloway.protocols.events import DropReason, EndpointMoved, Event, HandshakeCompleted, KeyExpired, PeerForgotUs
from holloway.protocols.handshakes import Handshakes
from holloway.protocols.journal import DROP_EVENTS, EVENTS, Journal
from holloway.protocols.keyring import Keyring, Links
from holloway.protocols.noise import OpenedInitiation, initiation_bytes
from holloway.protocols.offers import Terms
from holloway.protocols.packets import Packet
from holloway.protocols.runs import Run, lone_run
from holloway.protocols.session_config import SessionConfig
from holloway.protocols.states import Standing, State
from holloway.protocols.suites import FIRST_RECEIVER_INDEX
from holloway.protocols.timers import Deadline, SessionTimers
from holloway.protocols.transport import TransportKeys
from holloway.protocols.tunnel import KEEPALIVE, Tunnel
from holloway.protocols.waiting import Waiting

__all__ = ["DROP_EVENTS", "EVENTS", "Session", "SessionConfig", "State"]


class Session(BulkLane):
    """One peer. See the head of this module for the whole picture."""

    def __init__(
        self,
        config: SessionConfig,
        *,
        links: Links,
        entropy: Callable[[int], bytes],
        wall_ns: Callable[[], int],
        now: float,
        endpoint: Address | None = None,
    ) -> None:
        """`entropy(n)` gives n random bytes, `wall_ns()` nanoseconds since 1970, `endpoint` where to call the peer.

        Raises `LocalError` for a key that is not 32 bytes, or a public key of low order.
        """
        self._config = config
        suite = self._suite = config.suite
        self._durations = config.timers
        self._timers = SessionTimers(config.timers, config.keepalive_s, entropy, now)
        self._handshakes = Handshakes(
            suite, config.static, config.peer_public, config.preshared, links=links, entropy=entropy, wall_ns=wall_ns
        )
        self._handshakes.terms = config.terms
        self._is_ours_preferred = config.static.public < config.peer_public
        self.endpoint = endpoint
        self._journal = Journal()
        self._ring = Keyring(suite, config.timers.reject_after_s, links, self._journal, config.memory, config.codec)
        self.events = self._journal.events
        self.drops, self.packing = self._journal.drops, self._journal.packing
        self._tunnel = Tunnel(config, self._ring, self._timers, self._journal)
        self.received = self._tunnel.received
        self.transmitted = self._tunnel.transmitted
        self._standing = Standing()
        self.transitions = self._standing.transitions
        self.handshakes_total = 0
        self.last_handshake_at: float | None = None
        self.last_received_at: float | None = None
        self.round_trip_s: float | None = None
        self._dialling = Dialling(self._handshakes, self._timers, config.timers, self._journal)
        self._staged = Waiting(config.memory, self._timers, self._journal)
        self.answers: list[tuple[bytes, Address]] = []
        self._waiting = self._staged.queue.packets

    def __repr__(self) -> str:
        return f"<Session {self._suite.name} {self.state.name} epoch {self.epoch}>"

    # What the session knows.

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._standing.state

    @property
    def epoch(self) -> int:
        """Number of the key in use, counted from 1 in this session; 0 while there is none."""
        return self._ring.current.epoch if self._ring.current else 0

    @property
    def terms(self) -> Terms | None:
        """What both sides are willing to under the key in use; `None` while there is none."""
        current = self._ring.current
        return current.terms if current else None

    @property
    def is_ready(self) -> bool:
        """Whether a packet handed in now would be sealed at once."""
        return self._ring.current is not None and not self._staged.queue.packets

    @property
    def is_silent(self) -> bool:
        """Whether the peer owes us an answer: to our data, or to an initiation that we had to repeat."""
        return self._timers.is_unanswered or self._dialling.is_repeated

    @property
    def staged(self) -> int:
        """Packets that wait for a key; a super-packet is one."""
        return len(self._staged)

    # Intents of the owner.

    def connect(self, now: float) -> None:
        """Begin a handshake unless one is under way or a key is in use. Without an endpoint, wait for one or a call."""
        self._standing.refuse_if_closed()
        if self._ring.current is None:
            self._dial(now)

    def rekey(self, now: float) -> None:
        """Agree on new keys now, at most once every `rekey_timeout_s`."""
        self._standing.refuse_if_closed()
        self._dial(now)

    def set_terms(self, terms: Terms, now: float) -> None:
        """What we are willing to from now on. What is agreed on stays until there is another key, which is asked for; except
        plain text: what we say waits for a key without it.

        Raises `LocalError` for terms that the session cannot keep.
        """
        self._standing.refuse_if_closed()
        self._config.refuse_terms(terms)
        if terms != self._handshakes.terms:
            has_keys = self._ring.current is not None or self._ring.next is not None
            self._handshakes.terms = terms
            if Terms.CLEAR not in terms:
                self._ring.retire_clear()
                self._settle()
            if has_keys:
                self._dial(now)

    def announce(self, now: float) -> None:
        """Send a keepalive, so that the peer learns where we are now; without a key, begin a handshake."""
        self._standing.refuse_if_closed()
        self._send_keepalive(now)

    def send(self, packets: Sequence[Packet], now: float) -> None:
        """Seal `packets`, or stage them until there is a key. Bounded: the oldest staged packets make room."""
        if len(packets) == 1 and (datagram := self.send_lone(packets[0], now)) is not None:
            self._tunnel.outbox.append(lone_run(datagram))
            return
        self._standing.refuse_if_closed()
        if not packets:
            return
        keys = self._ring.current
        if keys is not None and not self._staged and now < keys.expires_at and keys.can_seal(packets):
            self._transmit(keys, packets, now)
        else:
            self._staged.put(packets, now)
            self._dial(now)

    def set_endpoint(self, endpoint: Address) -> None:
        """Where to call the peer, from configuration or registry. An authenticated datagram may move it again.

        A handshake that waited for an endpoint is due at once: look at `next_timeout` afterwards.
        """
        self.endpoint = endpoint
        self._dialling.endpoint_found()

    def close(self) -> None:
        """Forget every key. Idempotent; staged packets count as dropped."""
        if self.state is State.CLOSED:
            return
        self._staged.discard(DropReason.CLOSED)
        self._dialling.close()
        self._ring.clear()
        self._tunnel.clear()
        self.answers.clear()
        self._timers.disarm_all()
        self._standing.move(State.CLOSED)

    # Inputs from the network.

    def receive(self, arrivals: Sequence[Arrival], now: float) -> None:
        """Responses, cookie replies and transport datagrams whose receiver index is ours, in order of arrival.

        The datagrams of a run are all for one receiver index.
        """
        if len(arrivals) == 1 and (packet := self.receive_lone(arrivals[0], now)) is not None:
            if packet:
                self._tunnel.inside.packets.append(packet)
            return
        if self.state is State.CLOSED:
            return
        ring, tunnel = self._ring, self._tunnel
        by_index, transport = ring.by_index, self._suite.transport
        is_heard = has_data = is_waiting = False
        for arrival in arrivals:
            source, data, _, _ = arrival
            word = int.from_bytes(data[:4], "little")
            if transport is None:
                keys = by_index.get(word)
            else:
                keys = by_index.get(int.from_bytes(data[4:8], "little")) if word == transport else None
            if keys is None:
                for datagram in arrival.datagrams():
                    self._receive_handshake(word, datagram, source, now)
                continue
            if now >= keys.expires_at:
                self._journal.drop(DropReason.KEY_EXPIRED, source, arrival.datagram_count)
                continue
            is_moved = source != self.endpoint
            newest = keys.newest if is_moved else 0
            records = keys.open(arrival, self.endpoint, now)
            is_waiting = is_waiting or keys.is_waiting
            if not records:
                continue
            is_heard = ring.hear(keys)
            if is_moved and keys.newest > newest and not ring.is_outdated(keys):  # what is late moves nothing back
                self._move_endpoint(source, now)
            if keys is ring.next:
                ring.confirm_next()
                self._handshakes.abandon()
                self._complete(now, None)
            has_data = tunnel.hear(records, source, now) or has_data
        if is_heard:
            self._note_received(now)
            if has_data:
                self._timers.data_received(now)
            if self._staged:
                self._flush_staged(now)
            self._refresh_on_receive(now)
        if is_waiting:
            tunnel.watch(now, may_report=is_heard)

    def receive_initiation(self, opened: OpenedInitiation, source: Address, now: float) -> None:
        """An initiation that names this peer; it is not yet authenticated.

        Authentic is not fresh: somebody may have kept the call of a peer that we have not heard since, and send it from
        elsewhere. So it is answered where it came from, and changes nothing else until the peer confirms.
        """
        if self.state is State.CLOSED:
            return
        answer = self._handshakes.answer(opened, now)
        if isinstance(answer, DropReason):
            self._journal.drop(answer, source)
            if answer is DropReason.REPLAYED_INITIATION:
                self._call_back(source, now)
            return
        message, derived = answer
        self._ring.add_next(derived, now)
        self._watch_expiry()
        self.received.bytes += initiation_bytes(self._suite)
        if self.endpoint is None:  # there is nothing to lose, and packets may be waiting to be sent anywhere
            self._move_endpoint(source, now)
        if source == self.endpoint:
            self._tunnel.queue([lone_run(message)], now)
        else:
            self.answers.append((message, source))
            self.transmitted.bytes += len(message)
        self._settle()

    def _call_back(self, source: Address, now: float) -> None:
        """An initiation is authentic and not fresh: somebody has kept it, or the peer's wall clock was set back over a
        restart, and then nothing it says will be fresh for as long. Only the peer itself can answer our own call, so call,
        there, too; where nobody answers, as much was sent as came. Not while the session works, or is about to.
        """
        is_working = self._ring.current is not None and not self.is_silent
        if is_working or self._ring.next is not None or not self._dialling.is_call_back_due(now):
            return
        self._dial(now)
        if source != self.endpoint and (message := self._dialling.call_back(now)) is not None:
            self.answers.append((message, source))
            self.transmitted.bytes += len(message)

    def receive_reset(self, token: bytes, source: Address, now: float) -> None:
        """The peer says that it does not know our current key any more: begin a handshake.

        The token came to us inside the handshake of that key. But a node may give out an index again in a later year,
        and its token with it, so a reset is a hint and no more: it takes no key away, and causes one handshake every
        `rekey_timeout_s` at the most.
        """
        if self.state is State.CLOSED:
            return
        keys = self._ring.current
        if keys is None or not token or keys.remote_token != token:
            self._journal.drop(DropReason.UNKNOWN_RESET, source)
            return
        if not self._dialling.is_reset(now):
            self._journal.drop(DropReason.RESET_FLOOD, source)
            return
        self._journal.tell(PeerForgotUs())
        self._dial(now, at_once=True)

    def handle_timeout(self, now: float) -> None:
        """Act on every deadline that is due. Early calls do nothing."""
        for deadline in self._timers.take_due(now):
            match deadline:
                case Deadline.KEY_EXPIRY:
                    self._expire_keys(now)
                case Deadline.RETRANSMIT_HANDSHAKE:
                    self._retransmit(now)
                case Deadline.DEFERRED_HANDSHAKE:
                    self._dial(now)
                case Deadline.NEW_HANDSHAKE:
                    self._timers.silence_noticed()
                    self._dial(now)
                case Deadline.SEND_KEEPALIVE:
                    is_another_owed = self._timers.owes_keepalive
                    self._send_keepalive(now)
                    if is_another_owed:
                        self._timers.data_received(now)
                case Deadline.PERSISTENT_KEEPALIVE:
                    self._timers.interval_elapsed(now)
                    self._send_keepalive(now)
                case Deadline.DISCARD_STAGED:
                    self._staged.discard(DropReason.HANDSHAKE_TIMEOUT)
                case Deadline.REPORT:
                    self._tunnel.watch(now)
                case Deadline.PATH:
                    self._tunnel.probe(now)
                case Deadline.PIECES_EXPIRY:
                    self._ring.expire_pieces(now)
                    self._tunnel.watch(now)
                case _:
                    assert_never(deadline)

    # Outputs.

    def runs_to_send(self) -> list[Run]:
        """Datagrams for `endpoint`, in order; they are taken. To be sent before any session of this node seals again."""
        return self._tunnel.take_runs()

    def answers_to_send(self) -> list[tuple[bytes, Address]]:
        """Answers to calls from elsewhere than `endpoint`, and where they go; they are taken."""
        answers, self.answers = self.answers, []
        return answers

    def packets_to_deliver(self) -> list[Packet]:
        """Inner packets from the peer that passed every check, in order; they are taken."""
        return self._tunnel.deliver()

    def next_event(self) -> Event | None:
        """The oldest unread event."""
        return self.events.popleft() if self.events else None

    def next_timeout(self) -> float | None:
        """When to call `handle_timeout`, in monotonic seconds, perhaps past; `None` while nothing is awaited."""
        return self._timers.earliest()

    # Sending.

    def _transmit(self, keys: TransportKeys, packets: Sequence[Packet], now: float) -> None:
        """Seal data packets under a key that may seal them."""
        self._tunnel.send(keys, packets, now)
        self._refresh_on_send(keys, now)

    def _refresh_on_send(self, keys: TransportKeys, now: float) -> None:
        durations = self._durations
        rekey_age_s = durations.rekey_after_s if keys.is_initiator else durations.rekey_as_responder_s
        if now - keys.created_at >= rekey_age_s or keys.is_worn:
            self._dial(now)

    def _send_keepalive(self, now: float) -> None:
        keys = self._ring.current
        if keys is not None and now < keys.expires_at and keys.can_seal(KEEPALIVE):
            self._tunnel.seal(keys, KEEPALIVE, now)
            self._refresh_on_send(keys, now)
        else:
            self._dial(now)

    def _flush_staged(self, now: float) -> bool:
        """Send what waited. Whether there was anything."""
        keys = self._ring.current
        if not self._staged or keys is None or now >= keys.expires_at or not keys.can_seal(self._staged.peek()):
            return False
        self._transmit(keys, self._staged.take(), now)
        return True

    # Handshakes.

    def _dial(self, now: float, *, at_once: bool = False) -> None:
        """Begin a handshake unless one is under way. One that is wanted too early, or without an endpoint, is kept."""
        self._initiate(self._dialling.begin(now, has_endpoint=self.endpoint is not None, at_once=at_once), now)

    def _retransmit(self, now: float) -> None:
        if self._dialling.is_exhausted(now):
            self._staged.discard(DropReason.HANDSHAKE_TIMEOUT)
            self._dialling.give_up()
            self._settle()
        else:
            self._initiate(self._dialling.repeat(now), now)

    def _initiate(self, message: bytes | None, now: float) -> None:
        if message is not None:
            self._tunnel.queue([lone_run(message)], now)
        self._settle()

    def _receive_handshake(self, word: int, data: bytes, source: Address, now: float) -> None:
        if word == self._suite.response:
            self._receive_response(data, source, now)
        elif word == self._suite.cookie_reply:
            if not self._handshakes.read_cookie_reply(data, now):
                self._journal.drop(DropReason.BAD_COOKIE, source)
        elif word == self._suite.transport or (self._suite.transport is None and word >= FIRST_RECEIVER_INDEX):
            self._journal.drop(DropReason.UNKNOWN_INDEX, source)
        else:
            self._journal.drop(DropReason.WRONG_SUITE, source)

    def _receive_response(self, data: bytes, source: Address, now: float) -> None:
        derived = self._handshakes.complete(data)
        if isinstance(derived, DropReason):
            self._journal.drop(derived, source)
            return
        initiated_at = self._handshakes.initiated_at
        rival = self._ring.next
        # We answered the peer while our own initiation was under way, so the peer may complete both handshakes, too.
        is_rival_preferred = rival is not None and rival.created_at >= initiated_at and not self._is_ours_preferred
        self._ring.add_current(derived, now, keep_next=is_rival_preferred)
        self._watch_expiry()
        self.round_trip_s = now - initiated_at
        if source != self.endpoint:
            self._move_endpoint(source, now)
        self.received.bytes += len(data)
        self._note_received(now)
        self._complete(now, self.round_trip_s)
        if not self._flush_staged(now):
            self._send_keepalive(now)  # the responder may not send before it has heard us under the new key

    def _complete(self, now: float, round_trip_s: float | None) -> None:
        """There is a new current key."""
        keys = self._ring.current
        assert keys is not None
        self.handshakes_total += 1
        self.last_handshake_at = now
        self._dialling.completed()
        self._timers.handshake_completed()
        self._journal.tell(HandshakeCompleted(keys.epoch, keys.is_initiator, round_trip_s, keys.terms))
        self._settle()
        self._tunnel.aim(self.endpoint, now)
        self._tunnel.connected(now)
        if self._handshakes.is_outdated(is_initiator=keys.is_initiator):
            self._dial(now)

    # Timers and bookkeeping.

    def _watch_expiry(self) -> None:
        earliest = self._ring.earliest_expiry()
        if earliest is not None:
            self._timers.key_expires(earliest)

    def _expire_keys(self, now: float) -> None:
        before = self._ring.current
        self._ring.expire(now)
        if before is not None and self._ring.current is None:
            self._journal.tell(KeyExpired(before.epoch))
        self._watch_expiry()
        self._settle()

    def _note_received(self, now: float) -> None:
        """An authentic datagram arrived."""
        self.last_received_at = now
        self._timers.any_received(now)

    def _refresh_on_receive(self, now: float) -> None:
        keys = self._ring.current
        if keys is not None and keys.is_initiator and now - keys.created_at >= self._durations.rekey_on_receive_s:
            self._dial(now)

    def _move_endpoint(self, source: Address, now: float) -> None:
        self._journal.tell(EndpointMoved(self.endpoint, source))
        self.set_endpoint(source)
        if self._ring.current is not None:
            self._tunnel.aim(source, now)

    def _settle(self) -> None:
        """Bring `state` in line with keys and handshakes."""
        ring = self._ring
        self._standing.settle(ring.current is not None, ring.next is not None, self._handshakes.is_under_way)
