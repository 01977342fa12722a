"""How long a datagram to one peer may be: path MTU discovery by probes, in the spirit of RFC 8899 (DPLPMTUD).

A *size* is the UDP payload of a datagram. `base` passes everywhere; `most` is what is wanted. A probe is a datagram of the
size in question that holds nothing but its number. Whoever gets it whole acknowledges it. Nothing else proves that a size
passes, and nothing but missing acknowledgements that it does not. ICMP, which anybody may forge, is not heard.

* **Search.** The first probe is of `most`, so that nearly always the full size is in use one round trip after the
  handshake. If it is too long, a binary search follows between what is known to pass and what is known not to, until less
  than `GAP_BYTES` lie between. A size is too long when `MAX_PROBES` in a row are lost although the peer answers: with each
  probe but the first goes one of `base`. Where nobody answers nothing is learned, and the search waits for traffic.
* **Raise.** Below `most`, the search begins anew after `RAISE_S`, when there is traffic.
* **Watch.** While datagrams above `base` are sent, the size in use is confirmed every `CONFIRM_S`; once one confirmation is
  overdue, every `SUSPECT_S`, and data goes in datagrams of `base` until one is confirmed. `MAX_CONFIRMATIONS` lost in a row
  are a black hole: the size is `base` for good, and the search begins with the size that was lost.

Where a path gets narrower, data passes again after CONFIRM_S and a timeout, 0.3 s of traffic with a round trip of up to
75 ms; a sender that waits twice as long each time is then not far into its waiting, also where a busy host makes round trips
long. It is known for a black hole within CONFIRM_S + 2 SUSPECT_S + 2 timeouts. A doubt costs nothing but shorter datagrams
for a round trip. Where p of the datagrams are lost at random, a confirmation fails with q = 1 - (1 - p)^2,
and a false alarm comes with a rate of q^4 (1 - q) / CONFIRM_S: for p = 5 %, once in 31 minutes of traffic. It costs a round
trip with datagrams of `base`, as the first probe after it is of the old size. Should that be lost, too, the next one follows
after a timeout. Three losses, one alarm in a thousand, leave the size up to `GAP_BYTES` smaller until the raise.

An idle session has no timers: what is under way ends by itself, and all else waits for `sent`.

Not responsible for sealing and sending, for whether a probe came in one datagram (it must not be acknowledged otherwise), nor
for what to tell those whose packets are too long (`too_big`, `mss`).
"""

from __future__ import annotations

from math import inf
from struct import Struct
from typing import NamedTuple

from holloway.protocols.errors import LocalError
from holloway.protocols.noise import TAG_BYTES
from holloway.protocols.packets import IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, UDP_HEADER_BYTES
from holloway.protocols.record_wire import HEADER_BYTES

BASE_DATAGRAM_BYTES = 1280 - IPV6_HEADER_BYTES - UDP_HEADER_BYTES
"""What passes everywhere: the IPv6 minimum MTU (RFC 8200, section 5) less headers. Also RFC 8899's BASE_PLPMTU of 1200."""
MAX_DATAGRAM_BYTES = 65_535 - IPV4_HEADER_BYTES - UDP_HEADER_BYTES
GAP_BYTES = 16
"""A search ends when it has come closer than this: about 1 % of a datagram is not worth more probes."""
MAX_PROBES = 3  # RFC 8899, section 5.1.2
MAX_CONFIRMATIONS = 4
"""One more than RFC 8899 takes: on a lossy path, a tenth of the false alarms."""
CONFIRM_S = 0.15
SUSPECT_S = 0.05
MIN_TIMEOUT_S = 0.15
MAX_TIMEOUT_S = 1.0
"""RFC 8899, section 5.1.1, never takes less. It does not hear acknowledgements that come late; here they heal all harm."""
ROUND_TRIPS = 2
"""Of them is a timeout. The round trip in question is the longest of late, so this leaves it room to double."""
RETRY_S = 1.0
"""How long a search pauses at least when nobody has answered."""
RAISE_S = 600.0  # RFC 8899, section 5.1.1: PMTU_RAISE_TIMER
PROBE_LIFETIME_S = 3.0
"""For how long an acknowledgement may come."""
MAX_IN_FLIGHT = 32
"""Probes remembered. The oldest is forgotten for a new one."""
ROUND_TRIP_MEMORY = 0.875
"""What a new measurement leaves of a longer round trip."""

_PROBE = Struct("<IH")
_OVERHEAD_BYTES = HEADER_BYTES + TAG_BYTES
MIN_DATAGRAM_BYTES = _OVERHEAD_BYTES + _PROBE.size
_MASK = 0xFFFF_FFFF
_COMMON_BYTES = tuple(
    mtu - header - UDP_HEADER_BYTES
    # Ethernet, PPPoE (RFC 2516), IP in IP (RFC 2003), WireGuard (wg-quick).
    for mtu in (1500, 1492, 1480, 1420)
    for header in (IPV4_HEADER_BYTES, IPV6_HEADER_BYTES)
)


class Probe(NamedTuple):
    """A datagram of `size` bytes that asks whether it passes. `number`: 32 bits, counts up."""

    number: int
    size: int

    def encode(self) -> bytes:
        """The plaintext of a record of kind `PROBE`: sealed in one datagram, it makes `size` bytes."""
        return _PROBE.pack(*self) + bytes(self.size - MIN_DATAGRAM_BYTES)

    @classmethod
    def parse(cls, plaintext: bytes) -> Probe | None:
        """The inverse of `encode`; None for anything else, such as a size that is not that of the datagram it makes."""
        if len(plaintext) < _PROBE.size:
            return None
        probe = cls(*_PROBE.unpack_from(plaintext))
        is_padded = plaintext.count(0, _PROBE.size) == len(plaintext) - _PROBE.size
        return probe if is_padded and probe.size == len(plaintext) + _OVERHEAD_BYTES else None


class ProbeAck(NamedTuple):
    """Says that a probe has arrived in one datagram."""

    number: int
    size: int

    def encode(self) -> bytes:
        """The plaintext of a record of kind `PROBE_ACK`: 6 bytes."""
        return _PROBE.pack(*self)

    @classmethod
    def parse(cls, plaintext: bytes) -> ProbeAck | None:
        """The inverse of `encode`; None for anything but 6 bytes."""
        return cls(*_PROBE.unpack(plaintext)) if len(plaintext) == _PROBE.size else None


class _InFlight(NamedTuple):
    size: int
    sent_at: float


class PathMtu:
    """The size of datagrams to one peer. Times are monotonic seconds, sizes bytes of UDP payload.

    After every call but `sent`, and after `sent` if it says so, take probes from `next_probe` until there are no more, and
    send each. Then look at `next_timeout`.
    """

    __slots__ = (
        "_bad",
        "_base",
        "_candidate",
        "_candidate_since",
        "_companion_at",
        "_confirm_at",
        "_confirm_on_traffic_at",
        "_confirmations",
        "_heard_at",
        "_in_flight",
        "_is_connected",
        "_is_suspect",
        "_judge_at",
        "_lost",
        "_lost_confirmations",
        "_most",
        "_next_number",
        "_probe_at",
        "_search_on_traffic_at",
        "_size",
        "_watched_since",
        "round_trip_s",
        "size",
    )

    def __init__(self, base: int, most: int) -> None:
        """Not connected, so without timers. When `most` is no more than `base`, the size is `most`, and nothing is probed.

        Raises `LocalError` when `base` is too small for a probe, or `most` is not 1 to `MAX_DATAGRAM_BYTES`.
        """
        if base < MIN_DATAGRAM_BYTES or not 1 <= most <= MAX_DATAGRAM_BYTES:
            raise LocalError("no path MTU discovery", f"from {base} to {most} bytes is not a range of datagrams")
        self._base = min(base, most)
        self._most = most
        self._size = self._base
        self.size = self._base
        """How long datagrams may be now: while there is doubt about the size in use, as long as passes everywhere."""
        self._is_connected = False
        self._next_number = 0
        self._in_flight: dict[int, _InFlight] = {}
        self._heard_at = -inf  # when the newest acknowledged probe was sent
        self.round_trip_s: float | None = None

        # The search. Of the next two times at most one is not `inf`.
        self._bad = most + 1
        self._candidate: int | None = None
        self._candidate_since = 0.0
        self._lost = 0
        self._probe_at = inf
        self._judge_at = inf
        self._companion_at = inf
        self._search_on_traffic_at = inf

        # The watch over the size in use.
        self._confirmations: dict[int, float] = {}  # number to when it is lost
        self._lost_confirmations = 0
        self._is_suspect = False
        self._watched_since = 0.0
        self._confirm_at = inf
        self._confirm_on_traffic_at = inf

    def __repr__(self) -> str:
        return f"<PathMtu {self._size} of {self._most}>"

    @property
    def is_doubted(self) -> bool:
        """Whether a confirmation of the size in use is overdue."""
        return self._is_suspect

    @property
    def is_settled(self) -> bool:
        """Whether no search is under way, and no doubt."""
        return self._candidate is None and not self._is_suspect

    @property
    def timeout_s(self) -> float:
        """When a probe without an acknowledgement is lost."""
        return min(max(MIN_TIMEOUT_S, ROUND_TRIPS * (self.round_trip_s or 0.0)), MAX_TIMEOUT_S)

    def connected(self, now: float) -> None:
        """A handshake is complete: there is a key to seal probes with. The first time, the search begins.

        Later, whatever had to wait for a key begins anew, as losses of that time mean nothing.
        """
        if not self._is_connected:
            self._is_connected = True
            self._search(now)
            return
        self._watch(now)
        if self._candidate is not None:
            self._try(self._candidate, now)

    def path_changed(self, now: float) -> None:
        """The peer is somewhere else now: back to `base`, and nothing is known."""
        self._in_flight.clear()
        self.round_trip_s = None
        self._size = self._base
        self._watch(now)
        if self._is_connected:
            self._search(now)

    def sent(self, largest: int, now: float) -> bool:
        """Datagrams were sent, the longest of `largest` bytes. True when that is a reason to ask for probes now."""
        is_due = False
        if now >= self._confirm_on_traffic_at and largest > self._base:
            self._confirm_at = now
            is_due = True
        if now >= self._search_on_traffic_at:
            if self._candidate is None:
                self._search(now)
            else:
                self._try(self._candidate, now)
            is_due = True
        return is_due

    def next_probe(self, now: float) -> Probe | None:
        """A probe to be sent now. It counts as sent."""
        if now >= self._probe_at and self._candidate is not None:
            self._probe_at = inf
            self._judge_at = now + self.timeout_s
            if self._lost:
                self._companion_at = now
            return self._launch(self._candidate, now)
        if now >= self._companion_at:
            self._companion_at = inf
            return self._launch(self._base, now)
        if now >= self._confirm_at:
            self._confirm_on_traffic_at = now + CONFIRM_S
            probe = self._launch(self._size, now)
            self._confirmations[probe.number] = now + self.timeout_s
            self._pace(now)
            return probe
        return None

    def acknowledged(self, number: int, size: int, now: float) -> bool:
        """The peer has got a probe. False, and nothing happens, when none such was sent within `PROBE_LIFETIME_S`."""
        probe = self._in_flight.get(number)
        if probe is None or probe.size != size or now - probe.sent_at > PROBE_LIFETIME_S:
            return False
        del self._in_flight[number]
        self._heard_at = max(self._heard_at, probe.sent_at)
        measured = now - probe.sent_at
        self.round_trip_s = max(measured, ROUND_TRIP_MEMORY * (self.round_trip_s or 0.0))
        if size > self._size:
            self._grow(size, now)
        elif size == self._size and probe.sent_at >= self._watched_since:
            self._confirmed(number, probe.sent_at)
        return True

    def next_timeout(self) -> float | None:
        """When to call `handle_timeout` and ask for probes; None while nothing is under way."""
        lost_at = next(iter(self._confirmations.values()), inf)
        at = min(self._probe_at, self._judge_at, self._companion_at, self._confirm_at, lost_at)
        return None if at == inf else at

    def handle_timeout(self, now: float) -> None:
        """Draw conclusions from what has not been acknowledged in time. Does nothing when called too early."""
        while self._confirmations:
            number, lost_at = next(iter(self._confirmations.items()))
            if now < lost_at:
                break
            del self._confirmations[number]
            self._lost_confirmations += 1
            self._is_suspect = True
            self.size = self._base
            if self._lost_confirmations >= MAX_CONFIRMATIONS:
                self._fall(now)
                return
            self._pace(now)
        if now >= self._judge_at:
            self._judge(now)

    def _launch(self, size: int, now: float) -> Probe:
        number = self._next_number
        self._next_number = (number + 1) & _MASK
        in_flight = self._in_flight
        if len(in_flight) >= MAX_IN_FLIGHT:
            del in_flight[next(iter(in_flight))]
        in_flight[number] = _InFlight(size, now)
        return Probe(number, size)

    def _search(self, now: float) -> None:
        """Find a size up to `most`, beginning with that."""
        self._bad = self._most + 1
        if self._most > self._base:
            self._try(self._most, now)

    def _try(self, candidate: int, now: float) -> None:
        self._candidate = candidate
        self._candidate_since = self._probe_at = now
        self._lost = 0
        self._judge_at = self._companion_at = self._search_on_traffic_at = inf

    def _narrow(self, now: float) -> None:
        """Something is known about the candidate: on to the next one, or done."""
        if self._bad - self._size >= GAP_BYTES:
            self._try(_between(self._size, self._bad), now)
            return
        self._candidate = None
        self._probe_at = self._judge_at = self._companion_at = inf
        self._search_on_traffic_at = now + RAISE_S if self._size < self._most else inf

    def _judge(self, now: float) -> None:
        """A probe of the candidate is lost."""
        self._judge_at = inf
        self._lost += 1
        if self._lost < MAX_PROBES:
            self._probe_at = now
        elif self._heard_at >= self._candidate_since:
            assert self._candidate is not None
            self._bad = self._candidate
            self._narrow(now)
        else:
            self._search_on_traffic_at = now + RETRY_S

    def _grow(self, size: int, now: float) -> None:
        self._size = size
        self._watch(now)
        if size >= self._bad:
            # It seemed too long because its acknowledgement came late; so what else was too long is not certain either.
            self._bad = self._most + 1
        self._narrow(now)

    def _watch(self, now: float) -> None:
        """Watch over the size from now on, which is another one or has another key."""
        self._confirmations.clear()
        self._lost_confirmations = 0
        self._is_suspect = False
        self.size = self._size
        self._watched_since = now
        self._confirm_at = inf
        self._confirm_on_traffic_at = now + CONFIRM_S if self._size > self._base else inf

    def _pace(self, now: float) -> None:
        """When the next confirmation is to be sent without traffic: while in doubt, until there are enough for a verdict."""
        is_enough = self._lost_confirmations + len(self._confirmations) >= MAX_CONFIRMATIONS
        last_at = self._confirm_on_traffic_at - CONFIRM_S
        self._confirm_at = max(now, last_at + SUSPECT_S) if self._is_suspect and not is_enough else inf

    def _confirmed(self, number: int, sent_at: float) -> None:
        """What was sent before is not lost in a row with what was sent later."""
        while number in self._confirmations:
            del self._confirmations[next(iter(self._confirmations))]
        self._lost_confirmations = 0
        self._is_suspect = False
        self.size = self._size
        self._watched_since = sent_at
        self._confirm_at = inf

    def _fall(self, now: float) -> None:
        """A black hole. Acknowledgements of what was sent before it do not prove anything any more."""
        since, lost = self._watched_since, self._size
        self._in_flight = {number: probe for number, probe in self._in_flight.items() if probe.sent_at >= since}
        self._size = self._base
        self._watch(now)
        self._try(lost, now)


def _between(good: int, bad: int) -> int:
    """Where to look next: a size that paths are known to have, if there is one near the middle."""
    middle = (good + bad) // 2
    nearest = min(_COMMON_BYTES, key=lambda size: abs(size - middle))
    return nearest if abs(nearest - middle) * 4 <= bad - good else middle
