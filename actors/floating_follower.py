"""Who holds each floating address, as the registry tells: packets for it go there. On every node, holder or not.

Claims are hostile input: one that is not believed is named in the log, counted, and holds nothing. Not responsible for
reading the registry (`membership`), for holding an address (`floating`), nor for who is believed (`floating_belief`).
"""

from __future__ import annotations

import math
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, ip_network

import trio

from holloway.actors.bounded_log import BoundedLog
from holloway.actors.floating_belief import FloatingBelief, Opener
from holloway.actors.registry import Change, Entry, Put, Snapshot
from holloway.actors.roster import Roster
from holloway.actors.wanted import Floating
from holloway.protocols.floating_claims import FloatingProblem, decode_floating_claim, floating_prefix
from holloway.protocols.floating_table import MAX_FLOATING_ADDRESSES, FloatingHolder, FloatingRefusal, FloatingTable

TELL_INTERVAL_S = 0.5
TELL_BURST = 10
"""Changes are told to the roster at once, but in the long run once in `TELL_INTERVAL_S`: a writer in a hurry costs little."""
AT_ONCE = 32
"""Claims that are read in one turn."""


class FloatingFollower:
    """What is known of the holders. Outlives whoever reads the registry, so that nobody is believed again who was not any more."""

    def __init__(
        self,
        network: str,
        belief: FloatingBelief,
        table: FloatingTable,
        roster: Roster,
        log: BoundedLog,
        range_: IPv4Network | None,
    ) -> None:
        """`range_`: where all floating addresses lie, if that is settled."""
        self.prefix = floating_prefix(network)
        self._belief, self._table, self._roster, self._log, self._range = belief, table, roster, log, range_
        self._is_told = False
        self._openers: dict[IPv4Address, Opener] = {}
        self._revision = 0
        self._tell_from = -math.inf
        self.refused: dict[str, str] = {}
        """Some places of claims that are not believed, and why."""

    async def replace(self, snapshot: Snapshot) -> None:
        """What the store says now is all there is. Keys of others may be among it.

        A snapshot is never older than what we have heard; one that is, is of another store, in place of one that was lost.
        """
        if snapshot.revision < self._revision:
            self._table.begin_again()
        self._revision = snapshot.revision
        at = len(self.prefix)
        claims = {key[at:]: entry for key, entry in snapshot.entries.items() if key.startswith(self.prefix)}
        self._is_told = False
        present = frozenset(address for address in map(_address, claims) if address is not None)
        self._table.keep_only(present, snapshot.revision)
        self._openers = {address: opener for address, opener in self._openers.items() if address in present}
        names = {_text(raw) for raw in claims}
        self.refused = {name: why for name, why in self.refused.items() if name in names}
        for number, (raw, entry) in enumerate(claims.items()):
            if number % AT_ONCE == 0:  # somebody may have filled the store, and packets are waiting
                await trio.lowlevel.checkpoint()
            self.learn(raw, entry)

    def note(self, change: Change) -> None:
        """One change in the store, whosever."""
        self._revision = change.revision
        if change.key.startswith(self.prefix):
            self._is_told = False
            raw = change.key[len(self.prefix) :]
            if isinstance(change, Put):
                self.learn(raw, change.entry)
            else:
                self.forget(raw, change.revision)

    def learn(self, raw: bytes, entry: Entry) -> None:
        """What stands under `floating/` and `raw`."""
        address = _address(raw)
        problem = self._problem(address, entry)
        if problem is None:
            self.refused.pop(_text(raw), None)
            return
        if address is not None and not isinstance(problem, FloatingRefusal):
            self._table.forget(address, entry.mod_revision)
        name = _text(raw)
        self._roster.problems[problem.value] += 1
        if self.refused.get(name) != problem.value:
            self._log.warning("what the registry says of the floating address %s is refused: %s", name, problem.value)
        if name in self.refused or len(self.refused) < MAX_FLOATING_ADDRESSES:
            self.refused[name] = problem.value

    def forget(self, raw: bytes, revision: int) -> None:
        """Nothing stands there since `revision`."""
        self.refused.pop(_text(raw), None)
        if (address := _address(raw)) is not None:
            self._table.forget(address, revision)

    def tell(self, now: float) -> float:
        """Tell the roster what is new, unless it was told too often of late. Returns when to call again."""
        if self._is_told:
            return math.inf
        if now < self._tell_from:
            return self._tell_from
        self._tell_from = max(self._tell_from + TELL_INTERVAL_S, now - (TELL_BURST - 2) * TELL_INTERVAL_S)
        self._is_told = True
        holders = {
            ip_network(address): self._belief.claimant(holder.name, holder.key)
            for address, holder in self._table.holders().items()
            if holder.key != self._belief.key
        }
        self._roster.set_floating(Floating(holders, self._range))
        return math.inf

    def _problem(self, address: IPv4Address | None, entry: Entry) -> Enum | None:
        """Takes the claim; or why it is not believed."""
        if address is None or not self._belief.may_float(address):
            return Misplaced.NOT_FLOATING
        opener = self._openers.get(address)
        if opener is None:
            if len(self._openers) >= MAX_FLOATING_ADDRESSES:
                return FloatingRefusal.TOO_MANY
            opener = self._openers[address] = self._belief.opener(address)
        value = opener(f"floating/{address}", entry)
        claim = decode_floating_claim(value) if isinstance(value, bytes) else value
        if isinstance(claim, FloatingProblem | Enum):
            return claim
        return self._table.learn(address, FloatingHolder(claim.name, claim.key, entry.create_revision))


class Misplaced(Enum):
    """Why a claim is refused whatever it says; the value is the name under which it is counted."""

    NOT_FLOATING = "floating_not_in_range"


def _address(raw: bytes) -> IPv4Address | None:
    """The address, if it is written as everybody writes it."""
    try:
        address = IPv4Address(raw.decode("ascii"))
    except ValueError:
        return None
    return address if str(address).encode() == raw else None


def _text(raw: bytes) -> str:
    """To look up and to print. etcd takes keys of a megabyte."""
    return raw[:64].decode("ascii", "replace")
