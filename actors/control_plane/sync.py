"""The step `sync` of a job: a folder of this node becomes like one of the broker's, over a connection of its own.

Not responsible for whether the node may read that (`holloway.protocols.control_plane.file_service`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio
import zmq

from holloway.actors.control_plane.file_client import FileClient
from holloway.actors.control_plane.folders import Folder, bring, confined_folder, require_all
from holloway.actors.control_plane.link import Broker, Link
from holloway.actors.control_plane.processes import Reins
from holloway.actors.control_plane.world import World
from holloway.protocols.control_plane.effects import Start
from holloway.protocols.control_plane.messages import Stream
from holloway.protocols.errors import HollowayError, LocalError

LINGER_MS = 1000
"""For the last word to leave: until it has come the broker counts the transfer as one that is under way."""


@dataclass(frozen=True, slots=True)
class SyncPlace:
    """`root`: the folder below which folders are synced; `broker`: where its files are; `max_bytes`: of one folder."""

    root: Path
    broker: Broker
    max_bytes: int


async def sync_folder(
    context: zmq.Context[zmq.Socket[bytes]],
    place: SyncPlace,
    world: World,
    start: Start,
    reins: Reins,
    write: Callable[[Stream, bytes], None],
) -> tuple[int | None, str]:
    """Do the step; its code, or why there is none. When `reins` say stop it ends where it is, and no file is half there."""
    ended: tuple[int | None, str] = None, "it was stopped"
    try:
        name, folder = _read(place, start)
        with Link(context, place.broker, linger_ms=LINGER_MS) as link:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_with, reins, nursery.cancel_scope)
                try:
                    await link.connected()
                    client = FileClient(link, world)
                    nursery.start_soon(client.keep)
                    moved = await bring(
                        client,
                        name,
                        folder,
                        deletes=start.step.options.get("deletes") is True,
                        modes=start.step.options.get("modes") is not False,
                        deadline_s=start.deadline_s,
                        max_bytes=place.max_bytes,
                    )
                    told = f"{name}: {moved.changed} brought, {moved.removed} removed, {moved.same} as they were\n"
                    write(Stream.STDOUT, told.encode())
                    require_all(moved.refused)
                    ended = 0, ""
                except HollowayError as error:
                    ended = None, str(error)
                except OSError as error:
                    ended = None, error.strerror or str(error)
                nursery.cancel_scope.cancel()
    except HollowayError as error:
        return None, str(error)
    return ended


def _read(place: SyncPlace, start: Start) -> tuple[str, Folder]:
    """The folder at the broker, and ours. Raises LocalError."""
    words = start.step.arguments
    if not 1 <= len(words) <= 2:
        raise LocalError("sync takes a folder, and what it is called here", f"it was given {len(words)} words")
    confined_folder(words[0])
    return words[0], Folder(place.root, confined_folder(words[-1]))


async def _end_with(reins: Reins, scope: trio.CancelScope) -> None:
    await reins.wait_stopping()
    scope.cancel()
