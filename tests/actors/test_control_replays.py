"""What somebody has recorded and sends again, and what comes when its time is over: none of it runs."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import trio
import zmq
from control_world import REAL, ControlWorld, control_world, token

from holloway.actors.control_plane.link import Link
from holloway.actors.control_plane.zap import Gate
from holloway.actors.control_plane.zmq_socket import ZmqSocket
from holloway.protocols.control_plane.messages import (
    Ask,
    Done,
    Finished,
    Message,
    Noted,
    Register,
    Registered,
    Role,
    Run,
    State,
    Step,
)
from holloway.protocols.control_plane.wire import decode, encode

LOG = logging.getLogger("holloway.test")


class Standin:
    """Somebody with the broker's own key, who says to one agent what he likes."""

    def __init__(self, router: ZmqSocket) -> None:
        self._router, self._route = router, b""

    async def met(self) -> None:
        """The agent has registered."""
        await self._next(Register)
        await self.say(Registered("web1", 10.0))

    async def say(self, message: Message) -> None:
        await self._router.send([self._route, *encode(message)])

    async def ended(self, job: str) -> Done:
        """How the agent says that the job ended."""
        while True:
            done = await self._next(Done)
            assert isinstance(done, Done)
            if done.job == job:
                return done

    async def _next(self, kind: type[Message]) -> Message:
        with trio.fail_after(REAL):
            while True:
                self._route, *frames = await self._router.receive()
                message = decode(frames)
                if isinstance(message, kind):
                    return message


@asynccontextmanager
async def standin(world: ControlWorld) -> AsyncIterator[Standin]:
    async def judge(_: str, address: str) -> bool:
        return True

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        with Gate(context, judge, LOG, lambda *told: None) as gate:
            router, endpoint = gate.open_router("tcp://127.0.0.1:*", world.server)
            world.port = int(endpoint.rpartition(":")[2])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(gate.serve)
                yield Standin(router)
                nursery.cancel_scope.cancel()
    finally:
        context.term()


async def test_a_job_that_is_replayed_or_out_of_its_time_does_not_run(tmp_path: Path) -> None:
    count = tmp_path / "count"
    step = Step("exec", ("sh", "-c", f"echo x >> {count}"))
    async with control_world(tmp_path) as world, standin(world) as broker:
        pair = world.admit("web1", Role.NODE)

        def run(ago_s: float = 0.0) -> Run:
            issued_at = time.time() - ago_s
            return Run(token(), (step,), "ann", Role.OPERATOR, "all", issued_at, issued_at + 60.0, 10.0)

        recorded = run()
        async with world.agent("web1", pair):
            await broker.met()
            await broker.say(recorded)
            first = await broker.ended(recorded.job)
            assert first.state is State.OK
            await broker.say(recorded)
            assert await broker.ended(recorded.job) == first
            await broker.say(Noted(recorded.job))
            await broker.say(recorded)
            assert (await broker.ended(recorded.job)).state is State.UNKNOWN
            for wrong in (
                run(ago_s=200.0),
                run(ago_s=-200.0),
            ):  # expired for longer than clocks may differ; of the future
                await broker.say(wrong)
                refused = await broker.ended(wrong.job)
                assert refused.state is State.REFUSED
                assert refused.error.startswith("not in time")
        async with world.agent("web1", pair):  # what it knows, another life of it knows
            await broker.met()
            await broker.say(recorded)
            assert (await broker.ended(recorded.job)).state is State.UNKNOWN
        assert count.read_text() == "x\n"


@dataclass
class Relay:
    """A way to the broker on which everything that clients say is written down; `streams`: the ways on, the latest last."""

    to: int
    port: int = 0
    said: list[bytes] = field(default_factory=list)
    streams: list[trio.SocketStream] = field(default_factory=list)
    hung_up: trio.Event = field(default_factory=trio.Event)

    async def carry(self, client: trio.SocketStream) -> None:
        """One connection of a client."""
        async with client, await trio.open_tcp_stream("127.0.0.1", self.to) as broker, trio.open_nursery() as nursery:
            self.streams.append(broker)
            nursery.start_soon(self._back, broker, client)
            async for data in client:
                self.said.append(bytes(data))
                await broker.send_all(data)

    async def _back(self, broker: trio.SocketStream, client: trio.SocketStream) -> None:
        try:
            async for data in broker:
                await client.send_all(data)
        except trio.BrokenResourceError:
            pass
        self.hung_up.set()
        await client.aclose()


async def test_bytes_that_were_recorded_are_nothing_to_the_broker(tmp_path: Path) -> None:
    """Neither once more on their own connection, nor on another one: CURVE counts what it has seen, and has keys for each."""
    count = tmp_path / "count"
    step = Step("exec", ("sh", "-c", f"echo x >> {count}"))
    async with control_world(tmp_path) as world, world.broker() as tree, world.agent("web1"):
        relay = Relay(world.port)

        async def relayed(client: trio.SocketStream) -> None:
            try:
                await relay.carry(client)
            except* (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

        async with trio.open_nursery() as nursery:
            [listener] = await nursery.start(partial(trio.serve_tcp, relayed, 0, host="127.0.0.1"))
            pair = world.admit("ann", Role.OPERATOR)
            me = replace(world.broker_for(pair), port=listener.socket.getsockname()[1])
            with Link(world.clients, me) as link, trio.fail_after(REAL):
                await link.connected()
                hello = len(relay.said)
                await link.send(encode(Ask(token(), (step,), "all", 10.0)))
                while not isinstance(decode(await link.receive()), Finished):
                    pass
                asked = b"".join(relay.said[hello:])
                assert len(asked) > 200
                assert count.read_text() == "x\n"
                await relay.streams[-1].send_all(asked)
                await relay.hung_up.wait()  # it does not take that again
            async with await trio.open_tcp_stream("127.0.0.1", world.port) as other:
                await other.send_all(b"".join(relay.said))
                with trio.fail_after(REAL):
                    try:
                        async for _ in other:
                            pass  # it greets, and hangs up
                    except trio.BrokenResourceError:
                        pass
            nursery.cancel_scope.cancel()
        assert len(world.listening(tree).broker.jobs.jobs) == 1
        assert count.read_text() == "x\n"
