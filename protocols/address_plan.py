"""Choosing an overlay address, so that no two machines ever have the same one and none is without.

An address belongs to whoever put its claim under `addresses/<ip>`. `AddressClaim` says which put to try: it is done only if
the key still holds what was seen there (compare, then put, in one transaction), so of all who try at once one wins, and
`lost` tells the others what to try next. What it asks for, in this order:

1. the address that was wished for, and no other;
2. an address that the registry says is ours already: a machine keeps its address, also one that it has given back;
3. the one that we had, if nobody has it now;
4. the lowest free one outside the reserved ranges that does not end in .0 or .255, which some hosts take for broadcasts.

Losers of a race for the lowest would meet again at the next one: fifty nodes, fifty rounds. So who has lost k times takes
one of the 4^k lowest free ones, which one its fingerprint says.

Entries are hostile input. One that says it is of another version is a newer node's, or of one whose configuration holds its
address: it is never overwritten. One that
nobody can read is passed over while another address is free, and is overwritten when none is, or when just this address is
wished for: it blocks no address for ever. Not responsible for the form of claims (`address_claims`), nor for reading and
writing the registry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from ipaddress import IPv4Address
from typing import Final, TypeAlias, assert_never

from holloway.protocols.address_claims import (
    ClaimProblem,
    Holder,
    claim_suffix,
    decode_claim,
    encode_claim,
    read_suffix,
)
from holloway.protocols.errors import LocalError
from holloway.protocols.network_settings import NetworkSettings

MAX_LOSSES = 16
"""Races that may be lost on the word of one snapshot; then it is too old."""
MAX_SPREAD_BITS = 10
_IN_USE: Final = b'"free_from":null'
"""Stands in every claim, as nodes write it, of an address in use: such entries need not be read to be passed over."""


class Obstacle(Enum):
    """Why there is no address to try."""

    TAKEN = "another machine holds it"
    RESTING = "another machine has just given it back"
    NEWER = "its entry is of another version: of a newer Holloway, or of a node whose configuration holds the address"
    FULL = "every address of the network is taken"
    LOOK_AGAIN = "others were faster too often: take a new snapshot"


@dataclass(frozen=True, slots=True)
class Claim:
    """The transaction to run: if `addresses/<key_suffix>` holds `expected` (None: if it is absent), put `value` there."""

    address: IPv4Address
    key_suffix: bytes
    value: bytes = field(repr=False)
    expected: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nothing to try. `holder`: the name of the node that has the wished address; `free_from`: when its rest is over."""

    obstacle: Obstacle
    address: IPv4Address | None = None
    holder: str | None = None
    free_from: int | None = None

    def explain(self) -> tuple[str, str, str]:
        """What happened, why, and what mends it."""
        match self.obstacle:
            case Obstacle.TAKEN:
                fix = f"choose another address, or stop node {self.holder} and let go of it: holloway release {self.address}"
                return f"the address {self.address} is taken", f"node {self.holder} holds it with another key", fix
            case Obstacle.RESTING:
                why = f"node {self.holder} has given it back, and it rests until {self.free_from} (unix seconds)"
                return f"the address {self.address} is not free yet", why, "wait, or choose another address"
            case Obstacle.NEWER:
                fix = "choose another address, or stop that node"
                return f"the address {self.address} cannot be judged", self.obstacle.value, fix
            case Obstacle.FULL:
                fix = "remove nodes that are gone, make the reserved ranges smaller, or the network larger"
                return "there is no free address", self.obstacle.value, fix
            case Obstacle.LOOK_AGAIN:
                return "no address was won", self.obstacle.value, "nothing needs to be done: it is tried again"
            case _:
                assert_never(self.obstacle)


Attempt: TypeAlias = Claim | Refusal


class _Standing(Enum):
    """What an entry means for us."""

    OURS = auto()
    FREE = auto()
    RESTING = auto()
    HELD = auto()
    NEWER = auto()
    GARBAGE = auto()


class AddressClaim:
    """One machine's way to its address.

    Call `next` with a snapshot and run what it returns; if the transaction does not succeed, call `lost` with what was
    found, and so on. After `Obstacle.LOOK_AGAIN` call `next` with a new snapshot. When the registry was away in the middle
    of a transaction, nobody knows whether it was done: call `next` with a new snapshot; if it was, the address is ours.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        name: str,
        key: str,
        *,
        wish: IPv4Address | None = None,
        former: IPv4Address | None = None,
    ) -> None:
        """`key`: our fingerprint. `wish`: the one address to have. `former`: what we remember to have had.

        Raises `LocalError` for a wish that no node of the network may have, and for a name or key that nobody accepts.
        """
        self._settings, self._wish, self._former = settings, wish, former
        self._us = Holder(name, key)
        self._value = encode_claim(self._us)
        self._entries: dict[bytes, bytes] = {}
        self._wall_s = 0.0
        self._tried: bytes | None = None
        self._losses = self._losses_total = 0
        if wish is not None and not settings.is_host(wish):
            raise LocalError(
                f"the address {wish} cannot be had",
                f"it is no address of a node in {settings.network}",
                f"choose one inside {settings.network}, neither its first nor its last",
            )
        if wish is not None and settings.is_floating(wish):
            raise LocalError(
                f"the address {wish} cannot be had",
                f"it is in the floating range {settings.floating_range}, whose addresses no node has for itself",
                "choose one outside, or list it as a floating address",
            )

    def next(self, entries: Mapping[bytes, bytes], wall_s: float) -> Attempt:
        """What to try first. `entries`: what stands under `addresses/`, by key suffix. `wall_s`: unix seconds."""
        self._entries, self._wall_s, self._losses = dict(entries), wall_s, 0
        return self._choose()

    def lost(self, found: bytes | None, wall_s: float) -> Attempt:
        """What to try next, after the transaction did not succeed and its key was found to hold `found` (None: nothing).

        Raises `LocalError` when nothing was tried.
        """
        if self._tried is None:
            raise LocalError("nothing was lost", "no transaction is under way", "call next first")
        if found is None:
            self._entries.pop(self._tried, None)
        else:
            self._entries[self._tried] = found
        self._wall_s = wall_s
        self._losses += 1
        self._losses_total += 1
        if self._losses >= MAX_LOSSES:
            return self._refuse(Obstacle.LOOK_AGAIN)
        return self._choose()

    # Choosing.

    def _choose(self) -> Attempt:
        if self._wish is not None:
            return self._try_wish(self._wish)
        for address in self._our_own():
            return self._try(claim_suffix(address))
        if self._former is not None and self._may_have(self._former):
            suffix = claim_suffix(self._former)
            if self._is_free(suffix):
                return self._try(suffix)
        lowest = self._lowest_free() or self._lowest_garbage()
        return self._refuse(Obstacle.FULL) if lowest is None else self._try(lowest)

    def _try_wish(self, wish: IPv4Address) -> Attempt:
        suffix = claim_suffix(wish)
        value = self._entries.get(suffix)
        if value is None:
            return self._try(suffix)
        holder = decode_claim(value)
        standing = self._standing(holder)
        match standing:
            case _Standing.OURS | _Standing.FREE | _Standing.GARBAGE:
                return self._try(suffix)
            case _Standing.NEWER:
                return self._refuse(Obstacle.NEWER, wish)
            case _Standing.HELD | _Standing.RESTING:
                assert isinstance(holder, Holder)
                obstacle = Obstacle.TAKEN if standing is _Standing.HELD else Obstacle.RESTING
                return self._refuse(obstacle, wish, holder)
            case _:
                assert_never(standing)

    def _try(self, suffix: bytes) -> Claim:
        self._tried = suffix
        return Claim(IPv4Address(suffix.decode()), suffix, self._value, self._entries.get(suffix))

    def _refuse(self, obstacle: Obstacle, address: IPv4Address | None = None, holder: Holder | None = None) -> Refusal:
        self._tried = None
        if holder is None:
            return Refusal(obstacle, address)
        return Refusal(obstacle, address, holder.name, holder.free_from)

    def _may_have(self, address: IPv4Address) -> bool:
        return self._settings.is_host(address) and not self._settings.is_floating(address)

    def _our_own(self) -> list[IPv4Address]:
        """Addresses that stand under our key and that we may have: the one we remember first, then the lowest."""
        ours = [each for each in held_by(self._entries, self._us.key) if self._may_have(each)]
        return sorted(ours, key=lambda each: (each != self._former, each))

    def _lowest_free(self) -> bytes | None:
        """The lowest free one; after losses one of the lowest, or the last of fewer."""
        bits = min(2 * self._losses_total, MAX_SPREAD_BITS)
        digits = self._losses_total * 8 % len(self._us.key)  # other bits in every round
        to_pass = int(self._us.key[digits : digits + 8], 16) & ((1 << bits) - 1)
        found = None
        for suffix in _suffixes(self._settings):
            if self._is_free(suffix):
                found = suffix
                if not to_pass:
                    break
                to_pass -= 1
        return found

    def _lowest_garbage(self) -> bytes | None:
        for suffix in _suffixes(self._settings):
            if self._standing(decode_claim(self._entries[suffix])) is _Standing.GARBAGE:
                return suffix
        return None

    def _is_free(self, suffix: bytes) -> bool:
        value = self._entries.get(suffix)
        if value is None:
            return True
        return _IN_USE not in value and self._standing(decode_claim(value)) in (_Standing.FREE, _Standing.OURS)

    def _standing(self, holder: Holder | ClaimProblem) -> _Standing:
        if not isinstance(holder, Holder):
            return _Standing.NEWER if holder is ClaimProblem.WRONG_VERSION else _Standing.GARBAGE
        if holder.key == self._us.key:
            return _Standing.OURS
        if holder.free_from is None:
            return _Standing.HELD
        return _Standing.FREE if holder.is_free(self._wall_s) else _Standing.RESTING


def held_by(entries: Mapping[bytes, bytes], key: str) -> list[IPv4Address]:
    """The addresses that stand under the fingerprint `key`, in use or resting, lowest first.

    For those, too, who clean up after a machine that has changed its address or was let go.
    """
    needle = key.encode()
    found = []
    for suffix, value in entries.items():
        if needle in value:  # reading 65 000 claims would take most of a second
            holder, address = decode_claim(value), read_suffix(suffix)
            if address is not None and isinstance(holder, Holder) and holder.key == key:
                found.append(address)
    return sorted(found)


def _suffixes(settings: NetworkSettings) -> Iterator[bytes]:
    """The key suffixes of the addresses that are given to those who ask for none, lowest first."""
    number, last = int(settings.network.network_address) + 1, int(settings.network.broadcast_address) - 1
    reserved = sorted(
        (int(each.network_address), int(each.broadcast_address))
        for each in (settings.static_range, settings.floating_range)
        if each is not None
    )
    for begin, end in [*reserved, (last + 1, last + 1)]:
        for each in range(number, begin):
            if 0 < each & 255 < 255:
                yield b"%d.%d.%d.%d" % (each >> 24, each >> 16 & 255, each >> 8 & 255, each & 255)
        number = max(number, end + 1)
