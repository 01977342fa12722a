"""The broker of the network that this machine is in, as the node's daemon knows it: by the name of a node, or the only one there is.

    --host NODE     the broker on that node; or that node's address, for a broker that the network does not know
    nothing         the network's only broker; with a key file that names one, the one with that key

Where there is no daemon, or the network knows nothing of it, others go on as if there were no network. Not responsible for the conversation
with the daemon (`control_client`), nor for keys of ours.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from holloway.cli.control_client import Daemon, Patience, ask
from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError
from holloway.cli.find_daemon import find_daemon
from holloway.cli.state_option import config_file
from holloway.protocols.errors import HollowayError

if TYPE_CHECKING:
    from holloway.protocols.control_plane.network_view import NetworkView

_STATE: Final = "holloway.state"


def _keep_state(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    context.meta[_STATE] = value


network_option = click.option(
    "--state",
    type=click.Path(path_type=Path),
    metavar="DIR",
    expose_value=False,
    callback=_keep_state,
    help="Of the node whose network the broker is in.  [default: the only node of this machine]",
)
"""The daemon it names is found by the functions below."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a broker is: `public` is its CURVE key, and `file_port` where its files are, if the network knows them."""

    host: str
    port: int
    public: str = ""
    file_port: int | None = None


def _given_state() -> Path | None:
    context = click.get_current_context(silent=True)
    return context.meta.get(_STATE) if context is not None else None


def own_network() -> tuple[Daemon, NetworkView] | None:
    """The daemon of this machine and what it knows of its network; None when there is no daemon. Raises CommandFailedError when it cannot be
    asked, or when there are several.
    """
    from holloway.protocols.control_plane.network_view import read_view

    state = _given_state()
    try:
        daemon = find_daemon(None if state is None else str(config_file(state)), None, os.environ)
        return daemon, read_view(ask(daemon, {"op": "brokers"}, Patience()))
    except CommandFailedError as error:
        if error.code == ExitCode.UNREACHABLE and state is None:
            return None
        if error.code == ExitCode.USAGE:
            raise CommandFailedError(error.what, error.why, "name the node: --state DIR", error.code) from None
        raise


def network_place(host: str | None, port: int | None, known_key: str) -> Place | None:
    """The broker that is meant, as the network knows it; None where it knows nothing of it. `host` and `port`: what was asked for; `known_key`:
    the broker's, if our key file has it. Raises CommandFailedError and LocalError.
    """
    if host is not None and known_key and _is_address(host):
        return None  # that says everything
    try:
        found = own_network()
    except HollowayError:
        if _given_state() is None and (known_key or host is not None):
            return None  # that may do without
        raise
    if found is None:
        return None
    daemon, view = found
    if host is None:
        return _only(view, known_key)
    if _is_address(host):
        node = node_of(daemon, view, host)
        return None if node is None else _place(view, node, port)
    return _named(daemon, view, host, port, known_key)


def node_of(daemon: Daemon, view: NetworkView, host: str) -> str | None:
    """The node that is called so, or whose broker is at that address; None when the network has none."""
    if _is_address(host):
        return next((each.node for each in view.brokers if str(each.place.address) == host), None)
    if view.of_node(host) is not None:
        return host
    try:
        ask(daemon, {"op": "address", "node": host}, Patience())
    except CommandFailedError:
        return None
    return host


def _only(view: NetworkView, known_key: str) -> Place | None:
    from holloway.protocols.control_plane.network_view import chosen_broker

    if known_key:
        found = view.of_key(known_key)
        return None if found is None else _place(view, found.node, None)
    return _place(view, chosen_broker(view, None).node, None)


def _named(daemon: Daemon, view: NetworkView, host: str, port: int | None, known_key: str) -> Place | None:
    from holloway.protocols.control_plane.network_view import chosen_broker

    broker = view.of_node(host)
    if broker is not None and known_key in ("", broker.place.curve_key):
        return _place(view, host, port)
    try:
        answer = ask(daemon, {"op": "address", "node": host}, Patience())
    except CommandFailedError:
        return None  # no node of that name: it may be a name of the Internet
    if not known_key:
        chosen_broker(view, host)  # raises: the network has none there, and we know no key
    addresses = answer.get("addresses")
    if not isinstance(addresses, list) or not addresses or not _is_address(str(addresses[0])):
        return None
    return Place(str(addresses[0]), port or 0)


def _place(view: NetworkView, node: str, port: int | None) -> Place:
    found = view.of_node(node)
    assert found is not None, "it was found there"
    place = found.place
    return Place(str(place.address), port or place.command_port, place.curve_key, place.file_port)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
