"""Somebody on the wire who hears datagrams and sends pieces of records of his own: with the header of a record under way,
which he can see, or with one that he guesses, and with garbage for a body.

He costs a peer the records that he foretold and no other, which is known here from what nodes sealed. Not responsible for
when he acts (`mishaps`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from struct import Struct
from typing import NamedTuple

from holloway.protocols.addresses import Address
from holloway.protocols.record_wire import HEADER_BYTES, MAX_DATAGRAMS, SPARSE_MARK, SPREAD_BITS
from holloway.simulations.faults import Fault
from holloway.simulations.inner_packets import serials
from holloway.simulations.links import Overheard
from holloway.simulations.streams import below, stream

RECENT = 64
"""Datagrams he remembers: those that may still be under way."""
MAX_AHEAD = 1 << 17
"""How far above a counter that he has heard he guesses: up to twice what a receiver would keep."""
_HEADER = Struct("<IHHQ")
_FIRST_INDEX = 256
_SPREAD_MASK = (1 << SPREAD_BITS) - 1
_MAX_BODY_BYTES = 1436


class Forged(NamedTuple):
    """A piece of his. `is_elsewhere`: to be sent from his own address, and not in the name of `source`."""

    data: bytes
    source: Address
    destination: Address
    is_elsewhere: bool


class Forger:
    """One of them. `foretell` is told of the counter of every piece that he sends in the name of a peer."""

    def __init__(self, fault: Fault, seed: int, foretell: Callable[[int], None]) -> None:
        self.fault = fault
        self._dice = stream(seed, fault.name, "forger")
        self._recent: deque[Overheard] = deque(maxlen=RECENT)
        self._foretell = foretell

    def hear(self, sender: str, receiver: str, datagram: Overheard) -> None:
        """A datagram is put on the wire."""
        is_record = int.from_bytes(datagram.data[:4], "little") >= _FIRST_INDEX and len(datagram.data) > HEADER_BYTES
        if is_record and self.fault.touches(sender, receiver):
            self._recent.append(datagram)

    def choose(self) -> Forged | None:
        """What he sends now; `None` before he has heard anything. Always takes five draws."""
        which, where, how, what, body = (self._dice.getrandbits(64) for _ in range(5))
        if not self._recent:
            return None
        # The newest are most likely under way still.
        heard = self._recent[max(below(which, len(self._recent)), below(body, len(self._recent)))]
        index, _, kind, word = _HEADER.unpack_from(heard.data)
        counter, count = word >> SPREAD_BITS, (word & _SPREAD_MASK) + 1
        size = len(heard.data) - HEADER_BYTES
        is_elsewhere = where < self.fault.values["elsewhere"] * (1 << 64)
        if how & 4 and kind & SPARSE_MARK:
            return self._altered(heard, how, what, is_elsewhere=is_elsewhere)
        if how & 1:
            counter += 1 + below(what, MAX_AHEAD)
        if how & 2 or count == 1:
            count, size = 2 + below(what << 32 & (1 << 64) - 1, MAX_DATAGRAMS - 1), 1 + below(body, _MAX_BODY_BYTES)
        number = below(what << 16 & (1 << 64) - 1, count)
        head = _HEADER.pack(index, number, kind, counter << SPREAD_BITS | count - 1)
        if not is_elsewhere and not kind & SPARSE_MARK:
            self._foretell(counter)
        return Forged(head + self._dice.randbytes(size), heard.source, heard.destination, is_elsewhere)

    def _altered(self, heard: Overheard, how: int, what: int, *, is_elsewhere: bool) -> Forged:
        """A datagram of the sparse lane with another counter, with other content, or put into the other lane. It costs nobody anything."""
        index, number, kind, word = _HEADER.unpack_from(heard.data)
        body = heard.data[HEADER_BYTES:]
        match how >> 3 & 3:
            case 0:
                word += 1 + below(what, MAX_AHEAD) << SPREAD_BITS
            case 1:
                kind ^= SPARSE_MARK
            case _:
                body = self._dice.randbytes(len(body))
        head = _HEADER.pack(index, number, kind, word)
        return Forged(head + body, heard.source, heard.destination, is_elsewhere)


class Foretold:
    """Which records somebody has forged pieces of, and which packets were in them: by the numbers of `record_oracles`."""

    def __init__(self) -> None:
        self._counters: dict[int, None] = {}
        self.records: dict[int, int] = {}
        """By the serial number of a packet, the record that it was sealed in."""

    def note_sealed(self, counter: int, plaintext: bytes) -> None:
        """A node has sealed a record."""
        for serial in serials(plaintext):
            self.records[serial] = counter

    def foretell(self, counter: int) -> None:
        """A forged piece of a record with this counter is sent in the name of a peer."""
        self._counters[counter] = None

    def unforetold(self, missing: Iterable[int]) -> tuple[int, ...]:
        """Those of these packets that no forged piece was about."""
        return tuple(serial for serial in missing if self.records.get(serial) not in self._counters)
