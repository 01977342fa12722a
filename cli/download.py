"""`holloway download`: a folder of this machine becomes like one at the broker. Not responsible for nodes (`sync`)."""

from __future__ import annotations

import os
from pathlib import Path

import click

from holloway.cli.control_options import ControlCommand, broker_options, find_broker, real_world, with_file_port
from holloway.cli.file import file_port_option, timeout_option
from holloway.cli.printing import json_option
from holloway.cli.upload import SCHEMA, tell


@click.command(cls=ControlCommand)
@click.argument("name", metavar="NAME")
@click.argument("target", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--delete", "deletes", is_flag=True, help="Remove what is in DIR and not in NAME.")
@click.option("--no-modes", is_flag=True, help="Leave permission bits out of account.")
@file_port_option
@timeout_option
@broker_options
@json_option
def command(
    name: str,
    target: Path,
    deletes: bool,
    no_modes: bool,
    file_port: int | None,
    timeout: int,
    host: str | None,
    curve_key_file: str | None,
    as_json: bool,
) -> None:
    """Make a folder of this machine like one at the broker.

    DIR is made when it is not there. Only files that are other ones come over.
    """
    from holloway.cli.file_transfer import get_folder

    wanted = name.rstrip("/")
    broker = with_file_port(find_broker(host, curve_key_file), file_port).of_files
    path = Path(os.path.abspath(target))
    moved = get_folder(broker, wanted, path, float(timeout), real_world(), deletes=deletes, modes=not no_modes)
    document: dict[str, object] = {
        "schema": SCHEMA,
        "name": wanted,
        "changed": moved.changed,
        "removed": moved.removed,
        "same": moved.same,
        "size": moved.size,
        "left_out": list(moved.left_out),
        "refused": list(moved.refused),
    }
    tell(document, as_json)
