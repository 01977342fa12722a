"""Where a broker listens when its machine is in a network, and what it says there. Not responsible for running it (`broker`)."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holloway.cli.exit_codes import ExitCode
from holloway.cli.failures import CommandFailedError
from holloway.cli.network_broker import own_network
from holloway.cli.printing import say
from holloway.cli.state_option import config_file
from holloway.protocols.errors import HollowayError

if TYPE_CHECKING:
    from holloway.actors.control_plane.enrolled_agents import EnrolledAgents
    from holloway.protocols.broker_places import BrokerPlace
    from holloway.protocols.control_plane.network_view import NetworkView

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Seat:
    """`bind`: where to listen; `enrolled`: whom the network lets in, None without a network; `place`: what is announced there, None for a
    broker that others do not reach through it."""

    bind: str
    enrolled: EnrolledAgents | None = None
    place: BrokerPlace | None = None


def find_seat(bind: str | None, root: Path, command_port: int, file_port: int) -> Seat:
    """Where to listen, by default on this node's own overlay address. Raises CommandFailedError, and as `ServerKeys` does."""
    from holloway.actors.control_plane.enrolled_agents import EnrolledAgents
    from holloway.actors.control_plane.key_files import ServerKeys
    from holloway.protocols.broker_places import BrokerPlace

    try:
        found = own_network()
    except HollowayError as error:
        is_denied = isinstance(error, CommandFailedError) and error.code == ExitCode.PERMISSION
        if bind is None and not is_denied:
            raise
        found = None
        say(f"without the network of this machine: {error}")
    if found is None:
        if bind is None:
            _refuse_before_the_node()
        return Seat(bind or LOOPBACK)
    daemon, view = found
    enrolled = EnrolledAgents(daemon.path, view.addresses)
    chosen = bind or (view.addresses[0] if view.addresses else LOOPBACK)
    address = _reached_at(chosen, view)
    if address is None:
        return Seat(chosen, enrolled)
    key = ServerKeys(root).ensure().public_key
    return Seat(chosen, enrolled, BrokerPlace(ip_address(address), command_port, file_port, key))


def _refuse_before_the_node() -> None:
    """A broker that comes up before its node would listen where nobody looks for it."""
    file = config_file(None)
    if file.exists():
        raise CommandFailedError(
            "the broker would listen on its node's overlay address, and the node is not up",
            f"{file} says that this machine is in a network, and no daemon runs",
            f"holloway up; or without the network: --bind {LOOPBACK}",
            ExitCode.UNREACHABLE,
        )


def _reached_at(bind: str, view: NetworkView) -> str | None:
    """The overlay address at which others reach what listens there; None when at none."""
    try:
        bound = ip_address(bind)
    except ValueError:
        return None
    own = [ip_address(each) for each in view.addresses]
    if bound.is_unspecified:
        return next((str(each) for each in own if each.version == bound.version), None)
    return str(bound) if bound in own else None
