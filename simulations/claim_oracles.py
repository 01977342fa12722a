"""The promises of a network in which addresses are claimed in the registry: who has which, and for how long.

Like `oracles`: each is a function whose docstring is the promise. Not responsible for when they are asked (`claim_watch`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address

from holloway.actors.wanted import Peer


def one_machine_has_an_address(held: Mapping[str, IPv4Address]) -> str | None:
    """Of the nodes that run no two have one address, whoever came first and whatever befell the registry.

    It may not hold where a machine without an address comes while the registry has lost the lease of another's claim.
    """
    by: dict[IPv4Address, str] = {}
    for name, address in held.items():
        other = by.setdefault(address, name)
        if other != name:
            return f"{other} and {name} both have {address}"
    return None


def machines_keep_their_addresses(had: IPv4Address | None, has: IPv4Address, node: str) -> str | None:
    """A machine has the same address in every life, for as long as its claim stood in the registry meanwhile."""
    return None if had in (None, has) else f"{node} had {had}, and has {has} now"


def freed_addresses_rest(freed_by: str, claimed_by: str | None, address: IPv4Address) -> str | None:
    """An address that was let go of is nobody else's before its rest is over. It may not hold where clocks are wrong."""
    if claimed_by in (None, freed_by):
        return None
    return f"{claimed_by} has claimed {address}, which {freed_by} had, and which rests"


def observers_agree_on_addresses(
    peers: Mapping[str, Peer], addresses: Mapping[str, IPv4Address], node: str
) -> str | None:
    """No node takes a machine for the owner of another one's address."""
    owners = {address: name for name, address in addresses.items()}
    for name, peer in peers.items():
        for prefix in peer.allowed:
            owner = owners.get(prefix.network_address) if isinstance(prefix.network_address, IPv4Address) else None
            if owner is not None and owner != name:
                return f"{node} takes {name} for the owner of {prefix.network_address}, which {owner} has"
    return None


CLAIMS_ALWAYS: tuple[Callable[..., str | None], ...] = (
    one_machine_has_an_address,
    machines_keep_their_addresses,
    freed_addresses_rest,
    observers_agree_on_addresses,
)
