"""What one connection can have libzmq hold for it is bounded; whoever sends whole messages is left alone."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise

import pytest
import trio
import zmq

from holloway.actors.control_plane import flood_guard
from holloway.actors.control_plane.curve import new_pair, tune
from holloway.actors.control_plane.flood_guard import FloodGuard, wire_bytes
from holloway.actors.control_plane.zmq_socket import ZmqSocket

LOG = logging.getLogger("test")
MOST = 1 << 20
MORE = b"\x03" + (256 * 1024).to_bytes(8, "big") + bytes(256 * 1024)
"""A frame of a message that goes on (ZMTP 3.1, section 3)."""


@contextmanager
def router(*, is_curve: bool = False) -> Iterator[tuple[ZmqSocket, str, zmq.Socket[bytes]]]:
    """A ROUTER, where it is bound, and a DEALER that is connected to it."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    raw, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    for each in (raw, dealer):
        tune(each)
        each.heartbeat_ivl, each.ipv6 = 0, False
    if is_curve:
        server, client = new_pair(), new_pair()
        raw.curve_server, raw.curve_secretkey = True, server.secret.encode()
        dealer.curve_serverkey = server.public.encode()
        dealer.curve_publickey, dealer.curve_secretkey = client.public.encode(), client.secret.encode()
    raw.bind("tcp://127.0.0.1:*")
    endpoint = raw.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    dealer.connect(endpoint.rstrip(b"\0").decode())
    try:
        with ZmqSocket(raw) as server_socket, dealer:
            yield server_socket, endpoint.rstrip(b"\0").decode(), dealer
    finally:
        context.term()


def speaks_zmtp(endpoint: str) -> socket.socket:
    """Somebody who has shaken hands, without libzmq (ZMTP 3.1, NULL)."""
    line = socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])))
    line.settimeout(10)
    line.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
    ready = b"\x05READY\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"
    line.sendall(b"\x04" + bytes([len(ready)]) + ready)
    heard = b""
    while b"Identity" not in heard:  # the end of its READY: nobody sends messages before
        heard += line.recv(100)
    return line


async def test_who_sends_without_an_end_is_cut_off_and_who_sends_whole_messages_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(flood_guard, "MOST_BYTES", MOST)
    monkeypatch.setattr(flood_guard, "GROWTH_BYTES", -(1 << 40))
    monkeypatch.setattr(flood_guard, "LOOK_EVERY_S", 0.02)
    told: list[tuple[str, str]] = []
    with router() as (server, endpoint, dealer):
        guard = FloodGuard(endpoint, LOG, lambda *each: told.append(each))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guard.run)
            for _ in range(3 * MOST // 65536):
                dealer.send_multipart([b"x" * 65536, b""])
                with trio.fail_after(10):
                    guard.took(await server.receive_frames())
            await trio.sleep(0.1)
            assert told == []
            with speaks_zmtp(endpoint) as evil, trio.fail_after(10):
                evil.sendall(b"\x00\x01x")
                guard.took(await server.receive_frames())
                while not told:
                    with suppress(OSError):
                        evil.sendall(MORE)
                    await trio.sleep(0.005)
            dealer.send(b"still there")
            with trio.fail_after(10):
                assert (await server.receive())[1] == b"still there"
            nursery.cancel_scope.cancel()
    [(address, what)] = told
    assert (address, int(what.split()[0]) > MOST) == ("no key at 127.0.0.1", True)
    assert "is cut off" in caplog.text


async def test_what_a_frame_is_on_the_wire_is_what_the_kernel_counts() -> None:
    with router(is_curve=True) as (server, endpoint, dealer):
        counted = []
        for size in (0, 1, 221, 222, 223, 300, 70_000):
            dealer.send(b"x" * size)
            with trio.fail_after(10):
                await server.receive_frames()
            [(_, received, line)] = flood_guard._connections(int(endpoint.rpartition(":")[2]))
            line.close()
            counted.append((size, received))
    sizes = [(size, after - before) for (_, before), (size, after) in pairwise(counted)]
    assert sizes == [(size, wire_bytes(size)) for size, _ in counted[1:]]


async def test_of_all_together_those_who_have_most_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flood_guard, "ALL_BYTES", 3 * MOST)
    told: list[tuple[str, str]] = []
    with router() as (_, endpoint, _), ExitStack() as lines:
        guard = FloodGuard(endpoint, LOG, lambda *each: told.append(each))
        for number in (1, 4, 8):
            line = lines.enter_context(speaks_zmtp(endpoint))
            for _ in range(number):
                line.sendall(MORE)
        with trio.fail_after(10):
            while not told:
                guard.look()
                await trio.sleep(0.01)
    assert [round(int(what.split()[0]) / MOST) for _, what in told] == [2]


async def test_who_sends_a_message_of_very_many_frames_is_cut_off_at_once() -> None:
    told: list[tuple[str, str]] = []
    with router() as (server, endpoint, dealer):
        guard = FloodGuard(endpoint, LOG, lambda *each: told.append(each))
        with speaks_zmtp(endpoint) as evil, trio.fail_after(10):
            evil.sendall(b"\x01\x01x" * 5000 + b"\x00\x01x")
            guard.took(await server.receive_frames())
            assert told == [("no key at 127.0.0.1", "a message of more than 16 frames")]
            while True:
                try:
                    evil.sendall(b"\x00\x01x")
                except OSError:
                    break
                await trio.sleep(0.01)
            dealer.send(b"another")
            while (await server.receive())[1] != b"another":
                pass
