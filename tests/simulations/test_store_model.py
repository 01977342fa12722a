"""The simulated registry under any faults at once: nothing is lost, doubled or halved, and a seed decides everything."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TypeAlias

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holloway.actors.registry import Change, Changes, Entry, LeaseId, LeaseLostError, Put, RegistryPort, Transaction
from holloway.protocols.errors import RegistryError
from holloway.simulations.determinism import run
from holloway.simulations.faults import Fault
from holloway.simulations.store import LASTING, MILESTONES, MOMENTS, Store
from holloway.simulations.streams import stream

NODES = ("a", "b", "c")
MS = 10**6
FAULTY_S = 20.0
"""Faults begin before this, and all of them end."""
CALM_S = 40.0
END = b"n/end"

State: TypeAlias = dict[bytes, Entry]


@dataclass(frozen=True)
class Act:
    """What a writer does next: on a key of its own choice, after a pause, giving up after a patience."""

    what: str
    key: bytes
    pause_s: float
    patience_s: float


acts = st.builds(
    Act,
    st.sampled_from(["put", "put two", "put leased", "delete", "grant", "keep", "revoke"]),
    st.sampled_from([b"n/1", b"n/2", b"m/3"]),
    st.integers(0, 30).map(lambda tenths: tenths / 10),
    st.sampled_from([0.02, 0.1, 1.0, 100.0]),
)


@st.composite
def faults(draw: st.DrawFn) -> Fault:
    kind = draw(st.sampled_from([*LASTING, *MOMENTS]))
    begins = draw(st.integers(0, 190))
    return Fault(
        name=f"{kind}-{draw(st.integers(0, 99))}-{begins}",
        kind=kind,
        at_ns=begins * 100 * MS,
        until_ns=(begins + draw(st.integers(1, 60))) * 100 * MS,
        nodes=tuple(draw(st.lists(st.sampled_from(NODES), max_size=2, unique=True))),
        values={"silent": draw(st.sampled_from([0.0, 0.5, 1.0]))} if kind == "store_down" else {},
    )


@dataclass
class Seen:
    """One snapshot that a follower took, and everything it was given from there on."""

    prefix: bytes
    revision: int
    entries: State
    changes: list[Change] = field(default_factory=list)


@dataclass
class Run:
    """What one run went through, by those who were in it and by one who reads the store itself."""

    seed: int
    latency_ns: tuple[int, int]
    log: list[tuple[object, ...]] = field(default_factory=list)
    truth: list[Change] = field(default_factory=list)
    read_to: int = 1
    seen: dict[str, list[Seen]] = field(default_factory=dict)
    answered: dict[bytes, int] = field(default_factory=dict)
    uncertain: list[bytes] = field(default_factory=list)
    reached: Counter[str] = field(default_factory=Counter)

    async def play(self, schedule: list[Fault], programs: list[list[Act]]) -> None:
        self.store = Store(
            self.seed,
            *self.latency_ns,
            tell=lambda node, what: self.log.append((trio.current_time(), node, what)),
            reach=lambda place: self.reached.update([place]),
        )
        async with trio.open_nursery() as nursery:
            for each in schedule:
                nursery.start_soon(self.befall, each)
            for number, node in enumerate(NODES):
                nursery.start_soon(self.follow, node, (b"", b"n/")[number % 2])
            for number, program in enumerate(programs):
                nursery.start_soon(self.write, NODES[number % 3], number, program)
            await trio.sleep(FAULTY_S + CALM_S)
            await self.store.door("z").handle().put(END, b"")
            self.read_truth()
            await trio.sleep(1.0)
            nursery.cancel_scope.cancel()

    def read_truth(self) -> None:
        changes, last = self.store.memory.changes(b"", self.read_to)
        while changes:
            self.truth += changes
            self.read_to = last
            changes, last = self.store.memory.changes(b"", self.read_to)

    async def befall(self, fault: Fault) -> None:
        await trio.sleep(fault.at_ns / 10**9)
        self.read_truth()  # before it is forgotten
        self.store.begin(fault)
        if fault.kind in LASTING:
            await trio.sleep((fault.until_ns - fault.at_ns) / 10**9)
            self.store.end(fault)

    async def follow(self, node: str, prefix: bytes) -> None:
        """As `Watch` says: again after the last revision when the store is away, from a new snapshot when it forgot."""
        registry = self.store.door(node).handle()
        dice = stream(self.seed, "impatience", node)
        pieces = self.seen[node] = list[Seen]()
        is_forgotten = True
        while True:
            try:
                if is_forgotten:
                    snapshot = await registry.snapshot(prefix)
                    pieces.append(Seen(prefix, snapshot.revision, dict(snapshot.entries)))
                    is_forgotten = False
                piece = pieces[-1]
                last = piece.changes[-1].revision if piece.changes else piece.revision
                async with registry.watch(prefix, last) as watch:
                    while True:
                        batch: Changes = ()
                        with trio.move_on_after(dice.choice((0.001, 0.05, 5.0))):
                            batch = await watch.receive()
                            assert batch
                        piece.changes += batch
                        self.log += [(trio.current_time(), node, each.key, each.revision) for each in batch]
            except RegistryError as error:
                is_forgotten = is_forgotten or error.kind == "compacted"
                self.log.append((trio.current_time(), node, error.kind))
                await trio.sleep(0.5)

    async def write(self, node: str, number: int, program: list[Act]) -> None:
        registry = self.store.door(node).handle()
        lease: LeaseId | None = None
        for step, act in enumerate(program):
            await trio.sleep(act.pause_s)
            value = b"%d/%d" % (number, step)
            try:
                with trio.move_on_after(act.patience_s):
                    if act.what.startswith("put"):
                        self.uncertain.append(value)
                        self.answered[value] = (await self.put(registry, act, value, lease)).revision
                    elif act.what == "delete":
                        await registry.delete(act.key)
                    elif act.what == "grant":
                        lease = (await registry.grant(3.0)).id
                    elif lease is not None:
                        await (registry.keep_alive(lease) if act.what == "keep" else registry.revoke(lease))
            except LeaseLostError:
                lease = None
            except RegistryError as error:
                self.log.append((trio.current_time(), node, act.what, error.kind))

    async def put(self, registry: RegistryPort, act: Act, value: bytes, lease: LeaseId | None) -> Transaction:
        keys = (act.key, b"n/also") if act.what == "put two" else (act.key,)
        return await registry.transact((), dict.fromkeys(keys, value), lease=lease if "leased" in act.what else None)

    def judge(self) -> None:
        assert [change.key for change in self.truth[-1:]] == [END]
        revisions = list(dict.fromkeys(change.revision for change in self.truth))
        assert revisions == list(range(2, 2 + len(revisions)))
        for node in NODES:
            for number, piece in enumerate(self.seen[node]):
                is_last = number == len(self.seen[node]) - 1
                self.judge_piece(piece, is_last=is_last)
        for value in self.uncertain:
            done = [change for change in self.truth if isinstance(change, Put) and change.entry.value == value]
            at = list(dict.fromkeys(change.revision for change in done))
            assert len(at) == (1 if value in self.answered else len(at)) <= 1, "an answer without a deed, or two deeds"
            assert at == [self.answered[value]] if value in self.answered else True

    def judge_piece(self, piece: Seen, *, is_last: bool) -> None:
        """The snapshot is the truth of its revision; what followed is the truth without a gap, to the end in the calm."""
        state: State = {}
        for change in self.truth:
            if change.revision <= piece.revision:
                state.pop(change.key, None)
                if isinstance(change, Put):
                    state[change.key] = change.entry
        assert piece.entries == {key: entry for key, entry in state.items() if key.startswith(piece.prefix)}
        last = piece.changes[-1].revision if piece.changes else piece.revision
        assert piece.changes == [
            change
            for change in self.truth
            if piece.revision < change.revision <= last and change.key.startswith(piece.prefix)
        ]
        if is_last:
            assert last >= self.truth[-1].revision, "what came after the last fault is not there"


latencies = st.sampled_from([(0, 0), (20 * MS, 20 * MS), (1 * MS, 200 * MS)])
thorough = settings(
    max_examples=50, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


@thorough
@given(
    st.integers(0, 99),
    latencies,
    st.lists(faults(), max_size=8, unique_by=lambda each: each.name),
    st.lists(st.lists(acts, max_size=12), min_size=1, max_size=3),
)
def test_watches_follow_the_truth_through_any_faults_and_a_seed_decides_the_whole_run(
    seed: int, latency_ns: tuple[int, int], schedule: list[Fault], programs: list[list[Act]]
) -> None:
    first, second = Run(seed, latency_ns), Run(seed, latency_ns)
    run(seed, first.play, schedule, programs)
    first.judge()
    run(seed, second.play, schedule, programs)
    assert second.log == first.log
    assert second.reached == first.reached


def test_busy_run_with_all_faults_reaches_every_milestone() -> None:
    """So that the test above does not pass because nothing happens in it."""
    dice = stream(5, "schedule")
    schedule = [
        Fault(
            name=f"{kind}-{number}",
            kind=kind,
            at_ns=(at := dice.randrange(200)) * 100 * MS,
            until_ns=(at + dice.randrange(10, 40)) * 100 * MS,
            nodes=(),
            values={"silent": 0.5},
        )
        for number in range(3)
        for kind in (*LASTING, *MOMENTS)
    ]
    program = [
        Act(what, b"n/1", 0.1, 100.0) for _ in range(30) for what in ("grant", "put leased", "keep", "delete", "put")
    ]
    busy = Run(5, (20 * MS, 200 * MS))
    run(5, busy.play, schedule, [program] * 3)
    busy.judge()
    assert set(busy.reached) == set(MILESTONES) - {"race_lost"}  # nobody here compares anything
