"""Transport keys: sealing inner packets into datagrams and opening them again.

One `TransportKeys` is one key slot: both directions of one handshake, its counter and its replay window. Here is what both
suites have in common, and the framing of `wireguard`: one packet a datagram, zero-padded to 16 bytes (WireGuard paper,
section 5.4.6). The framing of `aes-gcm` is `record_keys`. Bytes: `docs/protocol.md`.

A counter is taken before anything is sealed with it and never given back, so no nonce is used twice under one key.
Not responsible for choosing a slot, for timers, or for what is inside a packet beyond its length.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from cryptography.exceptions import InvalidTag

from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.errors import KeyExhausted
from holloway.protocols.events import DropReason
from holloway.protocols.journal import Journal
from holloway.protocols.noise import TAG_BYTES, DerivedKeys
from holloway.protocols.packets import Packet, count_packets, total_length, whole_packets
from holloway.protocols.record_wire import HEADER_BYTES, RecordKind
from holloway.protocols.replay import ReplayWindow
from holloway.protocols.runs import Run, lone_run
from holloway.protocols.suites import MessageType, Suite

if TYPE_CHECKING:
    from holloway.protocols.record_turns import OpeningTurn, SealingTurn
    from holloway.protocols.tunnel import Tunnel

MIN_TRANSPORT_BYTES = HEADER_BYTES + TAG_BYTES
PADDING_BYTES = 16
MOST_COUNTERS = 1 << 20
"""No batch takes so many: a device gives 128 packets at once, of which none is cut into more than 8192."""

NOTHING = -1 << 64
"""Less than the number of anything that has arrived."""

_WIREGUARD_TYPE = MessageType.WIREGUARD_TRANSPORT.value
_WIREGUARD_HEADER = struct.Struct("<IIQ")  # type, receiver index, counter
_WIREGUARD_NONCE = struct.Struct("<IQ")


class Opened(NamedTuple):
    """An authentic record, seen for the first time: what it holds.

    `packets`: in order, none for a keepalive and for a record of another kind than packets. Those of kind `UNFINISHED` must
    go through `coalescing.coalesce(..., Checksums.GOOD)`. `size`: bytes of its datagrams. `plaintext`: of the other kinds.
    """

    kind: RecordKind
    packets: Sequence[Packet]
    size: int
    datagrams: int = 1
    plaintext: bytes = b""


class TransportKeys(ABC):
    """One key slot. `created_at` and `expires_at` in monotonic seconds; `epoch` counts a session's slots from 1."""

    __slots__ = (
        "_journal",
        "_limit",
        "_receive",
        "_seal",
        "_sent",
        "_suite",
        "_window",
        "created_at",
        "epoch",
        "expires_at",
        "heard_as",
        "is_initiator",
        "is_waiting",
        "local_index",
        "remote_index",
        "remote_token",
        "terms",
        "young_until",
    )

    def __init__(
        self,
        suite: Suite,
        derived: DerivedKeys,
        journal: Journal,
        *,
        is_initiator: bool,
        created_at: float,
        expires_at: float,
        epoch: int,
    ) -> None:
        """`journal` is told of everything that is dropped."""
        self._suite = suite
        self._seal = suite.aead(derived.send)
        self._receive = suite.aead(derived.receive)
        self._window = ReplayWindow()
        self._journal = journal
        self._limit = suite.reject_after_messages
        self._sent = 0
        self.local_index = derived.local_index
        self.remote_index = derived.remote_index
        self.remote_token = derived.remote_token
        self.terms = derived.terms
        self.is_initiator = is_initiator
        self.created_at = created_at
        self.expires_at = expires_at
        self.epoch = epoch
        self.heard_as = 0
        """See `Keyring.hear`."""
        self.young_until = 0.0
        """For `express`, which alone knows; 0 before it was asked."""
        self.is_waiting = False
        """Whether `report_due_at` or `next_expiry` may have something since its owner last took it back."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} epoch {self.epoch} index {self.local_index:#x} sent {self._sent}>"

    @property
    def sent(self) -> int:
        """How many counters are used up."""
        return self._sent

    @property
    def top(self) -> int:
        """The greatest counter received and authenticated, -1 before the first."""
        return self._window.top

    @property
    def newest(self) -> int:
        """What grows with each authentic datagram that was sealed after all those before it; `NOTHING` before the first."""
        return self._window.top if self._window.top >= 0 else NOTHING

    @property
    def is_worn(self) -> bool:
        """Whether so much was sealed that a successor is due."""
        return self._sent >= self._suite.rekey_after_messages

    def can_seal(self, packets: Sequence[Packet]) -> bool:
        """Whether `packets` stay below the limits of the key."""
        return self._sent < self._limit - MOST_COUNTERS or self._sent + count_packets(packets) <= self._limit

    def _take_counters(self, count: int) -> int:
        """The first of `count` counters that are now ours alone, counted from 0."""
        first = self._sent
        if first + count > self._limit:
            raise KeyExhausted("a transport key is used up", f"it has sealed {first} of {self._limit} records")
        self._sent = first + count
        return first

    @abstractmethod
    def seal(self, packets: Sequence[Packet], room: int, now: float) -> list[Run]:
        """Datagrams that carry `packets` in order; an empty packet is a keepalive. `room`: inner bytes a datagram.

        Malformed super-packets are dropped. Raises `KeyExhausted` when the key has too few counters left, and seals
        nothing then; ask `can_seal` first.
        """

    @abstractmethod
    def open(self, arrival: Arrival, home: Address | None, now: float) -> list[Opened]:
        """The records in datagrams whose receiver index is ours. What is refused, or waits for the rest of its record, is
        not among them. `home`: where the peer is authenticated at. The replay window moves for an authentic record only.
        """

    # What only records have.

    def seal_lone(self, packet: bytes) -> bytes | None:
        """One short packet in a datagram; None, and nothing happens, when that takes the general way."""
        return None

    def seal_sparse(self, packet: bytes) -> bytes | None:
        """The same for packets back to back of flows that send little: the datagram may overtake all others, and nothing is lost by that."""
        return None

    def open_lone(self, data: bytes | memoryview, now: float) -> bytes | None:
        """The plaintext of one datagram that is a whole record of packets; None, and nothing happens, when that takes the
        general way.

        Raises `InvalidTag` when it is forged.
        """
        return None

    def sealing_turn(self, room: int, now: float, *, is_narrow: bool) -> SealingTurn | None:
        """For super-packets in records of several datagrams, while nothing else is sealed; None when they take the general way.
        `is_narrow`: what begins a connection takes that anyway.
        """
        return None

    def opening_turn(self, tunnel: Tunnel, home: Address, now: float) -> OpeningTurn | None:
        """For runs that are whole records of super-packets, while nothing else is opened; None when they take the general way. See
        `OpeningTurn`.
        """
        return None

    @property
    def report_due_at(self) -> float | None:
        """When `seal_report` is to be called next; None while the peer needs to hear nothing."""
        return None

    def seal_report(self, now: float) -> list[Run]:
        """Datagrams that tell the peer how its own have arrived."""
        return []

    @abstractmethod
    def next_expiry(self) -> float | None:
        """When `expire` has something to do; None while nothing waits here."""

    @abstractmethod
    def expire(self, now: float) -> None:
        """Drop what has waited too long for the rest of its record."""

    @abstractmethod
    def forget(self) -> None:
        """Drop everything that waits: the key is used no more."""


class WireGuardKeys(TransportKeys):
    """Transport of the `wireguard` suite."""

    __slots__ = ()

    def seal(self, packets: Sequence[Packet], room: int, now: float) -> list[Run]:
        """See `TransportKeys`. A packet longer than `room` gets a datagram all the same, for the network to judge."""
        whole: list[bytes] = []
        for packet in packets:
            segments = whole_packets((packet,))
            self._journal.drop(DropReason.MALFORMED, None, 0 if segments else 1)
            whole += segments
        runs = []
        encrypt, receiver = self._seal.encrypt, self.remote_index
        for counter, packet in enumerate(whole, self._take_counters(len(whole))):
            # Padding must not make a packet longer than the MTU allows (wireguard-go, calculatePaddingSize).
            padding = min(-len(packet) % PADDING_BYTES, max(0, room - len(packet)))
            sealed = encrypt(_WIREGUARD_NONCE.pack(0, counter), packet + bytes(padding) if padding else packet, None)
            runs.append(lone_run(_WIREGUARD_HEADER.pack(_WIREGUARD_TYPE, receiver, counter) + sealed))
        return runs

    def open(self, arrival: Arrival, home: Address | None, now: float) -> list[Opened]:
        """See `TransportKeys`."""
        opened: list[Opened] = []
        for datagram in arrival.datagrams():
            record = self._open(datagram, arrival.source)
            if isinstance(record, Opened):
                opened.append(record)
            else:
                self._journal.drop(record, arrival.source)
        return opened

    def _open(self, datagram: bytes, source: Address) -> Opened | DropReason:
        if len(datagram) < MIN_TRANSPORT_BYTES:
            return DropReason.BAD_LENGTH
        counter = int.from_bytes(datagram[8:16], "little")
        if counter >= self._limit:
            return DropReason.KEY_EXPIRED
        window = self._window
        if not window.is_new(counter):
            return DropReason.REPLAYED
        try:
            plaintext = self._receive.decrypt(bytes(4) + datagram[8:16], datagram[16:], None)
        except InvalidTag:
            return DropReason.NOT_AUTHENTIC
        window.commit(counter)
        if not plaintext:
            return Opened(RecordKind.PACKETS, (), len(datagram))
        length = total_length(plaintext)
        if not length:
            self._journal.drop(DropReason.MALFORMED, source)
            return Opened(RecordKind.PACKETS, (), len(datagram))
        return Opened(RecordKind.PACKETS, (plaintext[:length],), len(datagram))

    def next_expiry(self) -> None:
        """See `TransportKeys`. Nothing ever waits: every datagram is whole."""

    def expire(self, now: float) -> None:
        """See `TransportKeys`."""

    def forget(self) -> None:
        """See `TransportKeys`."""
