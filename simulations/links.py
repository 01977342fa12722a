"""The links between nodes, and what the faults of links do to each datagram.

Each direction of each pair has its own latency, and each fault on it its own dice: exactly one draw for each datagram while
the fault lasts, whatever the other faults do to that datagram. Not responsible for time passing, addresses or nodes.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from holloway.protocols.addresses import Address
from holloway.protocols.dtls_wire import PREFIX_BYTES, is_handshake
from holloway.protocols.suites import MessageType
from holloway.simulations.faults import Fault
from holloway.simulations.quantities import Value
from holloway.simulations.record_oracles import is_sparse
from holloway.simulations.streams import below, stream

RECORDED = 256
"""Datagrams of each sort that a listener keeps for replay; the oldest go first."""
_HALF = 1 << 32
_MAC2_BYTES = 16
_HANDSHAKES = (1, 2, 0x21, 0x22)
"""Message types that end in a mac2, which nobody looks at while there is no load."""


class Fate:
    """What becomes of one datagram: when each copy arrives, with which bytes, or why it is lost."""

    __slots__ = ("copies", "data", "delay_ns", "has_overtaken", "held_ns", "is_forged", "lost")

    def __init__(self, data: bytes, delay_ns: int) -> None:
        self.data = data
        self.delay_ns = delay_ns
        self.copies: list[int] = []
        """Further copies: how much later than the first each comes."""
        self.is_forged = False
        """Whether bytes were changed that somebody will look at."""
        self.held_ns = 0
        """How long it waits in a queue that the sparse lane passes by; a part of `delay_ns`."""
        self.has_overtaken = False
        """Whether it comes before one that was sent earlier, because it is of the sparse lane."""
        self.lost = ""
        """Why it does not arrive; empty when it does."""


class _Active:
    """A fault at work on one link: its dice, and until when its queue is busy."""

    __slots__ = ("act", "busy_ns", "dice", "phase_ns", "values")

    def __init__(self, fault: Fault, dice: random.Random) -> None:
        self.act = _ACTS[fault.kind]
        self.values = fault.values
        self.dice = dice
        self.busy_ns = 0
        self.phase_ns: int | None = None


class Link:
    """One direction between two nodes."""

    __slots__ = ("_active", "_generation", "_known", "_queue_ns", "destination", "latency_ns", "seed", "source")

    def __init__(self, seed: int, source: str, destination: str, latency_low_ns: int, latency_high_ns: int) -> None:
        self.seed, self.source, self.destination = seed, source, destination
        dice = stream(seed, "latency", source, destination)
        self.latency_ns = latency_low_ns + below(dice.getrandbits(64), latency_high_ns - latency_low_ns + 1)
        self._known: dict[str, _Active] = {}
        self._active: list[_Active] = []
        self._generation = -1
        self._queue_ns = 0  # when the last that waits leaves the queue

    def carry(self, datagram: bytes, now_ns: int, faults: ActiveFaults) -> Fate:
        """What becomes of a datagram that is put on this link now."""
        if self._generation != faults.generation:
            self._generation = faults.generation
            self._active = [self._at_work(each) for each in faults if each.touches(self.source, self.destination)]
        fate = Fate(datagram, self.latency_ns)
        for active in self._active:
            active.act(fate, active, active.dice.getrandbits(64), now_ns)
        if fate.held_ns or now_ns < self._queue_ns:
            self._hold_up(fate, now_ns)
        return fate

    def _hold_up(self, fate: Fate, now_ns: int) -> None:
        """There is a queue: nothing in it overtakes another, nor does what comes when the fault is over."""
        if is_sparse(fate.data):
            fate.held_ns, fate.has_overtaken = 0, now_ns < self._queue_ns
            return
        fate.held_ns = max(fate.held_ns, self._queue_ns - now_ns)
        fate.delay_ns += fate.held_ns
        self._queue_ns = now_ns + fate.held_ns

    def _at_work(self, fault: Fault) -> _Active:
        active = self._known.get(fault.name)
        if active is None:
            dice = stream(self.seed, fault.name, self.source, self.destination)
            active = self._known[fault.name] = _Active(fault, dice)
        return active


class ActiveFaults:
    """The faults of links that are at work, in the order of the plan. `generation` grows with every change."""

    def __init__(self, plan_order: Iterable[Fault]) -> None:
        self._order = tuple(plan_order)
        self._begun: dict[str, Fault] = {}
        self._faults: tuple[Fault, ...] = ()
        self.generation = 0

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._faults)

    def begin(self, fault: Fault) -> None:
        self._begun[fault.name] = fault
        self._change()

    def end(self, fault: Fault) -> None:
        self._begun.pop(fault.name, None)
        self._change()

    def _change(self) -> None:
        self._faults = tuple(self._begun[fault.name] for fault in self._order if fault.name in self._begun)
        self.generation += 1


@dataclass(frozen=True, slots=True)
class Overheard:
    """A datagram as it was put on the wire."""

    data: bytes
    source: Address
    destination: Address


class Listener:
    """Somebody on the wire who keeps what he hears, handshakes apart from the rest, and sends it again."""

    def __init__(self, fault: Fault, seed: int) -> None:
        self.fault = fault
        self._dice = stream(seed, fault.name, "listener")
        self._handshakes: deque[Overheard] = deque(maxlen=RECORDED)
        self._others: deque[Overheard] = deque(maxlen=RECORDED)

    def hear(self, sender: str, receiver: str, datagram: Overheard) -> None:
        if self.fault.touches(sender, receiver):
            (self._handshakes if _is_handshake(datagram.data) else self._others).append(datagram)

    def choose(self) -> tuple[Overheard, bool] | None:
        """An old datagram, and whether to send it from elsewhere; `None` before he has heard any. Takes two draws."""
        which, where = self._dice.getrandbits(64), self._dice.getrandbits(64)
        heard = self._handshakes if which & 1 and self._handshakes else self._others or self._handshakes
        if not heard:
            return None
        return heard[below(which, len(heard))], where < self.fault.values["elsewhere"] * (1 << 64)


def _is_handshake(datagram: bytes) -> bool:
    word = int.from_bytes(datagram[:4], "little")
    return is_handshake(datagram[PREFIX_BYTES:]) if word == MessageType.DTLS else word < 256


def _is_hit(bits: int, values: Mapping[str, Value]) -> bool:
    return bits % _HALF < values["probability"] * _HALF


def _loss(fate: Fate, active: _Active, bits: int, now_ns: int) -> None:
    if _is_hit(bits, active.values):
        fate.lost = fate.lost or "loss"


def _latency(fate: Fate, active: _Active, bits: int, now_ns: int) -> None:
    fate.delay_ns += int(active.values["extra"])


def _jitter(fate: Fate, active: _Active, bits: int, now_ns: int) -> None:
    fate.delay_ns += below(bits, int(active.values["spread"]) + 1)


def _duplicate(fate: Fate, active: _Active, bits: int, now_ns: int) -> None:
    if _is_hit(bits, active.values):
        fate.copies.append(below(bits, int(active.values["within"]) + 1))


def _reorder(fate: Fate, active: _Active, bits: int, now_ns: int) -> None:
    if _is_hit(bits, active.values):
        fate.delay_ns += int(active.values["delay"])


def _corrupt(fate: Fate, active: _Active, bits: int, now_ns: int) -> None:
    if not _is_hit(bits, active.values):
        return
    data = fate.data
    place, bit = divmod(below(bits, len(data) * 8), 8)
    is_handshake = int.from_bytes(data[:4], "little") in _HANDSHAKES
    fate.data = data[:place] + bytes((data[place] ^ 1 << bit,)) + data[place + 1 :]
    fate.is_forged = fate.is_forged or not (is_handshake and place >= len(data) - _MAC2_BYTES)


def _bandwidth(fate: Fate, active: _Active, bits: int, now_ns: int) -> None:
    waits_ns = max(0, active.busy_ns - now_ns)
    if waits_ns > active.values["queue"]:
        fate.lost = fate.lost or "bandwidth"
    else:
        takes_ns = len(fate.data) * 8 * 10**9 // int(active.values["rate"])
        active.busy_ns = now_ns + waits_ns + takes_ns
        fate.delay_ns += waits_ns + takes_ns


def _standing_queue(fate: Fate, active: _Active, bits: int, now_ns: int) -> None:
    """The queue grows and shrinks by turns, by half of the time that passes. The dice say only where it begins."""
    most = int(active.values["most"])
    if active.phase_ns is None:
        active.phase_ns = below(bits, 4 * most + 1)
    place_ns = (now_ns + active.phase_ns) % (4 * most + 1)
    fate.held_ns = max(fate.held_ns, min(place_ns, 4 * most - place_ns) // 2)


def _mtu_drop(fate: Fate, active: _Active, bits: int, now_ns: int) -> None:
    if len(fate.data) > active.values["limit"]:
        fate.lost = fate.lost or "mtu_drop"


def _partition(fate: Fate, active: _Active, bits: int, now_ns: int) -> None:
    fate.lost = fate.lost or "partition"


_ACTS: Mapping[str, Callable[[Fate, _Active, int, int], None]] = MappingProxyType(
    {
        "loss": _loss,
        "latency": _latency,
        "jitter": _jitter,
        "duplicate": _duplicate,
        "reorder": _reorder,
        "corrupt": _corrupt,
        "bandwidth": _bandwidth,
        "standing_queue": _standing_queue,
        "mtu_drop": _mtu_drop,
        "partition": _partition,
    }
)
