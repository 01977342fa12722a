"""A look into what a session knows: what nobody may change without its keys, and how its handshakes stand.

Not responsible for the promises about that: those are `oracles`.
"""

from __future__ import annotations

from typing import TypeAlias

from holloway.protocols.session import Session
from holloway.simulations.record_oracles import windows_of

Snapshot: TypeAlias = tuple[object, ...]


def snapshot(session: Session) -> Snapshot:
    """Everything of a session that only an authentic datagram may change."""
    ring = session._ring
    return (
        session.state,
        session.epoch,
        session.endpoint,
        session.received.packets,
        session.transmitted.packets,
        session.handshakes_total,
        tuple(windows_of(keys) for keys in ring.by_index.values()),
        None if ring.next is None else ring.next.local_index,
    )


def answered_at(session: Session) -> float:
    """When the session last answered an initiation."""
    return session._handshakes.answered_at


def is_dialling(session: Session) -> bool:
    """Whether an initiation of ours is under way."""
    return session._handshakes.is_under_way


def has_just_been_answered(session: Session) -> bool:
    """Whether the last thing that it heard was the answer to its call: nothing tells whether that is newer than what came before."""
    keys = session._ring.current
    return keys is not None and keys.is_initiator and session.last_handshake_at == session.last_received_at
