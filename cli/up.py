"""`holloway up`: run a node in the foreground until a signal.

Ready is told to a service manager (`NOTIFY_SOCKET`) and on stderr. SIGTERM and SIGINT stop cleanly: device, routes and
socket go; a second signal while that lasts ends the process at once.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError
from holloway.cli.long_lived import keep_for_good
from holloway.cli.state_option import config_file, state_option

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from holloway.actors.config import Config
    from holloway.actors.outer_loop import OuterLoop

STOP_TIMEOUT_S = 15.0
"""An orderly stop takes no longer; after that what still runs is cancelled."""
LOG_LEVELS = ("debug", "info", "warning", "error")


@click.command()
@click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The node's configuration.  [default: the one in its state directory]",
)
@state_option
@click.option("--listen", metavar="ADDR:PORT", help="Listen there instead.")
@click.option("--interface", metavar="NAME", help="Name the device so instead.")
@click.option("--gateway", metavar="NODE", help="Send what is for no nearer network through this peer.")
@click.option("--masquerade", is_flag=True, help="Let others leave under this machine's address (nftables).")
@click.option(
    "--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True, help="What stderr tells."
)
def command(
    path: Path | None,
    state: Path | None,
    listen: str | None,
    interface: str | None,
    gateway: str | None,
    masquerade: bool,
    log_level: str,
) -> None:
    """Run a node in the foreground until SIGTERM or Ctrl-C.

    After `holloway init` or `join` it needs no options: its configuration lies in its state directory.
    """
    from holloway.actors.config import load_config

    if path is not None and state is not None:
        raise click.UsageError("-c and --state exclude each other", click.get_current_context(silent=True))
    file = config_file(state) if path is None else path
    if path is None and not file.exists():
        raise CommandFailedError(
            f"there is no node in {file.parent}",
            "it has joined no network, and no configuration was named",
            "holloway init NETWORK, holloway join TOKEN, or holloway up -c node.toml",
            ExitCode.CONFIG,
        )
    overrides: dict[str, object] = {} if interface is None else {"interface.name": interface}
    if listen is not None:
        host, _, port = listen.rpartition(":")
        overrides |= {"listen.port": port} | ({"listen.address": host.strip("[]")} if host else {})
    if gateway is not None:
        overrides["gateway.through"] = gateway
    if masquerade:
        overrides["gateway.masquerade"] = True
    config = load_config(file, environ=os.environ, overrides=overrides)
    configure_logging(log_level)

    import trio

    from holloway.actors.outer_loop import OuterLoop
    from holloway.supervisor import SupervisorError

    try:
        if config.interface.queues > 1:  # whose readers are tasks, each of which the loop would only keep from its turn
            number = trio.run(_run, config)
        else:
            loop = OuterLoop()
            number = loop.run(_run, config, loop)
    except (SupervisorError, ExceptionGroup) as error:
        raise cause_of(error) from error
    if number == signal.SIGINT:
        sys.exit(130)


def cause_of(error: BaseException) -> BaseException:
    """What a person should read of a tree that did not start, or gave up: the refusal that began it."""
    from holloway.protocols.errors import HollowayError
    from holloway.supervisor import ChildStartError, IntensityExceeded

    match error:
        case HollowayError():
            return error
        case ChildStartError(__cause__=BaseException() as cause):
            return cause_of(cause)
        case IntensityExceeded(causes=causes, path=path):
            first = cause_of(causes.exceptions[0])
            return HollowayError(f"{path} failed again and again, and gave up", f"{type(first).__name__}: {first}")
        case BaseExceptionGroup(exceptions=exceptions):
            return cause_of(exceptions[0])
        case _:
            return error


async def _run(config: Config, loop: OuterLoop | None = None) -> int:
    """Run the node; the number of the signal that ended it."""
    import trio

    from holloway.actors import open_node

    log = logging.getLogger("holloway")
    number = 0
    wanted_down = trio.Event()
    scope = trio.CancelScope()
    is_up = False

    async def heed(signals: AsyncIterator[int]) -> None:
        nonlocal number
        number = await anext(signals)
        notify("STOPPING=1")
        log.info("stopping on %s; once more ends at once", signal.Signals(number).name)
        if is_up:
            wanted_down.set()
            scope.deadline = trio.current_time() + STOP_TIMEOUT_S
        else:
            scope.cancel()
        await anext(signals)
        os._exit(128 + number)

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heed, signals)
            with scope:
                async with open_node(config, loop=loop):
                    is_up = True
                    keep_for_good()
                    notify("READY=1")
                    log.info("node %s is up on %s", config.node.name, config.interface.name)
                    await wanted_down.wait()
            nursery.cancel_scope.cancel()
    log.info("stopped")
    return number


def configure_logging(level: str) -> None:
    """Log to stderr: with a priority for journald to read when it listens, with the time otherwise."""
    handler = logging.StreamHandler()
    formatter = _Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    if os.environ.get("JOURNAL_STREAM"):
        formatter = _Prioritised("%(message)s")
    formatter.is_brief = level != "debug"
    handler.setFormatter(formatter)
    root = logging.getLogger("holloway")
    root.addHandler(handler)
    root.setLevel(level.upper())


class _Formatter(logging.Formatter):
    """When brief, a refusal is its text alone; a traceback is for what nobody foresaw."""

    is_brief = True

    def format(self, record: logging.LogRecord) -> str:
        from holloway.protocols.errors import HollowayError

        error = record.exc_info[1] if self.is_brief and record.exc_info else None
        cause = None if error is None else cause_of(error)
        if isinstance(cause, HollowayError):
            record = copy(record)
            record.exc_info = record.exc_text = None
            if cause is not error:
                record.msg, record.args = f"{record.getMessage()}: {cause}", ()
        return super().format(record)


class _Prioritised(_Formatter):
    """Each line begins with its syslog priority (systemd, sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        priority = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4}.get(record.levelno, 3)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def notify(state: str) -> None:
    """Tell the service manager, if there is one (systemd, sd_notify(3))."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
        notifier.connect("\0" + path[1:] if path.startswith("@") else path)
        notifier.send(state.encode())
