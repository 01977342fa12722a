"""`holloway edit`: the configuration of an application, which the broker has, in one's own editor.

Not responsible for what nodes do with it: `holloway sync applications/APP` brings it to them.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from holloway.cli.control_options import ControlCommand, broker_options, find_broker
from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError
from holloway.cli.printing import say

DEFAULT_EDITOR = "vi"


@click.command(cls=ControlCommand)
@click.option("-a", "--application", metavar="APP", required=True, help="Whose configuration.")
@broker_options
def command(application: str, host: str | None, curve_key_file: str | None) -> None:
    """Edit the configuration of an application at the broker.

    $VISUAL or $EDITOR is started with it. It is YAML, and replaces the one before only if nobody has changed that meanwhile. What is refused
    is kept, and said where.
    """
    from holloway.cli.operator_session import answer, new_token
    from holloway.protocols.control_plane.messages import Admin

    broker = find_broker(host, curve_key_file)
    found = answer(broker, Admin(new_token(), "edit", (application,)))
    revision = str(found.document.get("revision", ""))
    before = found.body or f"# The configuration of {application}\n".encode()
    folder = Path(tempfile.mkdtemp(prefix="holloway-edit-"))
    path = folder / f"{application}.yml"
    path.write_bytes(before)
    is_over = False
    try:
        after = _edited(path)
        if after == before:
            say("nothing was changed")
            is_over = True
            return
        saved = answer(broker, Admin(new_token(), "edit", (application,), {"revision": revision}, after))
        is_over = True
        say(f"the configuration of {application} is saved, revision {str(saved.document.get('revision', ''))[:12]}")
        say(f"bring it to nodes with:  holloway sync -a {application} applications/{application}")
    finally:
        if is_over:
            path.unlink()
            folder.rmdir()
        else:
            say(f"what you wrote is kept in {path}")


def _edited(path: Path) -> bytes:
    """What the editor leaves there, which is YAML. On a terminal it is started again when it is none."""
    from holloway.actors.control_plane.yaml_check import require_yaml
    from holloway.protocols.control_plane.wire import MAX_BODY_BYTES
    from holloway.protocols.errors import LocalError

    while True:
        _run_editor(path)
        text = path.read_bytes()
        if len(text) > MAX_BODY_BYTES:
            raise CommandFailedError(
                "the configuration is too large", f"it has {len(text)} bytes", "put a file instead"
            )
        try:
            require_yaml(text)
        except LocalError as error:
            if not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise
            say(f"{error}")
            if not click.confirm("edit it again?", default=True, err=True):
                raise
            continue
        return text


def _run_editor(path: Path) -> None:
    words = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or DEFAULT_EDITOR)
    try:
        code = subprocess.run([*words, str(path)], check=False).returncode  # noqa: S603 - the user's own editor
    except (OSError, IndexError) as error:
        raise CommandFailedError("the editor cannot be started", str(error), "EDITOR=vi holloway edit …") from error
    if code:
        raise CommandFailedError("the editor failed", f"its code is {code}", "nothing was saved", ExitCode.FAILED)
