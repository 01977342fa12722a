"""Where an agent of a network finds its broker: the node's daemon says so, and again when that changes; by the same conversation the node's
record names the agent's key.

Not responsible for the connection (`link`), nor for which brokers are believed, which is the daemon's to know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from logging import Logger
from pathlib import Path

from holloway.actors.control_plane.curve import CurvePair
from holloway.actors.control_plane.daemon_line import follow_daemon
from holloway.actors.control_plane.link import Broker
from holloway.protocols.control_plane.network_view import KnownBroker, chosen_broker, read_view
from holloway.protocols.errors import HollowayError, LocalError


@dataclass(frozen=True, slots=True)
class Network:
    """`path`: the control socket of the node's daemon; `node`: whose broker is wanted, or None for the only one."""

    path: Path
    node: str | None = None


def broker_of(found: KnownBroker, pair: CurvePair, keys: str) -> Broker:
    """How to reach it with that pair, from the file `keys`."""
    place = found.place
    return Broker(str(place.address), place.command_port, pair, place.curve_key, keys, file_port=place.file_port)


async def follow_brokers(
    network: Network, pair: CurvePair, redirect: Callable[[KnownBroker | None], None], log: Logger
) -> None:
    """For ever: enrol the key, and call `redirect` with the broker to obey whenever that is another one. While none is announced, or several
    are, the one before stays; unless its node may not have one any more, or was revoked: then there is none.
    """
    now: KnownBroker | None = None
    said = other = ""

    def tell(text: str) -> None:
        nonlocal said
        if text and text != said:
            log.warning("%s", text)
        said = text

    def take(event: object) -> None:
        nonlocal now, other
        view = read_view(event)
        if view.agent_key not in (None, pair.public, other):
            log.error(
                "another agent of node %s has taken the place of this one, which gets no more jobs: its key is %s; end one of the two, and start the other again",
                view.node,
                view.agent_key,
            )
        other = "" if view.agent_key in (None, pair.public) else str(view.agent_key)
        if now is not None and now in view.brokers:
            return
        if now is not None and now.node not in view.named:
            log.warning("node %s may not have a broker any more: it is not obeyed", now.node)
            now = None
            redirect(None)
        try:
            found = chosen_broker(view, network.node)
        except LocalError as error:
            tell(f"{error}; waiting for one")
            return
        tell("")
        now = found
        log.info("the broker of network %s is on node %s, at %s", view.network, found.node, found.place.where)
        redirect(found)

    def tell_lost(error: HollowayError | None) -> None:
        if error is not None:
            tell(f"{error}; {error.fix}")

    await follow_daemon(network.path, {"op": "follow-brokers", "curve_key": pair.public}, take, tell_lost)
