"""Beginnings of files: in a folder that is ours alone, where nothing else is touched."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from holloway.actors.control_plane import file_store
from holloway.actors.control_plane.file_store import Unfinished
from holloway.protocols.control_plane.file_messages import Offer

OFFER = Offer("0" * 32, "a", 1, hashlib.sha256(b"x").hexdigest(), 0o640)


def begin(folder: Path) -> Unfinished:
    return Unfinished(folder, "ann", ("a",), OFFER)


@pytest.mark.parametrize("kind", ["link", "open to others"])
def test_a_folder_that_is_not_ours_alone_is_refused_and_nothing_in_it_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(file_store, "MAX_UNFINISHED", 1)
    other, folder = tmp_path / "other", tmp_path / "unfinished"
    other.mkdir(mode=0o700)
    (other / ("0" * 64)).touch()
    if kind == "link":
        folder.symlink_to(other)
    else:
        other.chmod(0o777)
        other = other.rename(folder)
    with pytest.raises(OSError, match=r"directory|not ours alone"):
        begin(folder)
    assert [each.name for each in other.iterdir()] == ["0" * 64]


def test_of_what_is_in_the_folder_only_beginnings_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_store, "MAX_UNFINISHED", 1)
    folder = tmp_path / "unfinished"
    folder.mkdir(mode=0o700)
    for name in ("0" * 64, "1" * 64, "mine", "0" * 65):
        (folder / name).touch()
    (folder / "below").mkdir()
    unfinished = begin(folder)
    unfinished.write(0, b"x")
    there = {each.name for each in folder.iterdir()}
    assert there & {"0" * 64, "1" * 64, "mine", "0" * 65, "below"} == {"mine", "0" * 65, "below"}
    unfinished.store(tmp_path / "files")
    assert (tmp_path / "files" / "a").read_bytes() == b"x"
    assert {each.name for each in folder.iterdir()} == {"mine", "0" * 65, "below"}


def test_a_beginning_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    folder, other = tmp_path / "unfinished", tmp_path / "other"
    other.write_bytes(b"old")
    unfinished = begin(folder)
    [name] = folder.iterdir()
    unfinished.discard()
    name.symlink_to(other)
    with pytest.raises(OSError, match="symbolic"):
        begin(folder)
    assert other.read_bytes() == b"old"
