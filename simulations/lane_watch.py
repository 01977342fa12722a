"""What becomes of each datagram and of each record, for the promises about the two lanes (`lane_oracles`).

It looks only where a plan asks for one of them: it remembers every datagram of a run. Not responsible for the promises.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from holloway.protocols.addresses import Address
from holloway.protocols.events import DropReason, EndpointMoved
from holloway.protocols.record_wire import KIND_BITS, SPARSE_MARK, RecordKind
from holloway.protocols.session import Session
from holloway.simulations.lane_oracles import LANES_EVENTUALLY, Lanes
from holloway.simulations.record_oracles import has_pieces, lost_by_key, record_of, reports_refused

if TYPE_CHECKING:
    from holloway.simulations.plan import Plan
    from holloway.simulations.world import Host

_REPORT = RecordKind.REPORT.value


class LaneWatch:
    """Of one world. `reach` is the world's."""

    def __init__(self, plan: Plan, reach: Callable[[str], None]) -> None:
        self.is_on = any(name in LANES_EVENTUALLY for name in plan.eventually)
        self._reach = reach
        self._lost: dict[int, None] = {}
        """Records of which a datagram was lost."""
        self._lost_of: defaultdict[int, dict[int, None]] = defaultdict(dict)
        """Of the first lane, by receiver index, with those that somebody has forged pieces of."""
        self._sent: dict[int, tuple[int, str]] = {}
        """Records of the first lane: the receiver index of each, and who has sent it."""
        self._foretold: dict[int, None] = {}
        self._begun_at = 0
        self._arrived: dict[bytes, None] = {}
        self._begun: dict[int, None] = {}
        """Records of which a datagram has come."""
        self._heard: dict[int, None] = {}
        """Receiver indices that a datagram has come for."""
        self._repeated = 0
        self._lost_untruly: list[str] = []
        self._moved_back: list[str] = []

    def begin(self, first: int) -> None:
        """From packet `first` on there are keys, so that nothing has to wait for them."""
        self._begun_at = first

    def sent(self, host: Host, datagram: bytes) -> None:
        """A node puts a datagram on the wire."""
        record = record_of(datagram)
        if record is None:
            return
        if record[0] & SPARSE_MARK:
            self._reach("packet_went_sparse")
        elif self.is_on:
            index = int.from_bytes(datagram[:4], "little")
            self._sent[record[1]] = index, host.name
            if record[1] in self._foretold:
                self._lost_of[index][record[1]] = None
        if self.is_on and record[0] & KIND_BITS == _REPORT:
            for peer, session in host.sessions().items():
                self._look_at_losses(host.name, peer, session)

    def _look_at_losses(self, name: str, peer: str, session: Session) -> None:
        for index, count in lost_by_key(session).items():
            if count > len(self._lost_of[index]):
                lost = len(self._lost_of[index])
                self._lost_untruly.append(f"{name} tells {peer} of {count} lost records, {lost} were")
        if reports_refused(session):
            self._lost_untruly.append(f"{name} does not believe what {peer} tells of how records arrive")

    def lost(self, datagram: bytes) -> None:
        """A datagram will not arrive, or in vain."""
        if not self.is_on or (record := record_of(datagram)) is None or record[1] in self._lost:
            return
        kind, number = record
        self._lost[number] = None
        if not kind & SPARSE_MARK:
            self._lost_of[int.from_bytes(datagram[:4], "little")][number] = None

    def foretold(self, number: int) -> None:
        """Somebody forges a piece of a record, in the name of a peer."""
        self._foretold[number] = None
        if number in self._sent:
            self._lost_of[self._sent[number][0]][number] = None

    def arrived(self, host: Host, datagram: bytes, source: Address, *, is_forged: bool) -> None:
        """A datagram reaches a node."""
        if not self.is_on or (record := record_of(datagram)) is None:
            return
        self._repeated += datagram in self._arrived or (is_forged and record[1] in self._begun)
        if is_forged:
            return
        self._arrived[datagram] = None
        self._begun[record[1]] = None
        if record[1] in self._sent and has_pieces(datagram):
            session = host.sessions().get(self._sent[record[1]][1])
            if session is not None and session.endpoint != source:
                self.lost(datagram)  # nobody collects pieces from where he has not heard his peer
        index = int.from_bytes(datagram[:4], "little")
        if index not in self._heard:
            self._heard[index] = None
            if record[0] & SPARSE_MARK:
                self._reach("key_began_sparse")

    def moved(self, name: str, peer: Host, event: EndpointMoved) -> None:
        """A session of the node `name` follows `peer`."""
        if event.old == peer.public != event.new:
            self._moved_back.append(f"{name} left {event.old}, where {peer.name} is, for {event.new}")

    def judge(
        self, unaccounted: Iterable[int], records: Mapping[int, int], before: int, sessions: Iterable[Session]
    ) -> Lanes:
        """How things stand. `unaccounted`: packets that have not come out, and were in no record that somebody foretold;
        `records`: by packet, its record; `before`: datagrams refused as replayed in lives that are over.
        """
        return Lanes(
            unaccounted=tuple(
                each for each in unaccounted if each >= self._begun_at and records.get(each) not in self._lost
            ),
            repeated=self._repeated,
            replayed=before + sum(each.drops.get(DropReason.REPLAYED, 0) for each in sessions),
            lost_untruly=tuple(self._lost_untruly),
            moved_back=tuple(self._moved_back),
        )
