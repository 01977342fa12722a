"""The option `--state DIR` of the verbs that deal with a node's membership, and the file in it that `holloway up` reads.

Not responsible for what else is in there (`holloway.actors.enrolled`).
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError

if TYPE_CHECKING:
    from holloway.actors.config import Config
    from holloway.actors.state_directory import StateDirectory

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


def node_config(path: Path | None) -> Config:
    """The configuration of the node there. Raises `CommandFailedError` where there is none, and `ConfigProblems`."""
    from holloway.actors.config import load_config

    file = config_file(path)
    if not file.exists():
        raise CommandFailedError(
            f"there is no node in {file.parent}",
            "it has joined no network",
            "name the folder of one: --state DIR; or make one: holloway init NETWORK, holloway join TOKEN",
            ExitCode.CONFIG,
        )
    return load_config(file, environ=os.environ)


def host_name() -> str | None:
    """What this machine calls itself, as far as a node can have that name."""
    name = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname().partition(".")[0]).strip("-")
    return name[:63] or None


@dataclass(frozen=True, slots=True)
class Made:
    """A node that has just become one. `registry`: URL, with whom to believe there (`trust`); None: it has no registry.
    `addresses`: those that it shall have, with lengths; none: those of its network. `peers`: the folder of files about them.
    `prefixes`: the networks behind it."""

    name: str
    network: str
    trust: str
    registry: str | None
    port: int
    addresses: tuple[str, ...] = ()
    peers: str | None = None
    prefixes: tuple[str, ...] = ()
    has_identity: bool = True


def refuse_second_node(state: StateDirectory) -> None:
    """Raises `CommandFailedError` when there is a node in that folder already. One that was interrupted is none."""
    from holloway.actors.enrolled import CERTIFICATE, IDENTITY_KEY
    from holloway.actors.state_directory import CONFIG_FILE
    from holloway.actors.store_member import ADDRESS

    # A machine that is about to be certified has a configuration, too, and before that an identity.
    is_certified_last = state.has(IDENTITY_KEY) and not state.has(ADDRESS)
    if state.has(CERTIFICATE) or (state.has(CONFIG_FILE) and not is_certified_last):
        what, fix = f"{state.path} holds a node already", "name another folder: --state DIR"
        raise CommandFailedError(what, "it is in a network", fix)


def write_config(state: StateDirectory, made: Made) -> Path:
    """Write the configuration of a node that has just become a member. Returns its path."""
    from holloway.actors.enrolled import SESSION_KEY
    from holloway.actors.state_directory import CONFIG_FILE, default_state

    node: dict[str, object] = {"name": made.name, "network": made.network}
    interface: dict[str, object] = {"name": DEFAULT_INTERFACE}
    sections: dict[str, dict[str, object]] = {"node": node}
    if made.prefixes:
        node["prefixes"] = list(made.prefixes)
    if made.peers is not None:
        node["peers_directory"] = made.peers
    if made.has_identity:
        sections["identity"] = {"directory": "."}
    if made.registry is not None:
        sections["registry"] = {"url": made.registry, "trust": made.trust}
    if made.addresses:
        interface["addresses"] = list(made.addresses)
    sections |= {
        "session": {"private_key_file": SESSION_KEY},
        "interface": interface,
        "listen": {"port": made.port},
    }
    if state.path != default_state(os.environ):  # there may be other nodes on this machine
        sections["control"] = {"socket": "control.sock"}
    text = "# Written when this node became a member of its network; `holloway check` judges changes.\n"
    for section, values in sections.items():
        text += f"\n[{section}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    state.write(CONFIG_FILE, text)
    return state.file(CONFIG_FILE)
