"""Finds the session of each datagram, and keeps strangers from costing us work.

Every datagram of a node passes `Demux.sort`. Transport datagrams, responses and cookie replies go to their session by
receiver index. Initiations must prove that they know our public key (mac1); under load also that they can receive at
their source address (mac2, by a cookie) and stay below a rate; then one Diffie-Hellman tells which peer they name. Not
responsible for what the session does with them, nor for sockets. Sources: WireGuard paper, section 5.3 and 5.4.7;
wireguard-go, device/receive.go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2s
from typing import Generic, TypeVar

from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival, lone
from holloway.protocols.cookies import COOKIE_REPLY_BYTES, MacChecker
from holloway.protocols.dtls_wire import MIN_DATAGRAM_BYTES
from holloway.protocols.errors import HandshakeFailed, LocalError
from holloway.protocols.events import DropReason
from holloway.protocols.indices import MAX_INDICES, IndexTable
from holloway.protocols.keyring import RETIRED_KEYS
from holloway.protocols.keys import StaticKey
from holloway.protocols.noise import OpenedInitiation, initiation_bytes, response_bytes
from holloway.protocols.ratelimit import RateLimiter
from holloway.protocols.suites import (
    AES_GCM,
    FIRST_RECEIVER_INDEX,
    PLAIN_DTLS_WORDS,
    TOKEN_BYTES,
    WIREGUARD,
    MessageType,
    Suite,
)
from holloway.protocols.transport import MIN_TRANSPORT_BYTES

Handle = TypeVar("Handle")

HANDSHAKES_UNDER_LOAD = 512
"""Handshake messages within `LOAD_WINDOW_S` beyond which cookies are asked for. Forged ones are 50 ms of work a second
then, true ones 200 ms; and a mesh of hundreds of nodes that starts at once does without cookies."""
HANDSHAKES_SWAMPED = 2560
"""Handshake messages within `LOAD_WINDOW_S` beyond which no cookie is made either: some 2000 cookies are 70 ms of work."""
LOAD_WINDOW_S = 1.0
RESET_BYTES = 4 + TOKEN_BYTES
INDICES_PER_PEER = RETIRED_KEYS + 4
"""Current, next and retired keys, an initiation under way, and one more while a next key replaces another."""
MAX_PEERS = MAX_INDICES // INDICES_PER_PEER
"""With no more peers than this, a session never lacks an index."""

_INITIATIONS: dict[int, Suite] = {suite.initiation: suite for suite in (AES_GCM, WIREGUARD)}
_RESPONSES: dict[int, Suite] = {suite.response: suite for suite in (AES_GCM, WIREGUARD)}
_LENGTHS: dict[int, int] = {
    **{kind: initiation_bytes(suite) for kind, suite in _INITIATIONS.items()},
    **{kind: response_bytes(suite) for kind, suite in _RESPONSES.items()},
    AES_GCM.cookie_reply: COOKIE_REPLY_BYTES,
    WIREGUARD.cookie_reply: COOKIE_REPLY_BYTES,
    MessageType.RESET: RESET_BYTES,
    MessageType.DTLS: MIN_DATAGRAM_BYTES,  # at least
}
_WIREGUARD_TRANSPORT = MessageType.WIREGUARD_TRANSPORT.value
_DTLS = MessageType.DTLS.value


class LoadMeter:
    """Whether handshake messages come faster than we like to work on them."""

    __slots__ = ("_count", "_loaded_until", "_window_at")

    def __init__(self) -> None:
        self._window_at = float("-inf")
        self._count = 0
        self._loaded_until = float("-inf")

    def note(self, now: float) -> bool:
        """Count one handshake message. Whether we are under load; that lasts one calm window more."""
        if now - self._window_at >= LOAD_WINDOW_S:
            self._window_at, self._count = now, 0
        self._count += 1
        if self._count > HANDSHAKES_UNDER_LOAD:
            self._loaded_until = now + LOAD_WINDOW_S
        return now < self._loaded_until

    @property
    def is_swamped(self) -> bool:
        """Whether there were so many in this window that even cookies are too much work."""
        return self._count > HANDSHAKES_SWAMPED


@dataclass(slots=True)
class Sorted(Generic[Handle]):
    """Where a batch of datagrams goes. `arrivals` keeps their order within one session; of a run in there all datagrams
    have the same receiver index.
    """

    arrivals: dict[Handle, list[Arrival]] = field(default_factory=dict)
    initiations: list[tuple[Handle, OpenedInitiation, Address]] = field(default_factory=list)
    resets: list[tuple[Handle, bytes, Address]] = field(default_factory=list)
    dtls: list[Arrival] = field(default_factory=list)
    """What belongs to DTLS: datagrams with what stands before it here (`dtls_wire`), each alone, or plain ones."""
    replies: list[tuple[bytes, Address]] = field(default_factory=list)
    """Cookie replies and resets for the network, each shorter than what it answers."""

    def absorb(self, later: Sorted[Handle]) -> None:
        """Add what was sorted after this."""
        for handle, arrivals in later.arrivals.items():
            self.arrivals.setdefault(handle, []).extend(arrivals)
        self.initiations += later.initiations
        self.resets += later.resets
        self.dtls += later.dtls
        self.replies += later.replies


class PeerLinks(Generic[Handle]):
    """The part of the tables that one session may use; fits `keyring.Links`.

    Knows what it holds, so that `unregister` gives everything back, and a session that outlives its registration cannot
    touch what has become another's.
    """

    __slots__ = ("_handle", "_held", "_indices", "_is_open", "_resets", "_tokens")

    def __init__(self, indices: IndexTable[Handle], resets: dict[bytes, Handle], handle: Handle) -> None:
        self._indices, self._resets, self._handle = indices, resets, handle
        self._held: set[int] = set()
        self._tokens: set[bytes] = set()
        self._is_open = True

    @property
    def handle(self) -> Handle:
        return self._handle

    def allocate(self) -> int:
        """A fresh receiver index. Raises `LocalError` when none is free, or the peer is not registered any more."""
        if not self._is_open:
            raise LocalError("no receiver index", "the peer is not registered any more")
        index = self._indices.allocate(self._handle)
        self._held.add(index)
        return index

    def release(self, index: int) -> None:
        if index in self._held:
            self._held.remove(index)
            self._indices.release(index)

    def token(self, index: int) -> bytes:
        """The reset token of `index`, 16 bytes."""
        return self._indices.token(index)

    def expect_reset(self, token: bytes) -> None:
        """Send a reset with `token` our way, unless another session expects it already."""
        if self._is_open and token not in self._resets:
            self._resets[token] = self._handle
            self._tokens.add(token)

    def forget_reset(self, token: bytes) -> None:
        if token in self._tokens:
            self._tokens.remove(token)
            del self._resets[token]

    def close(self) -> None:
        """Give back whatever is held."""
        self._is_open = False
        for index in list(self._held):
            self.release(index)
        for token in list(self._tokens):
            self.forget_reset(token)


class Demux(Generic[Handle]):
    """The tables of one node. `Handle` is whatever the caller uses to reach a session; it must be hashable."""

    def __init__(self, static: StaticKey, *, secret: bytes, entropy: Callable[[int], bytes]) -> None:
        """`secret`: 32 bytes derived from the private key and nothing else (`index_secret`), so resets outlive us."""
        self._static = static
        self._macs = MacChecker(static.public, entropy)
        self._indices: IndexTable[Handle] = IndexTable(secret, entropy)
        self.owner = self._indices.owner
        """The session that has a receiver index; None when nobody has. Not a call of Python."""
        self._resets: dict[bytes, Handle] = {}
        self._peers: dict[bytes, PeerLinks[Handle]] = {}
        self._load = LoadMeter()
        self._handshake_rate = RateLimiter()
        self._reset_rate = RateLimiter()
        self.drops: Counter[DropReason] = Counter()

    def __repr__(self) -> str:
        return f"<Demux {len(self._peers)} peers, {len(self._indices)} indices, {len(self._resets)} tokens>"

    def register(self, peer_public: bytes, handle: Handle) -> PeerLinks[Handle]:
        """Make a peer known. Raises `LocalError` if its key is known already or our own, or with `MAX_PEERS` known."""
        if peer_public == self._static.public:
            raise LocalError("a peer has our own public key", "a node is no peer of itself", "remove this peer")
        if peer_public in self._peers:
            raise LocalError("two peers have one public key", fix="give each peer a key pair of its own")
        if len(self._peers) >= MAX_PEERS:
            raise LocalError("too many peers", f"there are {MAX_PEERS} already", "spread the peers over more nodes")
        links = self._peers[peer_public] = PeerLinks(self._indices, self._resets, handle)
        return links

    def unregister(self, peer_public: bytes) -> None:
        """Forget a peer and everything its session holds. One that is not known is fine."""
        links = self._peers.pop(peer_public, None)
        if links is not None:
            links.close()

    def find(self, arrival: Arrival) -> Handle | None:
        """The session that a datagram of a record, or a run of them, is for. None for anything else: `sort` knows more."""
        _, data, stride, _ = arrival
        if stride < MIN_TRANSPORT_BYTES or (stride < len(data) and not _is_for_one(data, stride)):
            return None
        return self.owner(int.from_bytes(data[:4], "little"))  # no kind of message is an index of anybody's

    def glance(self, arrival: Arrival) -> Handle | None:
        """The session that the first datagram of a record names: enough for who will find out whether the others do."""
        return self.owner(int.from_bytes(arrival.data[:4], "little"))

    def sort(self, arrivals: Iterable[Arrival], now: float) -> Sorted[Handle]:
        """Sort one batch. Takes any bytes from anywhere; what has no place is counted in `drops`."""
        result: Sorted[Handle] = Sorted()
        owner, delivered = self._indices.owner, result.arrivals
        for arrival in arrivals:
            source, data, stride, _ = arrival
            if stride < len(data) and not _is_for_one(data, stride):
                result.absorb(self.sort([lone(datagram, source) for datagram in arrival.datagrams()], now))
                continue
            word = int.from_bytes(data[:4], "little")
            if word >= FIRST_RECEIVER_INDEX:
                handle = owner(word)
                if handle is None and word in PLAIN_DTLS_WORDS:
                    result.dtls.append(arrival)
                    continue
            elif word == _WIREGUARD_TRANSPORT:
                handle = owner(int.from_bytes(data[4:8], "little"))
            elif word == _DTLS and len(data) >= MIN_DATAGRAM_BYTES:
                result.dtls.append(arrival)
                continue
            else:
                for datagram in arrival.datagrams():
                    self._sort_handshake(word, datagram, source, now, result)
                continue
            if stride < MIN_TRANSPORT_BYTES:
                self.drops[DropReason.BAD_LENGTH] += arrival.datagram_count
            elif handle is None:
                self.drops[DropReason.UNKNOWN_INDEX] += arrival.datagram_count
                if word >= FIRST_RECEIVER_INDEX:
                    self._answer_stranger(word, source, now, result)
            elif handle in delivered:
                delivered[handle].append(arrival)
            else:
                delivered[handle] = [arrival]
        return result

    def _sort_handshake(self, word: int, data: bytes, source: Address, now: float, result: Sorted[Handle]) -> None:
        expected = _LENGTHS.get(word)
        if expected is None:
            self.drops[DropReason.UNKNOWN_TYPE if len(data) >= 4 else DropReason.BAD_LENGTH] += 1
        elif len(data) != expected:
            self.drops[DropReason.BAD_LENGTH] += 1
        elif (suite := _INITIATIONS.get(word)) is not None:
            if self._is_admitted(suite, data, source, now, result):
                self._open(suite, data, source, result)
        elif (suite := _RESPONSES.get(word)) is not None:
            if self._is_admitted(suite, data, source, now, result):
                self._deliver(int.from_bytes(data[8:12], "little"), data, source, result)
        elif word == MessageType.RESET:
            self._sort_reset(data[4:], source, result)
        else:
            self._deliver(int.from_bytes(data[4:8], "little"), data, source, result)

    def _sort_reset(self, token: bytes, source: Address, result: Sorted[Handle]) -> None:
        handle = self._resets.get(token)
        if handle is None:
            self.drops[DropReason.UNKNOWN_RESET] += 1
        else:
            result.resets.append((handle, token, source))

    def _deliver(self, index: int, data: bytes, source: Address, result: Sorted[Handle]) -> None:
        handle = self._indices.owner(index)
        if handle is None:
            self.drops[DropReason.UNKNOWN_INDEX] += 1
        else:
            result.arrivals.setdefault(handle, []).append(lone(data, source))

    def _is_admitted(self, suite: Suite, data: bytes, source: Address, now: float, result: Sorted[Handle]) -> bool:
        """Whether a handshake message of the right length is worth a Diffie-Hellman."""
        if not self._macs.is_mac1_valid(data):
            self.drops[DropReason.BAD_MAC1] += 1
            return False
        if not self._load.note(now):
            return True
        if not self._macs.is_mac2_valid(data, source, now):
            if self._load.is_swamped:
                self.drops[DropReason.RATE_LIMITED] += 1
                return False
            self.drops[DropReason.COOKIE_REQUIRED] += 1
            result.replies.append((self._macs.cookie_reply(suite.cookie_reply, data, source, now), source))
            return False
        if not self._handshake_rate.allow(source[0], now):
            self.drops[DropReason.RATE_LIMITED] += 1
            return False
        return True

    def _open(self, suite: Suite, data: bytes, source: Address, result: Sorted[Handle]) -> None:
        try:
            opened = OpenedInitiation(suite, self._static, data)
        except HandshakeFailed:
            self.drops[DropReason.NOT_FOR_US] += 1
            return
        links = self._peers.get(opened.peer_public)
        if links is None:
            self.drops[DropReason.UNKNOWN_PEER] += 1
        else:
            result.initiations.append((links.handle, opened, source))

    def _answer_stranger(self, index: int, source: Address, now: float, result: Sorted[Handle]) -> None:
        """Tell the peer of a session that we lost; but only for an index that we once gave out."""
        if self._indices.was_issued(index) and self._reset_rate.allow(source[0], now):
            result.replies.append((MessageType.RESET.to_bytes(4, "little") + self._indices.token(index), source))


def index_secret(private: bytes) -> bytes:
    """The secret of the index table: 32 bytes that only the holder of `private` can make, the same in every life."""
    return blake2s(b"holloway receiver indices", key=private).digest()


@lru_cache(maxsize=256)
def _repeated(byte: int, count: int) -> bytes:
    return bytes((byte,)) * count


def _is_for_one(data: bytes | memoryview, stride: int) -> bool:
    """Whether all datagrams of a run are transport datagrams of one kind for one receiver index.

    Of records the first and the last are looked at, and that those between are no handshakes: then they are for one index
    unless they come from several senders behind one address, or the network reordered the first ones under a new key. A
    session drops those that are not its own.
    """
    if stride < MIN_TRANSPORT_BYTES:
        return False
    word = int.from_bytes(data[:4], "little")
    last = (len(data) - 1) // stride * stride
    if word >= FIRST_RECEIVER_INDEX and data[3]:
        # As nearly always. The upper bytes of a type are zero: no handshake has this one.
        count = last // stride + 1
        return data[last : last + 4] == data[:4] and bytes(data[3::stride]) == _repeated(data[3], count)
    if word >= FIRST_RECEIVER_INDEX:
        places, length = range(4), 4
    elif word == _WIREGUARD_TRANSPORT:
        places, length = range(8), 8
    else:
        return False
    count = last // stride + 1
    return data[last : last + length] == data[:length] and all(
        bytes(data[place::stride]) == bytes(data[place : place + 1]) * count for place in places
    )
