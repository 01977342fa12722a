"""The broker's list of keys while the file changes under it."""

from __future__ import annotations

import logging
import threading
from functools import partial
from pathlib import Path

import trio
from control_world import NOW, REAL, control_world, token, until

from holloway.actors.control_plane.curve import new_pair
from holloway.actors.control_plane.key_files import ServerKeys, with_client, without_client
from holloway.actors.control_plane.key_text import KeyFile
from holloway.actors.control_plane.key_watch import KeyWatch
from holloway.actors.control_plane.roster import Roster
from holloway.protocols.control_plane.messages import Ask, Expect, Role, Step


async def test_what_was_read_before_a_change_is_not_taken_after_it(tmp_path: Path) -> None:
    reading, may_go_on = threading.Event(), threading.Event()

    class Slow(ServerKeys):
        """The first look at the file takes long."""

        def read(self) -> KeyFile:
            keys = super().read()
            if not reading.is_set():
                reading.set()
                may_go_on.wait(REAL)
            return keys

    keys, pair = Slow(tmp_path), new_pair()
    watch = KeyWatch(keys, Roster(keys.ensure()), logging.getLogger("holloway"), lambda names: None)
    changed = trio.Event()

    async def change() -> None:
        add = partial(with_client, name="ann", role=Role.OPERATOR, public_key=pair.public, now=NOW)
        await watch.change(partial(keys.change, add))
        changed.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.refresh)
        await until(reading.is_set)
        nursery.start_soon(change)
        with trio.move_on_after(0.3):
            await changed.wait()
        may_go_on.set()
    assert watch.roster.owners() == {"ann"}


async def test_a_broker_that_is_started_again_stops_the_jobs_of_who_was_revoked_meanwhile(tmp_path: Path) -> None:
    stop, stopped = trio.Event(), trio.Event()

    async def first_life(task_status: trio.TaskStatus[None]) -> None:
        async with world.broker():
            task_status.started()
            await stop.wait()
        stopped.set()

    async with control_world(tmp_path) as world, trio.open_nursery() as nursery:
        jobs = {}
        await nursery.start(first_life)
        async with world.agent("web"):
            for name in ("ann", "bob"):
                operator = world.operator(world.admit(name, Role.OPERATOR))
                await operator.send(Ask(token(), (Step("exec", ("sleep", "60")),), "all", 60.0))
                expect = await operator.receive()
                assert isinstance(expect, Expect)
                jobs[name] = expect.job
            stop.set()
            await stopped.wait()
            world.keys.change(partial(without_client, name="ann", now=NOW))
            async with world.broker() as tree:
                known = world.listening(tree).broker.jobs.jobs
                assert {name: bool(known[job].stopped) for name, job in jobs.items()} == {"ann": True, "bob": False}
