"""Folders as lists of files: what travels is what was there, what is hostile is refused, and the changes make one of the other."""

from __future__ import annotations

import time

import pytest
from control_site import Site, ask, request
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.control_plane.access import DEFAULT_ACCESS
from holloway.protocols.control_plane.effects import Moment, Principal, Send
from holloway.protocols.control_plane.file_messages import Abort, Offer, Want
from holloway.protocols.control_plane.file_service import FileLimits, FileService, Measure, ServiceEffect
from holloway.protocols.control_plane.file_trees import MAX_TREE_FILES, TreeFile, format_tree, read_tree, tree_changes
from holloway.protocols.control_plane.messages import CancelJob, Role
from holloway.protocols.control_plane.wire import decode, encode

NOW = Moment(1.0, 1e9)
PARTS = st.text("ab.", min_size=1, max_size=3).filter(lambda part: part not in (".", ".."))
FILES = st.builds(
    TreeFile,
    st.lists(PARTS, min_size=1, max_size=3).map("/".join),
    st.integers(0, 9),
    st.sampled_from(["0" * 64, "f" * 64]),
    st.sampled_from([0o644, 0o755]),
)


def shape(files: list[TreeFile]) -> dict[str, TreeFile]:
    """Of files as Hypothesis draws them, those that can be in one folder: no name is a file and a folder."""
    there: dict[str, TreeFile] = {}
    for file in files:
        if not any(f"{file.name}/".startswith(f"{name}/") or f"{name}/".startswith(f"{file.name}/") for name in there):
            there[file.name] = file
    return there


TREES = st.lists(FILES, max_size=6).map(shape)


@given(TREES)
def test_a_list_is_read_as_it_was_written(tree: dict[str, TreeFile]) -> None:
    assert read_tree(format_tree(tree.values())) == tuple(sorted(tree.values(), key=lambda file: file.name))


def test_a_folder_that_is_not_there_is_not_an_empty_one() -> None:
    assert read_tree(format_tree(None)) is None
    assert read_tree(format_tree([])) == ()


GOOD = format_tree([TreeFile("a", 1, "0" * 64, 0o644), TreeFile("b/c", 1, "0" * 64, 0o644)])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        GOOD[:-1],
        GOOD.replace(b'"a"', b'"../a"'),
        GOOD.replace(b'"a"', b'"/a"'),
        GOOD.replace(b'"a"', b'"b//c"'),
        GOOD.replace(b'"a"', b'"c"'),
        GOOD.replace(b'"a"', b'"b/c"'),
        GOOD.replace(b"420", b"2541"),
        GOOD.replace(b'"size":1', b'"size":-1'),
        GOOD.replace(b'"size":1', b'"size":true'),
        GOOD.replace(b"0" * 64, b"G" * 64),
        GOOD.replace(b'"tree":1', b'"tree":2'),
        GOOD.replace(b"true", b"1"),
        b"[" * 100_000 + b"\n",
        GOOD + b"\xff\n",
    ],
)
def test_a_hostile_list_is_refused_whole(data: bytes) -> None:
    with pytest.raises(ValueError):
        read_tree(data)


@given(st.binary(max_size=200))
def test_whatever_is_no_list_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        read_tree(data)


@given(TREES, TREES, st.booleans(), st.booleans())
def test_the_changes_make_what_is_wanted(
    wanted: dict[str, TreeFile], have: dict[str, TreeFile], deletes: bool, modes: bool
) -> None:
    changes = tree_changes(wanted.values(), have.values(), deletes=deletes, modes=modes)
    result = dict(have)
    for name in changes.blocking:
        del result[name]
    for file in changes.bring:
        if deletes:
            others = result.keys() - {file.name}
            assert not any(f"{file.name}/".startswith(f"{name}/") for name in others), "a file is in the way"
            assert not any(name.startswith(f"{file.name}/") for name in others), "a folder is in the way"
        result[file.name] = file
    for file in changes.set_mode:
        result[file.name] = file
    for name in changes.remove:
        del result[name]
    left = {name: file for name, file in result.items() if name in wanted or deletes}
    if modes:
        assert left == wanted
    else:
        assert {name: (file.size, file.sha256) for name, file in left.items()} == {
            name: (file.size, file.sha256) for name, file in wanted.items()
        }
    assert changes.same + len(changes.bring) + len(changes.set_mode) == len(wanted)


def test_folders_as_large_as_may_be_are_compared_in_time() -> None:
    """Each file that is there is in the way of one that is wanted, as somebody would make it who wants us to be busy."""
    names = [f"{number:05}" for number in range(MAX_TREE_FILES)]
    wanted = [TreeFile(name, 1, "0" * 64, 0o644) for name in names]
    have = [TreeFile(f"{name}/x", 1, "0" * 64, 0o644) for name in names]
    began = time.process_time()
    changes = tree_changes(wanted, have, deletes=True, modes=True)
    assert time.process_time() - began < 5.0
    assert (len(changes.bring), len(changes.blocking), changes.remove) == (MAX_TREE_FILES, MAX_TREE_FILES, ())


# What nodes may read.

NODE = Principal("web1", Role.NODE)
TRANSFER = "0" * 32


def answered(effects: list[ServiceEffect]) -> list[object]:
    return [decode(effect.frames) for effect in effects if isinstance(effect, Send)]


def service(may: bool | None) -> tuple[FileService, list[tuple[str, tuple[str, ...]]]]:
    asked: list[tuple[str, tuple[str, ...]]] = []

    def may_read(node: str, parts: tuple[str, ...]) -> bool | None:
        asked.append((node, parts))
        return may

    return FileService(DEFAULT_ACCESS, FileLimits(), may_read), asked


@pytest.mark.parametrize(("name", "is_tree"), [("conf/a", False), ("conf/", True)])
def test_a_node_reads_what_it_was_told_to_sync_and_nothing_else(name: str, is_tree: bool) -> None:
    told, asked = service(True)
    parts = tuple(name.rstrip("/").split("/"))
    key = f"web1/{TRANSFER}"
    assert told.receive(NOW, NODE, b"r", encode(Want(TRANSFER, name))) == [Measure(key, parts, is_tree)]
    assert asked == [("web1", parts)]
    untold, _ = service(False)
    [abort] = answered(untold.receive(NOW, NODE, b"r", encode(Want(TRANSFER, name))))
    assert isinstance(abort, Abort)
    assert "role node" in abort.why


def test_a_node_puts_nothing_even_where_it_may_read() -> None:
    told, _ = service(True)
    [abort] = answered(told.receive(NOW, NODE, b"r", encode(Offer(TRANSFER, "conf/a", 1, "0" * 64, 0o644))))
    assert isinstance(abort, Abort)


def test_a_node_that_nobody_can_judge_yet_hears_nothing_and_asks_again() -> None:
    unsure, _ = service(None)
    assert unsure.receive(NOW, NODE, b"r", encode(Want(TRANSFER, "conf/a"))) == []
    assert len(unsure) == 0


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "conf/../x", "conf//", "/", "a\\b"])
def test_no_name_leads_out_not_even_for_a_node_that_may_read_all(name: str) -> None:
    told, asked = service(True)
    [abort] = answered(told.receive(NOW, NODE, b"r", encode(Want(TRANSFER, name))))
    assert isinstance(abort, Abort)
    assert asked == []


def test_a_job_lets_its_nodes_read_its_folder_for_as_long_as_it_runs_on_them() -> None:
    site = Site("web1", "web2", "db1")
    may = site.broker.may_read
    assert not may("web1", ("conf",))
    job = site.run(ask(1, "sync", "conf/shop", target="web*"))
    for node in ("web1", "web2"):
        assert may(node, ("conf", "shop"))
        assert may(node, ("conf", "shop", "a", "b"))
        assert not may(node, ("conf",))
        assert not may(node, ("conf", "shopping"))
        assert not may(node, ("other",))
    assert not may("db1", ("conf", "shop")), "the job is not for it"
    site.end("web1", job)
    assert not may("web1", ("conf", "shop")), "it has ended there"
    assert may("web2", ("conf", "shop"))
    site.restart_broker()
    assert site.broker.may_read("web2", ("conf", "shop")), "the broker has kept the job"
    assert not site.broker.may_read("web1", ("conf", "shop"))
    site.say(CancelJob(request(2), job))
    assert not site.broker.may_read("web2", ("conf", "shop"))
