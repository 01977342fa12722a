"""The data of one peer under keys that its associations export, on the node's sockets; a peer may have none of it.

Not responsible for records of DTLS (`dtls_peer`), nor for when there are keys (`holloway.protocols.exported`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holloway.actors.dtls_channel import SecureChannel
    from holloway.actors.udp_endpoint import UdpEndpoint
    from holloway.protocols.addresses import Address
    from holloway.protocols.arrivals import Arrival
    from holloway.protocols.dtls_wire import LinkMessage
    from holloway.protocols.exported import ExportedSession
    from holloway.protocols.packets import Packet


class DtlsKeys:
    """See the head of this module. `session`: None where all data is in records of DTLS."""

    def __init__(self, session: ExportedSession | None, udp: UdpEndpoint) -> None:
        self.session, self._udp = session, udp

    @property
    def endpoint(self) -> Address | None:
        """Where the peer was heard last under the keys."""
        return None if self.session is None else self.session.endpoint

    # Keys, which belong to associations.

    def propose(self, channel: SecureChannel, now: float) -> bytes | None:
        """See `ExportedSession.propose`."""
        return None if self.session is None else self.session.propose(channel.number, now)

    def hear(self, kind: LinkMessage, index: int, channel: SecureChannel, now: float) -> bytes | None:
        """See `ExportedSession.hear`."""
        if self.session is None:
            return None
        self.session.aim(channel.address, now)
        return self.session.hear(kind, channel.number, index, channel.export, now, is_ours=channel.is_ours)

    def forget(self, number: int, *, is_last: bool) -> None:
        """An association is over; `is_last`: and there is no other."""
        if self.session is not None:
            self.session.forget(number)
            if is_last:
                self.session.clear()

    def clear(self) -> None:
        """Forget every key."""
        if self.session is not None:
            self.session.clear()

    # Data.

    def can_send(self, channel: SecureChannel, packets: Sequence[Packet], now: float) -> bool:
        """Whether there is a key of that association for these packets."""
        return self.session is not None and self.session.can_send(channel.number, packets, now)

    def send(self, channel: SecureChannel, packets: Sequence[Packet], now: float) -> None:
        """Send packets for which `can_send`."""
        assert self.session is not None
        self.session.aim(channel.address, now)
        self.session.send(packets, now)
        self.flush(channel)

    def receive(self, arrivals: Sequence[Arrival], channel: SecureChannel | None, now: float) -> set[int]:
        """Take in what came for the peer's receiver indices. The associations of which something authentic was among it."""
        if self.session is None:
            return set()
        if channel is not None:
            self.session.aim(channel.address, now)
        return self.session.receive(arrivals, now)

    def packets_to_deliver(self) -> list[Packet]:
        """Inner packets that passed every check."""
        return [] if self.session is None else self.session.packets_to_deliver()

    def flush(self, channel: SecureChannel | None) -> None:
        """Send what waits, to where the association in use leads; nowhere if there is none."""
        runs = [] if self.session is None else self.session.runs_to_send()
        if runs and channel is not None:
            self._udp.send_runs(runs, channel.address)

    # Time.

    def next_timeout(self) -> float:
        """When to call `handle_timeout`; infinite for never."""
        at = None if self.session is None else self.session.next_timeout()
        return inf if at is None else at

    def handle_timeout(self, channel: SecureChannel | None, now: float) -> None:
        """Do what is due, and send it."""
        if self.session is not None:
            self.session.handle_timeout(now)
            self.flush(channel)
