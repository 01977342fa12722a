"""Folders at the broker, on nodes and here: upload, download, sync, and what they refuse."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from control_thread import Plane

from holloway.actors.control_plane import folders
from holloway.actors.control_plane.file_client import FileClient
from holloway.protocols.control_plane.messages import Role

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


@pytest.fixture
def ask(
    plane: Plane, holloway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Any]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # what an edit keeps stays here
    plane.settle()
    return holloway


def write(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


ALL = {"a": b"one", "b/c": bytes(range(256)) * 2000, "b/d/e": b"", "zwölf": b"\xff"}


def agent_files(plane: Plane, node: str) -> Path:
    return plane.world.root.parent / f"agent-{node}" / "files"


def test_a_folder_goes_up_and_to_nodes_and_down_again(ask: Callable[..., Any], plane: Plane) -> None:
    write(Path("here"), ALL)
    (Path("here") / "a").chmod(0o750)
    (Path("here") / "link").symlink_to("/etc/passwd")
    up = ask("upload", "here", "conf/shop", "--json")
    document = up.document
    jsonschema.validate(document, json.loads((SCHEMAS / "holloway.folder.json").read_text()))
    assert (up.code, document["changed"], document["same"], document["left_out"]) == (0, 4, 0, ["link"])
    assert contents(plane.world.root / "files" / "conf" / "shop") == ALL
    assert ask("upload", "here", "conf/shop", "--json").document["same"] == 4
    synced = ask("sync", "conf/shop", "--to", "shop")
    assert synced.code == 0, synced.err
    assert synced.out == "web1 web2: ok\n  conf/shop: 4 brought, 0 removed, 0 as they were\n"
    for node in ("web1", "web2"):
        assert contents(agent_files(plane, node) / "shop") == ALL
        assert (agent_files(plane, node) / "shop" / "a").stat().st_mode & 0o777 == 0o750
    assert ask("download", "conf/shop", "there").code == 0
    assert contents(Path("there")) == ALL


def test_what_is_not_wanted_any_more_goes_only_when_that_is_said(ask: Callable[..., Any], plane: Plane) -> None:
    write(Path("here"), ALL)
    assert ask("upload", "here", "gone").code == 0
    assert ask("sync", "gone").code == 0
    (Path("here") / "b" / "d" / "e").unlink()
    (Path("here") / "a").unlink()
    assert ask("upload", "here", "gone", "--json").document["removed"] == 0
    assert contents(plane.world.root / "files" / "gone") == ALL
    assert ask("upload", "here", "gone", "--delete", "--json").document["removed"] == 2
    left = {name: ALL[name] for name in ("b/c", "zwölf")}
    assert contents(plane.world.root / "files" / "gone") == left
    assert not (plane.world.root / "files" / "gone" / "b" / "d").exists()
    assert ask("sync", "gone").code == 0
    assert contents(agent_files(plane, "web1") / "gone") == ALL
    assert ask("sync", "gone", "--delete").code == 0
    assert contents(agent_files(plane, "web1") / "gone") == left


def test_a_file_becomes_a_folder_on_nodes(ask: Callable[..., Any], plane: Plane) -> None:
    write(Path("one"), {"x": b"file"})
    write(Path("two"), {"x/y": b"below"})
    assert ask("upload", "one", "shape1").code == 0
    assert ask("upload", "two", "shape2").code == 0
    for name, expected in (("shape1", {"x": b"file"}), ("shape2", {"x/y": b"below"}), ("shape1", {"x": b"file"})):
        outcome = ask("sync", name, "--to", "shape", "--delete")
        assert outcome.code == 0, outcome.out + outcome.err
        assert contents(agent_files(plane, "web1") / "shape") == expected


@pytest.mark.parametrize("name", ["../x", "/etc", "a/../../b", "a//b", "a\\b", "."])
def test_a_folder_whose_name_leads_out_is_refused(ask: Callable[..., Any], name: str) -> None:
    write(Path("here"), {"a": b"one"})
    for words in (("upload", "here", name), ("download", name, "there"), ("sync", name), ("sync", "x", "--to", name)):
        outcome = ask(*words)
        assert outcome.code == 1, words
        assert "is no name of a folder" in outcome.error[0]


def test_a_link_below_the_folder_is_not_written_through(ask: Callable[..., Any], plane: Plane, tmp_path: Path) -> None:
    write(Path("here"), {"in/secret": b"new"})
    assert ask("upload", "here", "linked").code == 0
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"old")
    folder = agent_files(plane, "web1") / "linked"
    folder.mkdir(parents=True)
    (folder / "in").symlink_to(outside)
    outcome = ask("sync", "-t", "web1", "linked")
    assert outcome.code != 0
    assert (outside / "secret").read_bytes() == b"old"


def swap(kind: str, secret: Path) -> None:
    """What somebody may do to `here`, who can write there, while it is uploaded."""
    config = Path("here/zz/config")
    match kind:
        case "its folder is a link":
            Path("here/zz").rename("here/old")
            Path("here/zz").symlink_to(secret)
        case "it is a link":
            config.unlink()
            config.symlink_to(secret / "config")
        case "it is a FIFO":
            config.unlink()
            os.mkfifo(config)
        case "it is another file":
            (secret / "config").replace(config)
        case _:
            config.unlink()


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Something happens after the folder was listed, when the first of its files goes up."""
    put, has_happened = FileClient.put, False

    async def first_happens(*arguments: Any) -> Any:
        nonlocal has_happened
        if not has_happened:
            has_happened = True
            happens()
        return await put(*arguments)

    monkeypatch.setattr(FileClient, "put", first_happens)


@pytest.mark.parametrize(
    "kind", ["its folder is a link", "it is a link", "it is a FIFO", "it is another file", "it is gone"]
)
def test_what_is_not_the_file_that_was_listed_is_not_sent_but_named_and_the_others_go(
    ask: Callable[..., Any], plane: Plane, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    name = "raced-" + kind.replace(" ", "-")
    at_broker = plane.world.root / "files" / name
    write(tmp_path / "outside", {"config": b"secret!!"})
    write(at_broker, {"old": b"stays"})
    write(Path("here"), {"a": b"one", "zz/config": b"harmless", "zz/other": b"two"})
    meanwhile(monkeypatch, lambda: swap(kind, tmp_path / "outside"))
    outcome = ask("upload", "here", name, "--delete", "--json")
    expected = {"a": b"one", "old": b"stays"}
    refused = ["zz/config"]
    if kind == "its folder is a link":
        refused.append("zz/other")
    else:
        expected["zz/other"] = b"two"
    assert contents(at_broker) == expected
    assert outcome.code == 1, outcome.err
    assert outcome.error[0] == f"refused: {', '.join(refused)}"
    document = outcome.document
    jsonschema.validate(document, json.loads((SCHEMAS / "holloway.folder.json").read_text()))
    assert (document["refused"], document["removed"]) == (refused, 0)
    assert (document["changed"], document["size"]) == (3 - len(refused), sum(map(len, expected.values())) - 5)


def test_a_folder_whose_own_name_becomes_a_link_is_sent_as_it_was(
    ask: Callable[..., Any], plane: Plane, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = {"a": b"one", "zz/config": b"harmless"}
    write(tmp_path / "outside", {"zz/config": b"secret!!"})
    write(Path("here"), files)

    def swap_all() -> None:
        Path("here").rename("moved")
        Path("here").symlink_to(tmp_path / "outside")

    meanwhile(monkeypatch, swap_all)
    assert ask("upload", "here", "raced-all").code == 0
    assert contents(plane.world.root / "files" / "raced-all") == files


def test_what_the_broker_offers_and_has_not_listed_is_not_taken_by_a_download(
    ask: Callable[..., Any], plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_broker, compare = plane.world.root / "files" / "relisted", folders.tree_changes
    write(at_broker, {"a": b"one", "b": b"two", "gone": b"three"})
    write(Path("there"), {"old": b"stays"})

    def replaced_meanwhile(*lists: Any, **options: Any) -> Any:
        write(at_broker, {"a": b"larger" * 1000})
        (at_broker / "gone").unlink()
        return compare(*lists, **options)

    monkeypatch.setattr(folders, "tree_changes", replaced_meanwhile)
    outcome = ask("download", "relisted", "there", "--delete", "--json")
    assert (outcome.code, outcome.error[0], outcome.document["refused"]) == (1, "refused: a, gone", ["a", "gone"])
    assert contents(Path("there")) == {"b": b"two", "old": b"stays"}
    monkeypatch.setattr(folders, "tree_changes", compare)
    assert ask("download", "relisted", "there", "--delete").code == 0
    assert contents(Path("there")) == {"a": b"larger" * 1000, "b": b"two"}


def test_a_folder_that_nobody_put_is_told_and_removes_nothing(ask: Callable[..., Any], plane: Plane) -> None:
    write(agent_files(plane, "web1") / "typo", {"a": b"kept"})
    outcome = ask("sync", "-t", "web1", "typo", "--delete")
    assert outcome.code != 0
    assert "there is no folder typo at the broker" in outcome.err
    assert contents(agent_files(plane, "web1") / "typo") == {"a": b"kept"}


def test_a_node_reads_nothing_without_a_job(ask: Callable[..., Any], plane: Plane) -> None:
    write(Path("here"), {"a": b"one"})
    assert ask("upload", "here", "private").code == 0
    plane.key_file("spy", Role.NODE)
    for words in (("download", "private", "got"), ("file", "get", "private/a", "got")):
        outcome = ask(*words, "--curve-key-file", "spy.yml")
        assert outcome.code == 1
        assert "the role node may not call" in outcome.error[1]
    assert not Path("got").exists() or contents(Path("got")) == {}
