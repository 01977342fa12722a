"""The broker's files while several things happen to one of them at once."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from control_world import REAL, WORLD, control_world, token, until

from holloway.actors.control_plane import file_hub
from holloway.actors.control_plane.curve import new_pair
from holloway.actors.control_plane.digests import Digests, Hashing
from holloway.actors.control_plane.file_client import FileClient
from holloway.actors.control_plane.file_store import Unfinished
from holloway.actors.control_plane.key_files import without_client
from holloway.actors.control_plane.link import Link
from holloway.protocols.control_plane import file_getter
from holloway.protocols.control_plane.file_messages import Abort, Finish, Offer, Want
from holloway.protocols.control_plane.messages import Role
from holloway.protocols.control_plane.wire import decode, encode


async def test_a_put_that_is_begun_again_while_it_is_opened_ends_neither_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, may_read = threading.Event(), threading.Event()
    made: list[Unfinished] = []

    class Slow(Unfinished):
        """The first of them is read slowly."""

        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            made.append(self)

        def read(self, offset: int) -> bytes:
            if self is made[0]:
                reading.set()
                may_read.wait(REAL)
            return super().read(offset)

    monkeypatch.setattr(file_hub, "Unfinished", Slow)
    empty = hashlib.sha256(b"").hexdigest()
    async with control_world(tmp_path) as world, world.files() as listening:
        broker = replace(world.broker_for(world.admit("ann", Role.OPERATOR)), port=world.file_port)
        with Link(world.clients, broker) as link, trio.fail_after(REAL):
            try:
                first, second = token(), token()
                await link.send(encode(Offer(first, "a", 0, empty, 0o600)))
                await until(reading.is_set)
                open_before = len(os.listdir("/proc/self/fd"))
                await link.send(encode(Offer(second, "a", 0, empty, 0o600)))
                answers = [decode(await link.receive()), decode(await link.receive())]
                assert [(type(each), each.transfer) for each in answers] == [(Abort, first), (Finish, second)]  # type: ignore[union-attr]
            finally:
                may_read.set()
            await until(lambda: len(os.listdir("/proc/self/fd")) == open_before - 2)  # a file and its folder
            await link.send(encode(Offer(first, "a", 0, empty, 0o600)))
            assert decode(await link.receive()) == Finish(first)  # the same actor: it has not begun anew
        assert len(listening.service) == 0
        assert len(made) == 3


async def test_whoever_is_refused_on_the_port_for_files_is_in_its_trail_by_key_and_address(tmp_path: Path) -> None:
    async with control_world(tmp_path) as world, world.files() as listening:
        trail = tmp_path / "broker" / "broker" / "files" / "audit.jsonl"
        known, stranger = world.admit("ann", Role.OPERATOR), new_pair()
        file_port = replace(world.broker_for(known), port=world.file_port)
        said = lambda: [json.loads(line) for line in trail.read_text().splitlines()]
        with Link(world.clients, replace(file_port, pair=stranger)):
            await until(lambda: any(stranger.public in each["what"] for each in said()))
        [denied] = said()
        assert (denied["event"], denied["who"], denied["outcome"]) == ("refused", "127.0.0.1", "unknown_key")
        with Link(world.clients, file_port) as link, trio.fail_after(REAL):
            await link.send(encode(Want(token(), "nothing")))
            assert isinstance(decode(await link.receive()), Abort)
            world.keys.change(lambda keys: without_client(keys, "ann", "now"))
            listening.reload()
            while not any(each["outcome"] == "control_no_key" for each in said()):
                await link.send(encode(Want(token(), "nothing")))
                await trio.sleep(0.05)
        assert said()[-1]["who"] == f"{known.public} at 127.0.0.1"


async def test_a_file_that_takes_long_to_read_is_got_all_the_same_and_the_next_time_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices = 0

    class Slow(Hashing):
        """Four times as slow as anybody has patience."""

        def go_on(self) -> bool:
            nonlocal slices
            if not self.digest:
                slices += 1
                time.sleep(2.0)
            return super().go_on()

    monkeypatch.setattr(file_hub, "Hashing", Slow)
    monkeypatch.setattr(file_getter, "RETRY_S", 0.05)
    monkeypatch.setattr(file_getter, "STALLED_AFTER_S", 0.5)
    async with control_world(tmp_path) as world, world.files():
        (world.root / "files" / "a").write_bytes(b"large")
        broker = replace(world.broker_for(world.admit("ann", Role.OPERATOR)), port=world.file_port)
        with Link(world.clients, broker) as link, trio.fail_after(REAL):
            await link.connected()
            async with trio.open_nursery() as nursery:
                client = FileClient(link, WORLD)
                nursery.start_soon(client.keep)
                for number in range(2):
                    await client.get("a", tmp_path, (f"got{number}",), tmp_path / "scratch", 30.0)
                    assert (tmp_path / f"got{number}").read_bytes() == b"large"
                assert slices == 1
                nursery.cancel_scope.cancel()


def test_what_is_remembered_of_a_file_is_forgotten_when_it_changes(tmp_path: Path) -> None:
    digests, path = Digests(), tmp_path / "a"
    for contents in (b"one", b"two"):
        path.write_bytes(contents)
        with path.open("rb") as file:
            hashing = Hashing(digests, file.fileno())
            assert not hashing.digest
            assert digests.of(file.fileno()) == hashlib.sha256(contents).hexdigest()
            assert Hashing(digests, file.fileno()).digest
        os.utime(path, ns=(1, 1))
        with path.open("rb") as file:
            assert not Hashing(digests, file.fileno()).digest
    with (tmp_path / "empty").open("wb+") as file:
        assert digests.of(file.fileno()) == hashlib.sha256(b"").hexdigest()
    pipe, other = os.pipe()
    with pytest.raises(OSError, match="not a regular file"):
        digests.of(pipe)
    os.close(pipe)
    os.close(other)
