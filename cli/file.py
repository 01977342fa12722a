"""`holloway file`: files to the broker, and from it. Not responsible for what becomes of them there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holloway.cli.control_options import (
    FILE_PORT,
    ControlCommand,
    broker_options,
    find_broker,
    real_world,
    with_file_port,
)
from holloway.cli.groups import SuggestingGroup
from holloway.cli.option_types import DURATION
from holloway.cli.printing import json_option, print_json, say, size

if TYPE_CHECKING:
    from holloway.actors.control_plane.link import Broker
    from holloway.protocols.control_plane.file_messages import Offer

SCHEMA = "holloway.file/1"
file_port_option = click.option(
    "--file-port",
    type=click.IntRange(1, 65535),
    help=f"The broker's port for files.  [default: what the network says, or {FILE_PORT}]",
)
timeout_option = click.option(
    "--timeout", type=DURATION, default="1d", show_default=True, metavar="TIME", help="How long it may take in all."
)


@click.group(cls=SuggestingGroup)
def command() -> None:
    """Put files to the broker, and get them."""


@command.command(cls=ControlCommand)
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("name", metavar="DST")
@file_port_option
@timeout_option
@broker_options
@json_option
def put(
    source: Path,
    name: str,
    file_port: int | None,
    timeout: int,
    host: str | None,
    curve_key_file: str | None,
    as_json: bool,
) -> None:
    """Put the file SRC to the broker, under the name DST.

    It has its name there when it is whole and its SHA-256 is right. A transfer that was cut goes on where it was when the same is said
    again. A DST that ends in a slash is a folder.
    """
    from holloway.cli.file_transfer import put_file

    wanted = name + source.name if name.endswith("/") else name
    broker = file_broker(host, curve_key_file, file_port)
    offer = put_file(broker, source, wanted, float(timeout), real_world())
    _tell(offer, f"{source} is {wanted} at the broker", as_json=as_json)


@command.command(cls=ControlCommand)
@click.argument("name", metavar="SRC")
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@file_port_option
@timeout_option
@broker_options
@json_option
def get(
    name: str,
    target: Path,
    file_port: int | None,
    timeout: int,
    host: str | None,
    curve_key_file: str | None,
    as_json: bool,
) -> None:
    """Get the file SRC from the broker, as DST.

    DST has its name when it is whole and its SHA-256 is right; a file that had that name is replaced. A transfer that was cut goes on where
    it was when the same is said again. A DST that is a folder gets the file under its own name.
    """
    from holloway.cli.file_transfer import get_file

    if name.endswith("/"):
        why = f"{name} is a folder: holloway download {name} DIR"
        raise click.UsageError(why, click.get_current_context(silent=True))

    path = Path(os.path.abspath(target / Path(name).name if target.is_dir() else target))
    broker = file_broker(host, curve_key_file, file_port)
    offer = get_file(broker, name, path, float(timeout), real_world())
    _tell(offer, f"{name} of the broker is {path}", as_json=as_json)


def file_broker(host: str | None, curve_key_file: str | None, file_port: int | None) -> Broker:
    return with_file_port(find_broker(host, curve_key_file), file_port).of_files


def _tell(offer: Offer, words: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"schema": SCHEMA, "name": offer.name, "size": offer.size, "sha256": offer.sha256})
    else:
        say(f"{words}: {size(offer.size)}, SHA-256 {offer.sha256}")
