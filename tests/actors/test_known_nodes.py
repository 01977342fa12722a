"""What a node keeps of the others: when, and without anybody waiting for the disk.

What comes of it in another life is in `test_authority_membership`.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from pathlib import Path

import pytest
import trio.testing
from enrolled_world import NETWORK, NOW, EnrolledWorld
from node_world import name

from holloway.actors.belief import AuthorityBelief
from holloway.actors.bounded_log import BoundedLog
from holloway.actors.enrolled import KNOWN, SEEN, SERIAL, Enrolled
from holloway.actors.known_nodes import KnownNodes
from holloway.actors.records import Records
from holloway.actors.registry import Entry
from holloway.actors.state_directory import StateDirectory
from holloway.protocols.errors import PortError
from holloway.protocols.membership import NodeRecord

PATIENCE_S = 5.0


class SlowDisk(StateDirectory):
    """It takes each file when it is told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.began, self.go_on = threading.Event(), threading.Event()
        self.is_broken = False

    def write(self, name: str, contents: bytes | str) -> None:
        self.began.set()
        if not self.go_on.wait(PATIENCE_S):
            raise PortError("the disk was never told to go on")
        if self.is_broken:
            raise PortError("the disk is broken")
        super().write(name, contents)


class Scene:
    """Host 1, which has just learned of host 2."""

    def __init__(self, folder: Path) -> None:
        world = EnrolledWorld(folder)
        world.enrol(1)
        world.enrol(2)
        self.disk = SlowDisk(folder / name(1))
        self.enrolled = Enrolled(self.disk, NETWORK, NOW)
        belief = AuthorityBelief(self.enrolled, lambda: NOW * 10**9)
        log = BoundedLog(logging.getLogger("test"))
        self.records = Records(name(1), bytes(32), [], belief.read, Counter(), log, 0.0)
        self.known = KnownNodes(self.enrolled, belief, self.records, log)
        other = Enrolled(world.state(name(2)), NETWORK, NOW)
        record = NodeRecord(name=name(2), public_key=bytes([9]) * 32, addresses=other.addresses)
        value = AuthorityBelief(other, lambda: NOW * 10**9).seal(record)
        self.records.learn(name(2).encode(), Entry(value, 1, 1, 1, None), 0.0)
        self.disk.began.clear()


async def test_nobody_waits_for_the_disk_but_whoever_keeps(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    with trio.fail_after(PATIENCE_S - 1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.known.keep)
            while not scene.disk.began.is_set():  # noqa: ASYNC110 - a thread tells
                await trio.sleep(0.001)
            assert not (tmp_path / name(1) / KNOWN).exists()
            scene.disk.go_on.set()
    assert name(2) in (tmp_path / name(1) / KNOWN).read_text()
    assert name(2) in (tmp_path / name(1) / SEEN).read_text()


async def test_what_was_begun_is_kept_also_when_the_node_stops_meanwhile(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.disk.go_on.set()
    with trio.CancelScope() as scope:
        scope.cancel()
        await scene.known.keep()
    assert name(2) in (tmp_path / name(1) / KNOWN).read_text()


async def test_nothing_new_is_not_written_again_and_what_the_disk_refused_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(tmp_path)
    scene.disk.go_on.set()
    scene.disk.is_broken = True
    await scene.known.keep()
    assert "cannot be kept" in caplog.text
    scene.disk.is_broken = False
    await scene.known.keep()
    assert name(2) in (tmp_path / name(1) / KNOWN).read_text()
    scene.disk.began.clear()
    await scene.known.keep()
    assert not scene.disk.began.is_set()


async def test_no_more_is_kept_than_can_be_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path)
    scene.disk.go_on.set()
    (value,) = scene.records.values().values()
    monkeypatch.setattr(scene.records, "values", lambda: {"long": value * 3, name(2): value, "longer": value * 4})
    monkeypatch.setattr("holloway.actors.known_nodes.MAX_FILE_BYTES", 2 * len(value))
    await scene.known.keep()
    kept = (tmp_path / name(1) / KNOWN).read_text()
    assert len(kept) <= 2 * len(value)
    assert list(json.loads(kept)["records"]) == [name(2)]
    assert scene.known.recall()


# What is owed to the disk.


async def test_what_is_learned_while_the_disk_writes_is_written_after_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    first = scene.enrolled.next_serial(NOW * 10**6)
    with trio.fail_after(PATIENCE_S - 1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.enrolled.keep_owed)
            while not scene.disk.began.is_set():  # noqa: ASYNC110 - a thread tells
                await trio.sleep(0.001)
            assert scene.enrolled.next_serial(0) == first + 1
            nursery.start_soon(scene.enrolled.keep_owed)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not (tmp_path / name(1) / SERIAL).exists()
            scene.disk.go_on.set()
    assert (tmp_path / name(1) / SERIAL).read_text() == str(first + 1)
    scene.disk.began.clear()
    await scene.enrolled.keep_owed()
    assert not scene.disk.began.is_set()


async def test_what_the_disk_refused_stays_owed_and_counts(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.disk.go_on.set()
    scene.disk.is_broken = True
    first = scene.enrolled.next_serial(NOW * 10**6)
    with pytest.raises(PortError, match="is broken"):
        await scene.enrolled.keep_owed()
    assert scene.enrolled.next_serial(0) == first + 1
    scene.disk.is_broken = False
    await scene.enrolled.keep_owed()
    assert Enrolled(scene.disk, NETWORK, NOW).next_serial(0) == first + 2
