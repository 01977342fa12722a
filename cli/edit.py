"""`holloway edit`: the configuration of an application, which the broker has, in one's own editor.

Not responsible for what nodes do with it: `holloway sync applications/APP` brings it to them.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from holloway.cli.control_options import ControlCommand, broker_options, find_broker
from holloway.cli.editor import chosen_editor, read_edited, run_editor
from holloway.cli.printing import say


@click.command(cls=ControlCommand)
@click.option("-a", "--application", metavar="APP", required=True, help="Whose configuration.")
@broker_options
def command(application: str, host: str | None, curve_key_file: str | None) -> None:
    """Edit the configuration of an application at the broker.

    $VISUAL or $EDITOR is started with it. It is YAML, and replaces the one before only if nobody has changed that meanwhile. What is refused
    is kept, and said where.
    """
    from holloway.actors.control_plane.yaml_check import require_yaml
    from holloway.cli.operator_session import answer, new_token
    from holloway.protocols.control_plane.messages import Admin

    require_yaml(b"")  # before anybody writes something that cannot be looked at
    editor = chosen_editor()
    broker = find_broker(host, curve_key_file)
    found = answer(broker, Admin(new_token(), "edit", (application,)))
    revision = str(found.document.get("revision", ""))
    before = found.body or f"# The configuration of {application}\n".encode()
    folder = Path(tempfile.mkdtemp(prefix="holloway-edit-"))
    path = folder / f"{application}.yml"
    is_over = False
    try:
        path.write_bytes(before)
        after = _edited(editor, path)
        if after == before:
            say("nothing was changed")
            is_over = True
            return
        saved = answer(broker, Admin(new_token(), "edit", (application,), {"revision": revision}, after))
        is_over = True
        say(f"the configuration of {application} is saved, revision {str(saved.document.get('revision', ''))[:12]}")
        say(f"bring it to nodes with:  holloway sync -a {application} applications/{application}")
    finally:
        _clear_away(path, before, is_over=is_over)


def _clear_away(path: Path, before: bytes, *, is_over: bool) -> None:
    """Remove our folder with whatever the editor left beside the file; unless there is something in it that would be lost."""
    folder = path.parent
    if not is_over:
        if path.is_file() and not path.is_symlink():
            is_ours = path.stat().st_size == len(before) and path.read_bytes() == before
            kept = "" if is_ours else f"what you wrote is kept in {path}"
        else:
            kept = f"what the editor left is kept in {folder}" if any(folder.iterdir()) else ""
        if kept:
            say(kept)
            return
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        say(f"{folder} could not be removed")


def _edited(editor: Sequence[str], path: Path) -> bytes:
    """What the editor leaves there, which is YAML. On a terminal it is started again when it is none."""
    from holloway.actors.control_plane.yaml_check import require_yaml
    from holloway.protocols.control_plane.wire import MAX_BODY_BYTES
    from holloway.protocols.errors import LocalError

    while True:
        run_editor(editor, path)
        text = read_edited(path, MAX_BODY_BYTES)
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
