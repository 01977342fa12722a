"""The states of a session, and which may follow which.

A state is a summary of two facts, whether there is a key to seal with and whether an initiation of ours is under way,
so it decides nothing by itself: `session` has it recomputed whenever one of the facts changes, and the move is checked
against `TRANSITIONS`. The diagram in `docs/protocol.md` is drawn from that table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from holloway.protocols.errors import LocalError


class State(Enum):
    """What a session can do at the moment."""

    IDLE = "no usable key and no handshake under way"
    INITIATING = "no usable key, our initiation is under way"
    CONFIRMING = "no usable key, the peer has still to use the one we answered with"
    ESTABLISHED = "a usable key"
    REKEYING = "a usable key, and our initiation for its successor is under way"
    CLOSED = "closed by its owner"


TRANSITIONS: Mapping[State, Mapping[State, str]] = MappingProxyType(
    {
        State.IDLE: {
            State.INITIATING: "dial",
            State.CONFIRMING: "initiation answered",
            State.CLOSED: "close",
        },
        State.INITIATING: {
            State.IDLE: "gave up",
            State.CONFIRMING: "gave up, having answered the peer",
            State.ESTABLISHED: "response, or first datagram under the key we answered with",
            State.CLOSED: "close",
        },
        State.CONFIRMING: {
            State.IDLE: "key expired unused, or withdrawn",
            State.INITIATING: "dial",
            State.ESTABLISHED: "first datagram under the key we answered with",
            State.CLOSED: "close",
        },
        State.ESTABLISHED: {
            State.IDLE: "key expired, or withdrawn",
            State.CONFIRMING: "key expired or withdrawn, its successor not yet used by the peer",
            State.REKEYING: "dial",
            State.CLOSED: "close",
        },
        State.REKEYING: {
            State.ESTABLISHED: "response, first datagram under the key we answered with, or gave up",
            State.INITIATING: "key expired, or withdrawn",
            State.CLOSED: "close",
        },
        State.CLOSED: {},
    }
)
"""From each state, the states that may follow and what leads there."""


class Standing:
    """The state of one session, and every move that it has made."""

    __slots__ = ("state", "transitions")

    def __init__(self) -> None:
        self.state = State.IDLE
        self.transitions: Counter[tuple[State, State]] = Counter()

    def settle(self, has_key: bool, is_confirming: bool, is_under_way: bool) -> None:
        """Bring the state in line with the facts: whether there is a key to seal with, one that the peer has still to use, and
        an initiation of ours under way.
        """
        if has_key:
            self.move(State.REKEYING if is_under_way else State.ESTABLISHED)
        elif is_under_way:
            self.move(State.INITIATING)
        else:
            self.move(State.CONFIRMING if is_confirming else State.IDLE)

    def move(self, state: State) -> None:
        """To `state`, unless it is the present one."""
        if state is not self.state:
            assert state in TRANSITIONS[self.state], f"no way from {self.state.name} to {state.name}"
            self.transitions[self.state, state] += 1
            self.state = state

    def refuse_if_closed(self) -> None:
        """Raises `LocalError` when nothing can be asked of the session any more."""
        if self.state is State.CLOSED:
            raise LocalError("the session is closed")
