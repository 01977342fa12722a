"""Which kinds records may have under a key, as they are on the wire: a `RecordKind` with the marks that the terms of the key allow.

Not responsible for the sparse lane, whose records are all of one kind (`record_keys`).
"""

from __future__ import annotations

from holloway.protocols.events import DropReason
from holloway.protocols.offers import ALL_TERMS, Terms
from holloway.protocols.record_wire import CLEAR_MARK, PACKED_MARK, SPARSE_MARK, RecordKind


def _kinds(terms: Terms) -> dict[int, RecordKind]:
    mark = CLEAR_MARK if Terms.CLEAR in terms else 0
    kinds = {kind | mark: kind for kind in RecordKind}
    if Terms.LZ4 in terms:
        kinds |= {kind | mark | PACKED_MARK: kind for kind in RecordKind if kind < RecordKind.REPORT}
    return kinds


KINDS = {terms: _kinds(terms) for terms in map(Terms, range(ALL_TERMS + 1))}
"""By the terms of a key: the kinds on the wire, and what they are without their marks."""


def misfit(kind: int, mark: int) -> DropReason:
    """Why no record under a key has `kind`. `mark`: what all records under it have."""
    if kind & ~CLEAR_MARK == RecordKind.PACKETS | SPARSE_MARK:
        kind &= ~SPARSE_MARK
    if not any(kind in kinds for kinds in KINDS.values()):
        return DropReason.MALFORMED
    return DropReason.PLAINTEXT_REFUSED if kind & CLEAR_MARK and not mark else DropReason.NOT_AGREED
