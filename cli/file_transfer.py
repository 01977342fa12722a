"""Putting files and folders to the broker and getting them from it, from the first word to the last, with a bar that shows how far it is.

Not responsible for options, nor for the transfers themselves (`holloway.actors.control_plane.file_client`, `folders`).
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import trio
import zmq

from holloway.actors.control_plane.file_client import FileClient
from holloway.actors.control_plane.file_store import measured, open_source
from holloway.actors.control_plane.folders import SCRATCH, Folder, Moved, bring, send
from holloway.actors.control_plane.link import Link
from holloway.actors.control_plane.world import World
from holloway.cli.printing import say, size

if TYPE_CHECKING:
    from holloway.actors.control_plane.link import Broker
    from holloway.protocols.control_plane.file_messages import Offer

PARTS: Final = SCRATCH
"""The folder beside a file that is got, while it is not whole."""
PROGRESS_S: Final = 0.2
LINGER_MS: Final = 1000
"""For the last word to leave."""
Result = TypeVar("Result")


def put_file(broker: Broker, source: Path, name: str, deadline_s: float, world: World) -> Offer:
    """Put the file under that name; what it was. Raises BrokerError, PortError, LocalError, OSError."""
    descriptor = open_source(source)
    try:
        found = measured(descriptor)
        return _run(broker, world, lambda client: client.put(descriptor, found, name, deadline_s))
    finally:
        os.close(descriptor)


def get_file(broker: Broker, name: str, target: Path, deadline_s: float, world: World) -> Offer:
    """Get the file of that name; what it was. It has its name when it is whole. Raises as `put_file` does."""
    folder, parts = target.parent, (target.name,)
    return _run(broker, world, lambda client: client.get(name, folder, parts, folder / PARTS, deadline_s))


def put_folder(broker: Broker, source: Path, name: str, deadline_s: float, world: World, *, modes: bool) -> Moved:
    """Make the folder of that name at the broker like this one, but for what only that one has. Raises as `put_file` does."""
    return _run(broker, world, lambda client: send(client, Folder(source), name, modes=modes, deadline_s=deadline_s))


def get_folder(
    broker: Broker, name: str, target: Path, deadline_s: float, world: World, *, deletes: bool, modes: bool
) -> Moved:
    """Make this folder like the one of that name at the broker. Raises as `put_file` does."""

    async def work(client: FileClient) -> Moved:
        return await bring(client, name, Folder(target), deletes=deletes, modes=modes, deadline_s=deadline_s)

    return _run(broker, world, work)


def _run(broker: Broker, world: World, work: Callable[[FileClient], Awaitable[Result]]) -> Result:
    """Do it over one connection."""
    bar = _Bar()

    async def run() -> Result:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            with Link(context, broker, linger_ms=LINGER_MS) as link:
                await link.connected()
                async with trio.open_nursery() as nursery:
                    client = FileClient(link, world, say=say, show=bar.show)
                    nursery.start_soon(client.keep)
                    result = await work(client)
                    nursery.cancel_scope.cancel()
                    return result
            raise AssertionError("the block returns, or raises")
        finally:
            bar.clear()
            context.term()

    return trio.run(run)


class _Bar:
    """How far it is, for people at a terminal."""

    def __init__(self) -> None:
        self._shown_at = -math.inf

    def show(self, done: int, total: int) -> None:
        """So many bytes of so many."""
        now = trio.current_time()
        if sys.stderr.isatty() and total and now - self._shown_at >= PROGRESS_S:
            self._shown_at = now
            filled = 30 * done // total
            bar = "#" * filled + "." * (30 - filled)
            print(f"\r[{bar}] {size(done)} of {size(total)}", end="\x1b[K", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Remove the bar."""
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
