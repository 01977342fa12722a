"""The promises about what two nodes agree on: no plain text and no compression for anybody who did not ask, and no bombs.

That nothing is legible on the wire is asked elsewhere, of every datagram (`oracles`).
"""

from __future__ import annotations

from holloway.protocols.compression import MAX_UNPACKED_BYTES
from holloway.protocols.offers import SEALED, Terms
from holloway.protocols.session import Session


def terms_are_what_both_ask_for(terms: Terms | None, allowed: Terms, session: Session) -> str | None:
    """A key is used for plain text, or for compressed records, only between two nodes that both ask for it."""
    excess = (terms or SEALED) & ~allowed
    return f"epoch {session.epoch} has the terms {excess!r}, which nobody agreed on" if excess else None


def unpacking_is_bounded(packed: int, length: int) -> str | None:
    """Nothing is unpacked that is to become longer than the longest record."""
    return f"{packed} bytes were to become {length}" if length > MAX_UNPACKED_BYTES else None
