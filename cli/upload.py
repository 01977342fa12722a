"""`holloway upload`: a folder at the broker becomes like one of this machine. Not responsible for nodes (`sync`)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from holloway.cli.control_options import ControlCommand, broker_options, find_broker, real_world, with_file_port
from holloway.cli.file import file_port_option, timeout_option
from holloway.cli.plain_text import one_line
from holloway.cli.printing import json_option, print_json, say, size

SCHEMA = "holloway.folder/1"
NAMES_A_REQUEST = 200
"""Of files that are to go: so many of the longest fit one message."""


@click.command(cls=ControlCommand)
@click.argument("source", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("name", metavar="NAME")
@click.option("--delete", "deletes", is_flag=True, help="Remove what is in NAME and not in DIR.")
@click.option("--no-modes", is_flag=True, help="Leave permission bits out of account.")
@file_port_option
@timeout_option
@broker_options
@json_option
def command(
    source: Path,
    name: str,
    deletes: bool,
    no_modes: bool,
    file_port: int | None,
    timeout: int,
    host: str | None,
    curve_key_file: str | None,
    as_json: bool,
) -> None:
    """Make a folder at the broker like one of this machine.

    Only files that are other ones go over. Symbolic links are left out. Every file is whole or as it was before; whoever syncs the folder
    meanwhile may find some new and others old.
    """
    tell(upload(source, name, host, curve_key_file, file_port, timeout, deletes=deletes, modes=not no_modes), as_json)


def upload(
    source: Path,
    name: str,
    host: str | None,
    curve_key_file: str | None,
    file_port: int | None,
    timeout: int,
    *,
    deletes: bool,
    modes: bool,
) -> dict[str, object]:
    """Do it; what was done, as it is printed. Raises BrokerError, PortError, LocalError, CommandFailedError, OSError."""
    from holloway.cli.file_transfer import put_folder
    from holloway.cli.operator_session import administer

    wanted = name.rstrip("/")
    broker = find_broker(host, curve_key_file)
    files = with_file_port(broker, file_port).of_files
    moved = put_folder(files, Path(os.path.abspath(source)), wanted, float(timeout), real_world(), modes=modes)
    for each in moved.left_out:
        say(f"left out, because it is no file, cannot be read, or has a name that cannot travel: {one_line(each)}")
    removed = 0
    for at in range(0, len(moved.obsolete) if deletes else 0, NAMES_A_REQUEST):
        body = json.dumps(moved.obsolete[at : at + NAMES_A_REQUEST]).encode()
        removed += sum(int(row.get("removed", 0)) for row in administer(broker, "upload", (wanted,), body=body))
    return {
        "schema": SCHEMA,
        "name": wanted,
        "changed": moved.changed,
        "removed": removed,
        "same": moved.same,
        "size": moved.size,
        "left_out": list(moved.left_out),
        "refused": list(moved.refused),
    }


def tell(document: dict[str, object], as_json: bool) -> None:
    """Print what was done. Raises LocalError, which names them, when files were refused."""
    from holloway.actors.control_plane.folders import require_all

    bytes_over, refused = document["size"], document["refused"]
    assert isinstance(bytes_over, int)
    assert isinstance(refused, list)
    if as_json:
        print_json(document)
    else:
        say(
            f"{document['name']}: {document['changed']} files changed ({size(bytes_over)}), {document['removed']} removed,"
            f" {document['same']} as they were"
        )
    require_all(refused)
