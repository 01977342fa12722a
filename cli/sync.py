"""`holloway sync`: folders of nodes become like one at the broker. Not responsible for putting it there (`upload`)."""

from __future__ import annotations

from typing import Any

import click

from holloway.cli.control_options import ControlCommand
from holloway.cli.job_options import JobOptions, job_options, perform


@click.command(cls=ControlCommand)
@click.argument("name", metavar="NAME")
@click.option(
    "--to", metavar="NAME", default="", help="What the folder is called on the nodes.  [default: as at the broker]"
)
@click.option("--delete", "deletes", is_flag=True, help="Remove what is on the nodes and not at the broker.")
@click.option("--no-modes", is_flag=True, help="Leave permission bits out of account.")
@job_options
def command(name: str, to: str, deletes: bool, no_modes: bool, **options: Any) -> int:
    """Make folders of nodes like one at the broker.

    On a node the folder is below `files` of the agent's --root. A node may read NAME, and nothing else, for as long as this runs on it.
    """
    from holloway.actors.control_plane.folders import confined_folder
    from holloway.protocols.control_plane.messages import Step

    wanted, called = name.rstrip("/"), (to or name).rstrip("/")
    for each in (wanted, called):
        confined_folder(each)  # a mistake is told here, without a broker
    step = Step("sync", (wanted, called), {"deletes": deletes, "modes": not no_modes})
    return perform(JobOptions(**options), [step])
