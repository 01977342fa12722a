"""Two nodes and the network between them in virtual time: a heap of deliveries, faults on request, oracles always.

Every node is a real `Demux` and a real `Session`; everything is determined by the seed. The safety oracles run on every
datagram and every packet: nothing delivered twice or altered, no plaintext on the wire, no nonce used twice under a
key, no table or queue above its bound. What a test adds is a story and what must have come of it.
"""

from __future__ import annotations

import heapq
import itertools
import random
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival, lone
from holloway.protocols.compression import Codec
from holloway.protocols.demux import INDICES_PER_PEER, Demux, index_secret
from holloway.protocols.errors import LocalError
from holloway.protocols.events import Event
from holloway.protocols.keys import StaticKey
from holloway.protocols.offers import SEALED, Terms
from holloway.protocols.packets import Packet, whole_packets
from holloway.protocols.record_wire import Record, RecordKind
from holloway.protocols.runs import flatten
from holloway.protocols.sealing import SealingBuffers, seal
from holloway.protocols.session import Session, SessionConfig, State
from holloway.protocols.staging import STAGED_BYTES, STAGED_PACKETS
from holloway.protocols.states import TRANSITIONS
from holloway.protocols.suites import AES_GCM, FIRST_RECEIVER_INDEX, WIREGUARD, Aead, MessageType, Suite
from holloway.protocols.timers import Timers
from holloway.protocols.transport import TransportKeys

MARKER = b"never in the clear"
LATENCY_S = 0.05
YEAR_2026_NS = 1_767_225_600_000_000_000
NAMES = {
    MessageType.WIREGUARD_INITIATION: "initiation",
    MessageType.INITIATION: "initiation",
    MessageType.WIREGUARD_RESPONSE: "response",
    MessageType.RESPONSE: "response",
    MessageType.WIREGUARD_COOKIE_REPLY: "cookie",
    MessageType.COOKIE_REPLY: "cookie",
    MessageType.RESET: "reset",
}


class NonceReused(AssertionError):
    """A cipher was given a nonce twice under one key."""


def watched(suite: Suite, used: set[tuple[bytes, bytes]]) -> Suite:
    """`suite` with a cipher that remembers every key and nonce it sealed with, and refuses a second time."""

    class Watched:
        def __init__(self, key: bytes) -> None:
            self._key, self._inner = key, suite.aead(key)

        def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
            if (self._key, nonce) in used:
                raise NonceReused(nonce.hex())
            used.add((self._key, nonce))
            return self._inner.encrypt(nonce, data, associated_data)

        def encrypt_into(self, nonce: bytes, data: bytes, associated_data: bytes | None, buf: memoryview) -> int:
            buf[:] = self.encrypt(nonce, data, associated_data)
            return len(buf)

        def decrypt(self, nonce: bytes, data: bytes | memoryview, associated_data: bytes | None) -> bytes:
            return self._inner.decrypt(nonce, data, associated_data)

        def decrypt_into(self, nonce: bytes, data: bytes, associated_data: bytes | None, buf: memoryview) -> int:
            return self._inner.decrypt_into(nonce, data, associated_data, buf)

    def make(key: bytes) -> Aead:
        return Watched(key)

    return replace(suite, aead=make)


def inner_packet(serial: int, size: int = 80) -> bytes:
    """A whole IPv4 packet of `size` bytes that tells its serial number and, from 46 bytes on, carries the marker."""
    payload = (struct.pack(">Q", serial) + MARKER).ljust(size - 20, b"\xa5")[: size - 20]
    return struct.pack(">BBHHHBBH", 0x45, 0, size, 0, 0, 64, 253, 0) + bytes((10, 0, 0, 1, 10, 0, 0, 2)) + payload


def name_of(datagram: bytes) -> str:
    word = int.from_bytes(datagram[:4], "little")
    if word >= FIRST_RECEIVER_INDEX and (kind := datagram[6]) >= RecordKind.REPORT:
        return RecordKind(kind).name.lower().replace("_", " ")
    return NAMES.get(word) or ("keepalive" if len(datagram) == 32 else "data")  # type: ignore[call-overload]


def sealed(keys: TransportKeys, packets: Sequence[Packet], room: int, now: float = 0.0) -> list[bytes]:
    """What `keys` seals, each datagram by itself."""
    return flatten(keys.seal(packets, room, now))


def sealed_record(cipher: Aead, receiver: int, counter: int, record: Record) -> list[bytes]:
    """The datagrams of one record."""
    return seal(cipher, receiver, counter, record, SealingBuffers()).datagrams()


class LinkTable:
    """Receiver indices and tokens of one session without a `Demux`; fails when something is given back twice."""

    def __init__(self, limit: int = 100) -> None:
        self.indices: set[int] = set()
        self.tokens: set[bytes] = set()
        self.limit = limit
        self._numbers = itertools.count(1000)

    def allocate(self) -> int:
        if len(self.indices) >= self.limit:
            raise LocalError("no receiver index is free")
        index = next(self._numbers)
        self.indices.add(index)
        return index

    def release(self, index: int) -> None:
        self.indices.remove(index)

    def token(self, index: int) -> bytes:
        return index.to_bytes(16, "big")

    def expect_reset(self, token: bytes) -> None:
        self.tokens.add(token)

    def forget_reset(self, token: bytes) -> None:
        self.tokens.remove(token)


@dataclass
class Node:
    name: str
    address: Address
    private: bytes
    endpoint: Address | None
    demux: Demux[str] = field(init=False)
    session: Session = field(init=False)
    events: list[Event] = field(default_factory=list)
    is_running: bool = True
    clock_offset_ns: int = 0
    lives: int = 0


@dataclass
class Network:
    """What happens to datagrams from now on. `cut` holds the names of nodes that nothing reaches; what is longer than
    `limit` is lost without a word; with `runs`, datagrams of one length that arrive at one moment from one source are one
    arrival, as with UDP GRO.
    """

    cut: set[str] = field(default_factory=set)
    limit: int = 65_507
    latency_s: float = LATENCY_S
    loss: float = 0.0
    duplicate: float = 0.0
    jitter_s: float = 0.0
    corrupt: float = 0.0
    runs: bool = False


RUN_DATAGRAMS = 64


def runs_of(datagrams: Sequence[tuple[bytes, Address]]) -> list[Arrival]:
    """Datagrams as a kernel joins them: of one source and one length, but for the last, which may be shorter."""
    runs: list[Arrival] = []
    parts: list[bytes] = []
    for datagram, source in datagrams:
        if parts and (
            source != runs[-1].source
            or not len(datagram) <= len(parts[0]) == len(parts[-1])
            or len(parts) == RUN_DATAGRAMS
        ):
            parts = []
        if parts:
            runs.pop()
        parts.append(datagram)
        runs.append(Arrival(source, memoryview(b"".join(parts)), len(parts[0])))
    return runs


class World:
    def __init__(
        self,
        suite: Suite = AES_GCM,
        *,
        seed: int = 0,
        timers: Timers | None = None,
        keepalive_s: float = 0.0,
        is_a_smaller: bool | None = None,
        b_knows_a: bool = True,
        terms: tuple[Terms, Terms] = (SEALED, SEALED),
        codec: Codec | None = None,
    ) -> None:
        """`terms`: what a and b are willing to."""
        self.random = random.Random(seed)
        self.used_nonces: set[tuple[bytes, bytes]] = set()
        self.plain_suite = suite
        self.suite = watched(suite, self.used_nonces)
        self.timers = timers or Timers()
        self.keepalive_s = keepalive_s
        self.now = 1000.0
        self.began_at = self.now
        self.network = Network()
        self.transcript: list[str] = []
        self.probes: list[str] = []
        self.captured: list[tuple[bytes, Address, Address]] = []
        self.sent: dict[int, bytes] = {}
        self.delivered: dict[str, dict[int, float]] = {"a": {}, "b": {}}
        self.segments_sent: Counter[bytes] = Counter()
        self.segments_delivered: dict[str, list[bytes]] = {"a": [], "b": []}
        self._times_delivered: Counter[bytes] = Counter()
        self._arrived: dict[str, list[tuple[bytes, Address]]] = {"a": [], "b": []}
        self.transitions: Counter[tuple[State, State]] = Counter()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        privates = [self.random.randbytes(32), self.random.randbytes(32)]
        if is_a_smaller is not None:
            privates.sort(key=lambda private: StaticKey(private).public, reverse=not is_a_smaller)
        a_at, b_at = ("192.0.2.1", 1001), ("192.0.2.2", 2001)
        self.a = Node("a", a_at, privates[0], b_at)
        self.b = Node("b", b_at, privates[1], a_at if b_knows_a else None)
        self.nodes = {"a": self.a, "b": self.b}
        self.terms = {"a": terms[0], "b": terms[1]}
        self.codec = codec
        for node in self.nodes.values():
            self._boot(node)

    # Lives.

    def peer(self, node: Node) -> Node:
        return self.b if node is self.a else self.a

    def _boot(self, node: Node) -> None:
        node.demux = Demux(StaticKey(node.private), secret=index_secret(node.private), entropy=self.random.randbytes)
        peer_public = StaticKey(self.peer(node).private).public
        node.session = Session(
            SessionConfig(
                suite=self.suite,
                static=StaticKey(node.private),
                peer_public=peer_public,
                preshared=b"p" * 32,
                timers=self.timers,
                keepalive_s=self.keepalive_s,
                terms=self.terms[node.name],
                codec=self.codec,
            ),
            links=node.demux.register(peer_public, node.name),
            entropy=self.random.randbytes,
            wall_ns=lambda: max(0, YEAR_2026_NS + int(self.now * 1e9) + node.clock_offset_ns),
            now=self.now,
            endpoint=node.endpoint,
        )
        node.is_running = True
        node.lives += 1

    def crash(self, node: Node) -> None:
        """All state is gone, nothing is said to anybody."""
        node.is_running = False

    def restart(self, node: Node) -> None:
        self.crash(node)
        self._boot(node)

    def roam(self, node: Node, address: Address | None = None) -> None:
        """From now on `node` sends from, and is reached at, another address."""
        host, port = node.address[0], node.address[1]
        node.address = address or (host, port + 1)

    # Doing.

    def send(self, node: Node, count: int = 1, size: int = 80) -> list[int]:
        """Hand `count` packets in; their serial numbers."""
        serials = list(range(len(self.sent), len(self.sent) + count))
        packets = [inner_packet(serial, size) for serial in serials]
        self.sent.update(zip(serials, packets, strict=True))
        self.do(node, lambda session: session.send(packets, self.now))
        return serials

    def send_segments(self, node: Node, packets: Sequence[Packet]) -> list[bytes]:
        """Hand in packets that are like no others, such as super-packets; what a kernel would see of them."""
        segments = whole_packets(packets)
        self.segments_sent.update(segments)
        self.do(node, lambda session: session.send(packets, self.now))
        return segments

    def do(self, node: Node, turn: Callable[[Session], None]) -> None:
        """One turn of a node's session, then whatever it wants sent and delivered."""
        if not node.is_running:
            return
        turn(node.session)
        self._flush(node)

    def _flush(self, node: Node) -> None:
        session = node.session
        for answer, source in session.answers_to_send():
            self.transmit(answer, node.address, source)
        datagrams = flatten(session.runs_to_send())
        assert not datagrams or session.endpoint is not None
        for datagram in datagrams:
            assert session.endpoint is not None
            self.transmit(datagram, node.address, session.endpoint)
        for packet in whole_packets(session.packets_to_deliver()):
            if packet in self.segments_sent:
                self.segments_delivered[node.name].append(packet)
                self._times_delivered[packet] += 1
                assert self._times_delivered[packet] <= self.segments_sent[packet], "a segment was delivered twice"
                continue
            (serial,) = struct.unpack_from(">Q", packet, 20)
            assert self.sent.get(serial) == packet, "a packet was altered or invented"
            assert serial not in self.delivered[node.name], f"packet {serial} was delivered twice"
            self.delivered[node.name][serial] = self.now
        while (event := session.next_event()) is not None:
            node.events.append(event)
        self._check_bounds(node)

    def _check_bounds(self, node: Node) -> None:
        session, demux = node.session, node.demux
        assert session.staged <= STAGED_PACKETS
        assert session._staged.held_bytes <= STAGED_BYTES
        assert all(keys.next_expiry() is None or session.next_timeout() for keys in session._ring.by_index.values())
        assert len(demux._indices) <= INDICES_PER_PEER
        assert len(demux._resets) <= INDICES_PER_PEER
        for (before, after), count in session.transitions.items():
            assert after in TRANSITIONS[before]
            self.transitions[before, after] = max(self.transitions[before, after], count)
        at = session.next_timeout()
        if session.staged:
            assert at is not None, "packets wait and nothing will end their wait"

    # The network.

    def transmit(self, datagram: bytes, source: Address, destination: Address) -> None:
        """Put a datagram on the wire, where the faults of the moment befall it."""
        if MARKER in datagram:
            assert Terms.CLEAR in self.terms["a"] & self.terms["b"], "plaintext on the wire"
        sender = next((node.name for node in self.nodes.values() if node.address == source), "?")
        target = next((node for node in self.nodes.values() if node.address == destination), None)
        self.captured.append((datagram, source, destination))
        rng, network = self.random, self.network
        is_lost = (
            target is None or target.name in network.cut or len(datagram) > network.limit or rng.random() < network.loss
        )
        lost = " (lost)" if is_lost else ""
        elapsed = int(self.now - self.began_at)
        line = f"{elapsed:3d} {sender}>{target.name if target else '?'} {name_of(datagram)}{lost}"
        # Stories are about sessions: what they find out about the path beside that is told apart.
        (self.probes if "probe" in line else self.transcript).append(line)
        if is_lost or target is None:
            return
        for _ in range(2 if rng.random() < network.duplicate else 1):
            copy = datagram
            if rng.random() < network.corrupt:
                place = rng.randrange(len(copy))
                copy = copy[:place] + bytes((copy[place] ^ 1 << rng.randrange(8),)) + copy[place + 1 :]
            delay = network.latency_s + rng.random() * network.jitter_s
            self.at(delay, lambda copy=copy: self.arrive(copy, source, destination))

    def arrive(self, datagram: bytes, source: Address, destination: Address) -> None:
        """A datagram reaches whoever has the address now."""
        for node in self.nodes.values():
            if node.address == destination and node.is_running:
                if not self.network.runs:
                    self._receive(node, [lone(datagram, source)])
                    return
                if not self._arrived[node.name]:
                    self.at(0.0, lambda node=node: self._receive_runs(node))  # type: ignore[misc]
                self._arrived[node.name].append((datagram, source))

    def _receive_runs(self, node: Node) -> None:
        arrived, self._arrived[node.name] = self._arrived[node.name], []
        if node.is_running:
            self._receive(node, runs_of(arrived))

    def _receive(self, node: Node, arrivals: list[Arrival]) -> None:
        found, session = node.demux.sort(arrivals, self.now), node.session
        for batch in found.arrivals.values():
            session.receive(batch, self.now)
        for _, opened, origin in found.initiations:
            session.receive_initiation(opened, origin, self.now)
        for _, token, origin in found.resets:
            session.receive_reset(token, origin, self.now)
        self._flush(node)
        for reply, origin in found.replies:
            assert len(reply) <= max(len(arrival.data) for arrival in arrivals), (
                "an answer to a stranger is longer than his question"
            )
            self.transmit(reply, node.address, origin)

    # Time.

    def at(self, delay_s: float, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._order, action))

    def _next_at(self) -> float | None:
        times = [self._heap[0][0]] if self._heap else []
        for node in self.nodes.values():
            at = node.session.next_timeout() if node.is_running else None
            if at is not None:
                times.append(at)
        return min(times, default=None)

    def run(self, duration_s: float) -> None:
        """Let the time pass, with everything that falls due in it."""
        end = self.now + duration_s
        turns = 0
        while (at := self._next_at()) is not None and at <= end:
            turns = turns + 1 if at <= self.now else 0
            assert turns < 10_000, "time stands still"
            self.now = max(self.now, at)
            if self._heap and self._heap[0][0] <= self.now:
                heapq.heappop(self._heap)[2]()
                continue
            for node in self.nodes.values():
                due = node.session.next_timeout() if node.is_running else None
                if due is not None and due <= self.now:
                    self.do(node, lambda session: session.handle_timeout(self.now))
        self.now = end

    def run_until_quiet(self, limit_s: float = 2000.0) -> None:
        """Let the time pass until nothing is awaited any more; fails when that does not happen."""
        end = self.now + limit_s
        while (at := self._next_at()) is not None:
            assert at <= end, "still awaiting something"
            self.run(max(0.0, at - self.now))

    # Asking.

    def establish(self) -> None:
        """A session in use on both sides."""
        self.do(self.a, lambda session: session.connect(self.now))
        self.run(1.0)
        assert self.a.session.state is State.ESTABLISHED
        assert self.b.session.state is State.ESTABLISHED

    def lost(self, serials: list[int], receiver: Node) -> list[int]:
        return [serial for serial in serials if serial not in self.delivered[receiver.name]]

    def is_through(self) -> bool:
        """Whether a packet of each side arrives within two round trips, with both sides sending."""
        there, back = self.send(self.a), self.send(self.b)
        self.run(4 * LATENCY_S)
        return not self.lost(there, self.b) and not self.lost(back, self.a)

    def seconds_to_talk(self, limit_s: float) -> float:
        """How long, with both sides sending twice a second, until both hear the other; fails at `limit_s`."""
        began = self.now
        while self.now - began <= limit_s:
            if self.is_through():
                return self.now - began
            self.run(0.5 - 4 * LATENCY_S)
        raise AssertionError(f"no packets both ways after {limit_s} s: {self.a.session} {self.b.session}")

    def lines(self, start: int = 0) -> str:
        """The transcript from line `start`."""
        return "\n".join(self.transcript[start:])


SUITE_LIST = [AES_GCM, WIREGUARD]
