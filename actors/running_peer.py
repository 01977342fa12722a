"""What the other actors of a node ask of the actor of one peer, whichever back end it has (`peer_session`, `dtls_peer`).

Shapes only.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from holloway.actors.bulk_turns import InboundTurn, OutboundTurn
    from holloway.actors.calling import Callbook
    from holloway.actors.pinging import Pong
    from holloway.actors.wanted import Peer
    from holloway.protocols.addresses import Address
    from holloway.protocols.arrivals import Arrival
    from holloway.protocols.compression import Packing
    from holloway.protocols.events import DropReason
    from holloway.protocols.journal import Traffic
    from holloway.protocols.noise import OpenedInitiation
    from holloway.protocols.offers import Security
    from holloway.protocols.packets import Packet


class PeerLink(Protocol):
    """What is known of the way to a peer. Times are monotonic seconds."""

    @property
    def endpoint(self) -> Address | None: ...

    @property
    def epoch(self) -> int:
        """Number of the keys in use; 0 while there are none."""
        ...

    @property
    def handshakes_total(self) -> int: ...

    @property
    def last_handshake_at(self) -> float | None: ...

    @property
    def last_received_at(self) -> float | None: ...

    @property
    def round_trip_s(self) -> float | None: ...

    @property
    def received(self) -> Traffic: ...

    @property
    def transmitted(self) -> Traffic: ...

    @property
    def drops(self) -> Counter[DropReason]: ...


class Receiver(Protocol):
    """Whoever has receiver indices: what came for them, and calls that name him."""

    def offer_arrivals(self, arrivals: list[Arrival]) -> None:
        """Datagrams of the network. Their memory may be used again as soon as this returns."""
        ...

    def offer_arrival(self, arrival: Arrival) -> bool:
        """One datagram that came alone. False: nothing has happened, offer it with the others."""
        ...

    def begin_receiving(self) -> InboundTurn | None:
        """A turn for runs that may be records for this peer. None: offer them with the others."""
        ...

    def offer_initiation(self, opened: OpenedInitiation, source: Address) -> None:
        """A handshake of the session protocol that names this peer."""
        ...

    def offer_reset(self, token: bytes, source: Address) -> None:
        """A reset from a peer that has lost our session."""
        ...


class RunningPeer(Protocol):
    """The actor of one peer."""

    peer: Peer
    callbook: Callbook
    """Where it can be called."""
    drops: Counter[str]
    is_connected: bool
    """Whether the first handshake is complete."""

    @property
    def problem(self) -> str | None:
        """Why there is nothing to send with, when that is not because nobody answers."""
        ...

    @property
    def suite(self) -> str:
        """How packets are sealed."""
        ...

    @property
    def security(self) -> Security | None:
        """How what is sent is protected; None while there is nothing to send with."""
        ...

    @property
    def compression(self) -> str | None:
        """What may be compressed with, `none` included; None likewise."""
        ...

    @property
    def packing(self) -> Packing | None:
        """What compression came to; None where there is none."""
        ...

    @property
    def session(self) -> PeerLink: ...

    def offer_packets(self, packets: list[Packet]) -> None:
        """Packets of the host for this peer, at once."""
        ...

    def offer_lone(self, packet: bytes, *, is_sparse: bool = False, count: int = 1) -> bool:
        """One packet of the host for this peer, which came alone, or is of a flow that sends little; of these it may be `count` packets
        back to back. False: nothing has happened, offer it with the others.
        """
        ...

    def begin_sending(self) -> OutboundTurn | None:
        """A turn for super-packets of the host for this peer. None: offer them with the others."""
        ...

    def update(self, peer: Peer) -> None:
        """The same peer with other endpoints or prefixes."""
        ...

    def announce(self) -> None:
        """Let the peer hear from us, so that it learns where we are."""
        ...

    def rekey(self) -> None:
        """Agree on new keys now."""
        ...

    def health(self) -> str:
        """`ok`, `handshaking`, `stale` or `down`."""
        ...

    async def wait_connected(self) -> bool:
        """Wait until the first handshake is complete; False when the actor ended before."""
        ...

    async def ping(self, source: bytes, target: bytes, timeout_s: float) -> Pong | None:
        """Send an echo request into the tunnel; None when no answer came in time."""
        ...
