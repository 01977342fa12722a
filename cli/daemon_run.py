"""Running a supervisor tree in the foreground until a signal: SIGTERM and Ctrl-C stop it in order, a second one ends it at once.

Not responsible for what the tree does.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import trio

from holloway.cli.exit_codes import ExitCode
from holloway.cli.long_lived import keep_for_good
from holloway.cli.up import cause_of, notify
from holloway.supervisor import Supervisor, SupervisorError, Tree, open_tree

STOP_TIMEOUT_S = 15.0


def run_until_signal(
    root: Supervisor, ready: Callable[[Tree], None], reload: Callable[[Tree], None] | None = None
) -> int:
    """Run the tree; the exit code. `ready` is called when all of it is, `reload` at each SIGHUP.

    Raises what kept the tree from starting, or made it give up.
    """
    try:
        number = trio.run(_run, root, ready, reload)
    except (SupervisorError, ExceptionGroup) as error:
        raise cause_of(error) from error
    return ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.OK


async def _run(root: Supervisor, ready: Callable[[Tree], None], reload: Callable[[Tree], None] | None) -> int:
    log = logging.getLogger("holloway")
    number = 0
    scope = trio.CancelScope()
    wanted_down = trio.Event()
    running: Tree | None = None

    async def heed(signals: AsyncIterator[int]) -> None:
        nonlocal number
        async for each in signals:
            if each == signal.SIGHUP:
                if running is not None and reload is not None:
                    reload(running)
            elif number:
                os._exit(128 + each)
            else:
                number = each
                notify("STOPPING=1")
                log.info("stopping on %s; once more ends at once", signal.Signals(number).name)
                scope.deadline = trio.current_time() + (STOP_TIMEOUT_S if running is not None else 0.0)
                wanted_down.set()

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heed, signals)
            with scope:
                async with open_tree(root) as tree:
                    running = tree
                    keep_for_good()
                    notify("READY=1")
                    ready(tree)
                    await wanted_down.wait()
            nursery.cancel_scope.cancel()
    log.info("stopped")
    return number


def of(tree: Tree, path: str) -> Any:
    """The handle of an actor of the tree; None between two lives of it."""
    from holloway.supervisor import ActorDown

    try:
        return tree.ref(path).get()
    except ActorDown:
        return None
