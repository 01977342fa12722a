"""`sync` on nodes: many at once, what is too large, and what is stopped."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
from control_world import control_world, token, until

from holloway.actors.control_plane import file_client, folders
from holloway.actors.control_plane.folders import SCRATCH
from holloway.protocols.control_plane.file_service import FileLimits
from holloway.protocols.control_plane.messages import CancelJob, Role, State, Step

SYNC = Step("sync", ("conf",))


def put(root: Path, size: int = 4) -> None:
    folder = root / "files" / "conf" / "below"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        (folder / name).write_bytes(name.encode() * size)


async def test_more_nodes_than_transfers_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_client, "LATER_S", 0.02)
    async with control_world(tmp_path) as world, world.broker(), world.files(FileLimits(max_transfers=1)) as files:
        put(world.root)
        ann = world.operator(world.admit("ann", Role.OPERATOR))
        async with AsyncExitStack() as stack:
            for number in range(4):
                await stack.enter_async_context(world.agent(f"web{number}"))
            answers = await ann.run(SYNC)
        assert {each.state for each in answers.results.values()} == {State.OK}, answers.results
        assert files.service.counts["file_too_many"] > 0, "nobody had to wait, and nothing was tried"
        for number in range(4):
            assert (tmp_path / f"agent-web{number}" / "files" / "conf" / "below" / "b").read_bytes() == b"bbbb"


async def test_a_sync_that_is_cancelled_ends_and_leaves_no_half_file(tmp_path: Path) -> None:
    async with control_world(tmp_path) as world, world.broker() as tree, world.files(), world.agent("web1"):
        put(world.root, 40_000_000)
        ann = world.operator(world.admit("ann", Role.OPERATOR))
        folder = tmp_path / "agent-web1" / "files" / "conf"
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                await until(lambda: (folder / SCRATCH).exists())
                [job] = list(world.listening(tree).broker.jobs.running)
                await world.operator(world.admit("root", Role.ADMIN)).send(CancelJob(token(), job))

            nursery.start_soon(cancel)
            answers = await ann.run(SYNC)
        assert answers.results["web1"].state is State.CANCELLED
        whole = list((folder / "below").iterdir()) if (folder / "below").exists() else []
        assert all(path.stat().st_size == 40_000_000 for path in whole)
        assert len(whole) < 2


async def test_a_folder_that_is_too_large_is_refused_before_anything_comes(tmp_path: Path) -> None:
    async with control_world(tmp_path) as world, world.broker(), world.files():
        put(world.root)
        world.max_sync_bytes = 7
        ann = world.operator(world.admit("ann", Role.OPERATOR))
        async with world.agent("web1"):
            [result] = (await ann.run(SYNC)).results.values()
        assert result.state is State.FAILED
        assert "it has 8 bytes, 7 are the most" in result.error
        assert not (tmp_path / "agent-web1" / "files" / "conf").exists()


@pytest.mark.parametrize("other", [b"x" * 5_000_000, b"z" * 4], ids=["larger", "of the same size"])
async def test_a_file_that_is_replaced_after_the_list_was_made_is_refused_by_name_and_the_others_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: bytes
) -> None:
    async with control_world(tmp_path) as world, world.broker(), world.files():
        put(world.root)
        world.max_sync_bytes = 8
        compare = folders.tree_changes

        def replaced_meanwhile(*lists: Any, **options: Any) -> Any:
            (world.root / "files" / "conf" / "below" / "a").write_bytes(other)
            return compare(*lists, **options)

        ann = world.operator(world.admit("ann", Role.OPERATOR))
        folder = tmp_path / "agent-web1" / "files" / "conf"
        folder.mkdir(parents=True)
        (folder / "old").touch()
        async with world.agent("web1"):
            monkeypatch.setattr(folders, "tree_changes", replaced_meanwhile)
            [result] = (await ann.run(Step("sync", ("conf",), {"deletes": True}))).results.values()
        assert result.state is State.FAILED
        assert "refused: below/a" in result.error
        there = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        assert there == {"below/b": 4, "old": 0}
