"""The user's own editor: started with a file, waited for, and what it leaves there.

Not responsible for what the text means, nor for where it goes.
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from holloway.cli.failures import CommandFailedError

DEFAULT_EDITOR = "vi"
_FROM_THE_KEYBOARD = (signal.SIGINT, signal.SIGQUIT)


def chosen_editor() -> list[str]:
    """The words of `$VISUAL`, `$EDITOR` or vi. Raises CommandFailedError when they are none."""
    name = next((each for each in ("VISUAL", "EDITOR") if os.environ.get(each)), "")
    if not name:
        return [DEFAULT_EDITOR]
    try:
        words = shlex.split(os.environ[name])
    except ValueError as error:
        why = f"{name} is {os.environ[name][:200]!r}: {str(error).lower()}"
        raise CommandFailedError("no editor can be started", why, f"{name}=vi holloway edit …") from error
    if not words:
        raise CommandFailedError("no editor can be started", f"{name} has only blanks", f"{name}=vi holloway edit …")
    return words


def run_editor(editor: Sequence[str], path: Path) -> None:
    """Until it has ended. What is typed meanwhile is for it alone: Ctrl-C in an editor ends neither it nor us. Raises CommandFailedError."""
    try:
        with _deaf_to_the_keyboard():
            code = subprocess.run([*editor, str(path)], check=False).returncode  # noqa: S603 - the user's own editor
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise CommandFailedError("the editor cannot be started", str(error), "EDITOR=vi holloway edit …") from error
    if code:
        why = f"its code is {code}" if code > 0 else f"signal {-code} ended it"
        raise CommandFailedError("the editor failed", why, "nothing was saved")


@contextmanager
def _deaf_to_the_keyboard() -> Iterator[None]:
    """With a handler that does nothing, and not by ignoring: the editor would inherit that, and what it runs could not be interrupted."""
    before = {each: signal.getsignal(each) for each in _FROM_THE_KEYBOARD}
    try:
        for each, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(each, lambda *_: None)
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def read_edited(path: Path, limit: int) -> bytes:
    """What the editor left there, up to `limit` bytes. Raises CommandFailedError for what is no regular file, or larger."""
    fix = "nothing was saved; edit it again"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise CommandFailedError("the editor removed the file", f"there is no {path} any more", fix) from None
    except OSError as error:
        why = "it is a symbolic link now" if error.errno == errno.ELOOP else error.strerror or str(error)
        raise CommandFailedError("what the editor left cannot be read", f"{path}: {why}", fix) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            why = f"{path} is a folder now" if stat.S_ISDIR(mode) else f"{path} is no regular file any more"
            raise CommandFailedError("what the editor left cannot be read", why, fix)
        with open(descriptor, "rb", closefd=False) as file:
            text = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(text) > limit:
        why = f"it has more than {limit} bytes"
        raise CommandFailedError("the configuration is too large", why, "put a file instead")
    return text
