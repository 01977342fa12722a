"""What a node says of the link to one peer over DTLS: the face that `status` looks at.

Not responsible for the link (`dtls_peer`).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from holloway.protocols.journal import Traffic

if TYPE_CHECKING:
    from holloway.actors.dtls_peer import DtlsPeer
    from holloway.protocols.addresses import Address
    from holloway.protocols.events import DropReason


class DtlsView:
    """What `status` shows of the link to one peer; has what it asks of a `Session`."""

    def __init__(self, peer: DtlsPeer, in_records: Traffic) -> None:
        """`in_records`: what is sent in records of DTLS."""
        self._peer, self.in_records = peer, in_records
        self.from_records = Traffic()

    @property
    def received(self) -> Traffic:
        exported = self._peer.exported
        return self.from_records if exported is None else _sum(self.from_records, exported.received)

    @property
    def transmitted(self) -> Traffic:
        exported = self._peer.exported
        return self.in_records if exported is None else _sum(self.in_records, exported.transmitted)

    @property
    def drops(self) -> Counter[DropReason]:
        """Those under exported keys; the others are in the peer's own."""
        return Counter() if self._peer.exported is None else self._peer.exported.drops

    @property
    def endpoint(self) -> Address | None:
        channel = self._peer.channel
        return self._peer.callbook.proven if channel is None else channel.address

    @property
    def epoch(self) -> int:
        return self._peer.link.epoch

    @property
    def handshakes_total(self) -> int:
        return self._peer.link.handshakes_total

    @property
    def last_handshake_at(self) -> float | None:
        return self._peer.link.last_handshake_at

    @property
    def last_received_at(self) -> float | None:
        return self._peer.link.last_heard_at

    @property
    def round_trip_s(self) -> float | None:
        return self._peer.link.round_trip_s


def _sum(one: Traffic, other: Traffic) -> Traffic:
    return Traffic(one.packets + other.packets, one.bytes + other.bytes)
