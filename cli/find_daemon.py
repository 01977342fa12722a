"""Which daemon a verb means: by configuration file, by socket, or the only one there is.

Not responsible for talking to it.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from holloway.actors.config.sockets import control_socket, socket_folders
from holloway.cli.control_client import DEFAULT_TIMEOUT_S, Daemon
from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError
from holloway.cli.option_types import seconds_between
from holloway.cli.state_option import config_file, state_option

MAX_TIMEOUT_S = 3600.0
SOCKET_VARIABLE = "HOLLOWAY_CONTROL_SOCKET"
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def daemon_options(function: Decorated) -> Decorated:
    """The options of every verb that talks to a daemon: `-c`, `--state`, `--socket`, `--timeout`. The verb gets `--state` as
    the configuration that lies there.
    """

    @wraps(function)
    def with_config(*positional: Any, state: Path | None, config: str | None, **named: Any) -> Any:
        if state is not None:
            if config is not None:
                raise click.UsageError("-c and --state exclude each other", click.get_current_context(silent=True))
            config = str(config_file(state))
        return function(*positional, config=config, **named)

    options = (
        click.option("-c", "--config", metavar="FILE", help="The daemon's configuration file."),
        state_option,
        click.option("--socket", metavar="PATH", help="The daemon's control socket."),
        click.option(
            "--timeout",
            "timeout_s",
            type=seconds_between(0, MAX_TIMEOUT_S),
            default=DEFAULT_TIMEOUT_S,
            show_default=True,
            metavar="TIME",
            help="How long to wait for an answer.",
        ),
    )
    decorated: Callable[..., Any] = with_config
    for option in reversed(options):
        decorated = option(decorated)
    return cast("Decorated", decorated)


def find_daemon(config: str | None, path: str | None, environ: Mapping[str, str]) -> Daemon:
    """The daemon that `-c FILE` or `--socket PATH` names; with neither, the one of `HOLLOWAY_CONTROL_SOCKET`, or the only
    one with a socket in the default folders.

    Raises click.UsageError for both at once, ConfigProblems for a file that does not tell, CommandFailedError when there is no daemon
    (3), more than one (2), or a folder that may not be read (77).
    """
    if config is not None and path is not None:
        raise click.UsageError("-c and --socket exclude each other", click.get_current_context(silent=True))
    if config is not None:
        return Daemon(control_socket(Path(config), environ), f"-c {shlex.quote(config)}", config)
    if path is not None:
        return Daemon(Path(path), f"--socket {shlex.quote(path)}")
    if environ.get(SOCKET_VARIABLE):
        return Daemon(Path(environ[SOCKET_VARIABLE]))
    return _only_one(socket_folders(environ))


def _only_one(folders: tuple[Path, ...]) -> Daemon:
    found: list[Path] = []
    denied: Path | None = None
    for folder in dict.fromkeys(folders):
        try:
            with os.scandir(folder) as entries:
                found += sorted(Path(entry.path) for entry in entries if _is_socket(entry))
        except PermissionError:
            denied = folder
        except OSError:
            continue  # no such folder: no daemon has ever run there
    if len(found) == 1:
        return Daemon(found[0])
    places = " and ".join(str(folder) for folder in folders)
    if found:
        names = ", ".join(str(each) for each in found)
        fix = f"holloway status --socket {shlex.quote(str(found[0]))}"
        raise CommandFailedError("there is more than one daemon", f"sockets: {names}", fix, ExitCode.USAGE)
    if denied is not None:
        what, why = "no daemon that this user may talk to", f"{denied} may not be read"
        raise CommandFailedError(what, why, "sudo holloway status", ExitCode.PERMISSION)
    why = f"there is no control socket in {places}"
    raise CommandFailedError("the daemon is not running", why, "holloway up -c node.toml", ExitCode.UNREACHABLE)


def _is_socket(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.name.endswith(".sock") and stat.S_ISSOCK(entry.stat().st_mode)
    except OSError:  # a link to nowhere
        return False
