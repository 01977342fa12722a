"""The registry of a simulated network: one store, a door to it for every life of every node, and what befalls it.

    store = Store(seed, 5_000_000, 40_000_000)          # a call takes 5 to 40 ms, there and back
    door = store.door("left")                           # a process on `left` begins
    async with door.handle().watch(...) as watch: ...   # and uses the store as any other
    store.begin(fault); ...; store.end(fault)
    door.kill()                                         # the process is gone; its leases are not

Time is Trio's clock, and chance is named streams: the same seed and the same calls give the same run. Responsible for when
faults begin and end, and for telling the truth about the store to those who judge the run. Not responsible for what a
fault does to a call or a watch (`store_door`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from holloway.actors.registry import Limits, MemoryRegistry
from holloway.actors.registry.limits import DEFAULT_LIMITS
from holloway.protocols.errors import LocalError
from holloway.protocols.membership import network_prefix, nodes_prefix
from holloway.simulations.faults import Fault
from holloway.simulations.store_door import Door
from holloway.simulations.store_line import Life, Line
from holloway.simulations.store_truth import Truth

LASTING = ("store_down", "stale_watch", "disk_full")
MOMENTS = ("store_compaction", "lease_loss")

MILESTONES: Mapping[str, str] = MappingProxyType(
    {
        "registry_unreachable": "a call was refused or hung, or an open watch was cut, because the store was down",
        "answer_lost": "the store did what it was asked, and the answer was lost",
        "history_compacted": 'a watch was told "compacted"',
        "lease_retaken": "a process was granted a lease after it had lost one in the same life",
        "store_full": "a put or a lease was refused because the store's disk was full",
        "race_lost": "a transaction found that somebody else had been faster",
        "watch_was_stale": "a change had come and was held back from a stale watch",
    }
)
"""Every place that `reach` is told of, and what it means."""


class Store:
    """One registry, shared by all nodes of one run."""

    def __init__(
        self,
        seed: int,
        latency_low_ns: int,
        latency_high_ns: int,
        *,
        limits: Limits = DEFAULT_LIMITS,
        tell: Callable[[str, str], None] = lambda node, what: None,
        reach: Callable[[str], None] = lambda place: None,
    ) -> None:
        """A call takes from `latency_low_ns` to `latency_high_ns`, drawn for each; news of a change takes half as long.

        `tell(node, what)` hears of refusals and of changes of state, at most `TOLD_LINES` for each node; `reach` hears of
        `MILESTONES`. Raises `LocalError` for times that are none.
        """
        if not 0 <= latency_low_ns <= latency_high_ns:
            raise LocalError(
                f"a store cannot take {latency_low_ns} to {latency_high_ns} ns for a call",
                "a time is negative, or the range ends before it begins",
                "give the shortest time, then the longest",
            )
        self._seed, self._latency_ns = seed, (latency_low_ns, latency_high_ns)
        self._tell, self._reach = tell, reach
        self._truth = Truth(limits, latency_high_ns / 10**9)
        self._lines: dict[str, Line] = {}
        self._lasting: dict[str, Fault] = {}

    @property
    def memory(self) -> MemoryRegistry:
        """The truth. To be looked at; who changes it here goes round every fault."""
        return self._truth.memory

    def door(self, node: str) -> Door:
        """A process on `node` begins; the one before it should have been killed."""
        return Door(self._truth, Life(self._line(node)))

    # Faults.

    def begin(self, fault: Fault) -> None:
        """A fault befalls `fault.nodes`, or with nobody named every node, those that come later included. Call it in the run.

        Raises `LocalError` for a kind that is not of `LASTING` or `MOMENTS`.
        """
        if fault.kind in LASTING:
            self._lasting[fault.name] = fault
            for line in self._befallen(fault):
                line.begin(fault)
        elif fault.kind == "store_compaction":
            self._compact(fault)
        elif fault.kind == "lease_loss":
            self._truth.lose_leases(lambda node: _befalls(fault, node))
        else:
            raise LocalError(
                f"the fault {fault.kind} does not befall a store",
                f"its faults are {', '.join((*LASTING, *MOMENTS))}",
                "give it to the part of the world that it befalls",
            )
        self.memory.wake()

    def end(self, fault: Fault) -> None:
        """A fault that lasts is over; nothing for one that is not there."""
        if self._lasting.pop(fault.name, None) is not None:
            for line in self._befallen(fault):
                line.end(fault)
            self.memory.wake()

    def _compact(self, fault: Fault) -> None:
        """For all nodes the history itself goes; for some, only the members of the store that they talk to have dropped it."""
        newest = self._truth.newest()
        if not fault.nodes:
            self.memory.compact(newest)
        for node in fault.nodes:
            self._line(node).forgotten = newest

    def _befallen(self, fault: Fault) -> list[Line]:
        return [self._line(node) for node in fault.nodes or tuple(self._lines)]

    def _line(self, node: str) -> Line:
        line = self._lines.get(node)
        if line is None:
            line = self._lines[node] = Line(self._seed, node, self._latency_ns, self._tell, self._reach)
            for fault in self._lasting.values():
                if _befalls(fault, node):
                    line.begin(fault)
        return line

    # Whoever owns the store.

    def overwrite(self, puts: Mapping[bytes, bytes], deletes: Sequence[bytes] = ()) -> None:
        """Change what stands there, past every fault and every lease."""
        self._truth.newest()
        self.memory.transact((), puts, deletes, None)
        self._truth.newest()

    def held(self, network: str) -> dict[bytes, bytes]:
        """Everything of one network, by its key."""
        self._truth.newest()
        found = self.memory.snapshot(network_prefix(network)).entries
        return {key: entry.value for key, entry in found.items()}

    def is_away(self, node: str) -> bool:
        """Whether a node cannot reach the store."""
        return self._line(node).is_down

    # The truth, for those who judge. Asking settles what is due and changes nothing else.

    def members(self, network: str) -> dict[str, bytes]:
        """The records of the nodes of one network as they are now, unread, by the names they stand under."""
        return self._under(nodes_prefix(network))

    def addresses(self, network: str) -> dict[str, bytes]:
        """What the address entries of one network hold now, unread, by address without its prefix length."""
        return self._under(network_prefix(network) + b"addresses/")

    def _under(self, prefix: bytes) -> dict[str, bytes]:
        self._truth.newest()
        found = self.memory.snapshot(prefix).entries
        return {key[len(prefix) :].decode("utf-8", "backslashreplace"): entry.value for key, entry in found.items()}


def _befalls(fault: Fault, node: str) -> bool:
    return not fault.nodes or node in fault.nodes
