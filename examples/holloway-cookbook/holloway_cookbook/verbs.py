"""`holloway cookbook`: its verbs are click commands that use what Holloway's own verbs use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from holloway.cli.control_options import ControlCommand, broker_options, find_broker
from holloway.cli.file import file_port_option, timeout_option
from holloway.cli.job_options import JobOptions, job_options, perform
from holloway.cli.upload import tell
from holloway.cli.upload import upload as upload_folder
from holloway_cookbook import FOLDER, NAME


def _require_name(name: str) -> str:
    if not NAME.match(name):
        raise click.UsageError(f"{name!r} is no name of a bundle: small letters, digits, hyphens and underscores")
    return name


@click.group()
def command() -> None:
    """Run bundles of configuration on nodes."""


@command.command(cls=ControlCommand)
@click.argument("source", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@file_port_option
@timeout_option
@broker_options
def upload(source: Path, file_port: int, timeout: int, host: str | None, curve_key_file: str | None) -> None:
    """Make the folder DIR the bundle of that name at the broker."""
    name = f"{FOLDER}/{_require_name(source.resolve().name)}"
    tell(upload_folder(source, name, host, curve_key_file, file_port, timeout, deletes=True, modes=True), as_json=False)


@command.command("list", cls=ControlCommand)
@broker_options
def list_(host: str | None, curve_key_file: str | None) -> None:
    """List the bundles at the broker."""
    from holloway.cli.operator_session import administer

    for row in administer(find_broker(host, curve_key_file), "cookbook.list"):
        print(f"{row['name']}: {row['files']} files")


@command.command(cls=ControlCommand)
@click.argument("name")
@click.option("--why-run", is_flag=True, help="Only say what would be done.")
@job_options
def run(name: str, why_run: bool, **options: Any) -> int:
    """Bring the bundle NAME up to date on nodes, and run it there."""
    from holloway.protocols.control_plane.messages import Step

    folder = f"{FOLDER}/{_require_name(name)}"
    steps = [Step("sync", (folder, folder), {"deletes": True}), Step("cookbook.run", (name,), {"why-run": why_run})]
    return perform(JobOptions(**options), steps)
