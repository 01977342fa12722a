"""The promises about records of the `aes-gcm` suite, which span datagrams, and a look into what sessions know of theirs.

Each promise is a small function, as in `oracles`. Not responsible for when they are asked (`record_watch`).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import NamedTuple

from holloway.protocols.events import DropReason
from holloway.protocols.reassembly import MAX_BYTES, MAX_RECORDS
from holloway.protocols.record_keys import RecordKeys
from holloway.protocols.record_size import LossMeter, Report
from holloway.protocols.record_wire import HEADER_BYTES, KIND_BITS, SPARSE_MARK, SPREAD_BITS, RecordKind
from holloway.protocols.session import Session
from holloway.protocols.transport import TransportKeys

REPORTS_END_S = 5.0
_FIRST_INDEX = 256
_SPARSE = 1 << 60
PIECES_LIVE_S = 0.5 + 1e-6
"""What docs/protocol.md gives them, and what rounding may add."""
_RECORD_HEAD = struct.Struct("<IHHQ")


def record_number(kind: int, word: int) -> int:
    """Which record it is under its key, by the end of its header: counters of the sparse lane are its own. They begin at 48 secret
    bits, so a number is of one key.
    """
    return word >> SPREAD_BITS | (_SPARSE if kind & SPARSE_MARK else 0)


def record_of(datagram: bytes) -> tuple[int, int] | None:
    """The kind and the number of the record that a datagram is of, if it is one of the `aes-gcm` suite; None otherwise."""
    if len(datagram) <= HEADER_BYTES or int.from_bytes(datagram[:4], "little") < _FIRST_INDEX:
        return None
    _, _, kind, word = _RECORD_HEAD.unpack_from(datagram)
    return kind, record_number(kind, word)


def is_sparse(datagram: bytes) -> bool:
    """Whether it is of the sparse lane."""
    record = record_of(datagram)
    return record is not None and record[0] & SPARSE_MARK != 0


def has_pieces(datagram: bytes) -> bool:
    """Whether it is of a record that spans several."""
    record = record_of(datagram)
    if record is None or record[0] & SPARSE_MARK:
        return False
    return int.from_bytes(datagram[8:HEADER_BYTES], "little") & (1 << SPREAD_BITS) - 1 != 0


class Path(NamedTuple):
    """How long datagrams of a session may be, in bytes of UDP payload: now, at least, and at most."""

    size: int
    least: int
    most: int


def records_begin_at_their_first_counter(key: bytes, counter: int) -> str | None:
    """The counters of records begin at a number that only who has the key knows, so that nobody else can foretell one."""
    secret = hashlib.blake2s(b"first counter", key=key, digest_size=6).digest()  # as docs/protocol.md has it
    if counter != int.from_bytes(secret, "little"):
        return f"the first record under a key has the counter {counter}"
    return None


def records_are_cut_evenly(datagrams: Sequence[bytes], longest: int, longest_probe: int) -> str | None:
    """The datagrams of a record leave together and in order, are equally long, and none is longer than the path is known to
    bear, but for probes.
    """
    rest, size, before = 0, 0, (0, 0, 0, 0)
    for datagram in datagrams:
        if datagram[1:4] == b"\0\0\0":  # no receiver index: a handshake, or the other suite
            if rest:
                return "a record ends before all of it has left"
            continue
        _, number, kind, word = head = _RECORD_HEAD.unpack_from(datagram)
        if len(datagram) > (longest_probe if kind & KIND_BITS == RecordKind.PROBE else longest):
            return f"a datagram of {len(datagram)} bytes leaves for a path that bears {longest}"
        if kind & SPARSE_MARK:  # one datagram, whose header has room for other numbers
            if rest:
                return "a record ends before all of it has left"
            continue
        if rest:
            if head != (before[0], before[1] + 1, before[2], before[3]):
                return "a record ends before all of it has left"
            if len(datagram) != size:
                return f"a record has datagrams of {size} and {len(datagram)} bytes"
            rest -= 1
        else:
            if number:
                return f"a record begins with its datagram {number}"
            rest, size = word & 0xFFF, len(datagram)
        before = head
    return "a record ends before all of it has left" if rest else None


def record_size_is_within_bounds(size: int) -> str | None:
    """A record has 1 to 64 datagrams."""
    return None if 1 <= size <= 64 else f"records may have {size} datagrams"


def loss_shortens_records(arrived: int, losses: int, before: int, after: int) -> str | None:
    """A report of losses makes records no longer than 0.5 % of the datagrams that arrived for each loss, and no longer than
    they were: a loss within 400 datagrams leaves 1.
    """
    if after > before or after > max(1, arrived // (200 * losses)):
        return f"with {losses} losses among {arrived} datagrams records have {after} datagrams, {before} before"
    return None


def reassembly_is_bounded(session: Session) -> str | None:
    """What a session holds of records that are not whole stays below its bound under every key, whoever sends pieces."""
    for keys in session._ring.by_index.values():
        if isinstance(keys, RecordKeys):
            partials = keys._pieces._partials.values()
            held = sum(len(piece) for partial in partials for piece in partial.pieces if piece is not None)
            if held > MAX_BYTES or len(partials) > MAX_RECORDS:
                return f"{held} bytes of {len(partials)} records wait for the rest of them"
    return None


def old_pieces_are_forgotten(session: Session, now: float) -> str | None:
    """When a session has acted on its deadlines, it holds no piece for longer than `PIECES_LIVE_S`."""
    for keys in session._ring.by_index.values():
        if isinstance(keys, RecordKeys):
            for partial in keys._pieces._partials.values():
                if now > partial.since + PIECES_LIVE_S:
                    return f"a piece has waited {now - partial.since:.3f} s for the rest of its record"
    return None


def reports_tell_what_was_sent(session: Session) -> str | None:
    """A report is believed only if it tells of no more records than were sealed."""
    keys = session._ring.current
    if isinstance(keys, RecordKeys) and max(keys._size._heard.records, keys._size._heard.lost) > keys.sent:
        return f"of {keys.sent} records the peer is believed to have seen {keys._size._heard.records}"
    return None


def idle_sessions_fall_silent(active_at: float, now: float) -> str | None:
    """Reports answer data and losses, never one another: `REPORTS_END_S` after all else a session sends none."""
    return f"a session reports, {now - active_at:.1f} s after all else" if now - active_at > REPORTS_END_S else None


def size_by_reports(session: Session) -> tuple[int, Report | None, int]:
    """Of the key in use: its receiver index, what reports have told, and how many datagrams records may have by them."""
    keys = session._ring.current
    if not isinstance(keys, RecordKeys):
        return 0, None, 1
    return keys.local_index, keys._size._heard, keys._size._size


def long_records_of(session: Session) -> int:
    """How many datagrams more than records have come: it grows with every record of several datagrams."""
    count = 0
    for keys in session._ring.by_index.values():
        if isinstance(keys, RecordKeys):
            count += keys._meter._datagrams - keys._meter._records
    return count


def pieces_held_by(session: Session) -> int:
    """How many records of the session are not whole yet."""
    return sum([len(keys._pieces) for keys in session._ring.by_index.values() if isinstance(keys, RecordKeys)])


def reports_refused(session: Session) -> int:
    """Reports of the peer that cannot be true."""
    return session.drops.get(DropReason.REPORT_ABSURD, 0)


def lost_by_key(session: Session) -> dict[int, int]:
    """How many records the session takes for lost, by the receiver index of each key."""
    return {index: meter._lost for index, meter in meters_of(session).items()}


def has_opened(keys: TransportKeys) -> bool:
    """Whether anything of the peer's has come under a key."""
    return keys.top >= 0 or (isinstance(keys, RecordKeys) and keys._sparse_window.top >= 0)


def windows_of(keys: TransportKeys) -> tuple[object, ...]:
    """What only an authentic record may change of a key."""
    if not isinstance(keys, RecordKeys):
        return keys.local_index, keys.newest, keys.sent
    sparse = keys._sparse_window
    return keys.local_index, keys.newest, keys.top, keys.sent, keys._sparse_sent, sparse.top, bytes(sparse._seen)


def path_of(session: Session) -> Path:
    """What the session believes of the path to its peer."""
    path = session._tunnel.path
    return Path(path.size, path._base, path._most)


def meters_of(session: Session) -> dict[int, LossMeter]:
    """What counts how records arrive, by the receiver index of each key."""
    return {index: keys._meter for index, keys in session._ring.by_index.items() if isinstance(keys, RecordKeys)}


def use_meter(session: Session, index: int, meter: LossMeter) -> None:
    """Reports under one key are made by another meter from now on."""
    keys = session._ring.by_index[index]
    assert isinstance(keys, RecordKeys)
    keys._meter = meter
