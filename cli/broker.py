"""`holloway broker`: run the hub of the control plane. Not responsible for what it does (`holloway.actors.control_plane.broker`)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import click

from holloway.cli.broker_network import LOOPBACK, Seat, find_seat
from holloway.cli.control_options import (
    COMMAND_PORT,
    FILE_PORT,
    chosen_security,
    force_null_option,
    require_loopback,
    security_option,
)
from holloway.cli.network_broker import network_option
from holloway.cli.option_types import DURATION
from holloway.cli.printing import say
from holloway.cli.up import LOG_LEVELS, configure_logging


@click.command()
@click.option(
    "--root", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Its keys, records and audit trail."
)
@click.option(
    "--bind",
    metavar="ADDRESS",
    help=f"The address it listens on.  [default: its node's own in the network, else {LOOPBACK}]",
)
@click.option(
    "--command-port",
    type=click.IntRange(1, 65535),
    default=COMMAND_PORT,
    show_default=True,
    help="The TCP port for commands.",
)
@click.option(
    "--file-port", type=click.IntRange(1, 65535), default=FILE_PORT, show_default=True, help="The TCP port for files."
)
@click.option(
    "--max-file",
    type=click.IntRange(1),
    default=64 * 1024,
    show_default=True,
    metavar="MIB",
    help="The largest file that may be put.",
)
@click.option(
    "--first-client",
    "first_client_s",
    type=DURATION,
    default="600",
    show_default="600s",
    metavar="TIME",
    help="After its first start: how long the first client that has its key becomes admin.",
)
@click.option("--no-first-client", is_flag=True, help="Nobody becomes admin so: only `holloway client create --root`.")
@click.option("--no-plugins", is_flag=True, help="Have only the commands of Holloway itself.")
@security_option
@network_option
@force_null_option
@click.option(
    "--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True, help="What stderr tells."
)
def command(
    root: Path,
    bind: str | None,
    command_port: int,
    file_port: int,
    max_file: int,
    first_client_s: int,
    no_first_client: bool,
    no_plugins: bool,
    log_level: str,
) -> int:
    """Run the broker between operators and nodes.

    On a node of a network it listens on that node's overlay address, is announced to the others in the node's record, and lets their agents in. It
    runs until SIGTERM or Ctrl-C. Its public key is printed when it starts: whoever is to reach it needs that. SIGHUP has it look at its list of keys at once; it does
    so every second anyhow.
    """
    from functools import partial

    from holloway.actors.control_plane.broker import BrokerSettings, Listening, endpoint_of, serve_commands
    from holloway.actors.control_plane.enrolled_agents import follow_agents
    from holloway.actors.control_plane.file_hub import FileSettings, FilesListening, serve_files
    from holloway.actors.control_plane.installed_plugins import load_plugins
    from holloway.actors.control_plane.plugins import NO_PLUGINS
    from holloway.actors.control_plane.sync_rights import SyncRights
    from holloway.actors.control_plane.world import World
    from holloway.cli.daemon_run import of, run_until_signal
    from holloway.cli.verbs import VERBS
    from holloway.protocols.control_plane.file_service import FileLimits
    from holloway.protocols.control_plane.null_security import Security
    from holloway.supervisor import Child, Supervisor, Tree

    security = Security(chosen_security())
    if security is Security.NULL:
        seat = Seat(bind or LOOPBACK)
        require_loopback(seat.bind, "--bind")
    else:
        seat = find_seat(bind, root.absolute(), command_port, file_port)
    configure_logging(log_level)
    rights = SyncRights()
    settings = BrokerSettings(
        root=root.absolute(),
        bind=seat.bind,
        command_port=command_port,
        first_client_s=0.0 if no_first_client else float(first_client_s),
        security=security,
        plugins=NO_PLUGINS if no_plugins else load_plugins(VERBS),
        rights=rights,
        enrolled=seat.enrolled,
    )
    world = World(lambda: time.time_ns() / 1e9, os.urandom)  # noqa: TID251 - a verb is where randomness comes in

    def ready(tree: Tree) -> None:
        listening = of(tree, "commands")
        if isinstance(listening, Listening) and listening.public_key:
            say(f'server_public_key: "{listening.public_key}"')

    def reload(tree: Tree) -> None:
        for path in ("commands", "files"):
            listening = of(tree, path)
            if isinstance(listening, Listening | FilesListening):
                listening.reload()

    files = FileSettings(
        root=root.absolute(),
        endpoint=endpoint_of(seat.bind, file_port),
        limits=FileLimits(max_bytes=max_file << 20),
        security=security,
        rights=rights,
        enrolled=seat.enrolled,
    )
    children: list[Child[Any]] = [
        Child(name="commands", run=partial(serve_commands, settings=settings, world=world)),
        Child(name="files", run=partial(serve_files, settings=files, world=world)),
    ]
    if seat.enrolled is not None:
        follow = partial(follow_agents, agents=seat.enrolled, place=seat.place)
        children.append(Child(name="network", run=follow))
    return run_until_signal(Supervisor(children, name="broker"), ready, reload)
