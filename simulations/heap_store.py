"""The registry at heap speed, as far as floating addresses need it: two keys for each, leases, news, and what befalls them.

A call travels half its time, the store acts, and the answer travels the other half. An outage that begins on the way takes the
question or the answer. What a process has asked is done even if it dies meanwhile. A lease lives up to `LINGER_NS` longer than it must, as
with etcd. Not responsible for what is asked, and when (`floating_seats`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address
from typing import TypeAlias

from holloway.protocols.floating_operations import Key, Operation, Seen
from holloway.simulations.faults import Fault
from holloway.simulations.heap import Agenda
from holloway.simulations.streams import WORD, below, stream

LINGER_NS = 600_000_000
AGAIN_NS = 10**9
"""Up to so long after an outage a node follows the store again."""
SECOND_NS = 10**9

Place: TypeAlias = tuple[IPv4Address, Key]


@dataclass(frozen=True, slots=True)
class News:
    """What stands at a place since a revision; None: nothing."""

    place: Place
    revision: int
    seen: Seen | None


@dataclass(slots=True)
class _Lease:
    owner: str
    ttl_ns: int
    until_ns: int


@dataclass(slots=True)
class _Line:
    """One node's way to the store."""

    name: str
    outages: dict[str, Fault] = field(default_factory=dict)
    stale: dict[str, None] = field(default_factory=dict)
    full: dict[str, None] = field(default_factory=dict)
    cuts: int = 0
    hear: Callable[[list[News], bool], None] | None = None
    """Of the process that runs: takes news, and whether they are all there is."""
    arrived_ns: int = 0
    is_behind: bool = False
    held: list[News] = field(default_factory=list)


class HeapStore:
    """One store, and the ways of all nodes to it."""

    def __init__(self, seed: int, timeline: Agenda, latency_ns: tuple[int, int], nodes: tuple[str, ...]) -> None:
        """`latency_ns`: the shortest and the longest time of a call, there and back."""
        self._timeline, self._latency_ns = timeline, latency_ns
        self._lines = {name: _Line(name) for name in nodes}
        self._calls = {name: stream(seed, "store", name) for name in nodes}
        self._dice = stream(seed, "store")
        self._silence = stream(seed, "store", "silence")
        self._leases: dict[int, _Lease] = {}
        self._entries: dict[Place, tuple[Seen, int]] = {}
        self.revision = 1
        self._granted = 0

    # What processes do.

    def follow(self, node: str, hear: Callable[[list[News], bool], None] | None) -> None:
        """A process hears from now on what there is and what changes; None: there is none any more."""
        self._lines[node].hear = hear
        self._begin_anew(self._lines[node])

    def call(self, node: str, act: Callable[[], object], tell: Callable[[object], None]) -> None:
        """Have the store `act`, and be told what came of it; None: it cannot be reached. Or be told nothing."""
        line = self._lines[node]
        cuts, half_ns = line.cuts, self._half_ns(node)
        if line.outages:
            self._lose(line, tell)
        else:
            self._after(half_ns, self._arrive, line, cuts, half_ns, act, tell)

    def _arrive(
        self, line: _Line, cuts: int, half_ns: int, act: Callable[[], object], tell: Callable[[object], None]
    ) -> None:
        if line.cuts != cuts:
            self._lose(line, tell)
            return
        self._after(half_ns, self._return, line, cuts, act(), tell)

    def _return(self, line: _Line, cuts: int, answer: object, tell: Callable[[object], None]) -> None:
        if line.cuts != cuts:
            self._lose(line, tell)
        else:
            tell(answer)

    def _lose(self, line: _Line, tell: Callable[[object], None]) -> None:
        draw = self._silence.getrandbits(64)
        silent = max((fault.values["silent"] for fault in line.outages.values()), default=0.0)
        if draw >= silent * WORD:
            self._after(0, tell, None)

    # What the store does.

    def look(self, address: IPv4Address) -> tuple[int, Seen | None, Seen | None]:
        """The revision, and what stands at both places of an address."""
        return self.revision, self._seen((address, Key.CLAIM)), self._seen((address, Key.CHALLENGE))

    def grant(self, node: str, ttl_s: float) -> int | None:
        """A new lease; None: there is no room."""
        if self._lines[node].full:
            return None
        self._granted += 1
        self._leases[self._granted] = _Lease(node, int(ttl_s * SECOND_NS), 0)
        self.keep_alive(self._granted)
        return self._granted

    def keep_alive(self, number: int) -> bool:
        """Whether the lease was still there, and lives on."""
        lease = self._leases.get(number)
        if lease is None:
            return False
        lease.until_ns = self._timeline.now_ns + lease.ttl_ns + below(self._dice.getrandbits(64), LINGER_NS)
        self._timeline.at(lease.until_ns, self._expire, number)
        return True

    def revoke(self, number: int) -> None:
        """The lease is gone, with all that hangs on it."""
        if self._leases.pop(number, None) is not None:
            self._apply({}, [place for place, (_, lease) in self._entries.items() if lease == number], 0)

    def transact(self, node: str, address: IPv4Address, operation: Operation, lease: int) -> bool | None:
        """Whether the compares held, and all was done; None: there is no room."""
        if operation.puts and self._lines[node].full:
            return None
        for key, revision in operation.compares:
            entry = self._entries.get((address, key))
            if revision != (entry[0].mod_revision if entry else 0):
                return False
        if operation.puts and lease not in self._leases:
            return False
        puts = {(address, key): value for key, value in operation.puts}
        gone = [(address, key) for key in operation.deletes if (address, key) in self._entries]
        self._apply(puts, gone, lease)
        return True

    def _expire(self, number: int) -> None:
        lease = self._leases.get(number)
        if lease is not None and lease.until_ns <= self._timeline.now_ns:
            self.revoke(number)

    def _apply(self, puts: dict[Place, bytes], deletes: list[Place], lease: int) -> None:
        if not puts and not deletes:
            return
        self.revision += 1
        for place, value in puts.items():
            old = self._entries.get(place)
            created = old[0].create_revision if old else self.revision
            self._entries[place] = Seen(value, created, self.revision), lease
        for place in deletes:
            del self._entries[place]
        news = [News(place, self.revision, self._seen(place)) for place in (*puts, *deletes)]
        for line in self._lines.values():
            line.arrived_ns = max(line.arrived_ns, self._timeline.now_ns + self._half_ns(line.name))
            self._timeline.at(line.arrived_ns, self._hear, line, line.cuts, news)

    def _seen(self, place: Place) -> Seen | None:
        entry = self._entries.get(place)
        return entry[0] if entry else None

    # News.

    def _hear(self, line: _Line, cuts: int, news: list[News]) -> None:
        if line.hear is None or line.cuts != cuts:
            return  # what it missed is in the snapshot with which it begins anew
        if line.stale:
            line.held += news
        else:
            line.hear(news, False)

    def _begin_anew(self, line: _Line) -> None:
        """A snapshot, and from there on. What was on its way before is not told."""
        line.cuts += 1
        line.held = []
        self._after(self._half_ns(line.name), self._take_snapshot, line, line.cuts)

    def _take_snapshot(self, line: _Line, cuts: int) -> None:
        if line.cuts != cuts or line.outages:
            return
        news = [News(place, self.revision, seen) for place, (seen, _) in self._entries.items()]
        line.arrived_ns = max(line.arrived_ns, self._timeline.now_ns + self._half_ns(line.name))
        self._timeline.at(
            line.arrived_ns, self._tell_snapshot, line, cuts, [News(_NOWHERE, self.revision, None), *news]
        )

    def _tell_snapshot(self, line: _Line, cuts: int, news: list[News]) -> None:
        if line.cuts == cuts and line.hear is not None:
            line.hear(news, True)

    # Faults.

    def begin(self, fault: Fault) -> None:
        """A fault befalls its nodes, or all."""
        for line in self._befallen(fault):
            match fault.kind:
                case "store_down":
                    line.outages[fault.name] = fault
                    line.cuts += 1
                case "stale_watch":
                    line.stale[fault.name] = None
                case "disk_full":
                    line.full[fault.name] = None
                case "store_compaction":
                    line.is_behind = bool(line.stale)
                case _:  # lease_loss
                    for number in [each for each, lease in self._leases.items() if lease.owner == line.name]:
                        self.revoke(number)

    def end(self, fault: Fault) -> None:
        """It is over."""
        for line in self._befallen(fault):
            if line.outages.pop(fault.name, None) is not None and not line.outages:
                delay_ns = below(self._dice.getrandbits(64), AGAIN_NS)
                self._after(delay_ns, self._begin_anew, line)
            line.full.pop(fault.name, None)
            if fault.name in line.stale:
                del line.stale[fault.name]
                self._catch_up(line)

    def _catch_up(self, line: _Line) -> None:
        if line.stale:
            return
        held, line.held = line.held, []
        if line.is_behind:
            line.is_behind = False
            self._begin_anew(line)
        elif held and line.hear is not None:
            line.hear(held, False)

    def _befallen(self, fault: Fault) -> list[_Line]:
        return [self._lines[name] for name in fault.nodes or tuple(self._lines)]

    # Time.

    def _half_ns(self, node: str) -> int:
        low, high = self._latency_ns
        return (low + below(self._calls[node].getrandbits(64), high - low + 1)) // 2

    def _after(self, delay_ns: int, action: Callable[..., None], *arguments: object) -> None:
        self._timeline.at(self._timeline.now_ns + delay_ns, partial(action, *arguments))


_NOWHERE: Place = (IPv4Address(0), Key.CLAIM)
"""The place of the news that says at what revision a snapshot was taken."""
