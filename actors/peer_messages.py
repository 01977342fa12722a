"""What is offered to the actor of a peer: the messages that may wait in its inbox, what they take there, and what is lost with them.

Not responsible for the inbox itself, nor for what follows from a message (`peer_session`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.memory import arrivals_cost, packets_cost
from holloway.protocols.noise import OpenedInitiation
from holloway.protocols.packets import Packet, count_packets


@dataclass(slots=True)  # not frozen: one is made for every turn
class Outbound:
    """Seal these packets for the peer."""

    packets: list[Packet]


@dataclass(slots=True)
class Inbound:
    """Open these datagrams from the peer."""

    arrivals: list[Arrival]


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer this initiation."""

    opened: OpenedInitiation
    source: Address


@dataclass(frozen=True, slots=True)
class Restart:
    """Begin again: the peer has lost our session and proves it with this token."""

    token: bytes
    source: Address


Message: TypeAlias = Outbound | Inbound | Answer | Restart


def cost(message: Message) -> int:
    """What it takes to keep it. Calls hold no datagrams and are free, so that nothing keeps a peer from calling; they are
    bounded by their number, and by what `demux` lets through.
    """
    match message:
        case Outbound(packets):
            return packets_cost(packets)
        case Inbound(arrivals):
            return arrivals_cost(arrivals)
        case _:
            return 0


def kept(message: Message) -> Message:
    """The same in memory of its own."""
    return Inbound([arrival.kept() for arrival in message.arrivals]) if isinstance(message, Inbound) else message


def count(message: Message) -> int:
    """How many packets, datagrams or calls are lost with it."""
    match message:
        case Outbound(packets):
            return count_packets(packets)
        case Inbound(arrivals):
            return sum(arrival.datagram_count for arrival in arrivals)
        case _:
            return 1
