"""The option `--state DIR` of the verbs that deal with a node's membership, and the file in it that `holloway up` reads.

Not responsible for what else is in there (`holloway.actors.enrolled`).
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from holloway.actors.state_directory import StateDirectory
    from holloway.protocols.network_settings import NetworkSettings

DEFAULT_INTERFACE = "hw0"
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def state_option(function: Decorated) -> Decorated:
    """Adds `--state DIR`, which arrives as `state`: a path, or None for the default."""
    return click.option(
        "--state",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Where this node keeps its keys and its certificate.  [default: /var/lib/holloway, or of this user]",
    )(function)


def state_directory(path: Path | None) -> StateDirectory:
    """The folder that `--state` names, or the default one."""
    from holloway.actors.state_directory import StateDirectory, default_state

    return StateDirectory(default_state(os.environ) if path is None else path.absolute())


def config_file(path: Path | None) -> Path:
    """The configuration in that folder."""
    from holloway.actors.state_directory import CONFIG_FILE

    return state_directory(path).file(CONFIG_FILE)


def host_name() -> str | None:
    """What this machine calls itself, as far as a node can have that name."""
    name = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname().partition(".")[0]).strip("-")
    return name[:63] or None


def write_config(state: StateDirectory, *, name: str, network: str, registry: str, settings: NetworkSettings) -> Path:
    """Write the configuration of a node that has just become a member. Returns its path."""
    from holloway.actors.enrolled import SESSION_KEY
    from holloway.actors.state_directory import CONFIG_FILE, default_state

    sections: dict[str, dict[str, object]] = {
        "node": {"name": name, "network": network},
        "identity": {"directory": "."},
        "registry": {"url": registry, "trust": "authority"},
        "session": {"private_key_file": SESSION_KEY},
        "interface": {"name": DEFAULT_INTERFACE},
        "listen": {"port": settings.port},
    }
    if state.path != default_state(os.environ):  # there may be other nodes on this machine
        sections["control"] = {"socket": "control.sock"}
    text = "# Written when this node became a member of its network; `holloway check` judges changes.\n"
    for section, values in sections.items():
        text += f"\n[{section}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    state.write(CONFIG_FILE, text)
    return state.file(CONFIG_FILE)
