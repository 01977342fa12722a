"""The promises about associations of DTLS. See `oracles`; this module, too, knows the insides of what it looks at.

Not responsible for when they are asked (`dtls_watch`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from holloway.protocols.dtls_link import MAX_ASSOCIATIONS
from holloway.protocols.staging import STAGED_BYTES, STAGED_PACKETS


def associations_are_certified(shown: bytes, good: bytes | None, node: str, peer: str) -> str | None:
    """Whoever has an association as a peer has shown the certificate of that peer, which is neither expired nor another's."""
    return None if shown == good else f"{node} has an association with {peer} under a certificate that is not {peer}'s"


def associations_are_few(ours: Mapping[int, object], known: Collection[int], node: str, peer: str) -> str | None:
    """There are as many associations with a peer as its link knows of, and few."""
    if len(ours) > MAX_ASSOCIATIONS:
        return f"{node} has {len(ours)} associations with {peer}, {MAX_ASSOCIATIONS} are allowed"
    if set(ours) != set(known):
        return f"{node} has {len(ours)} associations with {peer}, of which its link knows {len(known)}"
    return None


def associations_are_owned(kept: Collection[int], owned: Collection[int], node: str) -> str | None:
    """What is kept of associations is of those that a peer has: nothing is left of one that is over."""
    left = set(kept) - set(owned)
    return f"{node} keeps {len(left)} associations that nobody has" if left else None


def waiting_packets_are_bounded(packets: int, held_bytes: int, node: str) -> str | None:
    """What waits for an association stays below its bounds."""
    if packets > STAGED_PACKETS or held_bytes > STAGED_BYTES:
        return f"{packets} packets of {held_bytes} bytes wait for an association of {node}"
    return None


def no_real_time_passes(node: str) -> str | None:
    """OpenSSL, whose clock is the machine's, does nothing because of it. Asked when it has: then no seed decides what follows."""
    return (
        f"the machine stood still for a second while {node} was at a handshake, which OpenSSL's own clock does not forgive: this run "
        "cannot be repeated; run it again"
    )


DTLS_ALWAYS = (
    associations_are_certified,
    associations_are_few,
    associations_are_owned,
    waiting_packets_are_bounded,
    no_real_time_passes,
)
