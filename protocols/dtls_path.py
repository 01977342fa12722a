"""How long a record of DTLS to one peer may be that the network is not to take apart, and what that means to those who send.

The size is searched as in sessions (`path_mtu`), with probes that are records of DTLS. What is longer than is known to pass, while
the search is under way or because its sender goes on, travels all the same: the network may take it apart.

Not responsible for sealing and sending, nor for programs that know no probes: to them everything may be taken apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from holloway.protocols.dtls_wire import OVERHEAD_BYTES, path_length, path_probe
from holloway.protocols.packets import Packet, SuperPacket, destination
from holloway.protocols.path_mtu import BASE_DATAGRAM_BYTES, PathMtu
from holloway.protocols.too_big import too_big
from holloway.protocols.tunnel import TOO_BIG_INTERVAL_S, clamped

if TYPE_CHECKING:
    from holloway.protocols.addresses import Address


class DtlsPath:
    """The path to one peer. Times are monotonic seconds. After every call that takes one but `fitted`, send what `probes` gives."""

    def __init__(self, mtu: int) -> None:
        """`mtu`: inner bytes of the longest packet."""
        self._mtu = mtu
        self._path = PathMtu(BASE_DATAGRAM_BYTES, mtu + OVERHEAD_BYTES)
        self._proven = 0
        """The longest datagram that has ever passed on this path."""
        self._aimed_at: Address | None = None
        self._too_big_at = -math.inf

    def __repr__(self) -> str:
        return f"<DtlsPath {self._path!r}>"

    @property
    def room(self) -> int:
        """Inner bytes of a datagram that is known to pass."""
        return self._path.size - OVERHEAD_BYTES

    def bears(self, datagrams: Sequence[bytes]) -> bool:
        """Whether all of them are known to pass."""
        return max(map(len, datagrams), default=0) <= self._path.size

    def connected(self, address: Address, now: float) -> None:
        """An association is up, and its peer is there."""
        self._aim(address, now)
        self._path.connected(now)

    def moved(self, address: Address, now: float) -> None:
        """The peer is somewhere else."""
        self._aim(address, now)

    def _aim(self, address: Address, now: float) -> None:
        if address != self._aimed_at:
            self._aimed_at, self._proven = address, 0
            self._path.path_changed(now)

    def sent(self, datagrams: Sequence[bytes], now: float) -> bool:
        """Datagrams with packets were sent. Whether that is a reason to ask for probes now."""
        return self._path.sent(max(map(len, datagrams), default=0), now)

    def heard(self, number: int, now: float) -> None:
        """The peer has got a probe, or says so."""
        self._path.acknowledged(*path_length(number), now)
        self._proven = max(self._proven, self._path.size)

    def probes(self, now: float) -> list[bytes]:
        """The texts of records that are due; each asks whether a datagram of its length arrives."""
        self._path.handle_timeout(now)
        texts = []
        while (probe := self._path.next_probe(now)) is not None:
            texts.append(path_probe(*probe))
        return texts

    def next_timeout(self) -> float:
        """When to ask for probes; infinite for never."""
        at = self._path.next_timeout()
        return math.inf if at is None else at

    def fitted(self, packets: Sequence[Packet], now: float) -> tuple[Sequence[Packet], list[Packet]]:
        """Packets of the host as they are to be sent, and what to tell the host of those that are too long."""
        if not self._is_narrow:
            return packets, []
        answers: list[Packet] = []
        for packet in packets:
            if now >= self._too_big_at and (long := self._too_long(packet)) is not None:
                answerer = destination(long)
                answer = None if answerer is None else too_big(long, self.room, answerer)
                if answer is not None:
                    self._too_big_at = now + TOO_BIG_INTERVAL_S
                    answers.append(answer)
        return [clamped(packet, self.room) for packet in packets], answers

    def _too_long(self, packet: Packet) -> bytes | None:
        """The packet, or the first of those that it stands for, if that does not fit."""
        if not isinstance(packet, SuperPacket):
            return packet if len(packet) > self.room else None
        layout = packet.layout
        if layout is None or layout.payload_at + packet.segment_size <= self.room:
            return None
        return next(iter(packet.segments()), None)

    def arrived(self, packets: list[Packet]) -> list[Packet]:
        """Packets for the host as it is to get them."""
        return [clamped(packet, self.room) for packet in packets] if self._is_narrow else packets

    @property
    def _is_narrow(self) -> bool:
        """Whether full packets are known not to pass. They are not while that is asked for the first time, nor while there is doubt."""
        path = self._path
        return self.room < self._mtu and (path.is_settled or (path.size < self._proven and not path.is_doubted))
