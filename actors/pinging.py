"""Pings through the session with one peer, answered by the peer's host: what is under way, and which packets answer it.

Not responsible for choosing addresses or repeating (`node`), nor for the tunnel (`peer_session`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from holloway.protocols.errors import HollowayError
from holloway.protocols.icmp import EchoReply, echo_request, parse_echo_reply
from holloway.protocols.packets import Packet, SuperPacket

PING_PAYLOAD = b"holloway ping"
MAX_PINGS = 64
"""Pings to one peer that may wait for their answers at once."""


@dataclass(frozen=True, slots=True)
class Pong:
    """An answer to a ping through the session: `round_trip_s`, and over which outer path and key it came."""

    round_trip_s: float
    path: str
    epoch: int


@dataclass(slots=True)
class Ping:
    """One that waits: to which inner address, since when, and how long the answer took once it is there."""

    target: bytes
    sent_at: float
    ended: trio.Event = field(default_factory=trio.Event)
    round_trip_s: float | None = None


class Pinger:
    """The pings of one session. No two that wait at once have the same identifier and sequence number."""

    def __init__(self, first: int) -> None:
        """`first`: any number; with a random one our pings are not those of the host's programs."""
        self._next = first
        self.waiting: dict[tuple[int, int], Ping] = {}

    def begin(self, source: bytes, target: bytes, now: float) -> tuple[tuple[int, int], bytes]:
        """The key of a new ping and its packet. Addresses are 4 or 16 bytes, of one family.

        Raises `HollowayError` when `MAX_PINGS` wait.
        """
        if len(self.waiting) >= MAX_PINGS:
            raise HollowayError("too many pings at once", f"{MAX_PINGS} to this peer are under way", "wait for them")
        key = divmod(self._next & 0xFFFFFFFF, 0x10000)
        self._next += 1
        packet = echo_request(source, target, *key, PING_PAYLOAD)
        self.waiting[key] = Ping(target, now)
        return key, packet

    def without_answers(self, packets: Sequence[Packet], now: float) -> list[Packet]:
        """`packets` less those that answer a ping of ours: these are not for the host."""
        return [packet for packet in packets if isinstance(packet, SuperPacket) or not self._is_answer(packet, now)]

    def _is_answer(self, packet: bytes, now: float) -> bool:
        reply = parse_echo_reply(packet)
        if not isinstance(reply, EchoReply):
            return False
        ping = self.waiting.get((reply.identifier, reply.sequence))
        if ping is None or reply.source != ping.target or reply.payload != PING_PAYLOAD:
            return False
        if ping.round_trip_s is None:
            ping.round_trip_s = now - ping.sent_at
            ping.ended.set()
        return True

    def close(self) -> None:
        """No answer will come any more."""
        for ping in self.waiting.values():
            ping.ended.set()
