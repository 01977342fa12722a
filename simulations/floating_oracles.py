"""The promises about floating addresses: one holder at a time, whoever looks, and soon one again.

Like `oracles`: each is a function whose docstring is the promise. Not responsible for when they are asked (`floating_watch`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from holloway.protocols.floating_table import FloatingHolder

FOLLOWED_WITHIN_NS = 10**9
"""How long a node may hear a holder after it has learned of a later one: routes are changed by another actor."""
REMOVED_WITHIN_NS = 10**9
REPLACED_WITHIN_NS = 3 * 10**9
"""A lease lives for 2 s from when it was kept alive last; what comes after it takes some calls to the registry."""
HANDED_OVER_WITHIN_NS = 5 * 10**8


@dataclass(frozen=True, slots=True)
class Afloat:
    """How one floating address stands. `best`: of the nodes that may have it and are up, those of the highest priority.

    `believed`: for each node that is up, whom it takes for the holder.
    """

    address: IPv4Address
    owners: tuple[str, ...]
    best: tuple[str, ...]
    believed: Mapping[str, str | None]


def one_owner_of_a_floating_address(owners: Sequence[str], address: IPv4Address) -> str | None:
    """At no moment do two nodes have one floating address, whether they stand still or not."""
    return f"{' and '.join(owners)} have {address} at once" if len(owners) > 1 else None


def fences_are_followed(before: FloatingHolder | None, after: FloatingHolder | None, node: str) -> str | None:
    """Whom a node takes for the holder, it believes by a fence that never decreases, and one fence is of one holder."""
    if before is None or after is None or after.fence > before.fence or after == before:
        return None
    how = "a smaller" if after.fence < before.fence else "the same"
    return f"{node} believed {before.name} by fence {before.fence}, and then {after.name} by {how} one, {after.fence}"


def a_fence_has_one_holder(known: FloatingHolder, holder: FloatingHolder, node: str) -> str | None:
    """No two nodes take different nodes for the holder by the same fence."""
    if (known.name, known.key) == (holder.name, holder.key):
        return None
    return f"{node} takes {holder.name} for the holder by fence {holder.fence}, and another node {known.name}"


def only_the_owner_answers(owns: bool, receiver: str, address: IPv4Address) -> str | None:
    """A packet for a floating address leaves the tunnel only at the node that has it at that moment."""
    return None if owns else f"{receiver} let out a packet for {address}, which it does not have"


def earlier_holders_are_not_heard(maker: str, believed: Collection[str | None], receiver: str) -> str | None:
    """From `FOLLOWED_WITHIN_NS` after a node has learned of another holder, it takes no packet of the earlier one from the
    floating address. `believed`: whom it took for the holder in that time.
    """
    if maker in believed:
        return None
    return f"{receiver} took a packet of {maker} from a floating address that it knows to be another's"


def what_is_given_up_leaves_the_device(since_ns: int | None, now_ns: int, node: str) -> str | None:
    """An address that a node does not own is not on its device for longer than `REMOVED_WITHIN_NS`, unless it stands still."""
    if since_ns is None or now_ns - since_ns <= REMOVED_WITHIN_NS:
        return None
    return f"{node} has had an address on its device for {(now_ns - since_ns) / 1e9:.1f} s that is not its own any more"


def lost_holders_are_replaced(lost: str, within_ns: int, owners: Sequence[str], address: IPv4Address) -> str | None:
    """A holder that is killed, stands still, or is cut off from the registry, or from all its peers while others hear each other,
    is replaced within `REPLACED_WITHIN_NS`, and one that is told to stop within `HANDED_OVER_WITHIN_NS`, if nothing else befalls
    the network meanwhile.
    """
    if owners and lost not in owners:
        return None
    return f"{lost} was lost {within_ns / 1e9:g} s ago, and {'nobody' if not owners else lost} has {address}"


def one_node_takes_nothing(before: str, owners: Sequence[str], address: IPv4Address) -> str | None:
    """While the holder and one other node do not hear each other, or one other node hears nobody, and nothing else befalls the
    network, the address stays where it is.
    """
    return None if list(owners) == [before] else f"{before} had {address} until one other node was cut off"


def is_held(afloat: Afloat) -> str | None:
    """What is wrong with one floating address in the calm, if anything."""
    if len(afloat.owners) != 1:
        return f"nobody has {afloat.address}" if not afloat.owners else f"{' and '.join(afloat.owners)} have it at once"
    owner = afloat.owners[0]
    if owner not in afloat.best:
        return f"{owner} has {afloat.address}, and {' and '.join(afloat.best)} should"
    astray = [node for node, holder in afloat.believed.items() if holder != owner]
    return (
        f"{owner} has {afloat.address}, and {astray[0]} takes {afloat.believed[astray[0]]} for it" if astray else None
    )
