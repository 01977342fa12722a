"""The broker's files while several things happen to one of them at once."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from control_world import REAL, control_world, token, until

from holloway.actors.control_plane import file_hub
from holloway.actors.control_plane.curve import new_pair
from holloway.actors.control_plane.file_store import Unfinished
from holloway.actors.control_plane.key_files import without_client
from holloway.actors.control_plane.link import Link
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
