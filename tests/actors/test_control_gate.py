"""Who comes through the gate and what the others are told, over loopback with real CURVE."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest
import trio
import zmq

from holloway.actors.control_plane.curve import MAX_FRAME_BYTES, CurvePair, join_curve, new_pair, serve_curve, tune
from holloway.actors.control_plane.link import Broker, Link
from holloway.actors.control_plane.monitor import Change
from holloway.actors.control_plane.zap import Gate, sender_key
from holloway.actors.control_plane.zmq_socket import ZmqSocket
from holloway.protocols.errors import BrokerError, LocalError, PortError

LOG = logging.getLogger("holloway.test")
Context = zmq.Context[zmq.Socket[bytes]]


def nobody_hears(address: str, reason: str, why: str) -> None:
    """Of those who were not let in."""


class House:
    """A gate with a ROUTER behind it, and the keys that come through."""

    def __init__(self, context: Context, port: int, server: CurvePair | None) -> None:
        self.server = server or new_pair()
        self.known: set[str] = set()
        self.gate = Gate(context, self._judge, LOG, nobody_hears)
        self.router, endpoint = self.gate.open_router(f"tcp://127.0.0.1:{port or '*'}", self.server)
        self.port = int(endpoint.rpartition(":")[2])

    async def _judge(self, key: str, address: str) -> bool:
        return key in self.known

    def admit(self) -> CurvePair:
        pair = new_pair()
        self.known.add(pair.public)
        return pair

    def broker(self, pair: CurvePair | None, public: str | None = None) -> Broker:
        return Broker("127.0.0.1", self.port, pair, public or self.server.public, "me.yml")

    async def receive(self) -> tuple[bytes, str | None, bytes]:
        """Route, key and text of the next message."""
        with trio.fail_after(5):
            route, text = await self.router.receive_frames()
        return route.bytes, sender_key(text), text.bytes


@asynccontextmanager
async def house(port: int = 0, server: CurvePair | None = None) -> AsyncIterator[House]:
    async with clients() as context:
        here = House(context, port, server)
        with here.gate:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(here.gate.serve)
                yield here
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def clients() -> AsyncIterator[Context]:
    context: Context = zmq.Context()
    try:
        yield context
    finally:
        context.term()


async def test_a_known_key_comes_in_and_every_message_says_whose_it_is() -> None:
    async with house() as here, clients() as context:
        pair = here.admit()
        with Link(context, here.broker(pair)) as link:
            await link.connected()
            await link.send([b"hello"])
            route, key, text = await here.receive()
            assert (key, text) == (pair.public, b"hello")
            assert here.router.send_nowait([route, b"hi"])
            with trio.fail_after(5):
                assert await link.receive() == [b"hi"]


async def fault(broker: Broker) -> BrokerError:
    """Why there is no connection, and that it takes no longer than a person waits, who has also waited for a program to start."""
    async with clients() as context:
        with Link(context, broker) as link, trio.fail_after(2.5), pytest.raises(BrokerError) as caught:
            await link.connected()
    return caught.value


async def test_each_cause_of_a_failed_handshake_has_words_of_its_own() -> None:
    async with house() as here:
        unknown = await fault(here.broker(new_pair()))
        assert (unknown.kind, unknown.why) == ("denied", "it does not know the key in me.yml, or that was revoked")
        assert here.gate.denied["unknown_key"] == 1
        foreign = await fault(here.broker(here.admit(), new_pair().public))
        assert (foreign.kind, foreign.what.partition(" is ")[2]) == ("foreign", "not the broker that me.yml names")
        replaced = await fault(replace(here.broker(here.admit(), new_pair().public), met="yesterday"))
        assert (replaced.kind, replaced.what) == ("foreign", f"the broker at 127.0.0.1:{here.port} has been replaced")
        assert "last let us in yesterday" in replaced.why
        plain = await fault(here.broker(None))
        assert (plain.kind, plain.why.partition(":")[0]) == ("foreign", "it encrypts, and we do not")
        broker = here.broker(here.admit())
    absent = await fault(broker)
    assert (absent.kind, absent.what) == ("absent", f"no broker answers at 127.0.0.1:{broker.port}")
    assert len({each.what for each in (unknown, foreign, replaced, plain, absent)}) == 5


async def test_a_server_without_curve_and_one_that_is_none_are_told_apart() -> None:
    async with clients() as context:
        plain = context.socket(zmq.ROUTER)
        with ZmqSocket(plain):
            port = plain.bind_to_random_port("tcp://127.0.0.1")
            null = await fault(Broker("127.0.0.1", port, new_pair(), new_pair().public, "me.yml"))
        assert null.why.partition(":")[0] == "it does not encrypt"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hung = await fault(Broker("127.0.0.1", silent.getsockname()[1], new_pair(), new_pair().public, "me.yml"))
        assert hung.what.endswith("does not answer")


async def test_who_speaks_no_curve_sends_nothing() -> None:
    async with house() as here, clients() as context:
        raw = context.socket(zmq.DEALER)
        tune(raw)
        with ZmqSocket(raw) as null:
            raw.connect(f"tcp://127.0.0.1:{here.port}")
            await null.send([b"from nobody"])
            with trio.move_on_after(0.3) as patience:
                await here.router.receive()
            assert patience.cancelled_caught


async def test_a_key_that_is_admitted_later_comes_in_without_a_new_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holloway.actors.control_plane.link.RETRY_S", 0.1)
    async with house() as here, clients() as context, trio.open_nursery() as nursery:
        pair = new_pair()
        changes: list[Change] = []
        with Link(context, here.broker(pair)) as link:
            nursery.start_soon(link.watch, changes.append)
            with trio.fail_after(5):
                while here.gate.denied["unknown_key"] < 3:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            here.known.add(pair.public)
            await link.send([b"in"])
            with trio.fail_after(5):
                while Change.CONNECTED not in changes:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            assert changes == [Change.UNKNOWN_KEY, Change.CONNECTED]
            nursery.cancel_scope.cancel()


async def test_a_link_survives_its_broker() -> None:
    changes: list[Change] = []
    async with clients() as context, AsyncExitStack() as closing, trio.open_nursery() as nursery:
        async with house() as here:
            server, pair, port = here.server, here.admit(), here.port
            link = closing.enter_context(Link(context, here.broker(pair)))
            nursery.start_soon(link.watch, changes.append)
            await link.send([b"before"])
            await here.receive()
        async with house(port=port, server=server) as again:
            again.known.add(pair.public)
            await link.send([b"after"])
            assert (await again.receive())[2] == b"after"
        assert changes[:2] == [Change.CONNECTED, Change.DISCONNECTED]
        assert Change.CONNECTED in changes[2:]
        nursery.cancel_scope.cancel()


async def everybody(_: str) -> bool:
    return True


async def test_without_a_handler_nobody_has_a_name() -> None:
    """libzmq lets everybody in where no handler is bound: then no message is believed."""
    async with clients() as context, clients() as others:
        pair = new_pair()
        raw, other = context.socket(zmq.ROUTER), others.socket(zmq.DEALER)
        with ZmqSocket(raw) as router, ZmqSocket(other) as client:
            serve_curve(raw, pair)
            join_curve(other, new_pair(), pair.public)
            other.connect(f"tcp://127.0.0.1:{raw.bind_to_random_port('tcp://127.0.0.1')}")
            await client.send([b"I am in"])
            with trio.fail_after(5):
                _, text = await router.receive_frames()
            assert sender_key(text) is None


async def test_a_context_has_one_gate_and_a_closed_one_opens_nothing() -> None:
    async with clients() as context:
        with Gate(context, everybody, LOG, nobody_hears) as gate, pytest.raises(PortError):
            Gate(context, everybody, LOG, nobody_hears)
        with pytest.raises(LocalError):
            gate.open_router("tcp://127.0.0.1:*", new_pair())


async def test_a_frame_that_is_too_long_costs_its_sender_the_connection_and_us_nothing() -> None:
    async with house() as here, clients() as context:
        changes: list[Change] = []
        with Link(context, here.broker(here.admit())) as link:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.watch, changes.append)
                await link.send([b"x" * (MAX_FRAME_BYTES + 1)])
                with trio.fail_after(5):
                    while Change.DISCONNECTED not in changes:  # noqa: ASYNC110
                        await trio.sleep(0.01)
                await link.send([b"short"])
                assert (await here.receive())[2] == b"short"
                nursery.cancel_scope.cancel()
