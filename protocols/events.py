"""Events of the session protocol, and the reasons for which a datagram or packet is dropped.

Events are data: the actor that drives a protocol object logs, counts or ignores them. Every drop has a reason from
`DropReason`; its value is the name under which `status` counts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from holloway.protocols.addresses import Address
from holloway.protocols.offers import SEALED, Terms


class DropReason(Enum):
    """Why something was dropped. The first group is decided before a peer is known, the last one at our own side; that of
    pieces, reports and probes is about records (`reassembly`, `record_size`, `path_mtu`)."""

    BAD_LENGTH = "bad_length"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_INDEX = "unknown_index"
    BAD_MAC1 = "bad_mac1"
    COOKIE_REQUIRED = "cookie_required"
    RATE_LIMITED = "rate_limited"
    NOT_FOR_US = "not_for_us"
    UNKNOWN_PEER = "unknown_peer"
    UNKNOWN_RESET = "unknown_reset"

    WRONG_SUITE = "wrong_suite"
    HANDSHAKE_NOT_AUTHENTIC = "handshake_not_authentic"
    REPLAYED_INITIATION = "replayed_initiation"
    INITIATION_FLOOD = "initiation_flood"
    RESET_FLOOD = "reset_flood"
    UNEXPECTED_RESPONSE = "unexpected_response"
    BAD_COOKIE = "bad_cookie"
    REPLAYED = "replayed"
    NOT_AUTHENTIC = "not_authentic"
    KEY_EXPIRED = "key_expired"
    MALFORMED = "malformed"
    SOURCE_NOT_ALLOWED = "source_not_allowed"
    DESTINATION_NOT_OURS = "destination_not_ours"

    PLAINTEXT_REFUSED = "plaintext_refused"
    """A record in clear, for a key that was not agreed on for that; or a response that agrees to what we have taken back."""
    NOT_AGREED = "not_agreed"
    """A record that is compressed, or is sealed, for a key whose terms say otherwise."""
    UNPACKING_REFUSED = "unpacking_refused"
    """A compressed record that is malformed, or would become longer than it may: a bomb."""

    PIECE_MALFORMED = "piece_malformed"
    PIECE_FOREIGN_SOURCE = "piece_foreign_source"
    PIECE_OUT_OF_RANGE = "piece_out_of_range"
    PIECE_DOUBLE = "piece_double"
    PIECE_MISFIT = "piece_misfit"
    """Not as long as the pieces that came before it, or such that the record would be longer than any."""
    PIECE_EXPIRED = "piece_expired"
    PIECE_PUSHED_OUT = "piece_pushed_out"
    PIECE_FORGOTTEN = "piece_forgotten"
    """With the key that it came under."""
    REPORT_MALFORMED = "report_malformed"
    REPORT_ABSURD = "report_absurd"
    """It tells of more than was sent, or takes back what an earlier one told."""
    PROBE_MALFORMED = "probe_malformed"
    PROBE_UNKNOWN = "probe_unknown"
    """An acknowledgement of a probe that was not sent, or long ago."""

    NO_INDEX = "no_index"
    NO_ROUTE = "no_route"
    NOT_IP = "not_ip"
    TOO_BIG = "too_big"
    STAGING_FULL = "staging_full"
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    INBOX_FULL = "inbox_full"
    MEMORY_FULL = "memory_full"
    """The node's queues hold as much as they may together (`memory`)."""
    PEER_DOWN = "peer_down"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class HandshakeStarted:
    """An initiation was sent. `attempt` counts from 1 within one dialling."""

    attempt: int


@dataclass(frozen=True, slots=True)
class HandshakeCompleted:
    """New keys are in use, on these terms. `round_trip_s` is known to the initiator only."""

    epoch: int
    is_initiator: bool
    round_trip_s: float | None
    terms: Terms = SEALED


@dataclass(frozen=True, slots=True)
class HandshakeGaveUp:
    """No answer within `rekey_attempt_s`. The next packet begins again."""

    attempts: int


@dataclass(frozen=True, slots=True)
class EndpointMoved:
    """The peer was heard, authenticated, from another address."""

    old: Address | None
    new: Address


@dataclass(frozen=True, slots=True)
class KeyExpired:
    """The key in use reached the end of its life without a successor."""

    epoch: int


@dataclass(frozen=True, slots=True)
class PeerForgotUs:
    """The peer answered with a reset: it lost our session, most likely by a restart. We ask for a new handshake."""


@dataclass(frozen=True, slots=True)
class PacketDropped:
    """`count` things were dropped; `source` is the outer address they came from, `None` for our own packets."""

    reason: DropReason
    source: Address | None
    count: int = 1


Event: TypeAlias = (
    HandshakeStarted | HandshakeCompleted | HandshakeGaveUp | EndpointMoved | KeyExpired | PeerForgotUs | PacketDropped
)
