"""Transport keys: sealing inner packets into datagrams and opening them again.

One `TransportKeys` is one key slot: both directions of one handshake, its counter and its replay window. The two
framings (bytes in `docs/protocol.md`):

* `wireguard`: one packet a datagram, zero-padded to 16 bytes (WireGuard paper, section 5.4.6).
* `aes-gcm`: one record a datagram, holding one or more whole packets back to back; the header is the nonce.

A counter is taken before anything is sealed with it and never given back, so no nonce is used twice under one key.
Not responsible for choosing a slot, for timers, or for what is inside a packet beyond its length.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag

from holloway.protocols.errors import KeyExhausted
from holloway.protocols.events import DropReason
from holloway.protocols.noise import TAG_BYTES, DerivedKeys
from holloway.protocols.packets import split_packets, total_length
from holloway.protocols.replay import ReplayWindow
from holloway.protocols.suites import MessageType, Suite

HEADER_BYTES = 16
MIN_TRANSPORT_BYTES = HEADER_BYTES + TAG_BYTES
PADDING_BYTES = 16
RECORD_DATA = 1
"""The only record kind so far: inner packets back to back, or nothing, which is a keepalive."""
SPREAD_BITS = 12
"""Low bits of the last header word: how a record spreads over datagrams, zero for a record in one datagram."""

_SPREAD_MASK = (1 << SPREAD_BITS) - 1
_WIREGUARD_TYPE = MessageType.WIREGUARD_TRANSPORT.value
_WIREGUARD_HEADER = struct.Struct("<IIQ")  # type, receiver index, counter
_RECORD_HEADER = struct.Struct("<IHHQ")  # receiver index, datagram number, kind, counter << 12 | spread
_WIREGUARD_NONCE = struct.Struct("<IQ")


class TransportKeys(ABC):
    """One key slot. `created_at` and `expires_at` in monotonic seconds; `epoch` counts a session's slots from 1."""

    __slots__ = (
        "_limit",
        "_receive",
        "_seal",
        "_sent",
        "_window",
        "created_at",
        "epoch",
        "expires_at",
        "is_initiator",
        "local_index",
        "remote_index",
        "remote_token",
    )

    def __init__(
        self,
        suite: Suite,
        derived: DerivedKeys,
        *,
        is_initiator: bool,
        created_at: float,
        expires_at: float,
        epoch: int,
    ) -> None:
        self._seal = suite.aead(derived.send)
        self._receive = suite.aead(derived.receive)
        self._window = ReplayWindow()
        self._limit = suite.reject_after_messages
        self._sent = 0
        self.local_index = derived.local_index
        self.remote_index = derived.remote_index
        self.remote_token = derived.remote_token
        self.is_initiator = is_initiator
        self.created_at = created_at
        self.expires_at = expires_at
        self.epoch = epoch

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

    def can_seal(self, count: int) -> bool:
        """Whether `count` more datagrams stay below the limit of the key."""
        return self._sent + count <= self._limit

    def _take_counters(self, count: int) -> int:
        """The first of `count` counters that are now ours alone."""
        first = self._sent
        if first + count > self._limit:
            raise KeyExhausted("a transport key is used up", f"it has sealed {first} of {self._limit} datagrams")
        self._sent = first + count
        return first

    @abstractmethod
    def seal(self, packets: Sequence[bytes], limit: int) -> list[bytes]:
        """Datagrams that carry `packets` in order; an empty packet is a keepalive. `limit`: inner bytes a datagram.

        A packet longer than `limit` gets a datagram of its own, for the network to judge. Raises `KeyExhausted` when
        the key has too few counters left, and seals nothing then; ask `can_seal` first.
        """

    @abstractmethod
    def open(self, datagram: bytes) -> list[bytes] | DropReason:
        """The packets of one datagram whose receiver index is ours (none for a keepalive), or why it is refused.

        The replay window moves only for an authentic datagram.
        """


class WireGuardKeys(TransportKeys):
    """Transport of the `wireguard` suite."""

    __slots__ = ()

    def seal(self, packets: Sequence[bytes], limit: int) -> list[bytes]:
        datagrams = []
        encrypt, receiver = self._seal.encrypt, self.remote_index
        for counter, packet in enumerate(packets, self._take_counters(len(packets))):
            # Padding must not make a packet longer than the MTU allows (wireguard-go, calculatePaddingSize).
            padding = min(-len(packet) % PADDING_BYTES, max(0, limit - len(packet)))
            sealed = encrypt(_WIREGUARD_NONCE.pack(0, counter), packet + bytes(padding) if padding else packet, None)
            datagrams.append(_WIREGUARD_HEADER.pack(_WIREGUARD_TYPE, receiver, counter) + sealed)
        return datagrams

    def open(self, datagram: bytes) -> list[bytes] | DropReason:
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
            return []
        length = total_length(plaintext)
        if not length:
            return DropReason.MALFORMED
        return [plaintext[:length]]


class RecordKeys(TransportKeys):
    """Transport of the `aes-gcm` suite."""

    __slots__ = ()

    def seal(self, packets: Sequence[bytes], limit: int) -> list[bytes]:
        records = _records(packets, limit)
        datagrams = []
        encrypt, receiver = self._seal.encrypt, self.remote_index
        for counter, record in enumerate(records, self._take_counters(len(records))):
            header = _RECORD_HEADER.pack(receiver, 0, RECORD_DATA, counter << SPREAD_BITS)
            datagrams.append(header + encrypt(header[4:], record, None))
        return datagrams

    def open(self, datagram: bytes) -> list[bytes] | DropReason:
        if len(datagram) < MIN_TRANSPORT_BYTES:
            return DropReason.BAD_LENGTH
        _receiver, number, kind, word = _RECORD_HEADER.unpack_from(datagram)
        counter = word >> SPREAD_BITS
        if number or kind != RECORD_DATA or word & _SPREAD_MASK:
            return DropReason.MALFORMED
        if counter >= self._limit:
            return DropReason.KEY_EXPIRED
        window = self._window
        if not window.is_new(counter):
            return DropReason.REPLAYED
        try:
            plaintext = self._receive.decrypt(datagram[4:16], datagram[16:], None)
        except InvalidTag:
            return DropReason.NOT_AUTHENTIC
        window.commit(counter)
        if len(plaintext) == total_length(plaintext):
            return [plaintext] if plaintext else []
        packets = split_packets(plaintext)
        return DropReason.MALFORMED if packets is None else packets


def _records(packets: Sequence[bytes], limit: int) -> list[bytes]:
    """The plaintexts of records that carry `packets` in order, as many in each as `limit` bytes hold.

    Only packets as long as they say they are share a record, because that length is where the receiver cuts.
    """
    records: list[bytes] = []
    shared: list[bytes] = []  # what the last record holds
    size = 0
    for packet in packets:
        length = len(packet)
        if (
            shared
            and size + length <= limit
            and total_length(packet) == length
            and (len(shared) > 1 or total_length(shared[0]) == size)
        ):
            shared.append(packet)
            size += length
        else:
            if len(shared) > 1:
                records[-1] = b"".join(shared)
            records.append(packet)
            shared, size = [packet], length
    if len(shared) > 1:
        records[-1] = b"".join(shared)
    return records


def framing(suite: Suite) -> type[WireGuardKeys | RecordKeys]:
    """The kind of key slot that `suite` uses."""
    return RecordKeys if suite.transport is None else WireGuardKeys
