"""The promises about the two lanes of the `aes-gcm` suite: what overtakes the other for long costs it nothing.

Not responsible for the facts: `lane_watch` gathers them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    """What became of records of both lanes. All four are of the whole time so far."""

    unaccounted: tuple[int, ...] = ()
    """Packets from the first second to the calm that have not come out, though no datagram of their record was lost or foretold."""
    repeated: int = 0
    """Datagrams that came more than once."""
    replayed: int = 0
    """Datagrams that were refused as replayed."""
    lost_untruly: tuple[str, ...] = ()
    """What sessions have told of lost records, and was not so."""
    moved_back: tuple[str, ...] = ()
    """Sessions that left the address where their peer was."""


class _Calm(Protocol):
    @property
    def lanes(self) -> Lanes: ...


def lanes_lose_nothing(calm: _Calm) -> str | None:
    """Of the packets made from 1 s until the calm all have come out, but those in records of which a datagram was lost on its way, or
    came in pieces from where its sender was not known to be.
    """
    lost = calm.lanes.unaccounted
    return f"{len(lost)} packets never came out, the first is packet {lost[0]}" if lost else None


def only_replays_are_refused(calm: _Calm) -> str | None:
    """No more datagrams are refused as replayed than came a second time."""
    lanes = calm.lanes
    if lanes.replayed <= lanes.repeated:
        return None
    return f"{lanes.replayed} datagrams were refused as replayed, {lanes.repeated} were"


def losses_are_real(calm: _Calm) -> str | None:
    """What is reported as lost was lost on its way, and no report is refused."""
    return next(iter(calm.lanes.lost_untruly), None)


def endpoints_move_forward(calm: _Calm) -> str | None:
    """A session that sends to where its peer is does not begin to send elsewhere on account of a record."""
    return next(iter(calm.lanes.moved_back), None)


LANES_EVENTUALLY: Mapping[str, Callable[..., str | None]] = MappingProxyType(
    {
        promise.__name__: promise
        for promise in (lanes_lose_nothing, only_replays_are_refused, losses_are_real, endpoints_move_forward)
    }
)
"""Not where datagrams of one lane overtake each other, or where a node dies, stands still or drops what waits."""
