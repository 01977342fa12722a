"""What an agent that was killed had begun is ended when it starts again, and nothing else is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from control_world import control_world, until

from holloway.actors.control_plane import leftovers
from holloway.actors.control_plane.leftovers import end_leftovers
from holloway.actors.control_plane.record_store import RecordStore
from holloway.protocols.control_plane.agent_journal import Journal
from holloway.protocols.control_plane.effects import AgentEffect, Forget, Keep
from holloway.protocols.control_plane.messages import Role

JOB = "ab" * 16
TREE = "trap '' TERM; sleep 600 & setsid sleep 600 & echo begun; wait"
"""A child in its own group, one in another session, and a shell that does not heed SIGTERM."""

Begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def begin() -> Iterator[Begin]:
    begun: list[subprocess.Popen[str]] = []

    def start(script: str = TREE, **marks: str) -> subprocess.Popen[str]:
        environ = {"PATH": os.environ["PATH"], **{f"HOLLOWAY_{name.upper()}": value for name, value in marks.items()}}
        process = subprocess.Popen(
            ["sh", "-c", script], env=environ, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        begun.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def test_a_whole_tree_of_processes_is_ended_and_others_are_not(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "TERM_GRACE_S", 0.2)
    left = begin(node="web1", job=JOB)
    others = [
        begin("echo begun; exec sleep 600", node="web2", job=JOB),
        begin("echo begun; exec sleep 600", node="web1", job="cd" * 16),
    ]
    assert end_leftovers("web1", [JOB, "ef" * 16]) == {JOB: 3}
    assert left.stdout is not None
    assert left.stdout.read() == "", "nobody holds it open any more"
    assert left.wait(5) == -9
    assert [each.poll() for each in others] == [None, None]
    assert end_leftovers("web1", [JOB]) == {}


def test_whoever_has_started_us_is_spared(monkeypatch: pytest.MonkeyPatch, begin: Begin) -> None:
    left = begin("echo begun; exec sleep 600", node="web1", job=JOB)
    assert os.getppid() in leftovers._ancestry()
    monkeypatch.setattr(leftovers, "_ancestry", lambda: {left.pid})
    assert end_leftovers("web1", [JOB]) == {}
    assert left.poll() is None


async def test_an_agent_ends_what_its_earlier_life_has_left(tmp_path: Path, begin: Begin) -> None:
    out: list[AgentEffect] = []
    Journal().begin(JOB, 1.0, out)
    folder = tmp_path / "agent-web1" / "agent"
    folder.mkdir(parents=True, mode=0o700)
    with RecordStore(folder / "journal.db") as store:
        store.commit([each for each in out if isinstance(each, Keep | Forget)])
    left = begin("echo begun; exec sleep 600", node="web1", job=JOB)
    async with control_world(tmp_path) as world, world.broker(), world.agent("web1", world.admit("web1", Role.NODE)):
        await until(lambda: left.poll() is not None)
        trail = folder / "audit.jsonl"
        await until(
            lambda: f'"what":"1 processes of an earlier life","outcome":"ended","job":"{JOB}"' in trail.read_text()
        )
