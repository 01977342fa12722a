"""The broker's list of keys while the file changes under it."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import trio
import zmq
from control_world import NOW, REAL, WORLD, alone, control_world, token, until

from holloway.actors.control_plane.broker import BrokerSettings, Listening, serve_commands
from holloway.actors.control_plane.curve import new_pair
from holloway.actors.control_plane.key_files import ServerKeys, with_client, without_client
from holloway.actors.control_plane.key_text import KeyFile
from holloway.actors.control_plane.key_watch import KeyWatch
from holloway.actors.control_plane.link import Broker, Link
from holloway.actors.control_plane.roster import Roster
from holloway.protocols.control_plane.messages import Ask, Expect, Register, Role, Step
from holloway.protocols.control_plane.null_security import TOKEN_BYTES, Security, said_name
from holloway.protocols.control_plane.wire import encode
from holloway.supervisor import Tree, open_tree


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
    assert watch.roster.owners() == {"ann": Role.OPERATOR}


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


async def test_without_keys_nobody_is_missing_from_the_list(tmp_path: Path) -> None:
    """Names are nobody's then, so a broker that is started again stops nothing of those that are not in its list."""

    def link(name: str, *, is_node: bool) -> Link:
        said = said_name(name, is_node=is_node, token=os.urandom(TOKEN_BYTES))
        return Link(context, Broker("127.0.0.1", port, None, "", "", said))

    def lives(port: int) -> AbstractAsyncContextManager[Tree]:
        settings = BrokerSettings(root=tmp_path, command_port=port, security=Security.NULL)
        return open_tree(alone("broker", partial(serve_commands, settings=settings, world=WORLD)))

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    async with lives(0) as tree:
        port = int(listening(tree).endpoint.rpartition(":")[2])
        with link("web", is_node=True) as node, link("ann", is_node=False) as operator, trio.fail_after(REAL):
            await node.send(encode(Register("web", "", "", (), token(), token(), "1", ("exec",))))
            await node.receive()
            await operator.send(encode(Ask(token(), (Step("exec", ("sleep", "60")),), "all", 60.0)))
            await node.receive()
    async with lives(port) as tree:
        [job] = listening(tree).broker.jobs.jobs.values()
        assert (job.asked.owner, job.stopped) == ("ann", "")
    context.term()


def listening(tree: Tree) -> Listening:
    handle = tree.ref("broker").get()
    assert isinstance(handle, Listening)
    return handle
