"""Every back end of the registry against a plain dict, under any programs run at once."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from registry_back_ends import BACK_ENDS, NAMES, BackEnd, gather

from holloway.actors.registry import (
    Absent,
    Change,
    Compare,
    Delete,
    Entry,
    LeaseId,
    LeaseLostError,
    ModRevisionIs,
    Put,
    RegistryPort,
    Snapshot,
    Transaction,
    ValueIs,
)


@dataclass(frozen=True)
class Ask:
    """One transaction of a random program. `lease`: which of the leases; None: none."""

    compares: tuple[Compare, ...]
    puts: dict[bytes, bytes]
    deletes: tuple[bytes, ...]
    lease: int | None


Outcome: TypeAlias = tuple[Ask, Transaction]
State: TypeAlias = dict[bytes, Entry]

LEASES = 3
END = b"n/end"
keys = st.sampled_from([b"n/a", b"n/b", b"n/c", b"m/d"])
values = st.sampled_from([b"", b"1", b"2"])
compares = st.one_of(
    st.builds(Absent, keys),
    st.builds(ModRevisionIs, keys, st.integers(0, 12)),
    st.builds(ValueIs, keys, values),
)


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    puts = draw(st.dictionaries(keys, values, max_size=2))
    deletes = draw(st.lists(keys.filter(lambda key: key not in puts), max_size=2, unique=True))
    lease = draw(st.none() | st.integers(0, LEASES - 1))
    return Ask(tuple(draw(st.lists(compares, max_size=2))), puts, tuple(deletes), lease)


programs = st.lists(asks() | st.integers(0, LEASES - 1), max_size=14)  # a number revokes that lease


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    writers=st.lists(programs, min_size=1, max_size=3), watchers=st.lists(st.integers(0, 20), min_size=1, max_size=3)
)
def test_snapshot_and_watch_follow_any_concurrent_programs_like_a_plain_dict(
    name: str, writers: list[list[Ask | int]], watchers: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        back_end = BACK_ENDS[name](Path(folder))
        trio.run(run_and_judge, back_end, writers, watchers, clock=back_end.clock)


async def run_and_judge(back_end: BackEnd, writers: list[list[Ask | int]], watchers: list[int]) -> None:
    """Run the programs at once on two handles, each watcher beginning after so many steps, then judge what all saw."""
    outcomes: list[Outcome] = []
    revoked: set[LeaseId] = set()
    refusals: list[tuple[LeaseId, LeaseId | None, bool]] = []
    seen: list[tuple[bytes, Snapshot, list[Change]]] = []
    reached = [trio.Event() for _ in range(1 + sum(map(len, writers)))]  # reached[n]: n steps of the programs are done
    reached[0].set()
    watching = [trio.Event() for _ in watchers]

    async def write(registry: RegistryPort, program: list[Ask | int]) -> None:
        for ask in program:
            if isinstance(ask, int):
                revoked.add(leases[ask])
                await registry.revoke(leases[ask])
            else:
                lease = None if ask.lease is None else leases[ask.lease]
                try:
                    done = await registry.transact(ask.compares, ask.puts, ask.deletes, lease=lease)
                except LeaseLostError as error:
                    refusals.append((error.lease, lease, lease in revoked))
                else:
                    outcomes.append((ask, done))
            next(step for step in reached if not step.is_set()).set()

    async def follow(registry: RegistryPort, prefix: bytes, after_steps: trio.Event, is_watching: trio.Event) -> None:
        await after_steps.wait()
        snapshot = await registry.snapshot(prefix)
        is_watching.set()
        changes: list[Change] = []
        async with registry.watch(prefix, snapshot.revision) as watch:
            while not changes or changes[-1].key != END:
                changes += await watch.receive()
        seen.append((prefix, snapshot, changes))

    with trio.fail_after(30):
        async with back_end.handle() as one, back_end.handle() as two, trio.open_nursery() as nursery:
            start = (await one.snapshot(b"")).revision
            leases = [(await one.grant(600.0)).id for _ in range(LEASES)]
            for number, after_steps in enumerate(watchers):
                registry, prefix = (two, one)[number % 2], (b"n/", b"")[number % 2]
                begin = reached[min(after_steps, len(reached) - 1)]
                nursery.start_soon(follow, registry, prefix, begin, watching[number])
            async with trio.open_nursery() as writing:
                for number, program in enumerate(writers):
                    writing.start_soon(write, (one, two)[number % 2], program)
            for is_watching in watching:
                await is_watching.wait()
            last = Ask((), {END: b""}, (), None)
            outcomes.append((last, await one.transact((), last.puts)))
            end = outcomes[-1][1].revision
            async with two.watch(b"", start) as watch:
                log = await gather(watch, end)

    assert all(named == asked and was_revoked for named, asked, was_revoked in refusals)
    states = judge(start, log, outcomes, leases, revoked)
    assert max(states) == end
    assert len(seen) == len(watchers)
    for prefix, snapshot, changes in seen:
        state = states[snapshot.revision]
        assert list(snapshot.entries.items()) == sorted((k, e) for k, e in state.items() if k.startswith(prefix))
        assert changes == [c for c in log if c.revision > snapshot.revision and c.key.startswith(prefix)]


def judge(
    start: int, log: list[Change], outcomes: list[Outcome], leases: list[LeaseId], revoked: set[LeaseId]
) -> dict[int, State]:
    """Replay everything on a plain dict in the order of revisions: each outcome and each change must follow from it.

    Return the dict as it was at each revision.
    """
    states: dict[int, State] = {start: {}}
    happened = {revision: list(group) for revision, group in groupby(log, lambda change: change.revision)}
    assert list(happened) == list(range(start + 1, start + 1 + len(happened)))
    for revision in range(start, start + 1 + len(happened)):
        group = [outcome for outcome in outcomes if outcome[1].revision == revision]
        if revision > start:
            states[revision] = explained(states[revision - 1], revision, happened[revision], group, leases, revoked)
        else:
            assert all(only_looked(outcome, states[start]) for outcome in group)
    assert all(start <= done.revision <= max(states) for _, done in outcomes)
    return states


def explained(
    before: State,
    revision: int,
    happened: list[Change],
    group: list[Outcome],
    leases: list[LeaseId],
    revoked: set[LeaseId],
) -> State:
    """One outcome of this revision, or a revoked lease, made exactly these changes; the others changed nothing."""
    for outcome in (*group, None):
        if outcome is not None:
            ask, done = outcome
            if not done.succeeded or done.found or not all(is_true(compare, before) for compare in ask.compares):
                continue
            puts, gone = ask.puts, [key for key in ask.deletes if key in before]
            lease = None if ask.lease is None else leases[ask.lease]
        else:
            puts, lease = {}, None
            ended = before[happened[0].key].lease if happened[0].key in before else None
            gone = sorted(key for key, entry in before.items() if entry.lease == ended and ended in revoked)
        after, changes = dict(before), list[Change]()
        for key, value in puts.items():
            old = before.get(key)
            entry = Entry(
                value, old.create_revision if old else revision, revision, old.version + 1 if old else 1, lease
            )
            after[key] = entry
            changes.append(Put(key, entry))
        for key in gone:
            del after[key]
            changes.append(Delete(key, revision))
        if changes == happened and all(only_looked(other, after) for other in group if other is not outcome):
            return after
    raise AssertionError(f"nothing explains {happened} at {revision}: {group} on {before}")


def only_looked(outcome: Outcome, state: State) -> bool:
    """The transaction changed nothing and tells the truth about `state`."""
    ask, done = outcome
    if done.succeeded:
        did_nothing = not ask.puts and not any(key in state for key in ask.deletes)
        return did_nothing and done.found == {} and all(is_true(compare, state) for compare in ask.compares)
    found = {compare.key: state[compare.key] for compare in ask.compares if compare.key in state}
    return done.found == found and not all(is_true(compare, state) for compare in ask.compares)


def is_true(compare: Compare, state: State) -> bool:
    entry = state.get(compare.key)
    if isinstance(compare, Absent):
        return entry is None
    if isinstance(compare, ModRevisionIs):
        return (entry.mod_revision if entry else 0) == compare.revision
    return entry is not None and entry.value == compare.value
