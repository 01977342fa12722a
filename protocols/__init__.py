"""Pure protocols: wire formats and state machines, without I/O, clock or randomness.

Names load when they are used: importing the room alone costs no cryptography.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holloway.protocols.arrivals import Arrival
    from holloway.protocols.demux import Demux
    from holloway.protocols.errors import (
        ConfigError,
        HandshakeFailed,
        HollowayError,
        KeyExhausted,
        LocalError,
        PortError,
        ProtocolError,
        RegistryError,
        TunError,
    )
    from holloway.protocols.events import DropReason, Event
    from holloway.protocols.keys import StaticKey, clamp, decode_key, encode_key
    from holloway.protocols.memory import MemoryBudget
    from holloway.protocols.packets import Packet, SuperPacket, UnfinishedPacket
    from holloway.protocols.replay import ReplayWindow
    from holloway.protocols.routes import RouteTable
    from holloway.protocols.runs import Run
    from holloway.protocols.session import Session, SessionConfig
    from holloway.protocols.suites import AES_GCM, SUITES, WIREGUARD, Suite
    from holloway.protocols.timers import Timers

_HOMES = {
    "arrivals": ("Arrival",),
    "demux": ("Demux",),
    "errors": (
        "ConfigError",
        "HandshakeFailed",
        "HollowayError",
        "KeyExhausted",
        "LocalError",
        "PortError",
        "ProtocolError",
        "RegistryError",
        "TunError",
    ),
    "events": ("DropReason", "Event"),
    "keys": ("StaticKey", "clamp", "decode_key", "encode_key"),
    "memory": ("MemoryBudget",),
    "packets": ("Packet", "SuperPacket", "UnfinishedPacket"),
    "replay": ("ReplayWindow",),
    "routes": ("RouteTable",),
    "runs": ("Run",),
    "session": ("Session", "SessionConfig"),
    "suites": ("AES_GCM", "SUITES", "WIREGUARD", "Suite"),
    "timers": ("Timers",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AES_GCM",
    "SUITES",
    "WIREGUARD",
    "Arrival",
    "ConfigError",
    "Demux",
    "DropReason",
    "Event",
    "HandshakeFailed",
    "HollowayError",
    "KeyExhausted",
    "LocalError",
    "MemoryBudget",
    "Packet",
    "PortError",
    "ProtocolError",
    "RegistryError",
    "ReplayWindow",
    "RouteTable",
    "Run",
    "Session",
    "SessionConfig",
    "StaticKey",
    "Suite",
    "SuperPacket",
    "Timers",
    "TunError",
    "UnfinishedPacket",
    "clamp",
    "decode_key",
    "encode_key",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
