"""An agent that its network lets in: who it is, with which key, and whom it asks for the broker. Not responsible for running it (`agent`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from holloway.cli.control_options import (
    broker_place,
    chosen_security,
    given_host,
    is_key_file_given,
    key_file,
    says_port,
)
from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError
from holloway.cli.network_broker import node_of, own_network
from holloway.cli.state_option import host_name
from holloway.protocols.errors import HollowayError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holloway.actors.control_plane.broker_follower import Network
    from holloway.actors.control_plane.link import Broker


def enrolled_agent(
    name: str | None, host: str | None, curve_key_file: str | None, root: Path | None, environ: Mapping[str, str]
) -> tuple[str, Broker, Network] | None:
    """The agent's name, its key with a broker that is still to be found, and where to hear of that; None where no signed network lets it in: it
    has a key file, its broker is none of the network's, or there is no such network.

    Raises CommandFailedError, and as key files do.
    """
    from holloway.actors.control_plane.broker_follower import Network

    if chosen_security() == "null" or is_key_file_given(curve_key_file, environ):
        return None
    try:
        found = own_network()
    except HollowayError as error:
        if key_file(None, environ).exists():
            return None
        is_denied = isinstance(error, CommandFailedError) and error.code == ExitCode.PERMISSION
        if is_denied and (own_name := name or host_name()):
            _explain_own_user(own_name, root or Path(".holloway") / own_name)
        raise
    if found is None:
        return None
    daemon, view = found
    said = given_host(host, environ)
    node = None
    if said is not None:
        node = node_of(daemon, view, broker_place(said, environ)[0])
    if not view.is_signed or (said is not None and node is None):
        return None
    if name is not None and name != view.node:
        raise CommandFailedError(
            f"this agent cannot be called {name}",
            f"network {view.network} lets it in under the name of its node, {view.node}",
            "leave --name out; or give it a key of its own: --curve-key-file FILE",
        )
    if says_port(said):
        why = f"--host {said}: the network says at which port the broker of node {node} is"
        raise click.UsageError(why, click.get_current_context(silent=True))
    own_root = (root or Path(".holloway") / view.node).absolute()
    path, broker = own_keys(own_root)
    return view.node, replace(broker, keys=str(path)), Network(daemon.path, node)


def own_keys(root: Path) -> tuple[Path, Broker]:
    """The key pair below the agent's root, which is made when there is none, for a broker that is not known yet."""
    from holloway.actors.control_plane.curve import CurvePair, new_pair
    from holloway.actors.control_plane.key_files import CLIENT_KEYS, CURVE_FOLDER, read_keys, write_keys
    from holloway.actors.control_plane.key_text import KeyFile
    from holloway.actors.control_plane.link import Broker

    path = root / CURVE_FOLDER / CLIENT_KEYS
    keys = read_keys(path) or KeyFile()
    if not keys.private_key:
        pair = new_pair()
        keys = replace(keys, private_key=pair.secret, public_key=pair.public)
        write_keys(path, keys)
    return path, Broker("", 0, CurvePair(keys.public_key, keys.private_key), "", str(path))


def _explain_own_user(name: str, root: Path) -> NoReturn:
    """Who may not talk to the node's daemon has somebody do it who may."""
    path, broker = own_keys(root.absolute())
    assert broker.pair is not None, "it was made just now"
    raise CommandFailedError(
        f"{name} is not let in yet",
        f"this user may not tell the node's daemon which key it has; it is in {path}",
        f"as root: holloway client enrol '{broker.pair.public}'; put what that prints into the file, and start this again with --host and"
        f" --curve-key-file {path}",
        ExitCode.PERMISSION,
    )
