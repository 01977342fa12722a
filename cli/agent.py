"""`holloway agent`: run jobs on this machine. Not responsible for how (`holloway.actors.control_plane.agent`)."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import click

from holloway.cli.agent_network import enrolled_agent
from holloway.cli.control_options import (
    FILE_PORT,
    ControlCommand,
    broker_options,
    find_broker,
    with_file_port,
)
from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError
from holloway.cli.option_types import DURATION
from holloway.cli.state_option import host_name
from holloway.cli.up import LOG_LEVELS, configure_logging

MAX_PARALLEL = 256


@click.command(cls=ControlCommand)
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Its journal and audit trail.  [default: .holloway/NAME]",
)
@click.option("--name", metavar="NAME", help="The name that its key has at the broker.  [default: of this machine]")
@click.option("-a", "--application", metavar="APP", default="", help="What it belongs to, for targets.")
@click.option("-e", "--environment", metavar="ENV", default="", help="Which environment, for targets.")
@click.option("-r", "--role", "roles", metavar="ROLE[,ROLE]", multiple=True, help="What it is for; may be repeated.")
@click.option(
    "--allow",
    "programs",
    metavar="GLOB",
    multiple=True,
    help="Programs that exec may run; may be repeated.  [default: all]",
)
@click.option(
    "--allow-user", "users", metavar="NAME", multiple=True, help="A user that exec may run them as, besides ours."
)
@click.option(
    "--max-jobs", type=click.IntRange(1, MAX_PARALLEL), default=16, show_default=True, help="So many at once."
)
@click.option(
    "--max-time", type=DURATION, default="1d", show_default=True, metavar="TIME", help="The longest deadline."
)
@click.option(
    "--max-output",
    type=click.IntRange(1, 4096),
    default=256,
    show_default=True,
    metavar="MIB",
    help="Output of one job.",
)
@click.option(
    "--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True, help="What stderr tells."
)
@click.option(
    "--max-sync",
    type=click.IntRange(1, 1 << 20),
    default=4096,
    show_default=True,
    metavar="MIB",
    help="The largest folder that is synced.",
)
@click.option(
    "--file-port",
    type=click.IntRange(1, 65535),
    help=f"The broker's port for files.  [default: what the network says, or {FILE_PORT}]",
)
@click.option("--no-sync", is_flag=True, help="Let nobody sync folders to this machine.")
@click.option("--no-plugins", is_flag=True, help="Have only the commands of Holloway itself.")
@broker_options
def command(
    root: Path | None,
    name: str | None,
    application: str,
    environment: str,
    roles: tuple[str, ...],
    programs: tuple[str, ...],
    users: tuple[str, ...],
    max_jobs: int,
    max_time: int,
    max_output: int,
    log_level: str,
    max_sync: int,
    file_port: int | None,
    no_sync: bool,
    no_plugins: bool,
    host: str | None,
    curve_key_file: str | None,
) -> int:
    """Run the jobs of a broker on this machine.

    On a node of a network it needs no option: the network says where the broker is, and lets it in under the node's name. It runs until SIGTERM or
    Ctrl-C. Programs run as the user who runs the agent, each in a process group that ends with its job. An agent waits for its broker, and
    comes back to it.
    """
    from functools import partial
    from importlib.metadata import version

    from holloway.actors.control_plane.agent import FILES, AgentSettings, run_jobs
    from holloway.actors.control_plane.installed_plugins import load_plugins
    from holloway.actors.control_plane.plugins import NO_PLUGINS
    from holloway.actors.control_plane.programs import ProgramPolicy
    from holloway.actors.control_plane.world import World
    from holloway.cli.daemon_run import run_until_signal
    from holloway.cli.verbs import VERBS
    from holloway.protocols.control_plane.agent import AgentPolicy
    from holloway.protocols.control_plane.fields import NAME
    from holloway.protocols.control_plane.targets import AgentRecord
    from holloway.supervisor import Child, Supervisor

    enrolled = enrolled_agent(name, host, curve_key_file, root, os.environ)
    if enrolled is not None and file_port is not None:
        why = "--file-port: the network says where the broker's files are"
        raise click.UsageError(why, click.get_current_context(silent=True))
    own_name = enrolled[0] if enrolled is not None else name or host_name()
    own_roles = tuple(dict.fromkeys(role for each in roles for role in each.split(",") if role))
    for what, value in (
        ("--name", own_name),
        ("-a", application),
        ("-e", environment),
        *(("-r", role) for role in own_roles),
    ):
        if value and not NAME.match(value):
            why = f"{what} {value!r}: names have letters, digits, dots, hyphens and underscores"
            raise click.UsageError(why, click.get_current_context(silent=True))
    if not own_name:
        raise CommandFailedError("this agent needs a name", "this machine has none", "holloway agent --name NAME")
    broker = find_broker(host, curve_key_file, node=own_name) if enrolled is None else enrolled[1]
    if broker.pair is not None and not broker.pair.secret:
        _make_key(broker.keys, own_name)
    configure_logging(log_level)
    own_root = (root or Path(".holloway") / own_name).absolute()
    plugins = NO_PLUGINS if no_plugins else load_plugins(VERBS)
    for problem in plugins.problems:
        logging.getLogger("holloway").error("%s", problem)
    own_commands = [each for each in AgentPolicy().commands if not (no_sync and each == "sync")]
    settings = AgentSettings(
        root=own_root,
        me=AgentRecord(own_name, application, environment, own_roles),
        broker=with_file_port(broker, file_port),
        network=None if enrolled is None else enrolled[2],
        version=version("holloway"),
        policy=AgentPolicy(
            commands=(*own_commands, *plugins.on_nodes),
            access=plugins.access(),
            programs=programs or None,
            max_parallel=max_jobs,
            max_deadline_s=float(max_time),
            max_output_bytes=max_output << 20,
        ),
        programs=ProgramPolicy(own_name, users, files=own_root / FILES, commands=plugins.on_nodes),
        max_sync_bytes=max_sync << 20,
    )
    world = World(lambda: time.time_ns() / 1e9, os.urandom)  # noqa: TID251 - a verb is where randomness comes in
    jobs = Child(name="jobs", run=partial(run_jobs, settings=settings, world=world), stop_grace=10.0)
    return run_until_signal(Supervisor([jobs], name="agent"), lambda _: None)


def _make_key(path: str, name: str) -> None:
    """A machine that knows the broker's key alone makes its own, which somebody then has to let in."""
    from dataclasses import replace

    from holloway.actors.control_plane.curve import new_pair
    from holloway.actors.control_plane.key_files import read_keys, write_keys

    keys = read_keys(Path(path))
    assert keys is not None, "it was read just now"
    pair = new_pair()
    write_keys(Path(path), replace(keys, private_key=pair.secret, public_key=pair.public))
    raise CommandFailedError(
        f"{name} is not let in yet",
        f"its key was made just now, and is in {path}",
        f"where an admin is: holloway client create --role node --name {name} --public-key '{pair.public}'; then start this again",
        ExitCode.CONFIG,
    )
