"""Beginnings of files: in a folder that is ours alone, where nothing else is touched."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest

from holloway.actors.control_plane import file_store, file_trees
from holloway.actors.control_plane.digests import Digests
from holloway.actors.control_plane.file_store import Unfinished, open_source, replace_small, require_replaceable
from holloway.actors.control_plane.file_trees import read_folder
from holloway.protocols.control_plane.file_messages import Offer
from holloway.protocols.errors import LocalError

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


def put_there(path: Path, what: str) -> None:
    match what:
        case "a FIFO":
            os.mkfifo(path)
        case "a symbolic link":
            path.symlink_to("/dev/null")
        case "a socket":
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(path))
        case _:
            path.mkdir()


@pytest.mark.parametrize("what", ["a FIFO", "a symbolic link", "a socket", "a folder"])
def test_what_is_no_regular_file_is_neither_replaced_nor_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    place = Path("files") / "a"
    place.parent.mkdir()
    put_there(place, what)
    before = place.lstat()
    unfinished = begin(Path("unfinished"))
    unfinished.write(0, b"x")
    for refuse in (
        lambda: unfinished.store(place.parent),
        lambda: require_replaceable(place.parent, ("a",)),
        lambda: replace_small(place.parent, ("a",), b"x"),
    ):
        with pytest.raises(OSError, match=f"a is {what}, which no file replaces"):
            refuse()
    assert (place.lstat().st_ino, place.lstat().st_mode) == (before.st_ino, before.st_mode)
    unfinished.close()
    with pytest.raises(LocalError, match="files/a is not sent") as caught:
        open_source(place)
    assert ("a device" if what == "a symbolic link" else what) in caught.value.why


def test_a_regular_file_is_replaced_and_a_link_to_one_is_sent(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a").write_bytes(b"old")
    unfinished = begin(tmp_path / "unfinished")
    unfinished.write(0, b"x")
    unfinished.store(tmp_path / "files")
    (tmp_path / "link").symlink_to(tmp_path / "files" / "a")
    descriptor = open_source(tmp_path / "link")
    assert os.read(descriptor, 9) == b"x"
    os.close(descriptor)
    require_replaceable(tmp_path / "none", ("a", "b"))


@pytest.mark.parametrize("kind", ["a symbolic link", "a FIFO", "gone"])
def test_a_folder_that_becomes_something_else_while_it_is_read_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    here, read = tmp_path / "here", file_trees._file
    (here / "zz").mkdir(parents=True)
    for name in ("a", "zz/config"):
        (here / name).write_text(name)

    def becomes(folder: int, name: str, whole: str, digests: Digests) -> object:
        if whole == "a":
            (here / "zz").rename(tmp_path / "moved")
            if kind == "a symbolic link":
                (here / "zz").symlink_to(tmp_path / "moved")
            elif kind == "a FIFO":
                os.mkfifo(here / "zz")
        return read(folder, name, whole, digests)

    monkeypatch.setattr(file_trees, "_file", becomes)
    tree = read_folder(here, (), Digests())
    assert tree is not None
    assert ([each.name for each in tree.files], tree.left_out) == (["a"], ("zz",))


def test_a_folder_whose_name_cannot_travel_is_left_out_as_one_and_an_open_one_is_read_wherever_it_is(
    tmp_path: Path,
) -> None:
    here = tmp_path / "here"
    (here / "back\\slash" / "below").mkdir(parents=True)
    deep = here.joinpath(*["x"] * 60)
    deep.mkdir(parents=True)
    for folder in (here, deep, here / "back\\slash"):
        (folder / "file").touch()
    with file_store.open_folder(here, (), make=False) as top:
        here.rename(tmp_path / "moved")
        tree = read_folder(top, (), Digests())
        assert tree is not None
        with pytest.raises(OSError, match="a folder, and no regular file"):
            file_store.measure(top, ("x",))
    assert [each.name for each in tree.files] == ["file"]
    assert sorted(tree.left_out) == ["back\\slash", "/".join(["x"] * 33)]
