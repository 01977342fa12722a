"""`holloway echo`: every node says something back. Not responsible for which nodes there are."""

from __future__ import annotations

from typing import Any

import click

from holloway.cli.control_options import ControlCommand
from holloway.cli.job_options import JobOptions, job_options, perform


@click.command(cls=ControlCommand)
@click.argument("message", nargs=-1, required=True)
@job_options
def command(message: tuple[str, ...], **options: Any) -> int:
    """Have nodes say MESSAGE back.

    Exit code 0 only if every node did.
    """
    from holloway.protocols.control_plane.messages import Step

    return perform(JobOptions(**options), [Step("echo", message)])
