"""Refs and stashes: holding on to an actor through its restarts."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio

from holloway.supervisor import (
    ActorDown,
    Child,
    ChildExited,
    ChildStarted,
    ChildStartFailed,
    Stash,
    Strategy,
    Supervisor,
    open_tree,
)


class Inbox:
    """The handle of one incarnation: a bounded channel, and what came through it."""

    def __init__(self, number, size):
        self.number = number
        self.sender, self.receiver = trio.open_memory_channel(size)


def keeper(got, size=10):
    """An actor that writes (incarnation, message) to `got`, and fails on the message "die"."""
    lives = []

    async def run(ctx, *, task_status):
        lives.append(None)
        inbox = Inbox(len(lives), size)
        with inbox.sender, inbox.receiver:
            task_status.started(inbox)
            async for message in inbox.receiver:
                if message == "die":
                    raise ValueError("die")
                got.append((inbox.number, message))

    return run


def deliver(inbox, message):
    inbox.sender.send_nowait(message)


async def test_a_ref_by_path_is_good_before_during_and_after_restarts(stage, autojump_clock):
    inner = stage.supervisor("a", name="inner")
    async with stage.tree([inner.as_child()]) as tree:
        ref = tree.ref("inner.a")
        early = tree.ref("inner.b")
        assert ref.path == "root.inner.a"
        assert repr(ref) == "<Ref root.inner.a up>"
        assert repr(early) == "<Ref root.inner.b down>"
        with pytest.raises(ActorDown):
            early.get()
        await inner.start(stage.child("b"))
        assert early.get() is stage["b"]

        stage["a"].crash()
        await stage.settle()
        with pytest.raises(ActorDown, match=r"root\.inner\.a"):
            ref.get()
        assert await ref.ready() is stage["a"]
        assert trio.current_time() == 1
        await tree.root.restart("inner")  # the supervisor itself comes back too
        assert ref.get() is stage["a"]


async def test_ready_waits_for_a_child_that_is_not_there_yet(stage, autojump_clock):
    async with stage.tree([]) as tree, trio.open_nursery() as nursery:

        async def late():
            await trio.sleep(3)
            await tree.root.start(stage.child("a"))

        nursery.start_soon(late)
        assert await tree.ref("a").ready() is stage["a"]
        assert trio.current_time() == 3


async def test_ready_that_waits_when_the_tree_stops_is_told(stage, autojump_clock):
    async with trio.open_nursery() as nursery:

        async def wait(ref):
            with pytest.raises(ActorDown, match="tree has stopped"):
                await ref.ready()

        async with stage.tree([]) as tree:
            nursery.start_soon(wait, tree.ref("never"))
            nursery.start_soon(wait, tree.ref("never"))
            await stage.settle(1)


async def test_an_actor_finds_its_siblings_and_others_through_its_context(stage, autojump_clock):
    found = {}

    async def seeker(ctx, *, task_status):
        found["sibling"] = ctx.sibling("a").get()
        found["far"] = ctx.ref("b").get()
        task_status.started()

    inner = stage.supervisor(["a", Child(name="seeker", run=seeker)], name="inner")
    async with stage.tree(["b", inner.as_child()]):
        assert found == {"sibling": stage["a"], "far": stage["b"]}


async def test_wait_closed_returns_how_the_present_incarnation_ended_even_after_the_next_is_up(stage, autojump_clock):
    exits = []
    async with stage.tree("a") as tree, trio.open_nursery() as nursery:

        async def monitor():
            exits.append(await tree.ref("a").wait_closed())

        nursery.start_soon(monitor)
        nursery.start_soon(monitor)
        await stage.settle(2)
        assert exits == []
        stage["a"].crash()
        await stage.settle(1)
        assert tree.ref("a").get() is stage["a"]
        assert [(how.reason, how.at, how.incarnation) for how in exits] == [("failed", 2, 1)] * 2
        nursery.start_soon(monitor)
        await stage.settle()
        assert len(exits) == 2
        await tree.root.stop("a")
        await stage.settle()
        assert exits[2].reason == "stopped"


async def test_wait_closed_of_one_that_is_down_returns_at_once_how_the_last_ended(stage, autojump_clock):
    async with stage.tree("a") as tree:
        ref = tree.ref("a")
        await tree.root.stop("a")
        assert (await ref.wait_closed()).reason == "stopped"
        with pytest.raises(ActorDown, match="never been up"):
            await tree.ref("b").wait_closed()


async def test_a_ref_is_dead_in_the_very_step_in_which_its_actor_ends(stage, autojump_clock):
    seen = []

    async def watcher(ctx, *, task_status):
        ref = ctx.sibling("a")
        task_status.started()
        await ref.wait_closed()
        try:
            ref.get()
        except ActorDown:
            seen.append("down")

    async with stage.tree(["a", Child(name="w", run=watcher)]):
        stage["a"].crash()
        await stage.settle()
    assert seen == ["down"]


async def test_messages_sent_while_down_are_kept_up_to_the_limit_in_order_then_refused(stage, autojump_clock):
    got = []
    async with stage.tree(
        [stage.child("x"), Child(name="k", run=keeper(got), backoff=stage.child("y").backoff)]
    ) as tree:
        stash = Stash(tree.ref("k"), deliver, limit=3)
        assert stash.send("before")
        assert stash.send("die")
        await stage.settle()
        assert [stash.send(n) for n in range(5)] == [True, True, True, False, False]
        assert (len(stash), stash.refused_total) == (3, 2)
        await stage.settle(1)
        assert len(stash) == 0
        assert stash.send("after")
        await stage.settle()
    assert got == [(1, "before"), (2, 0), (2, 1), (2, 2), (2, "after")]


async def test_nothing_is_delivered_to_an_incarnation_on_its_way_out(stage, autojump_clock):
    got = []

    async def dying(ctx, *, task_status):
        inbox = Inbox(1, 10)
        task_status.started(inbox)
        inbox.receiver.close()  # hears nothing any more, and takes a while to leave
        await trio.sleep(2)
        inbox.sender.close()
        await trio.sleep(2)

    supervisor = Supervisor([Child(name="k", run=dying)], name="root")
    async with open_tree(supervisor) as tree:
        stash = Stash(tree.ref("k"), deliver, limit=5)
        assert stash.send("one")  # its receiver is closed
        await stage.settle(2)
        assert stash.send("two")
        assert (len(stash), got) == (2, [])


async def test_a_new_incarnation_that_closes_its_inbox_at_once_keeps_the_stash_for_the_next(stage, autojump_clock):
    delivered, lives = [], []

    class Door:
        def __init__(self, is_open):
            self.is_open = is_open

        def put(self, message):
            if not self.is_open:
                raise trio.BrokenResourceError
            delivered.append(message)

    async def actor(ctx, *, task_status):
        lives.append(None)
        task_status.started(Door(is_open=len(lives) == 3))
        await trio.sleep(1)
        if len(lives) < 3:
            raise ValueError

    child = Child(name="k", run=actor, backoff=stage.child("x").backoff)
    async with stage.tree([child]) as tree:
        stash = Stash(tree.ref("k"), Door.put, limit=5)
        assert all(stash.send(n) for n in range(3))
        await stage.settle(2.5)
        assert delivered == []
        await stage.settle(2)
        assert delivered == [0, 1, 2]


async def test_no_message_overtakes_one_that_is_kept(stage, autojump_clock):
    delivered = []
    is_open = False

    def put(handle, message):
        if not is_open:
            raise trio.ClosedResourceError
        delivered.append(message)

    async with stage.tree("a") as tree:
        stash = Stash(tree.ref("a"), put, limit=2)
        assert stash.send(1)
        is_open = True
        assert stash.send(2)
        assert not stash.send(3)
        assert delivered == []
        await tree.root.restart("a")
        assert delivered == [1, 2]
        assert stash.send(4)
        assert delivered == [1, 2, 4]


async def test_a_full_inbox_refuses_now_and_after_a_restart(stage, autojump_clock):
    got = []
    child = Child(name="k", run=keeper(got, size=2), backoff=stage.child("x").backoff)
    async with stage.tree([child]) as tree:
        stash = Stash(tree.ref("k"), deliver, limit=9)
        await stage.settle()
        # The waiting receiver takes one at once, two fit into its channel.
        assert [stash.send(n) for n in ("die", 1, 2, 3, 4)] == [True, True, True, False, False]
        await stage.settle()
        assert all(stash.send(n) for n in range(5, 10))
        await stage.settle(1)
        assert stash.refused_total == 2 + 3
    assert [message for _, message in got] == [5, 6]


async def test_a_bug_in_the_delivery_of_a_kept_message_fails_the_start_once_and_costs_that_message(
    stage, autojump_clock
):
    delivered = []

    def put(handle, message):
        if message == "bad":
            raise TypeError(message)
        delivered.append(message)

    async with stage.tree("a") as tree:
        stash = Stash(tree.ref("a"), put, limit=5)
        with pytest.raises(TypeError):
            stash.send("bad")
        stage["a"].crash()
        await stage.settle()
        assert all(stash.send(message) for message in ("bad", "good"))
        await stage.settle(1)
        assert delivered == []
        await stage.settle(1)
        assert delivered == ["good"]
    [event] = stage.told(ChildStartFailed)
    assert isinstance(event.error.__cause__, TypeError)
    assert len(stage.told(ChildStarted)) == len(stage.told(ChildExited)) == 2


async def test_a_stash_is_held_by_its_sender_alone(stage, autojump_clock):
    got = []
    child = Child(name="k", run=keeper(got), backoff=stage.child("x").backoff)
    async with stage.tree([child]) as tree:
        dropped, kept = Stash(tree.ref("k"), deliver, limit=5), Stash(tree.ref("k"), deliver, limit=5)
        kept.send("die")
        await stage.settle()
        dropped.send("from the dead")
        kept.send("from the living")
        gone = weakref.ref(dropped)
        del dropped
        gc.collect()
        assert gone() is None
        await stage.settle(1)
    assert got == [(2, "from the living")]


async def test_two_trees_in_one_process_never_meet(stage, autojump_clock):
    async with stage.tree("a") as one, stage.tree("b", strategy=Strategy.ONE_FOR_ALL) as two:
        with pytest.raises(ActorDown):
            one.ref("b").get()
        with pytest.raises(ActorDown):
            two.ref("a").get()
