"""Who has each floating address, as a node believes that sends to it: one holder, and never one that was before.

Every claim carries the revision at which it was made, its fence. A later claim has a greater one, whoever made it, so an
old holder that has missed its end, or a watch that lags, is known by its fence and refused. Not responsible for whether a
node may hold the address, nor for reading claims (`floating_claims`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address

MAX_FLOATING_ADDRESSES = 1024
"""More than this many addresses are not remembered: whoever fills the registry does not fill us."""


class FloatingRefusal(Enum):
    """Why a claim is not believed; the value is the name under which it is counted."""

    STALE_FENCE = "floating_stale_fence"
    SAME_FENCE = "floating_same_fence"
    TOO_MANY = "floating_too_many"


@dataclass(frozen=True, slots=True)
class FloatingHolder:
    """Who has an address: a node by its name and the fingerprint of its identity, since the revision `fence`."""

    name: str
    key: str
    fence: int


class FloatingTable:
    """Floating addresses and their holders. `refused` counts claims that were not believed."""

    def __init__(self) -> None:
        self.refused: Counter[FloatingRefusal] = Counter()
        self._holders: dict[IPv4Address, FloatingHolder] = {}
        self._fences: dict[IPv4Address, int] = {}

    def holder(self, address: IPv4Address) -> FloatingHolder | None:
        """Who has the address now."""
        return self._holders.get(address)

    def holders(self) -> Mapping[IPv4Address, FloatingHolder]:
        """All that are held."""
        return dict(self._holders)

    def learn(self, address: IPv4Address, holder: FloatingHolder) -> FloatingRefusal | None:
        """A claim was seen. Returns why it is not believed, or None: its holder is the one from now on.

        A claim is believed if its fence is greater than every one seen for this address, or if it is the one that we know.
        """
        fence = self._fences.get(address)
        refusal = None
        if fence is None and len(self._fences) >= MAX_FLOATING_ADDRESSES:
            refusal = FloatingRefusal.TOO_MANY
        elif fence is not None and holder.fence < fence:
            refusal = FloatingRefusal.STALE_FENCE
        elif fence is not None and holder.fence == fence and self._holders.get(address) != holder:
            refusal = FloatingRefusal.SAME_FENCE
        if refusal is not None:
            self.refused[refusal] += 1
            return refusal
        self._fences[address] = holder.fence
        self._holders[address] = holder
        return None

    def forget(self, address: IPv4Address, revision: int) -> None:
        """There was no claim at `revision`: whatever was claimed before is over. Nothing for what is older than we know."""
        fence = self._fences.get(address)
        if fence is not None and revision >= fence:
            self._fences[address] = revision
            self._holders.pop(address, None)

    def begin_again(self) -> None:
        """The store is another one, whose revisions say nothing about those of the one before."""
        self._holders.clear()
        self._fences.clear()

    def keep_only(self, addresses: frozenset[IPv4Address], revision: int) -> None:
        """A snapshot at `revision` had claims for these addresses alone."""
        for address in list(self._holders):
            if address not in addresses:
                self.forget(address, revision)
