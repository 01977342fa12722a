"""What is known of the other nodes of a network: their records, made into peers.

Records are hostile input: a bad one is skipped, named in the log and in `status`, and counted; the others are unaffected.
Some things are given time, so that no writer cuts a session that works by a slip, and none cuts it every second:

* A record that vanishes, or turns bad, does not cut its session: the peer stays for `VANISHED_S`.
* One whose record was believed, and whose certificate has run out or was taken back meanwhile, is gone at once.
* A name whose record shows another key keeps the peer it has until the new key has stood for `KEY_HOLD_S`. Its claim is as old as
  that key's: nobody who was here before takes a key away from its owner by naming it.

Pure but for the log: time is a parameter. Not responsible for reading the store (`membership`), nor for records that
claim the same (`wanted`), for which it only puts the older claim first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holloway.actors.config import Endpoint
from holloway.actors.wanted import MAX_PEERS, Peer
from holloway.protocols.broker_places import BrokerPlace
from holloway.protocols.membership import NodeRecord, RecordProblem
from holloway.protocols.offers import Offers

if TYPE_CHECKING:
    from holloway.actors.bounded_log import BoundedLog
    from holloway.actors.registry import Entry

VANISHED_S = 180.0
"""How long a peer outlives its record: the life of a session key (WireGuard paper, section 6.2)."""
KEY_HOLD_S = 5.0
EXPELLED = frozenset({RecordProblem.REVOKED, RecordProblem.EXPIRED, RecordProblem.FOREIGN_AUTHORITY})
"""Reasons for which a peer is not given time: it is not one."""
REFUSED_SHOWN = 100
"""Refused records that are named in `status`, and about which the log remembers that it has told."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the believed record of a node says of the control plane."""

    name: str
    curve_key: str | None
    broker: BrokerPlace | None


@dataclass(slots=True)
class _Known:
    """A node by its name. `since`: the store's revision at which its record came into being, or got another key."""

    peer: Peer
    since: int
    value: bytes = b""
    """As it stands in the store; empty for a peer of an earlier life."""
    vanished_at: float = math.inf
    told: Told | None = None
    """What its record says of the control plane; None for a peer of an earlier life."""
    told_since: int = 0
    """The store's revision at which we first saw it name that key."""
    rival: _Known | None = None
    rival_at: float = math.inf

    @property
    def rank(self) -> tuple[bool, int, str]:
        """Whoever is there comes before those who were, and of those who are the one who came first."""
        return self.vanished_at != math.inf, self.since, self.peer.name


class Records:
    """The nodes of one network, us excepted."""

    def __init__(
        self,
        own_name: str,
        own_key: bytes,
        before: Iterable[Peer],
        read: Callable[[str, bytes], NodeRecord | RecordProblem],
        problems: Counter[str],
        log: BoundedLog,
        now: float,
    ) -> None:
        """`before`: peers known from an earlier life of ours, whose records are still to be seen again. `read` gives the record
        that stands under a name, if it is believed. `problems` counts what is refused, by reason.
        """
        self._own_name, self._own_key = own_name.encode(), own_key
        self._problems, self._log = problems, log
        self._read = read
        self._known = {peer.name: _Known(peer, since, vanished_at=now) for since, peer in enumerate(before)}
        self._vanished = dict.fromkeys(self._known)  # names, the first to vanish first
        self._refused: dict[str, RecordProblem] = {}

    def __len__(self) -> int:
        """How many nodes there are, those included that have just vanished."""
        return len(self._known)

    def refused(self) -> dict[str, str]:
        """Some names of nodes whose records are refused, and why."""
        return {name: problem.value for name, problem in sorted(self._refused.items())}

    def keep_only(self, raws: Iterable[bytes], now: float) -> None:
        """Nothing but these names has a record now; what the records say is to be learned next."""
        names = {_text(raw) for raw in raws}
        for name in self._known:
            if name not in names:
                self._vanish(name, now)
        self._refused = {name: problem for name, problem in self._refused.items() if name in names}

    def learn(self, raw: bytes, entry: Entry, now: float) -> None:
        """One record, as the store has it under the name `raw`."""
        if raw == self._own_name:
            return
        name = _text(raw)
        known = self._known.get(name)
        if known is None and len(self._known) >= MAX_PEERS and not self._vanished:
            self._refuse(name, RecordProblem.TOO_MANY)
            return
        record = self._read(name, entry.value)
        if isinstance(record, NodeRecord) and record.public_key == self._own_key:
            record = RecordProblem.OUR_KEY
        if isinstance(record, RecordProblem):
            self._refuse(name, record)
            if record in EXPELLED and known is not None and known.value == entry.value:
                self._expel(name)
            else:
                self._vanish(name, now)
            return
        peer = Peer(
            name=name,
            public_key=record.public_key,
            allowed=record.allowed(),
            endpoints=tuple(Endpoint(host, port) for host, port in record.endpoints),
            offers=Offers(record.security, record.compression),
        )
        new = _Known(peer, entry.create_revision, entry.value)
        new.told, new.told_since = Told(name, record.curve_key, record.broker), entry.create_revision
        if known is not None and known.told is not None:
            is_same = known.told.curve_key == record.curve_key
            new.told_since = known.told_since if is_same else entry.mod_revision
        if known is not None and known.peer.public_key != peer.public_key:
            if known.rival is None or known.rival.peer.public_key != peer.public_key:
                known.rival_at = now
                new.since = entry.mod_revision
            else:
                new.since = known.rival.since
            known.rival = new
        else:
            if known is not None:
                new.since = max(new.since, known.since)
            if known is None and len(self._known) >= MAX_PEERS:
                self._remove(next(iter(self._vanished)))
            self._known[name] = new
            self._vanished.pop(name, None)
        self._refused.pop(name, None)

    def forget(self, raw: bytes, now: float) -> None:
        """The record under the name `raw` vanished."""
        name = _text(raw)
        self._refused.pop(name, None)
        self._vanish(name, now)

    def judge_again(self) -> None:
        """Whom we believe may have changed: whoever is not to be believed any more is gone at once."""
        for name, known in list(self._known.items()):
            record = self._read(name, known.value) if known.value else None
            if record in EXPELLED:
                self._refuse(name, record)
                self._expel(name)

    def values(self) -> dict[str, bytes]:
        """The records of those that are there, or have just vanished, as they stood in the store, by name."""
        return {name: known.value for name, known in self._known.items() if known.value}

    def peers(self, now: float) -> tuple[list[Peer], float]:
        """Whom the records call for at `now`, and when that will be different though no record changes."""
        again_at = math.inf
        for name, known in list(self._known.items()):
            rival, rival_due, gone_at = known.rival, known.rival_at + KEY_HOLD_S, known.vanished_at + VANISHED_S
            if now < min(rival_due, gone_at):
                again_at = min(again_at, rival_due, gone_at)
                continue
            self._remove(name)
            if rival is not None:
                self._log.warning("node %s has another key from now on", name)
                self._known[name] = rival
        ranked = sorted(self._known.values(), key=lambda known: known.rank)
        living = {known.peer.public_key for known in ranked if known.vanished_at == math.inf}
        # Whoever came back under another name has not vanished.
        return [
            known.peer for known in ranked if known.vanished_at == math.inf or known.peer.public_key not in living
        ], again_at

    def told(self) -> tuple[Told, ...]:
        """What the records say of the control plane, of two that name one key the older claim first."""
        known = [each for each in self._known.values() if each.told is not None]
        known.sort(key=lambda each: (each.vanished_at != math.inf, each.told_since, each.peer.name))
        return tuple(each.told for each in known if each.told is not None)

    def _vanish(self, name: str, now: float) -> None:
        known = self._known.get(name)
        if known is not None:
            known.rival, known.rival_at = None, math.inf
            known.vanished_at = min(known.vanished_at, now)
            self._vanished.setdefault(name)

    def _expel(self, name: str) -> None:
        self._log.warning("node %s is not a peer any more", name)
        self._remove(name)

    def _remove(self, name: str) -> None:
        del self._known[name]
        self._vanished.pop(name, None)

    def _refuse(self, name: str, problem: RecordProblem) -> None:
        self._problems[problem.value] += 1
        if self._refused.get(name) is problem:
            return
        if name in self._refused or len(self._refused) < REFUSED_SHOWN:
            self._refused[name] = problem
            self._log.warning("the record of node %r is refused: %s", name, problem.value)


def _text(raw: bytes) -> str:
    """The name as text to look up and to print; no name that a record may have, when it is not ASCII, or too long."""
    return raw[:64].decode("ascii", "backslashreplace")
