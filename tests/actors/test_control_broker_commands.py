"""Commands on the broker that take a while: nobody else waits for them, they are few, and who may not any more hears nothing of them."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from control_world import NOW, REAL, Operator, control_world, token, until

from holloway.actors.control_plane import applications
from holloway.actors.control_plane.applications import NO_REVISION
from holloway.actors.control_plane.broker_commands import WAITING_EACH
from holloway.actors.control_plane.key_files import without_client
from holloway.protocols.control_plane.messages import Admin, Answer, Denied, Message, Role, State, Step
from holloway.protocols.control_plane.wire import Refusal, decode


class Hard:
    """A text that is hard to read: whoever looks at it stays with it until it is over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.over = threading.Event(), threading.Event()
        monkeypatch.setattr(applications, "require_yaml", self._read)

    def _read(self, text: bytes) -> None:
        self.begun.set()
        assert self.over.wait(REAL)


async def asked(operator: Operator, message: Message) -> Message:
    await operator.send(message)
    return await operator.receive()


def replace(application: str, revision: str = NO_REVISION) -> Admin:
    return Admin(token(), "edit", (application,), {"revision": revision}, f"of: {revision}\n".encode())


async def test_nobody_waits_for_a_text_that_is_hard_to_read_and_few_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hard = Hard(monkeypatch)
    async with control_world(tmp_path) as world, world.broker(), world.files(), world.agent("web1"):
        ann = world.operator(world.admit("ann", Role.OPERATOR))
        bob = world.operator(world.admit("bob", Role.OPERATOR))
        for number in range(WAITING_EACH):
            await ann.send(replace(f"app{number}"))
        await until(hard.begun.is_set)
        denied = await asked(ann, replace("more"))
        assert isinstance(denied, Denied)
        assert denied.why.startswith("too many commands are running")
        assert (await bob.run(Step("echo", ("hi",)))).results["web1"].state is State.OK
        hard.over.set()
        for _ in range(WAITING_EACH):
            assert isinstance(await ann.receive(), Answer)
        assert isinstance(await asked(ann, replace("more")), Answer)


async def test_of_two_who_replace_one_text_at_once_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)
    write = applications.replace_small

    def slowly(*words: Any) -> None:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.3)  # until the other one is as far, if he can be
        write(*words)

    monkeypatch.setattr(applications, "replace_small", slowly)
    async with control_world(tmp_path) as world, world.broker(), world.files():
        people = [world.operator(world.admit(name, Role.OPERATOR)) for name in ("ann", "bob")]
        for each in people:
            await each.send(replace("shop"))
        answers = [await each.receive() for each in people]
        [denied] = [each for each in answers if isinstance(each, Denied)]
        assert denied.why.startswith("the configuration of shop is another one now")
        assert len([each for each in answers if isinstance(each, Answer)]) == 1


async def test_who_is_revoked_meanwhile_is_told_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hard = Hard(monkeypatch)
    async with control_world(tmp_path) as world, world.broker() as tree, world.files():
        ann = world.operator(world.admit("ann", Role.OPERATOR))
        await ann.send(replace("shop"))
        await until(hard.begun.is_set)
        world.keys.change(partial(without_client, name="ann", now=NOW))
        world.listening(tree).reload()
        trail = world.root / "broker" / "audit.jsonl"
        await trio.sleep(0.2)
        hard.over.set()
        await until(lambda: '"event":"edit"' in trail.read_text())  # it was done, and is written down
        with trio.move_on_after(0.3):
            message = decode(await ann.link.receive())
            assert isinstance(message, Refusal), message
