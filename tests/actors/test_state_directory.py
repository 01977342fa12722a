"""The folder that outlives a node: who may read it, and what a crash in the middle of a write leaves."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from holloway.actors.state_directory import SYSTEM_STATE, StateDirectory, default_state
from holloway.protocols.errors import PortError


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    made = StateDirectory(tmp_path / "state")
    made.create()
    return made


def test_root_has_the_systems_folder_and_others_have_their_own() -> None:
    assert default_state({}, 0) == SYSTEM_STATE
    assert default_state({"XDG_STATE_HOME": "/s"}, 1000) == Path("/s/holloway")
    assert default_state({"HOME": "/h"}, 1000) == Path("/h/.local/state/holloway")
    assert default_state({"HOME": "/h", "XDG_STATE_HOME": "relative"}, 1000) == Path("/h/.local/state/holloway")


def test_what_is_written_is_read_again_and_nobody_else_may(state: StateDirectory) -> None:
    assert state.read("x") is None
    assert not state.has("x")
    state.write("x", "text")
    state.write("x", b"bytes")
    assert state.read("x") == b"bytes"
    assert state.has("x")
    assert state.file("x").stat().st_mode & 0o777 == 0o600
    assert state.path.stat().st_mode & 0o777 == 0o700
    state.remove("x")
    state.remove("x")
    assert state.read("x") is None


def test_a_folder_that_others_may_enter_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    StateDirectory(tmp_path).create()
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_a_file_that_others_may_read_is_refused_with_the_command_that_mends_it(state: StateDirectory) -> None:
    state.write("x", "secret")
    state.file("x").chmod(0o644)
    with pytest.raises(PortError, match="0644") as caught:
        state.read("x")
    assert caught.value.fix == f"chmod 600 {state.file('x')}"


def test_a_write_that_fails_leaves_the_old_contents_and_no_draft(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.write("x", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(PortError, match="No space left"):
            state.write("x", "new")
    assert state.read("x") == b"old"
    assert [each.name for each in state.path.iterdir()] == ["x"]


def test_a_link_is_not_followed(state: StateDirectory, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("untouched")
    state.file("x").symlink_to(other)
    state.write("x", "new")
    assert other.read_text() == "untouched"
    assert not state.file("x").is_symlink()


def test_one_at_a_time(state: StateDirectory) -> None:
    order: list[str] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait()
        with state.alone():
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with state.alone():
        inside.set()
        thread.join(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_what_the_system_refuses_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PortError, match="file/state"):
        StateDirectory(tmp_path / "file" / "state").create()
    with pytest.raises(PortError, match="cannot lock"), StateDirectory(tmp_path / "nowhere").alone():
        pass
    (tmp_path / "folder").mkdir(mode=0o700)
    with pytest.raises(PortError, match="folder"):
        StateDirectory(tmp_path).read("folder")
