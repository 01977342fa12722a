"""How calls to the simulated registry take time, and what outages, cancellation and death do to them. Faultless, it keeps the
contract of every back end (`registry_back_ends`); its other faults are in `test_store_faults`, any at once in
`test_store_model`."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from registry_back_ends import refused
from store_site import CALLS, SECOND, Site, at, fault, keys_of, lease_in, revision_of
from trio.testing import MockClock

from holloway.actors.registry import LeaseLostError
from holloway.protocols.errors import LocalError
from holloway.simulations.faults import Fault
from holloway.simulations.store import Store

# Time.


@pytest.mark.parametrize("name", CALLS)
async def test_call_takes_its_latency(name: str, autojump_clock: MockClock) -> None:
    site = Site(call_s=0.2)
    await lease_in(site.store)
    began = trio.current_time()
    await CALLS[name](site.handle())
    assert trio.current_time() == pytest.approx(began + 0.2)


@pytest.mark.parametrize("name", CALLS)
async def test_call_to_a_store_without_latency_takes_no_time_but_is_a_checkpoint(
    name: str, autojump_clock: MockClock
) -> None:
    site = Site()
    await lease_in(site.store)
    began = trio.current_time()
    with trio.testing.assert_checkpoints():
        await CALLS[name](site.handle())
    assert trio.current_time() == began


async def test_latencies_are_the_nodes_own_and_within_their_bounds(autojump_clock: MockClock) -> None:
    async def times(*nodes: str) -> list[float]:
        store = Store(7, SECOND, 3 * SECOND)
        found = []
        for node in nodes:
            began = trio.current_time()
            await store.door(node).handle().snapshot(b"")
            found.append(trio.current_time() - began)
        return found

    alone = await times("a", "a", "a")
    assert all(1.0 <= each <= 3.0 for each in alone)
    assert len({round(each, 6) for each in alone}) == 3
    both = await times("a", "b", "a", "b", "a")
    assert both[::2] == pytest.approx(alone)
    assert both[1] != pytest.approx(alone[0])


async def test_news_comes_half_a_call_after_the_change_and_later_changes_not_with_it(autojump_clock: MockClock) -> None:
    site = Site(call_s=0.2)
    registry = site.handle()
    memory = site.store.memory.handle()
    async with registry.watch(b"", await revision_of(registry)) as watch, trio.open_nursery() as nursery:
        start = trio.current_time()
        seen: list[tuple[float, bytes]] = []

        async def change() -> None:
            await memory.put(b"1", b"")
            await trio.sleep_until(start + 0.09)
            await memory.put(b"2", b"")

        nursery.start_soon(change)
        while len(seen) < 2:
            seen += [(trio.current_time() - start, each.key) for each in await watch.receive()]
    assert [key for _, key in seen] == [b"1", b"2"]
    assert [time for time, _ in seen] == pytest.approx([0.1, 0.19])


async def test_time_that_news_takes_is_drawn_for_each_batch(autojump_clock: MockClock) -> None:
    store = Store(7, SECOND, 3 * SECOND)
    registry, memory = store.door("a").handle(), store.memory.handle()
    times = []
    async with registry.watch(b"", await revision_of(registry)) as watch:
        for _ in range(5):
            began = trio.current_time()
            await memory.put(b"k", b"")
            await watch.receive()
            times.append(trio.current_time() - began)
    assert all(0.5 <= each <= 1.5 for each in times)
    assert len({round(each, 6) for each in times}) == 5


async def test_impossible_latencies_and_foreign_faults_are_refused(autojump_clock: MockClock) -> None:
    for low, high in ((-1, 0), (2, 1)):
        with pytest.raises(LocalError):
            Store(1, low, high)
    with pytest.raises(LocalError):
        Store(1, 0, 0).begin(fault("crash"))


# store_down.


@pytest.mark.parametrize("name", CALLS)
async def test_call_in_an_outage_is_refused_at_once_or_when_it_is_over(name: str, autojump_clock: MockClock) -> None:
    for silent in (0.0, 1.0):
        site = Site()
        await lease_in(site.store)
        before = await keys_of(site.store)
        began = trio.current_time()
        down = fault("store_down", silent=silent)
        site.store.begin(down)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(at, began + 5.0, lambda store=site.store, down=down: store.end(down))
            with refused("unavailable"):
                await CALLS[name](site.handle())
            assert trio.current_time() == began + 5.0 * silent
        assert await keys_of(site.store) == before
        assert site.reached == ["registry_unreachable"]
        assert (await site.handle().put(b"again", b"")).succeeded


@pytest.mark.parametrize("lasts", [0.01, 60.0])
@pytest.mark.parametrize("silent", [0.0, 1.0])
@pytest.mark.parametrize(("begins", "is_done"), [(0.05, False), (0.15, True)])
async def test_outage_on_the_way_takes_the_question_or_the_answer(
    lasts: float, silent: float, begins: float, is_done: bool, autojump_clock: MockClock
) -> None:
    site = Site(call_s=0.2)
    down = fault("store_down", silent=silent)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at, begins, lambda: site.store.begin(down))
        nursery.start_soon(at, begins + lasts, lambda: site.store.end(down))
        with refused("unavailable"):
            await site.handle().put(b"k", b"")
        noticed = 0.2 if is_done else 0.1
        assert trio.current_time() == pytest.approx(max(noticed, (begins + lasts) * silent))
    assert await keys_of(site.store) == ([b"k"] if is_done else [])
    assert site.reached == ["answer_lost"] * is_done + ["registry_unreachable"]


async def test_lost_refusal_and_lost_reading_are_no_lost_answers(autojump_clock: MockClock) -> None:
    site = Site(call_s=0.2)
    await lease_in(site.store)
    for call in (CALLS["snapshot"], CALLS["watch"], lambda registry: registry.create(b"leased", b"")):
        begins = trio.current_time() + 0.15
        async with trio.open_nursery() as nursery:
            nursery.start_soon(at, begins, lambda: site.store.begin(fault("store_down")))
            with refused("unavailable"):
                await call(site.handle())
        site.store.end(fault("store_down"))
    assert "answer_lost" not in site.reached


async def test_store_lives_on_through_an_outage_and_only_some_nodes_need_suffer(autojump_clock: MockClock) -> None:
    site = Site()
    registry, other = site.handle("a"), site.handle("b")
    lease = await registry.grant(5.0)
    await registry.put(b"mine", b"", lease=lease.id)
    site.store.begin(fault("store_down", "a"))
    with refused("unavailable"):
        await registry.keep_alive(lease.id)
    await other.put(b"theirs", b"")
    await trio.sleep(6.0)
    assert list((await other.snapshot(b"")).entries) == [b"theirs"]
    assert ("a", "lease 1 expired") in site.told
    site.store.end(fault("store_down", "a"))
    with refused("unavailable", LeaseLostError):
        await registry.keep_alive(lease.id)


async def test_outages_that_overlap_end_when_both_have_and_befall_nodes_that_come_later(
    autojump_clock: MockClock,
) -> None:
    site = Site()
    one, two = fault("store_down", name="one"), fault("store_down", name="two")
    for each in (one, two, two):
        site.store.begin(each)
    site.store.end(two)
    with refused("unavailable"):
        await site.handle("newcomer").snapshot(b"")
    site.store.end(one)
    assert await revision_of(site.handle("newcomer")) == 1
    site.store.begin(fault("store_down", "newcomer"))
    assert await revision_of(site.handle("somebody else")) == 1


@pytest.mark.parametrize("silent", [0.0, 1.0])
async def test_open_watch_fails_at_once_or_stays_silent_until_the_outage_is_over(
    silent: float, autojump_clock: MockClock
) -> None:
    site = Site()
    registry, other = site.handle("a"), site.handle("b")
    down = fault("store_down", "a", silent=silent)
    async with registry.watch(b"", await revision_of(registry)) as watch, trio.open_nursery() as nursery:
        nursery.start_soon(at, 1.0, lambda: site.store.begin(down))
        nursery.start_soon(at, 9.0, lambda: site.store.end(down))

        async def change() -> None:
            await trio.sleep(2.0)
            await other.put(b"k", b"")

        nursery.start_soon(change)
        with refused("unavailable"):
            await watch.receive()
        assert trio.current_time() == (9.0 if silent else 1.0)
        site.store.begin(down)
        with refused("unavailable"):  # once failed, always, whatever comes after
            await watch.receive()


async def test_watch_that_was_not_read_during_an_outage_is_cut_all_the_same(autojump_clock: MockClock) -> None:
    site = Site()
    registry = site.handle()
    async with registry.watch(b"", await revision_of(registry)) as watch:
        site.store.begin(fault("store_down", silent=1.0))
        site.store.end(fault("store_down"))
        await registry.put(b"k", b"")
        with refused("unavailable"):
            await watch.receive()


async def test_dice_of_one_outage_are_not_moved_by_another_or_by_other_nodes(autojump_clock: MockClock) -> None:
    async def silences(*others: Fault) -> list[bool]:
        site = Site()
        found = []
        for other in others:
            site.store.begin(other)
            for node in ("a", "b"):
                with trio.move_on_after(1.0), refused("unavailable"):
                    await site.handle(node).snapshot(b"")
            site.store.end(other)
        site.store.begin(fault("store_down", name="watched", silent=0.5))
        for _ in range(40):
            with trio.move_on_after(1.0) as patience, refused("unavailable"):
                await site.handle("a").snapshot(b"")
            found.append(patience.cancelled_caught)
        return found

    alone = await silences()
    assert 5 < sum(alone) < 35
    assert await silences(fault("store_down", name="earlier", silent=0.5)) == alone


async def test_call_that_meets_two_outages_takes_a_draw_of_each_and_one_silence_is_enough(
    autojump_clock: MockClock,
) -> None:
    async def silences(together: int, *others: Fault) -> list[bool]:
        """Of 20 calls in one outage; during the first of them the others are there too, before and after it."""
        site = Site()
        found = []
        for each in (*others[:1], fault("store_down", name="watched", silent=0.5), *others[1:]):
            site.store.begin(each)
        for number in range(20):
            if number == together:
                for each in others:
                    site.store.end(each)
            with trio.move_on_after(1.0) as patience, refused("unavailable"):
                await site.handle().snapshot(b"")
            found.append(patience.cancelled_caught)
        return found

    alone = await silences(0)
    for others in ((0.0, 1.0), (1.0, 0.0)):
        both = await silences(9, *(fault("store_down", name=f"{silent}", silent=silent) for silent in others))
        assert both == [True] * 9 + alone[9:]


# Cancellation and death.


@pytest.mark.parametrize(("after", "is_done"), [(0.05, False), (0.15, True)])
async def test_cancelled_call_was_done_or_not(after: float, is_done: bool, autojump_clock: MockClock) -> None:
    site = Site(call_s=0.2)
    with trio.move_on_after(after) as patience:
        await site.handle().transact((), {b"k": b"", b"l": b""})
    assert patience.cancelled_caught
    await trio.sleep(1.0)
    assert await keys_of(site.store) == [b"k", b"l"] * is_done


@pytest.mark.parametrize(("after", "is_done"), [(0.05, False), (0.15, True)])
async def test_killed_process_reaches_nothing_any_more_and_every_call_of_it_fails_at_once(
    after: float, is_done: bool, autojump_clock: MockClock
) -> None:
    site = Site(call_s=0.2)
    lease = await site.handle().grant(10.0)
    await site.handle().put(b"leased", b"", lease=lease.id)
    start = trio.current_time()
    door = site.store.door("a")
    registry = door.handle()
    ended: list[float] = []

    async def put() -> None:
        with refused("unavailable"):
            await registry.put(b"new", b"")
        ended.append(trio.current_time() - start)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put)
        nursery.start_soon(at, start + after, door.kill)
    assert ended == pytest.approx([after])
    for call in CALLS.values():
        with refused("unavailable"):
            await call(registry)
        with refused("unavailable"):
            await call(door.handle())
    assert trio.current_time() == pytest.approx(start + after)
    await registry.close()
    assert await keys_of(site.store) == [b"leased"] + [b"new"] * is_done
    assert await revision_of(site.handle()) > 1, "the next life is cut off too"
    await trio.sleep(10.0)
    assert await keys_of(site.store) == [b"new"] * is_done


async def test_killed_process_hangs_neither_on_a_watch_nor_in_a_silent_outage(autojump_clock: MockClock) -> None:
    site = Site()
    door = site.store.door("a")
    registry = door.handle()
    async with registry.watch(b"", await revision_of(registry)) as watch, trio.open_nursery() as nursery:
        site.store.begin(fault("store_down", silent=1.0))
        nursery.start_soon(at, 3.0, door.kill)

        async def hang() -> None:
            with refused("unavailable"):
                await registry.snapshot(b"")
            assert trio.current_time() == 3.0

        nursery.start_soon(hang)
        with refused("unavailable"):
            await watch.receive()
        assert trio.current_time() == 3.0
