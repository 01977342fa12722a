"""The Trio face of ZeroMQ sockets, over loopback: whatever is cancelled, every message arrives once and whole."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trio
import trio.testing
import zmq

from holloway.actors.control_plane.zmq_socket import MAX_FRAMES, ZmqSocket

STALL_S = 20.0


class Sockets:
    """Opens sockets, and closes them with the test."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._closing = ExitStack()

    def open(self, kind: int, *, hwm: int, name: bytes = b"") -> ZmqSocket:
        raw = self.context.socket(kind)
        raw.sndhwm = raw.rcvhwm = hwm
        if name:
            raw.routing_id = name
        return self._closing.enter_context(ZmqSocket(raw))

    def pair(self, *, hwm: int) -> tuple[ZmqSocket, ZmqSocket]:
        left, right = self.open(zmq.DEALER, hwm=hwm), self.open(zmq.DEALER, hwm=hwm)
        right.raw.connect(f"tcp://127.0.0.1:{left.raw.bind_to_random_port('tcp://127.0.0.1')}")
        return left, right

    def close(self) -> None:
        self._closing.close()
        self.context.term()


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    sockets = Sockets()
    yield sockets
    sockets.close()


SENDERS = 4
MESSAGES = 250


async def trial(sides: tuple[ZmqSocket, ZmqSocket], seed: int) -> None:
    """Four senders and four receivers on each of two sockets that hold three messages, cancelled at random."""
    chance = random.Random(seed)
    got: tuple[Counter[bytes], Counter[bytes]] = (Counter(), Counter())
    total = SENDERS * MESSAGES

    async def cancelled_now_and_then(scope: trio.CancelScope) -> None:
        await trio.sleep(chance.choice((0.0003, 0.002, 9)))
        scope.cancel()

    async def sends(side: int, number: int) -> None:
        for count in range(MESSAGES):
            if chance.random() < 0.02:
                await trio.sleep(chance.random() * 0.004)
            sent = False
            while not sent:
                with trio.move_on_after(chance.choice((0.0003, 0.002, 9))):
                    await sides[side].send([b"%d-%d" % (number, count), b"x" * chance.choice((1, 5000))])
                    sent = True

    async def receives(side: int, done: trio.CancelScope) -> None:
        while True:
            with trio.move_on_after(chance.choice((0.0003, 0.002, 9))):
                while True:
                    label, _ = await sides[side].receive()
                    got[side][label] += 1
                    if got[0].total() >= total and got[1].total() >= total:
                        done.cancel()
                    if chance.random() < 0.01:
                        await trio.sleep(0.003)

    with trio.move_on_after(STALL_S) as patience:
        async with trio.open_nursery() as nursery:
            for side in (0, 1):
                for number in range(SENDERS):
                    nursery.start_soon(sends, side, number)
                    nursery.start_soon(receives, side, nursery.cancel_scope)
    assert not patience.cancelled_caught, f"stalled: {got[0].total()} and {got[1].total()} of {total}"
    expected = Counter(b"%d-%d" % (number, count) for number in range(SENDERS) for count in range(MESSAGES))
    assert got == (expected, expected)


@pytest.mark.parametrize("seed", range(2))
async def test_nothing_is_lost_or_doubled_whatever_is_cancelled(sockets: Sockets, seed: int) -> None:
    await trial(sockets.pair(hwm=3), seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 130))
async def test_nothing_is_lost_or_doubled_in_many_rounds(sockets: Sockets, seed: int) -> None:
    await trial(sockets.pair(hwm=3), seed)


async def test_a_cancelled_pump_hands_over_to_a_parked_task(sockets: Sockets) -> None:
    left, right = sockets.pair(hwm=100)
    received: list[bytes] = []

    async def receive() -> None:
        received.extend(await left.receive())

    async with trio.open_nursery() as nursery:
        pump = trio.CancelScope()

        async def receive_until_cancelled() -> None:
            with pump:
                await left.receive()

        nursery.start_soon(receive_until_cancelled)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        pump.cancel()
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(5):
            await right.send([b"for the second"])
            while not received:  # noqa: ASYNC110 - a socket tells nobody else
                await trio.sleep(0.01)
    assert received == [b"for the second"]


async def test_closing_ends_the_pump_and_everybody_parked(sockets: Sockets) -> None:
    left, _ = sockets.pair(hwm=100)
    ended: list[str] = []

    async def receive(name: str) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await left.receive()
        ended.append(name)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for name in ("pump", "parked", "parked too"):
                nursery.start_soon(receive, name)
            await trio.testing.wait_all_tasks_blocked()
            left.close()
    assert sorted(ended) == ["parked", "parked too", "pump"]
    with pytest.raises(trio.ClosedResourceError):
        left.send_nowait([b"late"])
    left.close()


async def test_a_full_peer_does_not_make_the_others_wait_nor_the_processor_spin(sockets: Sockets) -> None:
    hub = sockets.open(zmq.ROUTER, hwm=2)
    hub.raw.router_mandatory = True
    port = hub.raw.bind_to_random_port("tcp://127.0.0.1")
    peers = []
    for name in (b"slow", b"quick"):
        peers.append(sockets.open(zmq.DEALER, hwm=2, name=name))
        peers[-1].raw.connect(f"tcp://127.0.0.1:{port}")
        with trio.fail_after(5):
            await peers[-1].send([b"hello"])
            assert await hub.receive() == [name, b"hello"]
    slow, quick = peers
    sent = 0
    with trio.fail_after(20):
        while True:  # until what lies between the two is full, the system's buffers included
            with trio.move_on_after(0.2) as patience:
                await hub.send([b"slow", b"x" * 500_000])
                sent += 1
            if patience.cancelled_caught:
                break
    assert not hub.send_nowait([b"slow", b"x"])
    assert hub.send_nowait([b"quick", b"hi"])
    with trio.fail_after(20):
        assert await quick.receive() == [b"hi"]
        for _ in range(sent):
            assert len((await slow.receive())[0]) == 500_000
    with pytest.raises(zmq.ZMQError, match="Host unreachable"):
        hub.send_nowait([b"nobody", b"x"])


async def test_of_a_message_of_very_many_frames_few_are_kept_and_the_next_is_whole(sockets: Sockets) -> None:
    left, right = sockets.pair(hwm=3)
    with trio.fail_after(STALL_S):
        await left.send([b"x"] * 5000)
        await left.send([b"whole", b"message"])
        assert len(await right.receive_frames()) == MAX_FRAMES + 1
        assert await right.receive() == [b"whole", b"message"]
