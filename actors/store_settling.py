"""Settling in a network whose store is believed: the settings that all its nodes share, and an address of one's own.

The first node writes the settings, every later one obeys them; an address belongs to whoever put its claim first. Each is one
transaction, so of all who try at once one wins, and the others see what it did. Not responsible for which address is tried
(`protocols.address_plan`), for keeping it (`address_keeper`), nor for files (`store_member`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address

import trio

from holloway.actors.registry import Absent, Lease, RegistryPort, Snapshot, ValueIs
from holloway.protocols.address_claims import Holder, claim_suffix, decode_claim, freed_claim, read_suffix
from holloway.protocols.address_plan import AddressClaim, Attempt, Claim, Obstacle, Refusal, held_by
from holloway.protocols.errors import RegistryError
from holloway.protocols.membership import NodeRecord, addresses_prefix, decode_record, node_key
from holloway.protocols.network_settings import NetworkSettings, decode_settings, encode_settings, settings_key

AGAIN_S = 0.05
"""Between two snapshots, after others were faster too often."""
LAST_WORD_S = 1.0
"""How long giving back a lease that is good for nothing may take; it runs out by itself."""


def refused(refusal: Refusal) -> RegistryError:
    """Why there is no address, for people."""
    return RegistryError(*refusal.explain(), kind="denied")


def compare(key: bytes, expected: bytes | None) -> Absent | ValueIs:
    """Holds while the key has what was seen there; None: nothing."""
    return Absent(key) if expected is None else ValueIs(key, expected)


async def agree_on_settings(registry: RegistryPort, network: str, seed: NetworkSettings) -> NetworkSettings:
    """The settings of the network: those in the store, or `seed`, which then stand there.

    Raises `RegistryError`, kind "denied", when what stands there are no settings.
    """
    key = settings_key(network)
    created = await registry.create(key, encode_settings(seed))
    if created.succeeded:
        return seed
    settings = decode_settings(created.found[key].value)
    if not isinstance(settings, NetworkSettings):
        raise RegistryError(
            f"the settings of network {network} cannot be used",
            f"what stands under {key.decode('ascii')} is refused: {settings.value}",
            "install the version that the others have, or remove that key: a node that knows the settings puts them back",
            kind="denied",
        )
    return settings


async def take_address(
    registry: RegistryPort,
    network: str,
    settings: NetworkSettings,
    us: Holder,
    wall_s: Callable[[], float],
    *,
    wish: IPv4Address | None = None,
    former: IPv4Address | None = None,
) -> IPv4Address:
    """Claim an address: `wish` and no other, or the one that we have or had (`former`), or the lowest free one.

    The claim is on a lease of its own, which nobody keeps alive yet. What else stands under our key is given back. Raises
    `RegistryError`, kind "denied", when there is none for us, and `LocalError` for a wish that no node may have.
    """
    claim = AddressClaim(settings, us.name, us.key, wish=wish, former=former)
    prefix = addresses_prefix(network)
    while True:
        entries = _values(await registry.snapshot(prefix), prefix)
        attempt = await _win(registry, prefix, claim, claim.next(entries, wall_s()), settings.lease_s, wall_s)
        if isinstance(attempt, Claim):
            for other in held_by(entries, us.key):
                if other != attempt.address:
                    await give_back(registry, network, settings, other, entries[claim_suffix(other)], wall_s)
            return attempt.address
        if attempt.obstacle is not Obstacle.LOOK_AGAIN:
            raise refused(attempt)
        await trio.sleep(AGAIN_S)


async def _win(
    registry: RegistryPort,
    prefix: bytes,
    claim: AddressClaim,
    attempt: Attempt,
    lease_s: float,
    wall_s: Callable[[], float],
) -> Attempt:
    """The attempt that has succeeded, or why there is none."""
    lease: Lease | None = None
    is_won = False
    try:
        while isinstance(attempt, Claim):
            if attempt.expected == attempt.value:  # it is ours already, on a lease of an earlier life
                return attempt
            key = prefix + attempt.key_suffix
            lease = lease or await registry.grant(lease_s)
            done = await registry.transact((compare(key, attempt.expected),), {key: attempt.value}, lease=lease.id)
            is_won = done.succeeded
            if is_won:
                return attempt
            found = done.found.get(key)
            attempt = claim.lost(None if found is None else found.value, wall_s())
        return attempt
    finally:
        if lease is not None and not is_won:
            with trio.move_on_after(LAST_WORD_S, shield=True), suppress(RegistryError):
                await registry.revoke(lease.id)


async def give_back(
    registry: RegistryPort,
    network: str,
    settings: NetworkSettings,
    address: IPv4Address,
    seen: bytes,
    wall_s: Callable[[], float],
) -> bool:
    """Let go of an address whose claim is `seen`: it rests, and then others may have it. Whether it still was that claim."""
    key = addresses_prefix(network) + claim_suffix(address)
    holder = decode_claim(seen)
    if not isinstance(holder, Holder) or not settings.rest_s:
        return (await registry.transact((ValueIs(key, seen),), deletes=(key,))).succeeded
    if holder.free_from is not None:  # it rests already
        return True
    lease = await registry.grant(settings.rest_s)
    value = freed_claim(holder, wall_s(), settings.rest_s)
    return (await registry.transact((ValueIs(key, seen),), {key: value}, lease=lease.id)).succeeded


async def claims(registry: RegistryPort, network: str) -> dict[IPv4Address, tuple[Holder, bytes]]:
    """Who holds which address, with the claim as it stands there; those that rest are left out."""
    found: dict[IPv4Address, tuple[Holder, bytes]] = {}
    prefix = addresses_prefix(network)
    for suffix, value in _values(await registry.snapshot(prefix), prefix).items():
        address, holder = read_suffix(suffix), decode_claim(value)
        if address is not None and isinstance(holder, Holder) and holder.free_from is None:
            found[address] = holder, value
    return found


async def refuse_taken_name(registry: RegistryPort, network: str, us: Holder, public_key: bytes) -> None:
    """Raises `RegistryError`, kind "denied", when another machine is in the network under our name, or has an address for it."""
    place = node_key(network, us.name)
    entry = (await registry.snapshot(place)).entries.get(place)
    record = None if entry is None else decode_record(us.name, entry.value)
    is_taken = record is not None and not (isinstance(record, NodeRecord) and record.public_key == public_key)
    held = (holder for holder, _ in (await claims(registry, network)).values())
    is_taken |= any(holder.name == us.name and holder.key != us.key for holder in held)
    if is_taken:
        raise RegistryError(
            f"the node name {us.name} is taken",
            f"another machine has it in network {network}",
            f"choose another: --name NODE; or, if that machine is gone: holloway release {us.name}",
            kind="denied",
        )


def _values(snapshot: Snapshot, prefix: bytes) -> dict[bytes, bytes]:
    return {key[len(prefix) :]: entry.value for key, entry in snapshot.entries.items()}
